//! A CNI plugin as a trait, and the program that calls it.
//!
//! [`run`] reads the environment and standard input, and validates both in a fixed order. It then
//! calls the verb, and writes one JSON document: a result, an error, or a list of versions. A
//! complete plugin:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use cnikit::plugin::{self, AddRequest, CheckRequest, DelRequest, Plugin, PluginError, PluginInfo};
//! use cnikit::spec::AddResult;
//!
//! struct Passthrough;
//!
//! impl Plugin for Passthrough {
//!     type Config = serde::de::IgnoredAny; // no keys of its own
//!
//!     fn info(&self) -> PluginInfo {
//!         PluginInfo { name: "pass", version: "1.0.0", summary: "Does nothing.", docs: "example.org" }
//!     }
//!     fn add(&self, request: &AddRequest<Self::Config>) -> Result<AddResult, PluginError> {
//!         Ok(request.prev_result.clone().unwrap_or_default())
//!     }
//!     fn del(&self, _: &DelRequest<Self::Config>) -> Result<(), PluginError> {
//!         Ok(())
//!     }
//!     fn check(&self, _: &CheckRequest<Self::Config>) -> Result<(), PluginError> {
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     plugin::run(&Passthrough)
//! }
//! ```
//!
//! `examples/minimal-plugin.rs` in the repository is a useful plugin of the same length.
//!
//! # Order of validation
//!
//! | Error | Code |
//! |---|---|
//! | `CNI_COMMAND` is unknown; variables are missing or invalid (one error names all of them) | 4 |
//! | standard input cannot be read | 5 |
//! | the configuration is not a JSON object | 6 |
//! | `name` is missing or invalid | 7 |
//! | `cniVersion` is not a string | 6 |
//! | `cniVersion` is unknown, too old for the verb, or unsupported by the plugin | 1 |
//! | a key is missing or has an invalid value; `CHECK` has no `prevResult` | 7 |
//! | `CNI_NETNS` is not a namespace, or is the plugin's own | 8 |
//!
//! After the verb, the dispatcher checks the result. It rolls back the `ADD` in these cases:
//!
//! | Error | Code |
//! |---|---|
//! | an address names an interface that is not in the result, although `prevResult` was correct | 999 |
//! | an address or a route of the result has no place in the configuration's version (before 0.3.0) | 1 |
//! | the result cannot be written to standard output | 5 |
//!
//! If the version does not define an attribute of a route, such as `mtu` before 1.1.0, the
//! dispatcher omits the attribute and emits a warning. See
//! [`AddResult::to_json_lossy`](crate::spec::AddResult::to_json_lossy).
//!
//! # Logging and tracing
//!
//! Each call is a [`tracing`] span `cni` with the fields `command`, `network`, `container`,
//! `ifname` and `addresses`. If `CNI_ARGS` names a [Kubernetes pod](crate::spec::KubernetesPod),
//! the span also has `pod` and `pod_uid`. The last event of the span has the field `result`. It is
//! `ok` at level `INFO`, or `error` at level `ERROR` with the `code` and the error as message. The
//! steps of a plugin are nested spans of level `INFO`.
//!
//! Without a subscriber, spans and events cost nothing. [`run`] installs a [`Log`] for warnings and
//! errors, unless the program has set a subscriber before:
//!
//! ```
//! use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
//!
//! use cnikit::plugin::{AddRequest, CheckRequest, DelRequest, Plugin, PluginError, PluginInfo, dispatch};
//! use cnikit::spec::AddResult;
//! use tracing::span::{Attributes, Id, Record};
//! use tracing::{Event, Metadata, Subscriber, subscriber::with_default, warn};
//!
//! /// Counts warnings and errors. Most programs use a subscriber of the crate `tracing-subscriber`.
//! struct WarningCounter(&'static AtomicUsize);
//!
//! impl Subscriber for WarningCounter {
//!     fn enabled(&self, metadata: &Metadata<'_>) -> bool {
//!         metadata.is_event() && *metadata.level() <= tracing::Level::WARN
//!     }
//!     fn event(&self, _: &Event<'_>) {
//!         self.0.fetch_add(1, Relaxed);
//!     }
//! #   fn new_span(&self, _: &Attributes<'_>) -> Id { Id::from_u64(1) }
//! #   fn record(&self, _: &Id, _: &Record<'_>) {}
//! #   fn record_follows_from(&self, _: &Id, _: &Id) {}
//! #   fn enter(&self, _: &Id) {}
//! #   fn exit(&self, _: &Id) {}
//!     // ...
//! }
//!
//! # struct Passthrough;
//! # impl Plugin for Passthrough {
//! #     type Config = serde::de::IgnoredAny;
//! #     fn info(&self) -> PluginInfo { PluginInfo { name: "p", version: "1", summary: "s", docs: "d" } }
//! #     fn add(&self, _: &AddRequest<Self::Config>) -> Result<AddResult, PluginError> { Ok(AddResult::default()) }
//! #     fn check(&self, _: &CheckRequest<Self::Config>) -> Result<(), PluginError> { Ok(()) }
//! fn del(&self, _: &DelRequest<Self::Config>) -> Result<(), PluginError> {
//!     warn!("the lease was already released");
//!     Ok(())
//! }
//! # }
//! static WARNINGS: AtomicUsize = AtomicUsize::new(0);
//! # let variable = |name: &str| match name {
//! #     "CNI_COMMAND" => Some("DEL".into()),
//! #     "CNI_CONTAINERID" => Some("c1".into()),
//! #     "CNI_IFNAME" => Some("eth0".into()),
//! #     _ => None,
//! # };
//! let mut stdin: &[u8] = br#"{"cniVersion": "1.1.0", "name": "dbnet", "type": "passthrough"}"#;
//! with_default(WarningCounter(&WARNINGS), || dispatch(&Passthrough, &variable, &mut stdin));
//! assert_eq!(WARNINGS.load(Relaxed), 1);
//! ```
//!
//! # Tests without a process
//!
//! Only [`run`] touches the process. [`dispatch`] takes and returns values. A test passes it a
//! namespace of its own, by the path of the open descriptor:
//!
//! ```no_run
//! # #[cfg(feature = "netlink")] {
//! use cnikit::netlink::Netns;
//! # use cnikit::plugin::{AddRequest, CheckRequest, DelRequest, Plugin, PluginError, PluginInfo};
//! use cnikit::plugin::dispatch;
//! # use cnikit::spec::AddResult;
//! # struct MyPlugin;
//! # impl Plugin for MyPlugin {
//! #     type Config = serde::de::IgnoredAny;
//! #     fn info(&self) -> PluginInfo { PluginInfo { name: "p", version: "1", summary: "s", docs: "d" } }
//! #     fn add(&self, _: &AddRequest<Self::Config>) -> Result<AddResult, PluginError> { Ok(AddResult::default()) }
//! #     fn check(&self, _: &CheckRequest<Self::Config>) -> Result<(), PluginError> { Ok(()) }
//! #     fn del(&self, _: &DelRequest<Self::Config>) -> Result<(), PluginError> { Ok(()) }
//! # }
//!
//! let (host, pod) = (Netns::create()?, Netns::create()?); // needs CAP_SYS_ADMIN
//! let variable = |name: &str| match name {
//!     "CNI_COMMAND" => Some("ADD".into()),
//!     "CNI_CONTAINERID" => Some("c1".into()),
//!     "CNI_NETNS" => Some(pod.path().into()), // /proc/self/fd/5
//!     "CNI_IFNAME" => Some("eth0".into()),
//!     _ => None,
//! };
//! let config = r#"{"cniVersion": "1.1.0", "name": "dbnet", "type": "my-plugin"}"#;
//! // The plugin's changes to the host stay in a namespace of the test.
//! let output = host.run(|| dispatch(&MyPlugin, &variable, &mut config.as_bytes()))?;
//! assert_eq!(output.exit_code, 0, "{}", String::from_utf8_lossy(&output.stdout));
//! assert!(pod.socket()?.link_by_name(&"eth0".parse()?)?.is_some());
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A test of one verb can also build its request: see [`AddRequest::new`].

mod construct;
mod dispatch;
mod error;
mod log;
mod netns;
mod plugin_error;
mod process;
mod request;
mod state;
mod trace;

use serde::de::DeserializeOwned;
use tracing::Dispatch;

use crate::spec::{AddResult, RawConfig, Version};

pub use dispatch::{Output, dispatch};
pub use error::Error;
pub use log::{Log, LogLevel};
pub use plugin_error::{Context, ErrorCollector, PluginError, Result};
pub use process::run;
pub use request::{AddRequest, CheckRequest, DelRequest, GcRequest, StatusRequest};
pub use state::StateDir;
pub use trace::record_pod;

/// A CNI plugin: one function for each verb of the protocol.
///
/// A runtime may run any number of processes at the same time for different containers, and kills a
/// process that exceeds its timeout. See
/// [Execution Protocol](https://www.cni.dev/docs/spec/#section-2-execution-protocol).
pub trait Plugin {
    /// The plugin's own keys of the configuration; [`IgnoredAny`](serde::de::IgnoredAny) for none.
    ///
    /// The type is deserialized from the whole configuration, so it must tolerate the keys
    /// that all plugins share: no `deny_unknown_fields`.
    type Config: DeserializeOwned;

    /// The text for users that run the binary by hand.
    fn info(&self) -> PluginInfo;

    /// The supported versions of the specification.
    ///
    /// By default 0.3.1 and later: from that version on, results contain interfaces, and plugins
    /// can form chains.
    fn versions(&self) -> &[Version] {
        const SINCE_CHAINS: [Version; 4] = [Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];
        &SINCE_CHAINS
    }

    /// The tracing subscriber for this call. Called with the unvalidated configuration; `None`
    /// keeps the subscriber of the process, which is the default.
    ///
    /// [`Log::by_config`] writes the log file that the configuration names.
    fn subscriber(&self, _config: &RawConfig) -> Option<Dispatch> {
        None
    }

    /// Attaches the container. Fails if the interface exists. After an error it must delete
    /// everything that it created.
    ///
    /// # Errors
    ///
    /// The failed step, and the cause.
    fn add(&self, request: &AddRequest<Self::Config>) -> Result<AddResult, PluginError>;

    /// Detaches the container. Succeeds if nothing is left to detach, however often it is called.
    ///
    /// # Errors
    ///
    /// The objects that could not be deleted; [`ErrorCollector`] collects the errors.
    fn del(&self, request: &DelRequest<Self::Config>) -> Result<(), PluginError>;

    /// Checks that everything that `add` created still exists. Tolerates changes by later plugins
    /// of the chain.
    ///
    /// # Errors
    ///
    /// The missing or different object.
    fn check(&self, request: &CheckRequest<Self::Config>) -> Result<(), PluginError>;

    /// Deletes all resources that belong to no valid attachment.
    ///
    /// By default it succeeds and does nothing, which is correct for a plugin without resources
    /// outside of the container.
    ///
    /// # Errors
    ///
    /// The resources that could not be deleted, after all others were.
    fn gc(&self, _request: &GcRequest<Self::Config>) -> Result<(), PluginError> {
        Ok(())
    }

    /// Reports whether the plugin can serve an `ADD` now.
    ///
    /// By default it succeeds: the configuration is valid, and no resource can run out.
    ///
    /// # Errors
    ///
    /// The reason, as [`PLUGIN_NOT_AVAILABLE`](crate::spec::ErrorCode::PLUGIN_NOT_AVAILABLE) or
    /// [`LIMITED_CONNECTIVITY`](crate::spec::ErrorCode::LIMITED_CONNECTIVITY).
    fn status(&self, _request: &StatusRequest<Self::Config>) -> Result<(), PluginError> {
        Ok(())
    }
}

/// The text that a plugin prints for a user, without `CNI_COMMAND`.
///
/// Closed: a plugin states each of these texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PluginInfo {
    /// The plugin's name, which is the name of its executable.
    pub name: &'static str,
    /// The plugin's own version.
    pub version: &'static str,
    /// The plugin's purpose, in one line.
    pub summary: &'static str,
    /// The location of the documentation.
    pub docs: &'static str,
}
