use std::any::Any;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;
use serde_json::Value;

use super::trace::{Trace, record_addresses};
use super::{
    AddRequest, CheckRequest, Context as _, DelRequest, Error, GcRequest, Plugin, PluginError, PluginInfo,
    StatusRequest, netns,
};
use crate::spec::{self, Command, Environment, ErrorCode, NetworkName, RawConfig, Version};

/// What a call leaves: the process writes the one and ends with the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The bytes for standard output: one JSON document, or nothing; without `CNI_COMMAND`, a text.
    pub stdout: Vec<u8>,
    /// 0 on success, 1 where `stdout` holds an error document.
    pub exit_code: u8,
}

/// Serves one call: values in, values out.
///
/// `variable` answers for one variable of the environment, like [`std::env::var_os`]. A panic of
/// the plugin becomes an error document like any other failure.
///
/// ```
/// # use cnikit::plugin::{dispatch, About, AddRequest, CheckRequest, DelRequest, Failure, Plugin};
/// # use cnikit::spec::AddResult;
/// # struct Passthrough;
/// # impl Plugin for Passthrough {
/// #     type Config = serde::de::IgnoredAny;
/// #     fn about(&self) -> About { About { name: "p", version: "1", summary: "s", docs: "d" } }
/// #     fn add(&self, _: &AddRequest<Self::Config>) -> Result<AddResult, Failure> {
/// #         Ok(AddResult::default())
/// #     }
/// #     fn del(&self, _: &DelRequest<Self::Config>) -> Result<(), Failure> { Ok(()) }
/// #     fn check(&self, _: &CheckRequest<Self::Config>) -> Result<(), Failure> { Ok(()) }
/// # }
/// let variable = |name: &str| (name == "CNI_COMMAND").then(|| "STATUS".into());
/// let mut stdin: &[u8] = br#"{"cniVersion": "1.1.0", "name": "dbnet", "type": "passthrough"}"#;
/// let output = dispatch(&Passthrough, &variable, &mut stdin);
/// assert_eq!((output.stdout, output.exit_code), (Vec::new(), 0));
/// ```
pub fn dispatch<P: Plugin>(plugin: &P, variable: &dyn Fn(&str) -> Option<OsString>, stdin: &mut dyn Read) -> Output {
    let mut written = Vec::new();
    // Writing to memory does not fail.
    let exit_code = dispatch_to(&mut written, plugin, variable, stdin).unwrap_or(1);
    Output { stdout: written, exit_code }
}

/// As [`dispatch`], with the document written where the caller reads it. Returns the exit code.
///
/// # Errors
///
/// What failed when the document could not be written. An `ADD` is undone then: the caller has not got the result, so it
/// may not believe in one.
pub(super) fn dispatch_to<P: Plugin>(
    wire: &mut dyn Write,
    plugin: &P,
    variable: &dyn Fn(&str) -> Option<OsString>,
    stdin: &mut dyn Read,
) -> Result<u8, PluginError> {
    let (mut version, mut trace) = (None, Trace::unknown());
    let mut wire = Wire { wire, failed: false };
    // Nothing of what a panic leaves half done is looked at again, but for what is known of the call, and whether the
    // wire is spoilt.
    let answer =
        catch_unwind(AssertUnwindSafe(|| answer(&mut wire, plugin, variable, stdin, &mut version, &mut trace)))
            .unwrap_or_else(|payload| Err(panicked(payload.as_ref())));
    trace.end(answer.as_ref().err());
    match answer {
        Ok(()) => Ok(0),
        Err(failure) if wire.failed => Err(failure),
        Err(failure) => {
            let document = failure.into_document(version.unwrap_or(Version::LATEST));
            // Numbers and texts always become JSON.
            wire.write(&json_line(&document).unwrap_or_default())?;
            Ok(1)
        }
    }
}

/// Where the one document goes.
struct Wire<'a> {
    wire: &'a mut dyn Write,
    /// Whether a part of a document may have been written.
    failed: bool,
}

impl Wire<'_> {
    fn write(&mut self, document: &[u8]) -> Result<(), PluginError> {
        let written = self.wire.write_all(document);
        self.failed |= written.is_err();
        written.context("write to standard output")
    }
}

/// The answer to `VERSION`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions<'a> {
    cni_version: String,
    supported_versions: &'a [Version],
}

fn answer<P: Plugin>(
    wire: &mut Wire<'_>,
    plugin: &P,
    variable: &dyn Fn(&str) -> Option<OsString>,
    stdin: &mut dyn Read,
    version: &mut Option<Version>,
    trace: &mut Trace,
) -> Result<(), PluginError> {
    let Some(command) = Environment::command(variable)? else {
        return wire.write(about(plugin.info(), plugin.versions()).as_bytes());
    };
    let environment = Environment::read(command, variable)?;

    // What most configurations fit in, so that they are read at once.
    let mut bytes = Vec::with_capacity(4096);
    stdin.read_to_end(&mut bytes).map_err(|source| Error::Stdin { source })?;
    // Whoever asks for versions need not know of configurations.
    if command == Command::Version && bytes.trim_ascii().is_empty() {
        bytes = b"{}".into();
    }
    let raw_config = RawConfig::parse(bytes)?;
    trace.begin(plugin.subscriber(&raw_config), &environment, &raw_config);
    trace.run(|| {
        let mut call = |environment, raw_config| Call::read(environment, raw_config, plugin.versions(), version);
        match command {
            Command::Add => add(wire, plugin, call(environment, raw_config)?),
            Command::Del => del(plugin, call(environment, raw_config)?),
            Command::Check => check(plugin, call(environment, raw_config)?),
            Command::Gc => gc(plugin, call(environment, raw_config)?),
            Command::Status => status(plugin, call(environment, raw_config)?),
            Command::Version => wire.write(&versions(plugin.versions(), &raw_config)?),
        }
    })
}

/// A call that is valid as far as every verb but `VERSION` needs it.
struct Call {
    environment: Environment,
    network: NetworkName,
    version: Version,
    raw_config: RawConfig,
}

impl Call {
    fn read(
        environment: Environment,
        raw_config: RawConfig,
        supported: &[Version],
        known: &mut Option<Version>,
    ) -> Result<Self, spec::Error> {
        // Known before anything else is judged, so that every error document can carry it.
        let version = raw_config.cni_version();
        *known = version.as_ref().ok().copied();
        let network = raw_config.name()?;
        let version = version.map_err(|error| match error {
            spec::Error::UnknownVersion { value, .. } => {
                spec::Error::UnknownVersion { value, usable: supported.to_vec() }
            }
            error => error,
        })?;
        require_version(environment.command, version, supported)?;
        Ok(Self { environment, network, version, raw_config })
    }
}

fn add<P: Plugin>(wire: &mut Wire<'_>, plugin: &P, call: Call) -> Result<(), PluginError> {
    let Call { environment, network, version, raw_config } = call;
    let request = AddRequest {
        attachment: environment.attachment(network)?,
        netns: environment.required_netns()?,
        net_conf: raw_config.net_conf()?,
        config: raw_config.decode()?,
        prev_result: raw_config.prev_result()?,
        args: environment.args?,
        path: environment.path,
        raw_config,
    };
    netns::require(&request.netns, environment.netns_override)?;
    let result = plugin.add(&request)?;
    record_addresses(&result);
    let json = result.to_json(version).map_err(PluginError::from);
    let written = json.and_then(|json| wire.write(format!("{json}\n").as_bytes()));
    written.map_err(|failure| undone(plugin, request, failure))
}

/// Detaches what was attached without a result to tell of it: the caller will see a failed `ADD`,
/// and that must leave nothing.
fn undone<P: Plugin>(plugin: &P, request: AddRequest<P::Config>, failure: PluginError) -> PluginError {
    match plugin.del(&request.into()) {
        Ok(()) => failure,
        Err(left) => failure.with_details(format!("and undoing the ADD failed: {left}")),
    }
}

fn del<P: Plugin>(plugin: &P, call: Call) -> Result<(), PluginError> {
    let Call { environment, network, raw_config, .. } = call;
    let request = DelRequest {
        attachment: environment.attachment(network)?,
        netns: environment.netns.filter(|path| environment.netns_override || !netns::is_own(path)),
        net_conf: raw_config.net_conf(),
        config: raw_config.decode(),
        prev_result: raw_config.prev_result(),
        args: environment.args,
        path: environment.path,
        raw_config,
    };
    request.prev_result.iter().flatten().for_each(record_addresses);
    plugin.del(&request)
}

fn check<P: Plugin>(plugin: &P, call: Call) -> Result<(), PluginError> {
    let Call { environment, network, raw_config, .. } = call;
    let missing = spec::Error::MissingPrevResult { command: Command::Check };
    let request = CheckRequest {
        attachment: environment.attachment(network)?,
        netns: environment.required_netns()?,
        net_conf: raw_config.net_conf()?,
        config: raw_config.decode()?,
        prev_result: raw_config.prev_result()?.ok_or(missing)?,
        args: environment.args?,
        path: environment.path,
        raw_config,
    };
    netns::require(&request.netns, environment.netns_override)?;
    record_addresses(&request.prev_result);
    plugin.check(&request)
}

fn gc<P: Plugin>(plugin: &P, call: Call) -> Result<(), PluginError> {
    let Call { environment, raw_config, .. } = call;
    let request = GcRequest {
        net_conf: raw_config.net_conf()?,
        config: raw_config.decode()?,
        valid_attachments: raw_config.valid_attachments()?,
        path: environment.path,
        raw_config,
    };
    plugin.gc(&request)
}

fn status<P: Plugin>(plugin: &P, call: Call) -> Result<(), PluginError> {
    let Call { environment, raw_config, .. } = call;
    let request = StatusRequest {
        net_conf: raw_config.net_conf()?,
        config: raw_config.decode()?,
        path: environment.path,
        raw_config,
    };
    plugin.status(&request)
}

fn require_version(command: Command, version: Version, supported: &[Version]) -> Result<(), spec::Error> {
    if version < command.spec().since {
        Err(spec::Error::CommandTooNew { command, version })
    } else if !supported.contains(&version) {
        Err(spec::Error::UnsupportedVersion { version, supported: supported.to_vec() })
    } else {
        Ok(())
    }
}

fn versions(supported: &[Version], raw_config: &RawConfig) -> Result<Vec<u8>, PluginError> {
    // What the caller speaks now is given back, known or not: it asks what it may speak.
    let stated = raw_config.value("cniVersion").and_then(Value::as_str).map(str::to_owned);
    let newest = || supported.iter().max().unwrap_or(&Version::LATEST).to_string();
    let cni_version = stated.filter(|text| !text.is_empty()).unwrap_or_else(newest);
    Ok(json_line(&Versions { cni_version, supported_versions: supported })?)
}

fn about(about: PluginInfo, versions: &[Version]) -> String {
    let PluginInfo { name, version, summary, docs } = about;
    let versions = Version::list(versions);
    format!(
        "{name} {version}\n{summary}\n\n\
         A CNI plugin: a container runtime runs it, with CNI_COMMAND in the environment and\n\
         a network configuration on standard input.\n\n\
         CNI versions: {versions}\n\
         Documentation: {docs}\n"
    )
}

fn panicked(payload: &(dyn Any + Send)) -> PluginError {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    PluginError::new(ErrorCode::INTERNAL, format!("the plugin panicked: {text}"))
        .with_details("this is a defect of the plugin: standard error tells where")
}

fn json_line(value: &impl Serialize) -> Result<Vec<u8>, spec::Error> {
    let mut json = serde_json::to_vec(value).map_err(|source| spec::Error::Unwritable { source })?;
    json.push(b'\n');
    Ok(json)
}
