//! CHECK: compares an attachment with the result of its ADD and with the expected kernel state.

use cnikit::datapath::{Endpoint, PortConfig};
use cnikit::netlink::{FdbEntry, FdbState, IfIndex, Link, Netns, Socket};
use cnikit::plugin::{CheckRequest, PluginError};
use cnikit::spec::{ErrorCode, Interface, IpConfig, MacAddr, Route};
use ipnetwork::IpNetwork;
use simple_ebpf_cni::config::{Config, Ipam};
use simple_ebpf_cni::drift::{self, PortFault};
use simple_ebpf_cni::endpoints::Endpoints;
use simple_ebpf_cni::masquerade::Masquerade;
use simple_ebpf_cni::network::Network;
use simple_ebpf_cni::programs::{self, Programs};
use simple_ebpf_cni::{naming, setup, siblings};
use tracing::info_span;

use super::requested::{Requested, record_leased_pod};
use super::{addresses, container};

/// The error code of a CHECK that found a difference.
const DIFFERS: ErrorCode = ErrorCode::plugin_specific(110);

/// The remedy for missing pins.
const NEXT_ADD: &str = "the next ADD of a pod of this network pins them";

/// Fails with all differences. Ignores objects of later plugins of a chain, and changes that they
/// reported.
pub(crate) fn check(request: &CheckRequest<Config>) -> Result<(), PluginError> {
    let (attachment, config) = (&request.attachment, &request.config);
    let requested = Requested::new(&request.net_conf, config, &request.args)?;
    if let Some(delegate) = addresses::delegate(request)? {
        delegate.check()?;
    }
    let host = Socket::open()?;
    let leases = naming::leases(&config.data_dir, &attachment.network)?;
    let network = Network::new(&host, &attachment.network, config, &leases);
    let mut check = Check { request, network: &network, ips: Vec::new(), differences: Vec::new() };
    check.addresses()?;
    let bridge = check.bridge()?;
    let host_end = check.host_end(bridge.as_ref())?;
    let networks: Vec<IpNetwork> = check.ips.iter().map(|ip| ip.address).collect();
    let mac = requested.mac.unwrap_or_else(|| network.pod_mac(attachment, &networks));
    check.pod(mac)?;
    if let (Some(bridge), Some(host_end)) = (bridge, host_end) {
        check.datapath(&bridge, &host_end, PortConfig::new(mac).stack_only(requested.stack_only))?;
    }
    if let Some(masquerade) = Masquerade::for_pod(&network, &request.net_conf, &networks)? {
        check.differences.extend(masquerade.differences()?);
    }
    if check.differences.is_empty() {
        return Ok(());
    }
    Err(PluginError::new(DIFFERS, check.differences.join("; ")))
}

struct Check<'a> {
    request: &'a CheckRequest<Config>,
    network: &'a Network<'a>,
    /// The pod's addresses in the result.
    ips: Vec<IpConfig>,
    differences: Vec<String>,
}

impl Check<'_> {
    /// Compares the addresses in the result with the lease. A delegate has no lease.
    fn addresses(&mut self) -> Result<(), PluginError> {
        let (attachment, reported) = (&self.request.attachment, &self.request.prev_result);
        // Compares the name only: a namespace can have several paths.
        let is_pod_end =
            |interface: &Interface| interface.name == attachment.ifname.as_str() && interface.sandbox.is_some();
        let pod_end = reported.interfaces.iter().position(is_pod_end);
        self.ips = pod_end.map_or_else(Vec::new, |index| reported.ips_of(index).cloned().collect());
        match self.request.config.ipam {
            Ipam::Local(_) | Ipam::RuntimeRanges => self.lease(),
            Ipam::Delegated => Ok(()),
        }
    }

    /// Checks the lease: it exists, its addresses lead to it, and the result has them.
    fn lease(&mut self) -> Result<(), PluginError> {
        let attachment = &self.request.attachment;
        let leases = self.network.leases;
        record_leased_pod(Some(&self.request.args), attachment, leases);
        let Some(lease) = leases.lease(&attachment.key())? else {
            self.differs(format!("no address is leased in {}", leases.dir().display()));
            return Ok(());
        };
        for address in &lease.addresses {
            if leases.lease_at(address.ip())?.is_none_or(|found| found.owner != lease.owner) {
                self.differs(format!("the address {} is not kept for its lease", address.ip()));
            }
            if !self.ips.iter().any(|ip| ip.address == *address) {
                self.differs(format!("the lease holds {address}, prevResult does not"));
            }
        }
        let reported = std::mem::take(&mut self.ips);
        self.ips = reported.into_iter().filter(|ip| lease.addresses.contains(&ip.address)).collect();
        Ok(())
    }

    fn bridge(&mut self) -> Result<Option<Link>, PluginError> {
        let name = &self.request.config.bridge;
        let Some(bridge) = self.network.host.link_by_name(name)? else {
            self.differs(format!("the bridge {name} is missing"));
            return Ok(None);
        };
        if bridge.kind.as_deref() != Some("bridge") {
            self.differs(format!("{name} is no bridge"));
        }
        self.up(&bridge);
        self.link(&bridge, bridge.mac);
        let addresses = self.network.host.addresses(bridge.index)?;
        let own = self.own_gateways(bridge.index)?;
        self.differences.extend(drift::lacking(&bridge, &addresses, &own));
        Ok(Some(bridge))
    }

    /// The gateways that the node has taken. A delegate's gateway may be another machine: the maps
    /// show this.
    fn own_gateways(&self, bridge: IfIndex) -> Result<Vec<IpNetwork>, PluginError> {
        let Config { is_gateway, ipam, .. } = &self.request.config;
        let mut gateways = addresses::gateways(&self.ips);
        match (is_gateway, ipam) {
            (Some(false), _) => gateways.clear(),
            (None, Ipam::Delegated) => {
                let datapath = &self.network.datapath;
                let endpoints = if datapath.is_complete()? { Some(Endpoints::open(datapath)?) } else { None };
                let is_own = |gateway: &IpNetwork| {
                    let endpoints = endpoints.as_ref();
                    endpoints.map_or(Ok(false), |endpoints| endpoints.is_gateway(gateway.ip(), Some(bridge)))
                };
                let own = gateways.iter().map(|gateway| Ok(is_own(gateway)?.then_some(*gateway)));
                gateways = own.filter_map(Result::transpose).collect::<Result<_, PluginError>>()?;
            }
            (None | Some(true), _) => {}
        }
        Ok(gateways)
    }

    fn host_end(&mut self, bridge: Option<&Link>) -> Result<Option<Link>, PluginError> {
        let attachment = &self.request.attachment;
        let name = attachment.host_ifname();
        let Some(link) = self.network.host.link_by_name(&name)? else {
            self.differs(format!("the host's end {name} of the pair is missing"));
            return Ok(None);
        };
        self.link(&link, Some(attachment.host_mac()));
        for fault in drift::port(&link, bridge) {
            self.differs(fault.message(&[name.as_str()], &self.request.config.bridge));
        }
        Ok(Some(link))
    }

    /// Checks the pod's namespace: `lo`, the interface, its addresses, and this plugin's routes in
    /// the result.
    fn pod(&mut self, mac: MacAddr) -> Result<(), PluginError> {
        let _span = info_span!("pod").entered();
        let request = self.request;
        let ifname = &request.attachment.ifname;
        let pod = self.pod_socket()?;
        if pod.link_by_index(IfIndex::LOOPBACK)?.is_some_and(|lo| !lo.up) {
            self.differs("lo is down in the pod".into());
        }
        let Some(link) = pod.link_by_name(ifname)? else {
            self.differs(format!("the pod's end {ifname} of the pair is missing"));
            return Ok(());
        };
        self.up(&link);
        self.link(&link, None);

        if request.config.spoof_check && link.mac != Some(mac) {
            self.differs(format!(
                "the spoof check drops all frames of {ifname}, because its MAC is not {mac}: request another MAC in \
                 \"runtimeConfig\", or set \"spoofCheck\" to false"
            ));
        }
        let addresses = pod.addresses(link.index)?;
        let reported: Vec<IpNetwork> = self.ips.iter().map(|ip| ip.address).collect();
        for address in reported.iter().filter(|address| !addresses.contains(address)) {
            self.differs(format!("{ifname} lacks the address {address}"));
        }
        let routes = pod.routes_of_all_tables()?;
        let reported: Vec<&Route> = request.prev_result.routes.iter().filter(|route| self.is_own(route)).collect();
        for route in reported {
            if !routes.iter().any(|found| container::matches_reported(found, link.index, route)) {
                self.differs(format!("the pod has no route to {} by {ifname}", route.dst));
            }
        }
        Ok(())
    }

    /// Whether this plugin's ADD added the route, not another plugin of the chain. Its routes have
    /// a next hop in a subnet of the pod. A route without a next hop is in the configuration.
    fn is_own(&self, route: &Route) -> bool {
        match (route.gw, &self.request.config.ipam) {
            (Some(gateway), _) => self.ips.iter().any(|ip| ip.gateway == Some(gateway) || ip.address.contains(gateway)),
            (None, Ipam::Local(ipam)) => ipam.routes().iter().any(|wanted| wanted.dst == route.dst),
            (None, Ipam::RuntimeRanges | Ipam::Delegated) => false,
        }
    }

    /// Checks the programs on the host end, and the map entries of the network and the pod.
    fn datapath(&mut self, bridge: &Link, host_end: &Link, expected: PortConfig) -> Result<(), PluginError> {
        let _span = info_span!("maps").entered();
        let mac = expected.mac;
        let Network { host, name, datapath, config, .. } = self.network;
        let directory = datapath.directory();
        let maps = match programs::unpinned_maps(host, datapath, name)? {
            Some(maps) => {
                self.differs(format!("{}: {NEXT_ADD}", programs::unpinned(&directory)));
                maps
            }
            None if !datapath.is_complete()? => {
                self.differs(format!("eBPF programs or maps are missing in {}: {NEXT_ADD}", directory.display()));
                return Ok(());
            }
            None => {
                self.programs([bridge, host_end])?;
                datapath.maps()
            }
        };
        let is_entry = |entry: &FdbEntry| entry.mac == mac && entry.state == FdbState::Static;
        if config.spoof_check && !host.fdb(host_end.index)?.iter().any(is_entry) {
            self.differs(format!("the bridge {} does not know {mac} at {}", bridge.name, host_end.name));
        }
        let datapath_config = maps.config()?;
        if let Some(other_mac) = drift::other_mac(bridge, &datapath_config) {
            self.differs(other_mac);
        } else if datapath_config != setup::datapath_config(bridge, config) {
            self.differs(format!("the map net_config does not match the bridge {} and the configuration", bridge.name));
        }
        let endpoints = Endpoints::from_maps(&maps)?;
        let networks: Vec<IpNetwork> = self.ips.iter().map(|ip| ip.address).collect();
        self.differences.extend(endpoints.differences(&networks, Endpoint::new(host_end.index, mac))?);
        if expected.stack_only && endpoints.port_config(host_end.index)?.is_some_and(|config| !config.stack_only) {
            self.differs(format!("the map port_config lets packets for {} bypass the stack", host_end.name));
        }
        self.differences.extend(siblings::differences(host, &self.pod_socket()?, &endpoints, host_end.index)?);
        Ok(())
    }

    /// Opens a socket in the pod's namespace.
    fn pod_socket(&self) -> Result<Socket, PluginError> {
        Ok(Netns::open(&self.request.netns)?.socket()?)
    }

    /// Checks that the pinned programs run in the blocks and on the links.
    fn programs(&mut self, links: [&Link; 2]) -> Result<(), PluginError> {
        let Network { host, name, datapath, .. } = self.network;
        let programs = Programs::open(host, datapath, name)?;
        for link in links {
            if !programs.run_on(host, datapath, link.index)? {
                self.differs(PortFault::NoPrograms.message(&[link.name.as_str()], &self.request.config.bridge));
            }
        }
        for program in programs.missing() {
            self.differs(format!("the eBPF program {program} is not attached"));
        }
        Ok(())
    }

    fn up(&mut self, link: &Link) {
        if !link.up {
            self.differs(format!("{} is down", link.name));
        }
    }

    /// Compares a link with the result. `mac` is the expected MAC if the result has none.
    fn link(&mut self, link: &Link, mac: Option<MacAddr>) {
        let interfaces = &self.request.prev_result.interfaces;
        let reported = interfaces.iter().find(|interface| interface.name == link.name.as_str());
        if reported.is_none() {
            self.differs(format!("prevResult does not contain {}", link.name));
        }
        let expected = reported.and_then(Interface::mac_addr).or(mac);
        if let Some(expected) = expected
            && link.mac != Some(expected)
        {
            self.differs(format!("{} does not have the MAC {expected}", link.name));
        }
        // Later plugins of the chain may change the MTU in the pod: `tuning` does, and does not
        // update the result.
        if let Some(mtu) = reported.filter(|interface| interface.sandbox.is_none()).and_then(|found| found.mtu)
            && mtu != link.mtu
        {
            self.differs(format!("{} has MTU {}, not {mtu}", link.name, link.mtu));
        }
    }

    fn differs(&mut self, difference: String) {
        self.differences.push(difference);
    }
}
