//! `simple-ebpf-cni`: a CNI plugin for the pods of one node.
//!
//! Each pod gets a veth pair on a bridge and an address from the network's subnet; an eBPF program at
//! TC counts what it sends and delivers packets for other pods directly. Everything that takes a
//! system call is `cnikit`'s; what stands here is the order of the steps, and what undoes them.

mod add;
mod addresses;
mod bridge;
mod check;
mod config;
mod del;
mod drift;
mod gateway;
mod gc;
mod ipv6;
mod masquerade;
mod network;
mod people;
mod pod;
mod programs;
mod repair;
mod restore;
mod rows;
mod siblings;
mod status;
mod wishes;

use std::process::ExitCode;

use cnikit::plugin::{About, AddRequest, CheckRequest, DelRequest, Failure, GcRequest, Log, Plugin, StatusRequest};
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

    fn about(&self) -> About {
        let docs = "README.md of the project; simple-ebpf-cni --help lists the commands";
        About { name: NAME, version: VERSION, summary: env!("CARGO_PKG_DESCRIPTION"), docs }
    }

    fn subscriber(&self, config: &RawConfig) -> Option<Dispatch> {
        Log::by_config(NAME, config).map(Dispatch::new)
    }

    fn add(&self, request: &AddRequest<Config>) -> Result<AddResult, Failure> {
        add::add(request)
    }

    fn del(&self, request: &DelRequest<Config>) -> Result<(), Failure> {
        del::del(request)
    }

    fn check(&self, request: &CheckRequest<Config>) -> Result<(), Failure> {
        check::check(request)
    }

    fn gc(&self, request: &GcRequest<Config>) -> Result<(), Failure> {
        gc::gc(request)
    }

    fn status(&self, request: &StatusRequest<Config>) -> Result<(), Failure> {
        status::status(request)
    }
}

fn main() -> ExitCode {
    if people::are_calling() { people::run() } else { cnikit::plugin::run(&SimpleEbpfCni) }
}
