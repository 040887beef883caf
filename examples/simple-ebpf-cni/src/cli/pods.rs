//! `pods`: who is attached, and what was counted for each.

use clap::Args;
use clap::builder::styling::Style;
use cnikit::netlink::Socket;
use serde::Serialize;

use super::attached::{self, Pod};
use super::node::Scope;
use super::output::{BAD, Output};
use super::table::Table;
use super::text::{self, UNKNOWN, age, bytes, count, list, short};
use super::{EXIT_STATUS, Error};

/// Show the pods, with what each has sent and received.
///
/// NAMESPACE/POD is the pod in Kubernetes, if the runtime names one; a container of podman has a name and no namespace.
/// TX is what a pod sent, RX what was delivered to it. DIRECT is the share of its packets that went straight from pod to pod, past the
/// bridge. DROPS are packets that it was not let send, most often in the name of another; --json tells the reasons.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS)]
pub(crate) struct Options {
    #[command(flatten)]
    scope: Scope,

    /// Print all there is as JSON, for programs
    #[arg(long)]
    json: bool,

    /// Show names of pods and ids of containers in full
    #[arg(long)]
    no_trunc: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    pods: Vec<Pod>,
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<(), Error> {
    let report = Report { pods: all(&options.scope)? };
    if options.json { output.json(&report) } else { report.write(options.no_trunc, output) }
}

/// The pods of all networks, in the order of these.
pub(crate) fn all(scope: &Scope) -> Result<Vec<Pod>, Error> {
    let links = Socket::open()?.links()?;
    let mut pods = Vec::new();
    for known in scope.networks()? {
        pods.extend(attached::pods(&known, &links)?);
    }
    Ok(pods)
}

/// The names of a pod as tables show them: pod, network, container, interface, addresses.
pub(crate) fn names(pod: &Pod, no_trunc: bool) -> [String; 5] {
    let (container, ifname) = pod.owner.as_ref().map_or((UNKNOWN, UNKNOWN), |owner| {
        let container = owner.container_id.as_str();
        (if no_trunc { container } else { short(container) }, owner.ifname.as_str())
    });
    let kubernetes = text::pod(&pod.kubernetes, no_trunc);
    [kubernetes, pod.network.to_string(), container.to_owned(), ifname.to_owned(), list(&pod.addresses)]
}

impl Report {
    fn write(&self, no_trunc: bool, output: &mut Output) -> Result<(), Error> {
        if self.pods.is_empty() {
            return output.line("No pod is attached.");
        }
        let mut table = Table::new([
            "NAMESPACE/POD",
            "NETWORK",
            "CONTAINER",
            "IFNAME",
            "ADDRESSES",
            "VETH",
            "TX",
            "RX",
            "DIRECT",
            "DROPS",
            "AGE",
        ]);
        for pod in &self.pods {
            let [name, network, container, ifname, addresses] = names(pod, no_trunc);
            let (style, veth) = match &pod.host_interface {
                Some(name) => (Style::new(), name.to_string()),
                None => (BAD, "gone".to_owned()),
            };
            let unknown = || UNKNOWN.to_owned();
            let way = |packets, octets| format!("{packets} / {}", bytes(octets));
            let [tx, rx] = pod.counters.map_or_else(
                || [unknown(), unknown()],
                |counters| [counters.tx, counters.rx].map(|one| way(one.packets, one.bytes)),
            );
            let direct = pod.counters.and_then(|counters| counters.direct_percent());
            let direct = direct.map_or_else(unknown, |percent| format!("{percent} %"));
            let age = pod.created.map_or_else(unknown, age);
            let drops = pod.drops.refused().to_string();
            table.row(style, [name, network, container, ifname, addresses, veth, tx, rx, direct, drops, age]);
        }
        table.write(output)?;
        output.line("")?;
        output.line(count(self.pods.len(), "pod"))
    }
}
