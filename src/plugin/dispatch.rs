use std::any::Any;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;
use serde_json::Value;
use tracing::{Dispatch, warn};

use super::trace::{CallSpan, record_addresses};
use super::{
    AddRequest, CheckRequest, Context as _, DelRequest, Error, GcRequest, Plugin, PluginError, PluginInfo,
    StatusRequest, netns,
};
use crate::spec::{self, AddResult, Command, Environment, ErrorCode, NetworkName, RawConfig, Version};

/// The outcome of a call: the output and the exit code of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// The bytes for standard output: one JSON document, or nothing; without `CNI_COMMAND`, a text
    /// for users.
    pub stdout: Vec<u8>,
    /// 0 on success, 1 if `stdout` contains an error document.
    pub exit_code: u8,
}

/// Serves one call without touching the process: all input and output are values.
///
/// `variable` returns the value of an environment variable, like [`std::env::var_os`]. A panic of
/// the plugin becomes an error document, like any other error.
///
/// ```
/// # use cnikit::plugin::{AddRequest, CheckRequest, DelRequest, Plugin, PluginError, PluginInfo, dispatch};
/// # use cnikit::spec::AddResult;
/// # struct Passthrough;
/// # impl Plugin for Passthrough {
/// #     type Config = serde::de::IgnoredAny;
/// #     fn info(&self) -> PluginInfo { PluginInfo { name: "p", version: "1", summary: "s", docs: "d" } }
/// #     fn add(&self, _: &AddRequest<Self::Config>) -> Result<AddResult, PluginError> {
/// #         Ok(AddResult::default())
/// #     }
/// #     fn del(&self, _: &DelRequest<Self::Config>) -> Result<(), PluginError> { Ok(()) }
/// #     fn check(&self, _: &CheckRequest<Self::Config>) -> Result<(), PluginError> { Ok(()) }
/// # }
/// let variable = |name: &str| (name == "CNI_COMMAND").then(|| "STATUS".into());
/// let mut stdin: &[u8] = br#"{"cniVersion": "1.1.0", "name": "dbnet", "type": "passthrough"}"#;
/// let output = dispatch(&Passthrough, &variable, &mut stdin);
/// assert_eq!((output.stdout, output.exit_code), (Vec::new(), 0));
/// ```
pub fn dispatch<P: Plugin>(plugin: &P, variable: &dyn Fn(&str) -> Option<OsString>, stdin: &mut dyn Read) -> Output {
    let mut written = Vec::new();
    // A write to memory does not fail.
    let exit_code = dispatch_to(&mut written, plugin, variable, stdin).unwrap_or(1);
    Output { stdout: written, exit_code }
}

/// As [`dispatch`], but writes the document to `writer`. Returns the exit code.
///
/// # Errors
///
/// If the document cannot be written. An `ADD` is then rolled back: the caller does not receive the
/// result, so it must not rely on the attachment.
pub(super) fn dispatch_to<P: Plugin>(
    writer: &mut dyn Write,
    plugin: &P,
    variable: &dyn Fn(&str) -> Option<OsString>,
    stdin: &mut dyn Read,
) -> Result<u8, PluginError> {
    let mut state = CallState {
        response: Response { writer, failed: false },
        version: Version::LATEST,
        span: CallSpan::without_span(),
    };
    // A panic leaves partial state behind. Only `state` is used afterwards, and each of its fields
    // is valid at any time.
    let handled = catch_unwind(AssertUnwindSafe(|| handle(&Typed(plugin), variable, stdin, &mut state)))
        .unwrap_or_else(|payload| Err(panic_error(payload.as_ref())));
    let CallState { mut response, version, span } = state;
    span.end(handled.as_ref().err());
    match handled {
        Ok(()) => Ok(0),
        Err(error) if response.failed => Err(error),
        Err(error) => {
            let document = error.into_document(version);
            // Numbers and strings always serialize to JSON.
            response.write(&json_line(&document).unwrap_or_default())?;
            Ok(1)
        }
    }
}

/// The state of a call that must survive a panic of the plugin.
struct CallState<'a> {
    response: Response<'a>,
    /// The version for the error document.
    version: Version,
    span: CallSpan,
}

/// The output for the one document.
struct Response<'a> {
    writer: &'a mut dyn Write,
    /// Whether a part of a document may have been written.
    failed: bool,
}

impl Response<'_> {
    fn write(&mut self, document: &[u8]) -> Result<(), PluginError> {
        let written = self.writer.write_all(document);
        self.failed |= written.is_err();
        written.context("write to standard output")
    }
}

/// The result of `VERSION`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions<'a> {
    cni_version: String,
    supported_versions: &'a [Version],
}

/// A plugin without the type of its configuration. A program with several plugins has the code of a
/// call only once.
trait Verbs {
    fn info(&self) -> PluginInfo;
    fn versions(&self) -> &[Version];
    fn subscriber(&self, config: &RawConfig) -> Option<Dispatch>;
    fn add(&self, response: &mut Response<'_>, call: Call) -> Result<(), PluginError>;
    fn del(&self, call: Call) -> Result<(), PluginError>;
    fn check(&self, call: Call) -> Result<(), PluginError>;
    fn gc(&self, call: Call) -> Result<(), PluginError>;
    fn status(&self, call: Call) -> Result<(), PluginError>;
}

struct Typed<'a, P>(&'a P);

impl<P: Plugin> Verbs for Typed<'_, P> {
    fn info(&self) -> PluginInfo {
        self.0.info()
    }

    fn versions(&self) -> &[Version] {
        self.0.versions()
    }

    fn subscriber(&self, config: &RawConfig) -> Option<Dispatch> {
        self.0.subscriber(config)
    }

    fn add(&self, response: &mut Response<'_>, call: Call) -> Result<(), PluginError> {
        add(response, self.0, call)
    }

    fn del(&self, call: Call) -> Result<(), PluginError> {
        del(self.0, call)
    }

    fn check(&self, call: Call) -> Result<(), PluginError> {
        check(self.0, call)
    }

    fn gc(&self, call: Call) -> Result<(), PluginError> {
        gc(self.0, call)
    }

    fn status(&self, call: Call) -> Result<(), PluginError> {
        status(self.0, call)
    }
}

fn handle(
    plugin: &dyn Verbs,
    variable: &dyn Fn(&str) -> Option<OsString>,
    stdin: &mut dyn Read,
    state: &mut CallState<'_>,
) -> Result<(), PluginError> {
    let CallState { response, version, span } = state;
    let Some(command) = Environment::command(variable)? else {
        return response.write(usage(plugin.info(), plugin.versions()).as_bytes());
    };
    let environment = Environment::read(command, variable)?;

    // Most configurations fit into this buffer, so one read suffices.
    let mut bytes = Vec::with_capacity(4096);
    stdin.read_to_end(&mut bytes).map_err(|source| Error::Stdin { source })?;
    // A caller of VERSION need not send a configuration.
    if command == Command::Version && bytes.trim_ascii().is_empty() {
        bytes = b"{}".into();
    }
    let raw_config = RawConfig::parse(bytes)?;
    // Set before any validation, so every error document can contain it.
    *version = raw_config.cni_version().unwrap_or(*version);
    span.begin(plugin.subscriber(&raw_config), &environment, &raw_config);
    span.run(|| {
        let call = |environment, raw_config| Call::read(environment, raw_config, plugin.versions());
        match command {
            Command::Add => plugin.add(response, call(environment, raw_config)?),
            Command::Del => plugin.del(call(environment, raw_config)?),
            Command::Check => plugin.check(call(environment, raw_config)?),
            Command::Gc => plugin.gc(call(environment, raw_config)?),
            Command::Status => plugin.status(call(environment, raw_config)?),
            Command::Version => response.write(&versions(plugin.versions(), &raw_config)?),
        }
    })
}

/// A call with a valid network name and version; `VERSION` does not need them.
struct Call {
    environment: Environment,
    network: NetworkName,
    version: Version,
    raw_config: RawConfig,
}

impl Call {
    fn read(environment: Environment, raw_config: RawConfig, supported: &[Version]) -> Result<Self, spec::Error> {
        let network = raw_config.name()?;
        let version = raw_config.cni_version().map_err(|error| match error {
            spec::Error::UnknownVersion { value, .. } => {
                spec::Error::UnknownVersion { value, usable: supported.to_vec() }
            }
            error => error,
        })?;
        require_version(environment.command, version, supported)?;
        Ok(Self { environment, network, version, raw_config })
    }
}

fn add<P: Plugin>(response: &mut Response<'_>, plugin: &P, call: Call) -> Result<(), PluginError> {
    let Call { environment, network, version, raw_config } = call;
    let (attachment, netns) = (environment.attachment(network)?, environment.required_netns()?);
    let request = AddRequest::new(attachment, netns, raw_config)?.args(environment.args?).path(environment.path);
    netns::require(&request.netns, environment.netns_override)?;
    let result = plugin.add(&request)?;
    record_addresses(&result);
    write_result(response, &result, request.prev_result.as_ref(), version)
        .map_err(|error| rollback(plugin, request, error))
}

fn write_result(
    response: &mut Response<'_>,
    result: &AddResult,
    prev_result: Option<&AddResult>,
    version: Version,
) -> Result<(), PluginError> {
    // A wrong index that the plugin received is not a defect of the plugin.
    if prev_result.is_none_or(|received| received.check_interface_indexes().is_ok()) {
        result.check_interface_indexes()?;
    }
    let (json, omitted) = result.to_json_lossy(version)?;
    for field in omitted {
        warn!("the result omits {field}");
    }
    response.write(format!("{json}\n").as_bytes())
}

/// Rolls back an `ADD` if its result cannot be returned: the caller sees a failed `ADD`, which must
/// leave nothing behind. Returns the error, with the error of the rollback.
fn rollback<P: Plugin>(plugin: &P, request: AddRequest<P::Config>, error: PluginError) -> PluginError {
    match plugin.del(&request.into()).context("roll back the ADD") {
        Ok(()) => error,
        Err(rollback_error) => error.and(rollback_error),
    }
}

fn del<P: Plugin>(plugin: &P, call: Call) -> Result<(), PluginError> {
    let Call { environment, network, raw_config, .. } = call;
    let netns = environment.netns.clone().filter(|path| environment.netns_override || !netns::is_own(path));
    let request = DelRequest::new(environment.attachment(network)?, netns, raw_config).path(environment.path);
    let request = DelRequest { args: environment.args, ..request };
    request.prev_result.iter().flatten().for_each(record_addresses);
    plugin.del(&request)
}

fn check<P: Plugin>(plugin: &P, call: Call) -> Result<(), PluginError> {
    let Call { environment, network, raw_config, .. } = call;
    let (attachment, netns) = (environment.attachment(network)?, environment.required_netns()?);
    let request = CheckRequest::new(attachment, netns, raw_config)?.args(environment.args?).path(environment.path);
    netns::require(&request.netns, environment.netns_override)?;
    record_addresses(&request.prev_result);
    plugin.check(&request)
}

fn gc<P: Plugin>(plugin: &P, call: Call) -> Result<(), PluginError> {
    let Call { environment, raw_config, .. } = call;
    let request = GcRequest::new(raw_config)?.path(environment.path);
    plugin.gc(&request)
}

fn status<P: Plugin>(plugin: &P, call: Call) -> Result<(), PluginError> {
    let Call { environment, raw_config, .. } = call;
    let request = StatusRequest::new(raw_config)?.path(environment.path);
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
    // The caller's own version is returned, known or not: it asks for the supported versions.
    let stated = raw_config.value("cniVersion").and_then(Value::as_str).map(str::to_owned);
    let newest = || supported.iter().max().unwrap_or(&Version::LATEST).to_string();
    let cni_version = stated.filter(|text| !text.is_empty()).unwrap_or_else(newest);
    Ok(json_line(&Versions { cni_version, supported_versions: supported })?)
}

fn usage(info: PluginInfo, versions: &[Version]) -> String {
    let PluginInfo { name, version, summary, docs } = info;
    let versions = Version::list(versions);
    format!(
        "{name} {version}\n{summary}\n\n\
         A CNI plugin: a container runtime runs it, with CNI_COMMAND in the environment and\n\
         a network configuration on standard input.\n\n\
         CNI versions: {versions}\n\
         Documentation: {docs}\n"
    )
}

fn panic_error(payload: &(dyn Any + Send)) -> PluginError {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    PluginError::new(ErrorCode::INTERNAL, format!("the plugin panicked: {text}"))
        .details("this is a defect of the plugin: standard error names the line")
}

fn json_line(value: &impl Serialize) -> Result<Vec<u8>, spec::Error> {
    let mut json = serde_json::to_vec(value).map_err(|source| spec::Error::Unwritable { source: source.into() })?;
    json.push(b'\n');
    Ok(json)
}
