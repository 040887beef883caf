use std::fmt;
use std::str::FromStr;

use super::{Error, Version};

/// A verb of the protocol: the value of `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Command {
    /// Attaches a container to the network.
    Add,
    /// Detaches a container from the network.
    Del,
    /// Checks that an attachment is still as `ADD` left it.
    Check,
    /// Deletes all resources that belong to no valid attachment.
    Gc,
    /// Reports whether the plugin can serve an `ADD`.
    Status,
    /// Reports the versions that the plugin supports.
    Version,
}

/// An environment variable that carries a parameter of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Variable {
    /// `CNI_CONTAINERID`
    ContainerId,
    /// `CNI_NETNS`
    Netns,
    /// `CNI_IFNAME`
    IfName,
    /// `CNI_ARGS`
    Args,
    /// `CNI_PATH`
    Path,
}

/// Whether a verb needs a parameter.
///
/// Closed: the specification has these three words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Requirement {
    /// The call fails without it.
    Required,
    /// Read if it is set.
    Optional,
    /// Ignored, also if it is invalid.
    Unused,
}

/// The parameters of one verb: a row of the protocol's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommandSpec {
    /// The verb's value of `CNI_COMMAND`.
    pub word: &'static str,
    /// The first version of the specification that defines the verb.
    pub since: Version,
    /// `CNI_CONTAINERID`
    pub container_id: Requirement,
    /// `CNI_NETNS`
    pub netns: Requirement,
    /// `CNI_IFNAME`
    pub ifname: Requirement,
    /// `CNI_ARGS`
    pub args: Requirement,
    /// `CNI_PATH`
    pub path: Requirement,
    /// `prevResult` in the configuration.
    pub prev_result: Requirement,
}

impl Command {
    /// Every verb.
    pub const ALL: [Command; 6] =
        [Command::Add, Command::Del, Command::Check, Command::Gc, Command::Status, Command::Version];

    /// The verb's row of the protocol's table.
    ///
    /// See [CNI operations](https://www.cni.dev/docs/spec/#cni-operations).
    #[rustfmt::skip]
    #[must_use]
    pub const fn spec(self) -> CommandSpec {
        use Requirement::{Optional as O, Required as R, Unused as U};
        use Version::{V0_1_0, V0_4_0, V1_1_0};
        match self {
            // CONTAINERID, NETNS, IFNAME, ARGS, PATH, prevResult
            Command::Add     => command_spec("ADD",     V0_1_0, [R,          R,     R,      O,    O,    O]),
            Command::Del     => command_spec("DEL",     V0_1_0, [R,          O,     R,      O,    O,    O]),
            Command::Check   => command_spec("CHECK",   V0_4_0, [R,          R,     R,      O,    O,    R]),
            Command::Gc      => command_spec("GC",      V1_1_0, [U,          U,     U,      U,    R,    U]),
            Command::Status  => command_spec("STATUS",  V1_1_0, [U,          U,     U,      U,    O,    U]),
            Command::Version => command_spec("VERSION", V0_1_0, [U,          U,     U,      U,    U,    U]),
        }
    }

    /// The verb's value of `CNI_COMMAND`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.spec().word
    }

    /// The verbs as a list for a message.
    pub(super) fn list() -> String {
        Command::ALL.map(Command::as_str).join(", ")
    }
}

const fn command_spec(word: &'static str, since: Version, columns: [Requirement; 6]) -> CommandSpec {
    let [container_id, netns, ifname, args, path, prev_result] = columns;
    CommandSpec { word, since, container_id, netns, ifname, args, path, prev_result }
}

impl CommandSpec {
    /// Whether the verb needs a variable.
    #[must_use]
    pub const fn requirement(&self, variable: Variable) -> Requirement {
        match variable {
            Variable::ContainerId => self.container_id,
            Variable::Netns => self.netns,
            Variable::IfName => self.ifname,
            Variable::Args => self.args,
            Variable::Path => self.path,
        }
    }
}

impl Variable {
    /// Every variable that carries a parameter.
    pub const ALL: [Variable; 5] =
        [Variable::ContainerId, Variable::Netns, Variable::IfName, Variable::Args, Variable::Path];

    /// The variable's name in the environment.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Variable::ContainerId => "CNI_CONTAINERID",
            Variable::Netns => "CNI_NETNS",
            Variable::IfName => "CNI_IFNAME",
            Variable::Args => "CNI_ARGS",
            Variable::Path => "CNI_PATH",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Command {
    type Err = Error;

    /// # Errors
    ///
    /// [`Error::UnknownCommand`] for any text except a verb in capital letters.
    fn from_str(text: &str) -> Result<Self, Error> {
        Command::ALL
            .into_iter()
            .find(|command| command.as_str() == text)
            .ok_or_else(|| Error::UnknownCommand { value: text.to_owned() })
    }
}
