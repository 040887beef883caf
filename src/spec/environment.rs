use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use super::{Args, Attachment, Command, ContainerId, Error, IfName, NetworkName, Requirement, Variable};

/// The `CNI_*` variables that the verb of one call uses.
///
/// See [Parameters](https://www.cni.dev/docs/spec/#parameters).
#[derive(Debug)]
#[non_exhaustive]
pub struct Environment {
    /// The verb of the call.
    pub command: Command,
    /// `CNI_CONTAINERID`
    pub container_id: Option<ContainerId>,
    /// `CNI_NETNS`
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`
    pub ifname: Option<IfName>,
    /// `CNI_ARGS`; empty if not set. An error only for `DEL`: see [`Environment::read`].
    pub args: Result<Args, Error>,
    /// `CNI_PATH`: the directories to search for plugins.
    pub path: Vec<PathBuf>,
    /// `CNI_NETNS_OVERRIDE` is `1` or `TRUE`: the caller accepts that `CNI_NETNS` may be the
    /// plugin's own namespace.
    pub netns_override: bool,
}

/// A variable with an invalid value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidVariable {
    /// The variable.
    pub variable: Variable,
    /// The reason why its value is invalid.
    pub reason: String,
}

impl Environment {
    /// The verb in `CNI_COMMAND`, or `None` if it is not set: then a user called the program, not a
    /// runtime.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownCommand`].
    pub fn command(lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<Option<Command>, Error> {
        value_of(lookup, "CNI_COMMAND").map(|value| value.to_string_lossy().parse()).transpose()
    }

    /// Reads the variables that `command` uses. `lookup` returns the value of a variable, like
    /// [`std::env::var_os`]. An empty value counts as unset, because runtimes export empty
    /// variables.
    ///
    /// For `DEL`, a malformed `CNI_ARGS` is an error value in [`args`](Self::args), not a failure:
    /// it must not make an attachment impossible to delete. For all verbs, bytes of `CNI_ARGS` that
    /// are not UTF-8 become U+FFFD, so they spoil only their own value.
    ///
    /// ```
    /// use cnikit::spec::{Command, Environment};
    ///
    /// let lookup = |name: &str| match name {
    ///     "CNI_CONTAINERID" => Some("c1".into()),
    ///     "CNI_IFNAME" => Some("eth0".into()),
    ///     _ => None,
    /// };
    /// let environment = Environment::read(Command::Del, &lookup)?;
    /// assert_eq!(environment.netns, None);
    ///
    /// let error = Environment::read(Command::Add, &lookup).unwrap_err();
    /// assert_eq!(error.to_string(), "ADD needs CNI_NETNS in the environment: not set, or empty");
    /// # Ok::<(), cnikit::spec::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Environment`] with all missing and invalid variables.
    pub fn read(command: Command, lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let mut reader = Reader { command, lookup, missing: Vec::new(), invalid: Vec::new() };
        let container_id = reader.parse(Variable::ContainerId);
        let netns = reader.value(Variable::Netns).map(PathBuf::from);
        let ifname = reader.parse(Variable::IfName);
        let mut args = reader.value(Variable::Args).map_or(Ok(Args::default()), |args| args.to_string_lossy().parse());
        if command != Command::Del {
            args = Ok(reader.valid(Variable::Args, args).unwrap_or_default());
        }
        let path = reader.value(Variable::Path).map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
        let netns_override = value_of(lookup, "CNI_NETNS_OVERRIDE")
            .is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true"));

        let Reader { missing, invalid, .. } = reader;
        if missing.is_empty() && invalid.is_empty() {
            Ok(Self { command, container_id, netns, ifname, args, path, netns_override })
        } else {
            Err(Error::Environment { command, missing, invalid })
        }
    }

    /// The attachment to `network` that the variables name.
    ///
    /// # Errors
    ///
    /// [`Error::Environment`] if the verb does not concern one attachment, and so does not read the
    /// variables.
    pub fn attachment(&self, network: NetworkName) -> Result<Attachment, Error> {
        let container_id = self.container_id.clone().ok_or_else(|| self.missing(Variable::ContainerId))?;
        let ifname = self.ifname.clone().ok_or_else(|| self.missing(Variable::IfName))?;
        Ok(Attachment { network, container_id, ifname })
    }

    /// `CNI_NETNS`, for a verb that needs it.
    ///
    /// # Errors
    ///
    /// [`Error::Environment`] if it is not set.
    pub fn required_netns(&self) -> Result<PathBuf, Error> {
        self.netns.clone().ok_or_else(|| self.missing(Variable::Netns))
    }

    fn missing(&self, variable: Variable) -> Error {
        Error::Environment { command: self.command, missing: vec![variable], invalid: Vec::new() }
    }
}

struct Reader<'a> {
    command: Command,
    lookup: &'a dyn Fn(&str) -> Option<OsString>,
    missing: Vec<Variable>,
    invalid: Vec<InvalidVariable>,
}

impl Reader<'_> {
    fn value(&mut self, variable: Variable) -> Option<OsString> {
        let requirement = self.command.spec().requirement(variable);
        let value = value_of(self.lookup, variable.as_str()).filter(|_| requirement != Requirement::Unused);
        if value.is_none() && requirement == Requirement::Required {
            self.missing.push(variable);
        }
        value
    }

    fn parse<T: FromStr<Err = Error>>(&mut self, variable: Variable) -> Option<T> {
        let parsed = match self.value(variable)?.into_string() {
            Ok(text) => text.parse().map_err(|error: Error| error.to_string()),
            Err(bytes) => Err(format!("{bytes:?} is not UTF-8")),
        };
        self.valid(variable, parsed)
    }

    fn valid<T, E: ToString>(&mut self, variable: Variable, parsed: Result<T, E>) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(error) => {
                self.invalid.push(InvalidVariable { variable, reason: error.to_string() });
                None
            }
        }
    }
}

fn value_of(lookup: &dyn Fn(&str) -> Option<OsString>, name: &str) -> Option<OsString> {
    lookup(name).filter(|value| !value.is_empty())
}
