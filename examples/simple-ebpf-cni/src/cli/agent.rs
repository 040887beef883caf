//! The node agent of this node: its report, and whether it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use simple_ebpf_cni::agent::{NAME, REPORT, Report};

use super::error::Error;
use super::format::age;

/// Twice the longest time between two comparisons of the agent, by default.
const LATE: Duration = Duration::from_secs(600);

/// The state of the agent, in `status`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State {
    pub(crate) running: bool,
    /// The name of this node.
    node: String,
    /// The number of other nodes by way. A node counts once for each way to it.
    nodes: BTreeMap<String, usize>,
    /// The number of problems that the agent has reported.
    problems: usize,
}

/// The last report of the agent. `None` if this node has none.
pub(crate) fn report() -> Result<Option<Report>, Error> {
    let path = Path::new(REPORT);
    let failed = |source| Error::File { operation: "read", path: path.to_owned(), source };
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(failed)?,
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| failed(error.into()))
}

/// The time of a report.
pub(crate) fn time(report: &Report) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(report.time)
}

/// Whether the report is older than two comparisons of the agent.
pub(crate) fn is_late(report: &Report) -> bool {
    time(report).elapsed().is_ok_and(|elapsed| elapsed > LATE)
}

/// The reason why the agent of this report does not work. `None` if it does.
pub(crate) fn failure(report: &Report) -> Option<String> {
    if !has_process(report.pid) {
        Some(format!("there is no process of {NAME}, and its last report is {} old", age(time(report))))
    } else if is_late(report) {
        Some(format!("{NAME} runs, but its last report is {} old", age(time(report))))
    } else {
        None
    }
}

impl State {
    pub(crate) fn of(report: &Report) -> Self {
        let ways = report.peers.iter().map(|peer| {
            // The name of the way in JSON.
            let way = serde_json::to_value(peer.way).ok();
            (way.and_then(|way| way.as_str().map(str::to_owned)).unwrap_or_default(), &peer.node)
        });
        let mut nodes = BTreeMap::new();
        for (way, _) in ways.collect::<BTreeSet<_>>() {
            *nodes.entry(way).or_default() += 1;
        }
        let running = failure(report).is_none();
        Self { running, node: report.node.clone(), nodes, problems: report.problems.len() }
    }

    /// The number of nodes by way, such as "2 direct, 1 none".
    pub(crate) fn nodes(&self) -> String {
        let nodes: Vec<_> = self.nodes.iter().map(|(way, number)| format!("{number} {way}")).collect();
        if nodes.is_empty() { "none".to_owned() } else { nodes.join(", ") }
    }
}

/// Whether a process of the agent has this id in its own namespace.
fn has_process(pid: u32) -> bool {
    /// The kernel truncates the names of processes.
    const NAME_LENGTH: usize = 15;
    let is_agent = |status: &str| {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let innermost = field("NSpid:").and_then(|ids| ids.split_whitespace().last()?.parse().ok());
        field("Name:") == NAME.get(..NAME_LENGTH) && innermost == Some(pid)
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .map(|process| process.path().join("status"))
        .any(|file| fs::read_to_string(file).is_ok_and(|text| is_agent(&text)))
}
