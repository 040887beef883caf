//! `simple-ebpf-cni`: a CNI plugin for the pods of one node.
//!
//! Each pod gets a veth pair on a bridge and an address from the network's subnet; an eBPF program at
//! TC counts what it sends and delivers packets for other pods directly. Everything that takes a
//! system call is `cnikit`'s; what stands here is the order of the steps, and what undoes them.

mod add;
mod addresses;
mod bridge;
mod check;
mod cli;
mod config;
mod container;
mod del;
mod drift;
mod endpoints;
mod gateway;
mod gc;
mod ipv6;
mod masquerade;
mod network;
mod programs;
mod repair;
mod requested;
mod resync;
mod siblings;
mod status;

use std::process::ExitCode;

use cnikit::plugin::{
    AddRequest, CheckRequest, DelRequest, GcRequest, Log, Plugin, PluginError, PluginInfo, StatusRequest,
};
use cnikit::spec::{AddResult, RawConfig};
use dlmalloc::GlobalDlmalloc;
use tracing::Dispatch;

use crate::config::Config;

/// The name under which the plugin is installed and keeps its state and pins.
const NAME: &str = "simple-ebpf-cni";

/// The version, and the state of the sources where that is known.
const VERSION: &str = env!("SIMPLE_EBPF_CNI_VERSION");

/// Keeps what it is given back. musl's own allocator returns each page to the kernel as soon as nothing lies in it, and asks for
/// another a moment later: a sixth of an ADD's system calls.
#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

struct SimpleEbpfCni;

impl Plugin for SimpleEbpfCni {
    type Config = Config;

    fn info(&self) -> PluginInfo {
        let docs = "README.md of the project; simple-ebpf-cni --help lists the commands";
        PluginInfo { name: NAME, version: VERSION, summary: env!("CARGO_PKG_DESCRIPTION"), docs }
    }

    fn subscriber(&self, config: &RawConfig) -> Option<Dispatch> {
        Log::by_config(NAME, config).map(Dispatch::new)
    }

    fn add(&self, request: &AddRequest<Config>) -> Result<AddResult, PluginError> {
        add::add(request)
    }

    fn del(&self, request: &DelRequest<Config>) -> Result<(), PluginError> {
        del::del(request)
    }

    fn check(&self, request: &CheckRequest<Config>) -> Result<(), PluginError> {
        check::check(request)
    }

    fn gc(&self, request: &GcRequest<Config>) -> Result<(), PluginError> {
        gc::gc(request)
    }

    fn status(&self, request: &StatusRequest<Config>) -> Result<(), PluginError> {
        status::status(request)
    }
}

fn main() -> ExitCode {
    if cli::is_cli_invocation() { cli::run(SimpleEbpfCni.versions()) } else { cnikit::plugin::run(&SimpleEbpfCni) }
}
