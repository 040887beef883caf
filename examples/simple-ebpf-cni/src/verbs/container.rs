//! The pod's side of the veth pair.

use cnikit::netlink::{self, AddrGenMode, IfIndex, Ipv4Conf, Ipv6Conf, Netns, Socket, Sysctl};
use cnikit::plugin::{Context as _, PluginError};
use cnikit::spec::{AddResult, IfName, MacAddr, Route};
use simple_ebpf_cni::ipv6;
use tracing::info_span;

/// The pod end of a veth pair.
pub(crate) struct PodEnd<'a> {
    pub(crate) netns: &'a Netns,
    /// A socket in the pod's namespace.
    pub(crate) socket: &'a Socket,
    pub(crate) ifname: &'a IfName,
    pub(crate) ifindex: IfIndex,
}

impl PodEnd<'_> {
    /// Adds the addresses and routes of `result`, and sets the interface up. Returns the routes of
    /// the pod. An existing route stays unchanged: the default route of a pod with several networks
    /// uses the first one.
    pub(crate) fn configure(&self, result: &AddResult) -> Result<Vec<Route>, PluginError> {
        let _span = info_span!("pod").entered();
        let Self { netns, socket, ifname, ifindex } = *self;
        if result.ips.iter().any(|ip| ip.address.is_ipv6()) {
            let lo = socket.link_by_index(IfIndex::LOOPBACK)?;
            let is_off =
                lo.as_ref().and_then(|lo| lo.ipv6_conf(Ipv6Conf::DisableIpv6)).is_some_and(|is_off| is_off != 0);
            let lo = lo.filter(|_| is_off).map(|lo| lo.name);
            netns.run(|| set_ipv6(ifname, lo.as_ref()))?.map_err(|error| ipv6::setting_error(&error))?;
        } else {
            // The kernel would announce a link-local address, which the network does not need, to
            // all pods.
            socket.set_addr_gen_mode(ifindex, AddrGenMode::None)?;
        }
        socket.set_up(IfIndex::LOOPBACK)?;
        for ip in &result.ips {
            let added = socket.add_address(ifindex, ip.address);
            added.context(format_args!("give {ifname} the address {}", ip.address))?;
        }
        socket.set_up(ifindex)?;
        let mut routes: Vec<Route> = Vec::new();
        for route in &result.routes {
            let wanted = kernel_route(ifindex, route);
            if routes.iter().any(|listed| kernel_route(ifindex, listed).is_same_as(&wanted)) {
                continue;
            }
            let is_present = match socket.ensure_route(&wanted) {
                Err(netlink::Error::Exists { .. }) => false,
                ensured => ensured.context(format_args!("give {ifname} the route to {}", route.dst)).map(|()| true)?,
            };
            if is_present {
                routes.push(route.clone());
            }
        }
        Ok(routes)
    }

    /// Announces the pod's MAC to the neighbors. Otherwise they would send to the MAC of the
    /// previous pod with the address for a minute.
    pub(crate) fn announce(&self, mac: MacAddr) -> netlink::Result<()> {
        let ifname = self.ifname;
        self.netns.run(|| {
            Sysctl::Ipv4Conf(ifname, Ipv4Conf::ArpNotify).ensure(1)?;
            match Sysctl::Ipv6Conf(ifname, Ipv6Conf::NdiscNotify).ensure(1) {
                Err(netlink::Error::SysctlMissing { .. }) => Ok(false),
                set => set,
            }
        })??;
        // The kernel announces a MAC that is set, even if it stays the same.
        self.socket.set_mac(self.ifindex, mac)
    }
}

/// Whether a kernel route through the link `index` matches a route of a result. Without a table in
/// the result, any table matches: a later plugin such as `sbr` may have moved the route.
pub(crate) fn matches_reported(found: &netlink::Route, index: IfIndex, reported: &Route) -> bool {
    let reported = kernel_route(index, reported);
    let is_in_table = reported.table.is_none() || found.table_id() == reported.table_id();
    found.has_same_path_as(&reported) && is_in_table
}

/// Prepares IPv6 before the interface is up. Runtimes switch IPv6 off in pods without IPv6
/// addresses. Router advertisements must not add addresses, because the runtime assigns them.
/// Duplicate address detection is unnecessary, because each lease is unique.
///
/// `lo` is the loopback interface if IPv6 is off there: the pod reaches its own addresses through
/// it.
fn set_ipv6(ifname: &IfName, lo: Option<&IfName>) -> netlink::Result<()> {
    if let Some(lo) = lo {
        Sysctl::Ipv6Conf(lo, Ipv6Conf::DisableIpv6).write(0)?;
    }
    for (setting, value) in [(Ipv6Conf::DisableIpv6, 0), (Ipv6Conf::AcceptRa, 0), (Ipv6Conf::AcceptDad, 0)] {
        Sysctl::Ipv6Conf(ifname, setting).ensure(value)?;
    }
    Ok(())
}

/// Converts a route of a result into a request to the kernel.
fn kernel_route(index: IfIndex, route: &Route) -> netlink::Route {
    let mut kernel_route = netlink::Route::new(route.dst, index);
    (kernel_route.gateway, kernel_route.mtu, kernel_route.advmss) = (route.gw, route.mtu, route.advmss);
    (kernel_route.priority, kernel_route.table, kernel_route.scope) = (route.priority, route.table, route.scope);
    kernel_route
}
