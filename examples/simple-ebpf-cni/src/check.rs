//! CHECK: compares an attachment with what its ADD reported and made.

use cnikit::datapath::{Datapath, Endpoint, PortConfig};
use cnikit::netlink::{FdbEntry, FdbState, LOOPBACK_INDEX, Link, Netns, Socket};
use cnikit::plugin::{CheckRequest, PluginError};
use cnikit::spec::{ErrorCode, Interface, IpConfig, MacAddr, Route};
use ipnetwork::IpNetwork;
use tracing::info_span;

use crate::config::{Addressing, Config};
use crate::drift::PortFault;
use crate::endpoints::Rows;
use crate::masquerade::Masquerade;
use crate::programs::{self, Programs};
use crate::{addresses, container, del, drift, network, requested, siblings};

/// The code of a CHECK that found a difference.
const DIFFERS: ErrorCode = ErrorCode::plugin_specific(110);

/// Fails with everything that differs. What later plugins of a chain have added, or changed and reported, is theirs.
pub(crate) fn check(request: &CheckRequest<Config>) -> Result<(), PluginError> {
    let wish = requested::mac(&request.net_conf, &request.args)?;
    let stack_only = !requested::direct_forwarding(&request.net_conf, &request.config, &request.args)?;
    if let Some(delegate) = addresses::delegate(request)? {
        delegate.check()?;
    }
    let mut check = Check { request, host: Socket::open()?, ips: Vec::new(), differences: Vec::new() };
    check.addresses()?;
    let bridge = check.bridge()?;
    let host_end = check.host_end(bridge.as_ref())?;
    let networks: Vec<IpNetwork> = check.ips.iter().map(|ip| ip.address).collect();
    let mac = wish.unwrap_or_else(|| addresses::mac(&request.attachment, &request.config, &networks));
    check.pod(mac)?;
    if let (Some(bridge), Some(host_end)) = (bridge, host_end) {
        check.datapath(&bridge, &host_end, PortConfig::new(mac).stack_only(stack_only))?;
    }
    if let Some(masquerade) =
        Masquerade::of(&request.attachment.network, &request.net_conf, &request.config, &networks)?
    {
        check.differences.extend(masquerade.differences()?);
    }
    if check.differences.is_empty() {
        return Ok(());
    }
    Err(PluginError::new(DIFFERS, check.differences.join("; ")))
}

/// What puts pins right.
const NEXT_ADD: &str = "the next ADD of a pod of this network pins them";

struct Check<'a> {
    request: &'a CheckRequest<Config>,
    host: Socket,
    /// The pod's addresses, as the result tells them.
    ips: Vec<IpConfig>,
    differences: Vec<String>,
}

impl Check<'_> {
    /// The addresses that the result tells are those of the lease, where the network gives them itself.
    fn addresses(&mut self) -> Result<(), PluginError> {
        let (attachment, told) = (&self.request.attachment, &self.request.prev_result);
        // By its name, and not by the namespace's path too: there may be several paths to one.
        let is_inside = |told: &Interface| told.name == attachment.ifname.as_str() && told.sandbox.is_some();
        let inside = told.interfaces.iter().position(is_inside);
        self.ips = inside.map_or_else(Vec::new, |index| told.ips_of(index).cloned().collect());
        match self.request.config.addressing {
            Addressing::Own(_) | Addressing::Untold => self.lease(),
            Addressing::Delegated => Ok(()),
        }
    }

    /// The lease, that its addresses lead to it, and that the result tells them.
    fn lease(&mut self) -> Result<(), PluginError> {
        let (attachment, config) = (&self.request.attachment, &self.request.config);
        let leases = network::leases(&config.data_dir, &attachment.network)?;
        del::name_pod(Some(&self.request.args), attachment, &leases);
        let Some(lease) = leases.lease(&network::owner(attachment))? else {
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
        let told = std::mem::take(&mut self.ips);
        self.ips = told.into_iter().filter(|ip| lease.addresses.contains(&ip.address)).collect();
        Ok(())
    }

    fn bridge(&mut self) -> Result<Option<Link>, PluginError> {
        let name = &self.request.config.bridge;
        let Some(bridge) = self.host.link_by_name(name)? else {
            self.differs(format!("the bridge {name} is missing"));
            return Ok(None);
        };
        if bridge.kind.as_deref() != Some("bridge") {
            self.differs(format!("{name} is no bridge"));
        }
        self.up(&bridge);
        self.link(&bridge, bridge.mac);
        let addresses = self.host.addresses(bridge.index)?;
        let own = self.own_gateways(bridge.index)?;
        self.differences.extend(drift::lacking(&bridge, &addresses, &own));
        Ok(Some(bridge))
    }

    /// The gateways that the node has taken. Of those that another plugin named, some may be other machines: the maps tell.
    fn own_gateways(&self, bridge: u32) -> Result<Vec<IpNetwork>, PluginError> {
        let Config { is_gateway, addressing, .. } = &self.request.config;
        let mut gateways = addresses::gateways(&self.ips);
        match (is_gateway, addressing) {
            (Some(false), _) => gateways.clear(),
            (None, Addressing::Delegated) => {
                let datapath = network::datapath(&self.request.attachment.network);
                let rows = if datapath.is_complete()? { Some(Rows::open(&datapath)?) } else { None };
                let is_own =
                    |gateway: &IpNetwork| rows.as_ref().map_or(Ok(false), |rows| rows.is_gateway(gateway.ip(), bridge));
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
        let Some(link) = self.host.link_by_name(&name)? else {
            self.differs(format!("the host's end {name} of the pair is missing"));
            return Ok(None);
        };
        self.link(&link, Some(attachment.host_mac()));
        for fault in drift::port(&link, bridge) {
            self.differs(fault.of(&[name.as_str()], &self.request.config.bridge));
        }
        Ok(Some(link))
    }

    /// Inside the pod: `lo`, the interface, its addresses, and those of its routes that the result tells.
    fn pod(&mut self, mac: MacAddr) -> Result<(), PluginError> {
        let _span = info_span!("pod").entered();
        let request = self.request;
        let ifname = &request.attachment.ifname;
        let inside = self.inside()?;
        if inside.link_by_index(LOOPBACK_INDEX)?.is_some_and(|lo| !lo.up) {
            self.differs("lo is down in the pod".into());
        }
        let Some(link) = inside.link_by_name(ifname)? else {
            self.differs(format!("the pod's end {ifname} of the pair is missing"));
            return Ok(());
        };
        self.up(&link);
        self.link(&link, None);

        if request.config.spoof_check && link.mac != Some(mac) {
            self.differs(format!(
                "all that {ifname} sends is dropped, as it must have the MAC {mac}: ask for another by \"runtimeConfig\", or \
                 set \"spoofCheck\" to false"
            ));
        }
        let addresses = inside.addresses(link.index)?;
        let told: Vec<IpNetwork> = self.ips.iter().map(|ip| ip.address).collect();
        for address in told.iter().filter(|address| !addresses.contains(address)) {
            self.differs(format!("{ifname} lacks the address {address}"));
        }
        let routes = inside.routes_of_all_tables()?;
        let told: Vec<&Route> = request.prev_result.routes.iter().filter(|route| self.is_ours(route)).collect();
        for route in told {
            if !routes.iter().any(|found| container::leads_as(found, link.index, route)) {
                self.differs(format!("the pod has no route to {} by {ifname}", route.dst));
            }
        }
        Ok(())
    }

    /// Whether this plugin's ADD added the route, rather than another plugin of the chain: by a next hop that is on a
    /// subnet of the pod's, or without one as the configuration asks.
    fn is_ours(&self, route: &Route) -> bool {
        match (route.gw, &self.request.config.addressing) {
            (Some(gateway), _) => self.ips.iter().any(|ip| ip.gateway == Some(gateway) || ip.address.contains(gateway)),
            (None, Addressing::Own(ipam)) => ipam.routes().iter().any(|wanted| wanted.dst == route.dst),
            (None, Addressing::Untold | Addressing::Delegated) => false,
        }
    }

    /// The programs on the host's end, and what their maps know of the network and the pod.
    fn datapath(&mut self, bridge: &Link, host_end: &Link, expected: PortConfig) -> Result<(), PluginError> {
        let _span = info_span!("rows").entered();
        let mac = expected.mac;
        let network = &self.request.attachment.network;
        let datapath = network::datapath(network);
        let directory = datapath.directory();
        let maps = match programs::unpinned_maps(&self.host, &datapath, network)? {
            Some(maps) => {
                self.differs(format!("{}: {NEXT_ADD}", programs::unpinned(&directory)));
                maps
            }
            None if !datapath.is_complete()? => {
                self.differs(format!("eBPF programs or maps are missing in {}: {NEXT_ADD}", directory.display()));
                return Ok(());
            }
            None => {
                self.programs(&datapath, [bridge, host_end])?;
                datapath.maps()
            }
        };
        let is_told = |entry: &FdbEntry| entry.mac == mac && entry.state == FdbState::Static;
        if self.request.config.spoof_check && !self.host.fdb(host_end.index)?.iter().any(is_told) {
            self.differs(format!("the bridge {} does not know {mac} at {}", bridge.name, host_end.name));
        }
        let told = maps.config()?;
        if let Some(other_mac) = drift::other_mac(bridge, &told) {
            self.differs(other_mac);
        } else if told != network::net_config(bridge, &self.request.config) {
            self.differs(format!("the eBPF programs do not know the bridge {} as it is", bridge.name));
        }
        let rows = Rows::of(&maps)?;
        let networks: Vec<IpNetwork> = self.ips.iter().map(|ip| ip.address).collect();
        self.differences.extend(rows.differences(&networks, Endpoint { ifindex: host_end.index, mac })?);
        if expected.stack_only && rows.link(host_end.index)?.is_some_and(|link| !link.stack_only) {
            self.differs(format!("the map port_config lets packets for {} bypass the stack", host_end.name));
        }
        self.differences.extend(siblings::differences(&self.host, &self.inside()?, &rows, host_end.index)?);
        Ok(())
    }

    /// A socket in the pod's namespace.
    fn inside(&self) -> Result<Socket, PluginError> {
        Ok(Netns::open(&self.request.netns)?.socket()?)
    }

    /// The pinned programs run in the blocks and on the links.
    fn programs(&mut self, datapath: &Datapath, links: [&Link; 2]) -> Result<(), PluginError> {
        let programs = Programs::open(&self.host, datapath, &self.request.attachment.network)?;
        for link in links {
            if !programs.run_on(&self.host, datapath, link.index)? {
                self.differs(PortFault::NoPrograms.of(&[link.name.as_str()], &self.request.config.bridge));
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

    /// A link is as the result tells it; where that does not tell a MAC, it is `mac`.
    fn link(&mut self, link: &Link, mac: Option<MacAddr>) {
        let interfaces = &self.request.prev_result.interfaces;
        let told = interfaces.iter().find(|told| told.name == link.name.as_str());
        if told.is_none() {
            self.differs(format!("prevResult does not tell of {}", link.name));
        }
        let expected = told.and_then(Interface::mac_addr).or(mac);
        if let Some(expected) = expected
            && link.mac != Some(expected)
        {
            self.differs(format!("{} has not the MAC {expected}", link.name));
        }
        // In the pod it is for later plugins of the chain to change: `tuning` does, and leaves the result as it was.
        if let Some(mtu) = told.filter(|told| told.sandbox.is_none()).and_then(|told| told.mtu)
            && mtu != link.mtu
        {
            self.differs(format!("{} has MTU {}, not {mtu}", link.name, link.mtu));
        }
    }

    fn differs(&mut self, what: String) {
        self.differences.push(what);
    }
}
