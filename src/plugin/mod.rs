//! A CNI plugin as a trait, and the program around it.
//!
//! [`run`] reads the environment and standard input, checks both in the order that callers rely on,
//! calls the verb, and writes one JSON document: a result, an error, or a list of versions. A whole
//! plugin:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use cnikit::plugin::{self, About, AddRequest, CheckRequest, DelRequest, Failure, Plugin};
//! use cnikit::spec::AddResult;
//!
//! struct Passthrough;
//!
//! impl Plugin for Passthrough {
//!     type Config = serde::de::IgnoredAny; // no keys of its own
//!
//!     fn about(&self) -> About {
//!         About { name: "pass", version: "1.0.0", summary: "Does nothing.", docs: "example.org" }
//!     }
//!     fn add(&self, request: &AddRequest<Self::Config>) -> Result<AddResult, Failure> {
//!         Ok(request.prev_result.clone().unwrap_or_default())
//!     }
//!     fn del(&self, _: &DelRequest<Self::Config>) -> Result<(), Failure> {
//!         Ok(())
//!     }
//!     fn check(&self, _: &CheckRequest<Self::Config>) -> Result<(), Failure> {
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     plugin::run(&Passthrough)
//! }
//! ```
//!
//! One that does something, in as many lines, is `examples/minimal-plugin.rs` of the repository.
//!
//! # Order of checks
//!
//! | What is wrong | Code |
//! |---|---|
//! | `CNI_COMMAND` is unknown; variables are missing or not valid (all are named at once) | 4 |
//! | standard input cannot be read | 5 |
//! | the configuration is not a JSON object | 6 |
//! | `name` is missing or not valid | 7 |
//! | `cniVersion` is not text | 6 |
//! | `cniVersion` is unknown, too old for the verb, or not among the plugin's | 1 |
//! | a key is missing or has a value of the wrong kind; `CHECK` has no `prevResult` | 7 |
//! | `CNI_NETNS` is not a namespace, or is the plugin's own | 8 |
//!
//! A result that the configuration's version cannot hold is error 1 as well, and the `ADD` is undone.
//!
//! # What is told of a call
//!
//! Each call is a [`tracing`] span `cni` with the fields `command`, `network`, `container`, `ifname`, `addresses`, and
//! `pod` and `pod_uid` where `CNI_ARGS` names a [Kubernetes pod](crate::spec::KubernetesPod). It ends with an event with the field `result`: `ok` at level `INFO`, or `error` at level `ERROR`, with the `code` and the
//! failure as its message. Steps of a plugin are spans of level `INFO` inside. Where nobody listens, that costs nothing;
//! [`run`] has a [`Log`] listen for warnings and errors, unless the program has set a subscriber of its own before:
//!
//! ```
//! use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
//!
//! use cnikit::plugin::{About, AddRequest, CheckRequest, DelRequest, Failure, Plugin, dispatch};
//! use cnikit::spec::AddResult;
//! use tracing::span::{Attributes, Id, Record};
//! use tracing::{Event, Metadata, Subscriber, subscriber::with_default, warn};
//!
//! /// Counts what goes wrong. Most programs take a subscriber of the crate `tracing-subscriber`.
//! struct Troubles(&'static AtomicUsize);
//!
//! impl Subscriber for Troubles {
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
//! #     fn about(&self) -> About { About { name: "p", version: "1", summary: "s", docs: "d" } }
//! #     fn add(&self, _: &AddRequest<Self::Config>) -> Result<AddResult, Failure> { Ok(AddResult::default()) }
//! #     fn check(&self, _: &CheckRequest<Self::Config>) -> Result<(), Failure> { Ok(()) }
//! fn del(&self, _: &DelRequest<Self::Config>) -> Result<(), Failure> {
//!     warn!("the lease was gone already");
//!     Ok(())
//! }
//! # }
//! static TROUBLES: AtomicUsize = AtomicUsize::new(0);
//! # let variable = |name: &str| match name {
//! #     "CNI_COMMAND" => Some("DEL".into()),
//! #     "CNI_CONTAINERID" => Some("c1".into()),
//! #     "CNI_IFNAME" => Some("eth0".into()),
//! #     _ => None,
//! # };
//! let mut stdin: &[u8] = br#"{"cniVersion": "1.1.0", "name": "dbnet", "type": "passthrough"}"#;
//! with_default(Troubles(&TROUBLES), || dispatch(&Passthrough, &variable, &mut stdin));
//! assert_eq!(TROUBLES.load(Relaxed), 1);
//! ```
//!
//! [`run`] is the one function that touches the process. [`dispatch`] takes and returns values, and
//! is what tests call.

mod dispatch;
mod error;
mod failure;
mod log;
mod netns;
mod process;
mod request;
mod trace;

use serde::de::DeserializeOwned;
use tracing::Dispatch;

use crate::spec::{AddResult, RawConfig, Version};

pub use dispatch::{Output, dispatch};
pub use error::Error;
pub use failure::{Context, ErrorCollector, PluginError};
pub use log::{Log, LogLevel};
pub use process::run;
pub use request::{AddRequest, CheckRequest, DelRequest, GcRequest, StatusRequest};
pub use trace::record_pod;

/// A CNI plugin: what it does for each verb of the protocol.
///
/// A runtime may call any number of processes at once for different containers, and kills one that
/// takes too long. See [Execution
/// Protocol](https://www.cni.dev/docs/spec/#section-2-execution-protocol).
pub trait Plugin {
    /// The plugin's own keys of the configuration; [`IgnoredAny`](serde::de::IgnoredAny) for none.
    ///
    /// It is read from the whole configuration, so it must tolerate the keys that every plugin
    /// shares: no `deny_unknown_fields`.
    type Config: DeserializeOwned;

    /// What a person reads who runs the binary by hand.
    fn info(&self) -> PluginInfo;

    /// The versions of the specification that the plugin speaks.
    ///
    /// From 0.3.1 on a result holds interfaces, and plugins know chains; older configurations are
    /// refused by default.
    fn versions(&self) -> &[Version] {
        const SINCE_CHAINS: [Version; 4] = [Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];
        &SINCE_CHAINS
    }

    /// Who is told of a call, by its configuration, of which nothing is judged yet. By default it is whoever the program
    /// has set.
    ///
    /// [`Log::by_config`] writes the file that the configuration names.
    fn subscriber(&self, _config: &RawConfig) -> Option<Dispatch> {
        None
    }

    /// Attaches the container. Fails if the interface exists; undoes what it made itself when it
    /// fails.
    ///
    /// # Errors
    ///
    /// The step that failed, and why.
    fn add(&self, request: &AddRequest<Self::Config>) -> Result<AddResult, PluginError>;

    /// Detaches the container. Succeeds when there is nothing left to detach, as often as it is
    /// called.
    ///
    /// # Errors
    ///
    /// What is left and could not be removed; [`ErrorCollector`] collects that.
    fn del(&self, request: &DelRequest<Self::Config>) -> Result<(), PluginError>;

    /// Tells whether everything that `add` made is still there; tolerates what later plugins of the
    /// chain changed.
    ///
    /// # Errors
    ///
    /// What is missing or different.
    fn check(&self, request: &CheckRequest<Self::Config>) -> Result<(), PluginError>;

    /// Frees what belongs to no valid attachment.
    ///
    /// By default it succeeds and does nothing: right for a plugin that keeps nothing outside of
    /// the container.
    ///
    /// # Errors
    ///
    /// What could not be freed, after all else was.
    fn gc(&self, _request: &GcRequest<Self::Config>) -> Result<(), PluginError> {
        Ok(())
    }

    /// Tells whether an `ADD` could be served now.
    ///
    /// By default it succeeds: the configuration is valid, and nothing else can run out.
    ///
    /// # Errors
    ///
    /// Why not, as [`PLUGIN_NOT_AVAILABLE`](crate::spec::ErrorCode::PLUGIN_NOT_AVAILABLE) or
    /// [`LIMITED_CONNECTIVITY`](crate::spec::ErrorCode::LIMITED_CONNECTIVITY).
    fn status(&self, _request: &StatusRequest<Self::Config>) -> Result<(), PluginError> {
        Ok(())
    }
}

/// What a plugin tells a person who runs it by hand, without `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PluginInfo {
    /// The plugin's name: that of its executable.
    pub name: &'static str,
    /// The plugin's own version.
    pub version: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// Where to read on.
    pub docs: &'static str,
}
