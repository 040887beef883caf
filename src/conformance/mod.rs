//! The rules of the [CNI specification] as tests of any plugin, in whatever language it is written.
//!
//! A [`Suite`] runs a plugin's executable as a container runtime does and judges what a runtime can see: exit status,
//! standard output, and the state of the kernel. It knows nothing else of the plugin. What it finds is a [`Report`],
//! with a [`Finding`] for each [`Rule`] and version of the specification that the rule was tried with.
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
//! The command `cni-conformance` of this repository does the same from a shell.
//!
//! # Where the plugin runs
//!
//! Each rule has a machine of its own: a thread with a new network namespace, the *host* in which the plugin runs, and
//! a new mount namespace with a fresh sysfs, a bpffs on `/sys/fs/bpf`, and empty directories at `/run` and
//! `/var/lib/cni`. Pods are network namespaces mounted below that `/run/netns`. Nothing of the machine's network is
//! touched, and no rule sees what another one left. A plugin that keeps state anywhere else keeps it from rule to rule.
//!
//! A rule that does not apply to the plugin is skipped. A report in which every rule was skipped is not conformant,
//! and [`Report::require_verdict`] returns an error for it.
//!
//! Every call has a time limit. A plugin that passes it is killed with the processes it started.
//!
//! # What it does not do
//!
//! It does not send packets: whether the network carries traffic is the plugin's own business to test. It tries plugins
//! that make interfaces and plugins that only manage addresses (IPAM); a plugin that needs a `prevResult` to do its
//! work is neither.
//!
//! # Kernel
//!
//! Needs `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`: run it as root.
//!
//! [CNI specification]: https://www.cni.dev/docs/spec/

mod bench;
mod call;
mod config;
mod error;
mod footprint;
mod host;
mod junit;
mod pattern;
mod probe;
mod recorder;
mod report;
mod rule;
mod rules;
mod suite;
mod table;
mod verdict;

pub use error::Error;
pub use probe::Kind;
pub use report::{Finding, Outcome, Report};
pub use rule::{Level, Rule, Section};
pub use rules::all as rules;
pub use suite::{Progress, Suite};
pub use table::Table;
