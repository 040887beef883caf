//! `doctor`: looks for what keeps pods from working, and says what to do.

use std::path::PathBuf;

use clap::Args;
use cnikit::netlink::Socket;
use serde::Serialize;

use super::check::{self, Check, Verdict};
use super::node::Scope;
use super::output::{BAD, DOUBTFUL, GOOD, Output};
use super::{Error, chain, remedy};

/// Where runtimes look for plugins.
pub(crate) const BIN_DIR: &str = "/opt/cni/bin";

const EXIT_STATUS: &str = "\
Exit status:
  0  no check has failed, though some may have warned
  1  a check has failed, or could not be made
  2  the command line is wrong";

/// Look for what keeps pods from working, and say what to do.
///
/// What the kernel can do is tried, in a namespace that vanishes; nothing of the node is changed.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS)]
pub(crate) struct Options {
    #[command(flatten)]
    scope: Scope,

    /// Where the runtime finds plugins
    #[arg(long, value_name = "DIR", default_value = BIN_DIR)]
    bin_dir: PathBuf,

    /// Print all there is as JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    checks: Vec<Check>,
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<(), Error> {
    let Options { scope, bin_dir, .. } = options;
    let mut checks = check::node();
    let is_able = failures(&checks) == 0;
    checks.push(check::binary(bin_dir, scope));
    // A process that may not look at networks has been told so.
    if check::refuse_unprivileged().is_ok() {
        let host = Socket::open()?;
        let links = host.links()?;
        checks.extend(check::configurations(scope, bin_dir, &host, &links)?);
        match scope.networks() {
            // What the node lacks is said, and would be found again in each network.
            Ok(networks) if is_able => {
                checks.extend(networks.iter().flat_map(|known| check::network(known, &host, &links)))
            }
            Ok(_) => {}
            Err(error @ Error::UnknownNetwork { .. }) => return Err(error),
            Err(error) if failures(&checks) == 0 => {
                checks.push(Check::fail("network", chain(&error), remedy::of(&error)))
            }
            // It is one of the failures that were found.
            Err(_) => {}
        }
    }
    let report = Report { checks };
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

/// How many checks have failed.
pub(crate) fn failures(checks: &[Check]) -> usize {
    checks.iter().filter(|check| check.verdict == Verdict::Fail).count()
}

/// Writes a line for each check, and below it what to do.
pub(crate) fn write(checks: &[Check], output: &mut Output) -> Result<(), Error> {
    for Check { check, verdict, found, remedy } in checks {
        let (style, verdict) = match verdict {
            Verdict::Ok => (GOOD, "ok"),
            Verdict::Warn => (DOUBTFUL, "warn"),
            Verdict::Fail => (BAD, "FAIL"),
        };
        output.styled(style, format_args!("{verdict:<5} {check:<13} {found}"))?;
        if let Some(remedy) = remedy {
            output.line(format_args!("{:20}{remedy}", ""))?;
        }
    }
    Ok(())
}
