//! One comparison of the desired state with the kernel, and the changes that it needs.
//!
//! The order of the steps is part of the design. The network configuration comes last, because the
//! runtime then starts pods. Masquerading of the agent comes before the deletion of the plugin's
//! own rules, so that pods always have one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use cnikit::netlink::{Link, Route, Socket, Sysctl};
use cnikit::spec::{IfIndex, MacAddr};
use ipnetwork::IpNetwork;
use simple_ebpf_cni::agent::{PeerReport, Report, Way};
use simple_ebpf_cni::config::Config;
use simple_ebpf_cni::network::Network;
use simple_ebpf_cni::{masquerade as plugin_masquerade, naming, programs};
use tracing::info;

use crate::desired::{Desired, route_changes};
use crate::settings::Settings;
use crate::view::ClusterView;
use crate::{conflist, forward, masquerade};

/// The time after which the network of the node is repaired also if nothing seems to differ.
const FULL_REPAIR: Duration = Duration::from_secs(300);

/// Applies views of the cluster to the kernel of this node.
#[derive(Debug)]
pub struct Reconciler {
    settings: Settings,
    /// The last complete repair: its time, the pod CIDRs, and the network after it.
    repaired: Option<(Instant, Vec<IpNetwork>, Fingerprint)>,
}

/// What shows that the network of the node has changed, at the cost of a few requests.
#[derive(Debug, PartialEq, Eq)]
struct Fingerprint {
    bridge: Option<(IfIndex, bool, Option<MacAddr>, u32)>,
    addresses: BTreeSet<IpNetwork>,
    missing_programs: Vec<&'static str>,
}

impl Reconciler {
    /// Changes nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, repaired: None }
    }

    /// Makes the kernel equal to the view. A step that fails is in the report, and does not stop
    /// the others. Without an own node, nothing changes.
    pub fn apply(&mut self, view: &ClusterView) -> Report {
        let mut report = Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            node: self.settings.node_name.clone(),
            ..Report::default()
        };
        let Some(own) = &view.own else {
            report.problems.push(format!(
                "node {} has no pod CIDR: run kube-controller-manager with --allocate-node-cidrs and --cluster-cidr",
                self.settings.node_name
            ));
            return report;
        };
        report.pod_cidrs.clone_from(&own.pod_cidrs);
        report.mtu = self.settings.mtu;
        if let Err(problem) = self.apply_to(view, &own.pod_cidrs, &mut report) {
            report.problems.push(problem);
        }
        report.is_ready = report.problems.is_empty();
        report.problems.extend(enable_forwarding(&own.pod_cidrs));
        report.problems.extend(forward::apply(&own.pod_cidrs, self.settings.forward_accept));
        // An unreachable node does not stop this one.
        let unreachable = report.peers.iter().filter(|peer| peer.way == Way::None);
        let unreachable: Vec<_> =
            unreachable.map(|peer| format!("no route to pods of node {}: {}", peer.node, peer.reason)).collect();
        report.problems.extend(unreachable);
        report.problems.extend_from_slice(&view.problems);
        report
    }

    fn apply_to(&mut self, view: &ClusterView, own: &[IpNetwork], report: &mut Report) -> Result<(), String> {
        let host = Socket::open().map_err(|error| error.to_string())?;
        let problems = &mut report.problems;

        let set_up = self.set_up_network(&host, own);
        problems.extend(set_up.err());

        let found = host.routes_of(Route::MAIN_TABLE).map_err(|error| error.to_string())?;
        let desired = Desired::new(view, self.settings.mode, &found);

        // Before the routes: a connection keeps the address that its first packet gets.
        if self.settings.masquerade {
            match masquerade::ensure(own, &desired, &self.settings.bridge) {
                Ok(true) => info!("changed the masquerading rules: {} pod CIDRs", desired.pod_cidrs.len()),
                Ok(false) => {}
                Err(error) => problems.push(format!("cannot masquerade packets of pods: {error}")),
            }
        } else {
            problems.extend(
                masquerade::remove().err().map(|error| format!("cannot delete the masquerading rules: {error}")),
            );
        }
        problems.extend(change_routes(&host, &desired, &found));
        report.peers = with_links(&host, desired.peers, &desired.routes);

        if report.problems.is_empty() {
            let text = conflist::text(&self.settings, own);
            if conflist::write(&self.settings.conflist, &text).map_err(|error| error.to_string())? {
                info!("wrote {}", self.settings.conflist.display());
            }
            // From here on, no ADD creates the plugin's own rules again.
            if plugin_masquerade::exists(&self.settings.network).unwrap_or(false) {
                let removed = plugin_masquerade::remove(&self.settings.network);
                removed.map_err(|error| format!("cannot delete the masquerading rules of the plugin: {error}"))?;
                info!("deleted the masquerading rules of the plugin, which do not know other nodes");
            }
        }
        Ok(())
    }

    /// Creates or repairs the bridge, the programs and the map entries.
    fn set_up_network(&mut self, host: &Socket, own: &[IpNetwork]) -> Result<(), String> {
        let name = &self.settings.network;
        let config: Config = serde_json::from_value(conflist::plugin(&self.settings, own))
            .map_err(|error| format!("the network configuration is invalid: {error}"))?;
        let store = naming::leases(&config.data_dir, name).map_err(|error| error.to_string())?;
        let network = Network::new(host, name, &config, &store);
        let before = Fingerprint::look(&network)?;
        let is_same = |(at, cidrs, seen): &(Instant, Vec<IpNetwork>, Fingerprint)| {
            at.elapsed() < FULL_REPAIR && cidrs == own && *seen == before
        };
        if self.repaired.as_ref().is_some_and(is_same) {
            return Ok(());
        }
        self.repaired = None;
        network.repair(false).map_err(|error| format!("cannot set up the network {name}: {error}"))?;
        let after = Fingerprint::look(&network)?;
        if before != after {
            info!("set up the network {name}: bridge {}", config.bridge);
        }
        self.repaired = Some((Instant::now(), own.to_vec(), after));
        Ok(())
    }
}

impl Fingerprint {
    fn look(network: &Network<'_>) -> Result<Self, String> {
        let host = network.host;
        let bridge = host.link_by_name(&network.config.bridge).map_err(|error| error.to_string())?;
        let addresses = match &bridge {
            Some(bridge) => host.addresses(bridge.index).map_err(|error| error.to_string())?,
            None => Vec::new(),
        };
        let missing_programs = if bridge.is_some() {
            // Missing pins are an error here. They are repaired.
            programs::missing(host, &network.datapath, network.name).unwrap_or_else(|_| vec!["pins"])
        } else {
            Vec::new()
        };
        let bridge = bridge.map(|Link { index, up, mac, mtu, .. }| (index, up, mac, mtu));
        Ok(Self { bridge, addresses: addresses.into_iter().collect(), missing_programs })
    }
}

/// Turns on forwarding for the families of the pods. Returns a message for each failure: pods of
/// this node still reach each other.
fn enable_forwarding(own: &[IpNetwork]) -> Vec<String> {
    let families = [(Sysctl::Ipv4Forward, true), (Sysctl::Ipv6Forward, false)];
    let needed = families.into_iter().filter(|(_, is_ipv4)| own.iter().any(|cidr| cidr.is_ipv4() == *is_ipv4));
    // A change of IPv6 forwarding would delete routes that the node has from router advertisements.
    let is_off = needed.filter(|(setting, _)| !matches!(setting.read(), Ok(value) if value != 0));
    let changed = is_off.map(|(setting, is_ipv4)| match if is_ipv4 { setting.write(1).err() } else { None } {
        None if is_ipv4 => None,
        None => {
            Some(format!("{setting} is 0, so pods reach only their node: sysctl -w net.ipv6.conf.all.forwarding=1"))
        }
        Some(error) => Some(format!("pods reach only their node: {error}")),
    });
    changed.flatten().collect()
}

/// Adds the name and MTU of the link to the way to each node.
fn with_links(host: &Socket, peers: Vec<PeerReport>, routes: &[Route]) -> Vec<PeerReport> {
    let mut links: BTreeMap<IfIndex, Option<Link>> = BTreeMap::new();
    let mut with_link = |mut peer: PeerReport| {
        if let Some(route) = routes.iter().find(|route| route.dst == peer.pod_cidr) {
            let link = links.entry(route.oif).or_insert_with(|| host.link_by_index(route.oif).ok().flatten());
            peer.link = link.as_ref().map(|link| link.name.to_string());
            peer.mtu = link.as_ref().map(|link| link.mtu);
        }
        peer
    };
    peers.into_iter().map(&mut with_link).collect()
}

/// Replaces and deletes routes. Returns a message for each failure.
fn change_routes(host: &Socket, desired: &Desired, found: &[Route]) -> Vec<String> {
    let (replace, delete) = route_changes(&desired.routes, found);
    let mut problems = Vec::new();
    for route in &replace {
        problems.extend(host.replace_route(route).err().map(|error| error.to_string()));
    }
    for route in &delete {
        problems.extend(host.delete_route(route).err().map(|error| error.to_string()));
    }
    if !replace.is_empty() || !delete.is_empty() {
        info!("changed routes to other nodes: {} replaced, {} deleted", replace.len(), delete.len());
    }
    problems
}
