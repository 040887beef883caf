//! `simple-ebpf-cni`: a CNI plugin for the pods of one node.
//!
//! Each pod gets a veth pair on a bridge and an address from the network's subnet. An eBPF program
//! at TC counts the pod's packets and redirects packets for other pods. `cnikit` makes the system
//! calls, and the library of this package manages the objects of a network. The binary adds the
//! CNI verbs and, with the feature `cli`, the commands. Under the name `loopback` it serves that
//! plugin.

#[cfg(feature = "cli")]
mod cli;
#[cfg(not(feature = "cli"))]
#[path = "no_cli.rs"]
mod cli;
mod loopback;
#[cfg(no_backtraces)]
mod stack_walk;
mod verbs;

use std::process::ExitCode;

use cnikit::plugin::{
    AddRequest, CheckRequest, DelRequest, GcRequest, Log, Plugin, PluginError, PluginInfo, StatusRequest,
};
use cnikit::spec::{AddResult, RawConfig};
use dlmalloc::GlobalDlmalloc;
use simple_ebpf_cni::config::Config;
use simple_ebpf_cni::naming::NAME;
use tracing::Dispatch;

/// The version and, if known, the revision of the sources.
const VERSION: &str = env!("SIMPLE_EBPF_CNI_VERSION");

/// An allocator that keeps freed pages. The allocator of musl returns each empty page to the kernel
/// at once, and soon requests another. This is a sixth of an ADD's system calls.
#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

struct SimpleEbpfCni;

impl Plugin for SimpleEbpfCni {
    type Config = Config;

    fn info(&self) -> PluginInfo {
        let docs = if cfg!(feature = "cli") {
            "README.md of the project; simple-ebpf-cni --help lists the commands"
        } else {
            "README.md of the project"
        };
        PluginInfo { name: NAME, version: VERSION, summary: env!("CARGO_PKG_DESCRIPTION"), docs }
    }

    fn subscriber(&self, config: &RawConfig) -> Option<Dispatch> {
        Log::by_config(NAME, config).map(Dispatch::new)
    }

    fn add(&self, request: &AddRequest<Config>) -> Result<AddResult, PluginError> {
        verbs::add::add(request)
    }

    fn del(&self, request: &DelRequest<Config>) -> Result<(), PluginError> {
        verbs::del::del(request)
    }

    fn check(&self, request: &CheckRequest<Config>) -> Result<(), PluginError> {
        verbs::check::check(request)
    }

    fn gc(&self, request: &GcRequest<Config>) -> Result<(), PluginError> {
        verbs::gc::gc(request)
    }

    fn status(&self, request: &StatusRequest<Config>) -> Result<(), PluginError> {
        verbs::status::status(request)
    }
}

fn main() -> ExitCode {
    if loopback::is_called() {
        return cnikit::plugin::run(&loopback::Loopback);
    }
    if cli::is_cli_invocation() { cli::run(SimpleEbpfCni.versions()) } else { cnikit::plugin::run(&SimpleEbpfCni) }
}
