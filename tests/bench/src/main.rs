//! Measures `simple-ebpf-cni` and the reference plugins on private hosts that disappear with the
//! process, and draws the results.
//!
//! `make bench-add`, `make bench-net` and `make bench-plots` run it. docs/benchmarks.md has the
//! results.
//!
//! | module | content |
//! |---|---|
//! | [`add`] | plugin commands: latency, rates of parallel calls, steps of an ADD |
//! | [`tables`] | the results as Markdown |
//! | [`net`] | packets from pod to pod on each path |
//! | [`library`] | the criterion results of the library |
//! | [`network`], [`call`] | plugins and their pods, and timed calls |
//! | [`plot`] | the documentation's tables and pictures |
//! | [`reaper`] | the parent of the measuring process, which reaps orphans |
//! | [`report`] | stored results and their statistics |
//! | [`host_thread`] | a private host for each contestant |
//!
//! Each measurement is also checked. A failed check ends the run with a panic that has the facts,
//! because the result would be worthless. Namespaces, mounts and pins belong to threads of this
//! process and disappear with it.

mod add;
mod call;
mod host_thread;
mod interrupt;
mod launcher;
mod library;
mod machine;
mod net;
mod network;
mod options;
mod plot;
mod reaper;
mod report;
mod tables;

use std::process::ExitCode;

use clap::Parser as _;

use crate::options::{Command, Options};

fn main() -> ExitCode {
    // Before the command line parser, because a new process inherits the memory peak of its parent.
    if let Some(status) = launcher::run_if_asked() {
        return status;
    }
    let options = Options::parse();
    if options.command.needs_root() && !machine::is_privileged() {
        eprintln!("cnikit-bench: namespaces need CAP_SYS_ADMIN and CAP_NET_ADMIN; run this as root or through `make`");
        return ExitCode::from(2);
    }
    if let Command::Add(_) = options.command
        && let Some(status) = reaper::run_below()
    {
        return status;
    }
    interrupt::catch();
    machine::allow_many_descriptors();
    let outcome = interrupt::run(|| match &options.command {
        Command::Add(options) => add::run(options),
        Command::Net(options) => net::run(options),
        Command::Library(options) => library::run(options),
        Command::Plot(options) => plot::run(options),
    });
    match outcome {
        Some(()) => ExitCode::SUCCESS,
        None => {
            eprintln!("cnikit-bench: interrupted; all private hosts are removed");
            ExitCode::from(130)
        }
    }
}
