//! Tests any plugin against the rules of the [CNI specification], independent of its language.
//!
//! A [`Suite`] runs the executable of a plugin as a container runtime does. It judges only behavior
//! that a runtime can observe: exit status, standard output, and the state of the kernel. The
//! result is a [`Report`], with a [`Finding`] for each [`Rule`] and version of the specification.
//!
//! ```no_run
//! use cnikit::conformance::Suite;
//! use serde_json::json;
//!
//! # fn main() -> Result<(), cnikit::conformance::Error> {
//! let config = json!({
//!     "cniVersion": "1.0.0", "name": "dbnet", "type": "bridge", "bridge": "cni0",
//!     "ipam": { "type": "host-local", "subnet": "10.1.0.0/28" },
//! });
//! let report = Suite::new("/opt/cni/bin/bridge", config)?.skip("gc.*").run()?;
//! assert!(report.is_conformant(), "{report}");
//! # Ok(())
//! # }
//! ```
//!
//! The command `cni-conformance` of this repository runs the suite from a shell.
//!
//! # Where the plugin runs
//!
//! Each rule runs on a private host: a thread with a new network namespace and a new mount
//! namespace. The mount namespace has a fresh sysfs, a bpffs on `/sys/fs/bpf`, and empty
//! directories at `/run` and `/var/lib/cni`. Pods are network namespaces that are mounted in that
//! `/run/netns`.
//!
//! The suite does not change the network of the machine, and no rule sees leftovers of another one.
//! A plugin that keeps state in another place shares it between rules.
//!
//! A rule that does not apply to the plugin is skipped. A report with only skipped rules is
//! not conformant, and [`Report::require_verdict`] returns an error for it.
//!
//! Every call has a timeout. After it, the suite kills the plugin and the processes it started.
//!
//! # What it does not do
//!
//! The suite sends no packets: plugins must test their own traffic. It supports plugins that create
//! interfaces, plugins that only manage addresses (IPAM), and [chained](Suite::chained) plugins,
//! which need a `prevResult`. It tests one plugin, not a whole chain.
//!
//! # Kernel
//!
//! Needs `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`: run it as root.
//!
//! [CNI specification]: https://www.cni.dev/docs/spec/

mod call;
mod config;
mod error;
mod fixture;
mod host;
mod invalid_call;
mod junit;
mod pattern;
mod previous;
mod probe;
mod recorder;
mod report;
mod rule;
mod rules;
mod snapshot;
mod subject;
mod suite;
mod table;
mod verdict;

pub use error::{Error, Result};
pub use probe::Kind;
pub use report::{Finding, Outcome, Report};
pub use rule::{Level, Rule, Section};
pub use rules::all as rules;
pub use suite::{Progress, Suite};
pub use table::Table;
