//! `pods`: lists attached pods with their counters.

use clap::Args;
use clap::builder::styling::Style;
use cnikit::netlink::Socket;
use serde::Serialize;

use super::error::Error;
use super::format::{self, UNKNOWN, age, bytes, count, list, short};
use super::inventory::Selector;
use super::inventory::pods::{Pod, pods};
use super::options::{EXIT_STATUS, ReportOptions};
use super::output::{ERROR, Output};
use super::table::Table;

/// List the pods, with their sent and received packets.
///
/// NAMESPACE/POD is the pod's name in Kubernetes, if the runtime passes one. A podman container has
/// a name without a namespace. TX counts packets that the pod sent, RX packets that it received.
/// DIRECT is the share of packets that were forwarded directly from pod to pod, without the bridge.
/// DROPS counts packets that the pod was not allowed to send, for example with another source
/// address. --json lists the reasons.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS)]
pub(crate) struct Options {
    #[command(flatten)]
    report: ReportOptions,

    /// Do not truncate pod names and container ids
    #[arg(long)]
    no_trunc: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    pods: Vec<Pod>,
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<(), Error> {
    let report = Report { pods: all(&options.report.selector)? };
    if options.report.json { output.json(&report) } else { report.write(options.no_trunc, output) }
}

/// The pods of the selected networks, grouped by network.
pub(crate) fn all(selector: &Selector) -> Result<Vec<Pod>, Error> {
    let links = Socket::open()?.links()?;
    let mut found = Vec::new();
    for network in selector.networks()? {
        found.extend(pods(&network, &links)?);
    }
    Ok(found)
}

/// The cells that identify a pod: pod, network, container, interface, addresses.
pub(crate) fn names(pod: &Pod, no_trunc: bool) -> [String; 5] {
    let (container, ifname) = pod.owner.as_ref().map_or((UNKNOWN, UNKNOWN), |owner| {
        let container = owner.container_id.as_str();
        (if no_trunc { container } else { short(container) }, owner.ifname.as_str())
    });
    let kubernetes = format::pod(&pod.kubernetes, no_trunc);
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
                None => (ERROR, "gone".to_owned()),
            };
            let unknown = || UNKNOWN.to_owned();
            let traffic = |packets, octets| format!("{packets} / {}", bytes(octets));
            let [tx, rx] = pod.counters.map_or_else(
                || [unknown(), unknown()],
                |counters| [counters.tx, counters.rx].map(|one| traffic(one.packets, one.bytes)),
            );
            let direct = pod.counters.and_then(|counters| counters.direct_percent());
            let direct = direct.map_or_else(unknown, |percent| format!("{percent} %"));
            let age = pod.created.map_or_else(unknown, age);
            let drops = pod.drops.total().to_string();
            table.row(style, [name, network, container, ifname, addresses, veth, tx, rx, direct, drops, age]);
        }
        table.write(output)?;
        output.line("")?;
        output.line(count(self.pods.len(), "pod"))
    }
}
