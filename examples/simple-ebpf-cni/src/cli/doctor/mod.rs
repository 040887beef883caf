//! `doctor`: reports what prevents pods from working, with a fix for each problem.

pub(crate) mod addresses;
mod agent;
pub(crate) mod attachments;
pub(crate) mod binary;
pub(crate) mod config;
pub(crate) mod config_dir;
pub(crate) mod diagnostic;
mod lock;
mod network;
pub(crate) mod node;
mod selftest;
mod xdp;

use std::path::PathBuf;

use clap::Args;
use cnikit::netlink::Socket;
use cnikit::spec::Version;
use serde::Serialize;

use super::error::Error;
use super::inventory::Selector;
use super::output::Output;
use super::paths::BIN_DIR;
use super::privileges;
use addresses::Place;
use config::Environment;
use diagnostic::{Diagnostic, failures, write};

const EXIT_STATUS: &str = "\
Exit status:
  0  no check has failed; checks may have warned
  1  a check has failed, or could not run
  2  the command line is invalid";

/// Find problems that prevent pods from working, and print a fix for each.
///
/// A self-test of the kernel runs in a temporary network namespace. Nothing on the node changes.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS)]
pub(crate) struct Options {
    #[command(flatten)]
    selector: Selector,

    /// Directory of the runtime for plugins
    #[arg(long, value_name = "DIR", default_value = BIN_DIR)]
    bin_dir: PathBuf,

    /// Output JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    checks: Vec<Diagnostic>,
}

pub(crate) fn run(options: &Options, versions: &[Version], output: &mut Output) -> Result<(), Error> {
    let report = Report { checks: options.checks(versions)? };
    if options.json {
        output.json(&report)?
    } else {
        write(&report.checks, output)?
    }
    match failures(&report.checks) {
        0 => Ok(()),
        failures => Err(Error::Problems(failures)),
    }
}

impl Options {
    fn checks(&self, versions: &[Version]) -> Result<Vec<Diagnostic>, Error> {
        let Self { selector, bin_dir, .. } = self;
        let mut checks = node::node();
        let is_able = failures(&checks) == 0;
        let binary = binary::binary(bin_dir, selector);
        let loopback = binary::loopback(bin_dir, selector, &binary);
        checks.extend([binary, loopback]);
        // The check `capabilities` has reported a process that cannot read networks.
        if privileges::missing().is_some() {
            return Ok(checks);
        }
        let host = Socket::open()?;
        let links = host.links()?;
        let environment = Environment { host: &host, links: &links, bin_dir, versions, place: Place::Node };
        checks.extend(config_dir::configurations(selector, &environment)?);
        match selector.networks() {
            // A problem of the node would appear again in each network.
            Ok(networks) if is_able => {
                checks.extend(networks.iter().flat_map(|found| network::network(found, &host, &links)));
            }
            Ok(_) => {}
            Err(error @ Error::UnknownNetwork { .. }) => return Err(error),
            Err(error) if failures(&checks) == 0 => {
                checks.push(Diagnostic::fail("network", error.to_string(), error.advice()));
            }
            // The error is a consequence of an earlier failure.
            Err(_) => {}
        }
        checks.extend(agent::agent());
        Ok(checks)
    }
}
