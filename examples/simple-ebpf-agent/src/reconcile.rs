//! One comparison of the desired state with the kernel, and the changes that it needs.
//!
//! The order of the steps is part of the design. The network configuration comes last, because the
//! runtime then starts pods. Masquerading of the agent comes before the deletion of the plugin's
//! own rules, so that pods always have one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use cnikit::bpf;
use cnikit::datapath::RemoteConfig;
use cnikit::netlink::{Link, Route, Socket};
use cnikit::spec::{IfIndex, IfName, MacAddr};
use ipnetwork::IpNetwork;
use simple_ebpf_cni::agent::{Mode, PeerReport, ROUTE_PROTOCOL, Report, Way, remote_datapath};
use simple_ebpf_cni::config::Config;
use simple_ebpf_cni::network::Network;
use simple_ebpf_cni::{masquerade as plugin_masquerade, naming, programs};
use tracing::info;

use crate::desired::{Desired, TunnelLink, Underlay, first_address, tunnel_overhead};
use crate::kernel::Kernel;
use crate::probe::{self, Prober};
use crate::routes::{RouteIndex, route_changes};
use crate::settings::Settings;
use crate::tunnel::{self, Tunnel};
use crate::view::{ClusterView, OwnNode};
use crate::{conflist, forward, masquerade, sysctls, underlay, untracked};

/// The name of missing pins in [`Fingerprint::missing_programs`].
const PINS: &str = "pins";

/// The metric of an IPv6 route without an own one.
const IPV6_METRIC: u32 = 1024;

/// The time after which the network of the node is repaired also if nothing seems to differ.
const FULL_REPAIR: Duration = Duration::from_secs(300);

/// The same, if the last repair has left faults.
const NEXT_ATTEMPT: Duration = Duration::from_secs(5);

/// Applies views of the cluster to the kernel of this node.
#[derive(Debug)]
pub struct Reconciler {
    settings: Settings,
    /// `None` if no way needs probes, or in a test.
    prober: Option<Prober>,
    /// The last complete repair: its time, the configuration of the plugin, and the network after
    /// it.
    repaired: Option<(Instant, serde_json::Value, Fingerprint)>,
}

/// What shows that the network of the node has changed, at the cost of a few requests.
#[derive(Debug, PartialEq, Eq)]
struct Fingerprint {
    bridge: Option<(IfIndex, bool, Option<MacAddr>, u32)>,
    addresses: BTreeSet<IpNetwork>,
    missing_programs: Vec<&'static str>,
    /// The faults of attached pods.
    pod_faults: Vec<String>,
}

impl Reconciler {
    /// Changes nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, prober: None, repaired: None }
    }

    /// Probes the direct ways.
    #[must_use]
    pub fn with_prober(mut self, prober: Prober) -> Self {
        self.prober = Some(prober);
        self
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
        let mut warnings = Vec::new();
        if let Err(problem) = self.apply_to(view, own, &mut report, &mut warnings) {
            report.problems.push(problem);
        }
        report.is_ready = report.problems.is_empty();
        report.problems.append(&mut warnings);
        report.problems.extend(sysctls::enable_forwarding(&own.pod_cidrs));
        report.problems.extend(forward::apply(&own.pod_cidrs, self.settings.forward_accept));
        // An unreachable node does not stop this one.
        let unreachable = report.peers.iter().filter(|peer| peer.way == Way::None);
        let unreachable: Vec<_> =
            unreachable.map(|peer| format!("no route to pods of node {}: {}", peer.node, peer.reason)).collect();
        report.problems.extend(unreachable);
        report.problems.extend_from_slice(&view.problems);
        report
    }

    /// Writes the newest results of the probes to a report. Returns whether it has changed.
    pub fn refresh(&self, report: &mut Report) -> bool {
        let verdicts = self.prober.as_ref().map(Prober::verdicts).unwrap_or_default();
        let mut is_changed = false;
        for peer in report.peers.iter_mut().filter(|peer| peer.probe.is_some()) {
            let Some(verdict) = verdicts.get(&peer.pod_cidr) else { continue };
            is_changed |= peer.probe != Some(verdict.report);
            (peer.probe, peer.reason) = (Some(verdict.report), verdict.reason.clone());
        }
        is_changed
    }

    /// Adds failures that pods would notice to the problems of the report. Adds others to
    /// `warnings`: packets are slower, or some nodes cannot be reached.
    fn apply_to(
        &mut self,
        view: &ClusterView,
        own: &OwnNode,
        report: &mut Report,
        warnings: &mut Vec<String>,
    ) -> Result<(), String> {
        let covers = |address: &&IpAddr| own.pod_cidrs.iter().any(|cidr| cidr.contains(**address));
        if let Some(address) = own.addresses.iter().find(covers) {
            return Err(format!("the pod CIDR of this node has its own address {address}: choose another one"));
        }
        let kernel = Kernel::look()?;
        let (host, own_cidrs) = (&kernel.host, own.pod_cidrs.as_slice());
        let uses_tunnel = self.settings.mode.needs_tunnel()
            || view.peers.iter().any(|peer| peer.mode.is_some_and(Mode::needs_tunnel));
        let underlay_mtu = kernel.underlay_mtu(&own.addresses)?;
        let overhead = tunnel_overhead(&own.addresses);
        report.mtu = self.settings.mtu.or_else(|| uses_tunnel.then_some(underlay_mtu?.saturating_sub(overhead)));
        let plugin = conflist::plugin(&self.settings, own_cidrs, report.mtu);
        let problems = &mut report.problems;

        let set_up = self.set_up_network(&kernel, &plugin);
        let is_set_up = set_up.is_ok();
        problems.extend(set_up.err());
        let gateways: Vec<IpAddr> = own_cidrs.iter().filter_map(first_address).collect();
        // A replaced device takes its routes with it, so it comes before the routes are listed.
        let tunnel =
            self.ensure_tunnel(host, uses_tunnel, underlay_mtu.unwrap_or(1500).saturating_sub(overhead), &gateways);
        warnings.extend(tunnel.as_ref().err().filter(|_| uses_tunnel).cloned());
        let port = tunnel.is_ok().then_some(self.settings.vxlan_port);
        warnings.extend(port.map_or_else(untracked::remove, |port| untracked::ensure(port).map(drop)).err().map(
            |error| format!("the kernel tracks the connections of the tunnel, because it refuses the rules: {error}"),
        ));

        let found = host.routes_of(Route::MAIN_TABLE).map_err(|error| error.to_string())?;
        let rejects = host.reject_routes().map_err(|error| error.to_string())?;
        let routes = RouteIndex::new(&found, &rejects);
        let current = current_next_hops(&found);
        let links = kernel.link_infos();
        let verdicts = self.prober.as_ref().map(Prober::verdicts).unwrap_or_default();
        let underlay = Underlay {
            mode: self.settings.mode,
            bypass: self.settings.bypass && is_set_up,
            routes: &routes,
            links: &links,
            tunnel: tunnel.as_ref().copied().map_err(String::as_str),
            verdicts: &verdicts,
            current: &current,
        };
        let mut desired = Desired::new(view, &underlay);
        let link = tunnel.as_ref().ok().map(|tunnel| tunnel.link);
        let remote = remote_datapath(&self.settings.network);
        if is_set_up && let Err(error) = underlay::ensure_programs(host, &remote, &desired.uplinks, link) {
            warnings.push(format!(
                "the bridge and the routes forward packets to other nodes: cannot attach the eBPF programs to the links \
                 between the nodes: {error}"
            ));
            desired = Desired::new(view, &Underlay { bypass: false, ..underlay });
        }
        let mut names = kernel.names(desired.uplinks.iter());
        if link.is_some() {
            let loosened = sysctls::loosen_reverse_path_filters(names.values());
            warnings.extend(loosened.err().map(|error| format!("nodes can send by two links, but {error}")));
        }

        // Before the routes: a connection keeps the address that its first packet gets.
        if self.settings.masquerade {
            match masquerade::ensure(own_cidrs, &desired, &self.settings.bridge) {
                Ok(true) => info!("changed the masquerading rules: {} pod CIDRs", desired.pod_cidrs.len()),
                Ok(false) => {}
                Err(error) => problems.push(format!("cannot masquerade packets of pods: {error}")),
            }
        } else {
            problems.extend(
                masquerade::remove().err().map(|error| format!("cannot delete the masquerading rules: {error}")),
            );
        }
        warnings.extend(sysctls::raise_neighbor_limits(&desired.routes));
        let entries = |error: bpf::Error| format!("cannot write the eBPF maps of other nodes: {error}");
        let deleted = if is_set_up { underlay::delete_entries(&remote, &desired).map_err(entries) } else { Ok(0) };
        problems.extend(change_routes(host, &desired, &found));
        // After the routes, because the programs leave some packets to the stack.
        let config = RemoteConfig::new(self.settings.vxlan_id);
        let config = kernel.pod_mtu(&self.settings.bridge).into_iter().fold(config, RemoteConfig::pod_mtu);
        let written =
            if is_set_up { underlay::write_entries(&remote, &desired, config).map_err(entries) } else { Ok(0) };
        match (deleted, written) {
            (Ok(0), Ok(0)) => {}
            (Ok(deleted), Ok(written)) => {
                info!("changed map entries of pod CIDRs: {written} written, {deleted} deleted")
            }
            (deleted, written) => problems.extend(deleted.err().or(written.err())),
        }
        // The tunnel's link may be newer than the list of links.
        names.extend(link.map(|link| (link, self.settings.vxlan_link.clone())));
        if let Some(prober) = &self.prober {
            let (links, port, targets) =
                (names.clone(), self.settings.probe_port, std::mem::take(&mut desired.targets));
            prober.configure(probe::Config { port, gateways, links, targets, tunnel: link }, &current);
        }
        report.peers = with_links(&names, desired.peers, &desired.routes);

        if report.problems.is_empty() {
            let text = conflist::text(&self.settings, plugin);
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

    /// Creates or repairs the tunnel's link, or deletes it if no way needs it. Returns the reason
    /// if there is none.
    fn ensure_tunnel(&self, host: &Socket, is_used: bool, mtu: u32, gateways: &[IpAddr]) -> Result<TunnelLink, String> {
        let Settings { vxlan_link, vxlan_id, vxlan_port, node_name, .. } = &self.settings;
        if !is_used {
            tunnel::remove(vxlan_link).map_err(|error| error.to_string())?;
            return Err("no mode uses the tunnel".to_owned());
        }
        let tunnel = Tunnel::new(node_name, vxlan_link.clone(), *vxlan_id, *vxlan_port);
        let link = tunnel.ensure(host, mtu, gateways).map_err(|error| error.to_string())?;
        Ok(TunnelLink { link, vni: *vxlan_id })
    }

    /// Creates or repairs the bridge, the programs and the map entries.
    fn set_up_network(&mut self, kernel: &Kernel, plugin: &serde_json::Value) -> Result<(), String> {
        let name = &self.settings.network;
        let config: Config = serde_json::from_value(plugin.clone())
            .map_err(|error| format!("the network configuration is invalid: {error}"))?;
        let store = naming::leases(&config.data_dir, name).map_err(|error| error.to_string())?;
        let network = Network::new(&kernel.host, name, &config, &store);
        let before = Fingerprint::look(&network)?;
        let is_same = |(at, known, seen): &(Instant, serde_json::Value, Fingerprint)| {
            let limit = if seen.pod_faults.is_empty() { FULL_REPAIR } else { NEXT_ATTEMPT };
            at.elapsed() < limit && known == plugin && *seen == before
        };
        if self.repaired.as_ref().is_some_and(is_same) {
            return Ok(());
        }
        self.repaired = None;
        if !before.pod_faults.is_empty() {
            info!("repairing the pods of the network {name}: {}", before.pod_faults.join("; "));
        }
        network.repair(false).map_err(|error| format!("cannot set up the network {name}: {error}"))?;
        let after = Fingerprint::look(&network)?;
        if before != after {
            info!("set up the network {name}: bridge {}", config.bridge);
        }
        self.repaired = Some((Instant::now(), plugin.clone(), after));
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
        let mut missing_programs = Vec::new();
        if bridge.is_some() {
            let found = programs::missing(host, &network.datapath, network.name);
            missing_programs.extend(found.unwrap_or_else(|_| vec!["filters"]));
            // Programs run without their pins, too. Pins of another build are complete: the plugin
            // may be newer than the agent, and both would replace each other's programs.
            if network.datapath.is_complete().is_ok_and(|is_complete| !is_complete) {
                missing_programs.push(PINS);
            }
        }
        // Missing pins are in `missing_programs`. The maps of missing pins cannot be read.
        let pod_faults = match &bridge {
            Some(bridge) if !missing_programs.contains(&PINS) => {
                let links = host.links().map_err(|error| error.to_string())?;
                network.pod_faults(bridge, &links).unwrap_or_else(|error| vec![error.to_string()])
            }
            _ => Vec::new(),
        };
        let bridge = bridge.map(|Link { index, up, mac, mtu, .. }| (index, up, mac, mtu));
        Ok(Self { bridge, addresses: addresses.into_iter().collect(), missing_programs, pod_faults })
    }
}

/// The next hop of each direct route of the agent that is in use.
fn current_next_hops(found: &[Route]) -> BTreeMap<IpNetwork, IpAddr> {
    let own = found.iter().filter(|route| route.protocol == Some(ROUTE_PROTOCOL));
    // The second route of a way has a metric.
    let first = own.filter(|route| route.priority.is_none_or(|metric| metric == 0 || metric == IPV6_METRIC));
    first.filter_map(|route| Some((route.dst, route.gateway?))).collect()
}

/// Adds the name of the link to the way to each node.
fn with_links(names: &BTreeMap<IfIndex, IfName>, mut peers: Vec<PeerReport>, routes: &[Route]) -> Vec<PeerReport> {
    let first = routes.iter().filter(|route| route.priority.is_none());
    let by_cidr: BTreeMap<IpNetwork, IfIndex> = first.map(|route| (route.dst, route.oif)).collect();
    for peer in &mut peers {
        peer.link = by_cidr.get(&peer.pod_cidr).and_then(|link| names.get(link)).map(ToString::to_string);
    }
    peers
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
