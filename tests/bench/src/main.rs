//! Measures `simple-ebpf-cni` and the reference plugins on private hosts that disappear with the
//! process, and draws the results.
//!
//! `make bench-add`, `make bench-net` and `make bench-plots` run it. docs/benchmarks.md has the
//! results.
//!
//! | module | what |
//! |---|---|
//! | [`add`] | the verbs of plugins: how long they take, how many at once, what an ADD is made of |
//! | [`tables`] | the results for people |
//! | [`net`] | packets from pod to pod, by each way that leads there |
//! | [`library`] | what criterion measured of the library |
//! | [`network`], [`call`] | plugins and their pods, and a call under the clock |
//! | [`plot`] | the documentation's tables and pictures |
//! | [`reaper`] | the parent of the process that measures, which reaps orphans |
//! | [`report`] | the results as they are kept, and the statistics in them |
//! | [`site`] | a private host for each contestant, which works when it is told to |
//!
//! Each measurement is also checked. A failed check ends the run with a panic that has the facts,
//! because the result would be worthless. Namespaces, mounts and pins belong to threads of this
//! process and disappear with it.

mod add;
mod call;
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
mod site;
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
        eprintln!("cnikit-bench: namespaces take CAP_SYS_ADMIN and CAP_NET_ADMIN: run it as root, or by `make`");
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
            eprintln!("cnikit-bench: interrupted; nothing is left behind");
            ExitCode::from(130)
        }
    }
}
