//! The inside of a pod.

use cnikit::netlink::{self, AddrGenMode, Ipv4Conf, Ipv6Conf, LOOPBACK_INDEX, Netns, Socket, Sysctl};
use cnikit::spec::{AddResult, IfName, MacAddr, Route};
use tracing::info_span;

/// Gives the pod's end of the pair its addresses, and the routes. Returns the routes that it has.
pub(crate) fn configure(
    netns: &Netns,
    pod: &Socket,
    ifname: &IfName,
    index: u32,
    given: &AddResult,
) -> netlink::Result<Vec<Route>> {
    let _span = info_span!("pod").entered();
    if given.ips.iter().any(|ip| ip.address.is_ipv6()) {
        netns.run(|| set_ipv6(ifname))??;
    } else {
        // All pods would hear of its link-local address, which nobody asked for.
        pod.set_addr_gen_mode(index, AddrGenMode::None)?;
    }
    pod.set_up(LOOPBACK_INDEX)?;
    for ip in &given.ips {
        pod.add_address(index, ip.address)?;
    }
    pod.set_up(index)?;
    let mut routes = Vec::new();
    for route in &given.routes {
        match pod.add_route(&by(index, route)) {
            // A pod of several networks leaves by the first.
            Err(netlink::Error::Exists { .. }) if route.dst.prefix() == 0 => {}
            added => {
                added?;
                routes.push(route.clone());
            }
        }
    }
    Ok(routes)
}

/// Tells the neighbours a MAC that they cannot have kept from the last pod with the address: they would send to that
/// pod's for a minute.
pub(crate) fn announce(netns: &Netns, pod: &Socket, ifname: &IfName, index: u32, mac: MacAddr) -> netlink::Result<()> {
    netns.run(|| {
        Sysctl::Ipv4Conf(ifname, Ipv4Conf::ArpNotify).ensure(1)?;
        match Sysctl::Ipv6Conf(ifname, Ipv6Conf::NdiscNotify).ensure(1) {
            Err(netlink::Error::SysctlMissing { .. }) => Ok(false),
            set => set,
        }
    })??;
    // The kernel announces what it is told to be new.
    pod.set_mac(index, mac)
}

/// What the pod needs of IPv6 before the interface is up: runtimes switch it off in pods which they think have none, the
/// addresses are the runtime's to give and nobody's on the link to advertise, and nobody else can have them.
fn set_ipv6(ifname: &IfName) -> netlink::Result<()> {
    for (setting, value) in [(Ipv6Conf::DisableIpv6, 0), (Ipv6Conf::AcceptRa, 0), (Ipv6Conf::AcceptDad, 0)] {
        Sysctl::Ipv6Conf(ifname, setting).ensure(value)?;
    }
    Ok(())
}

/// A route as the kernel is to have it.
fn by(index: u32, route: &Route) -> netlink::Route {
    let mut by = netlink::Route::new(route.dst, index);
    (by.gateway, by.mtu, by.advmss) = (route.gw, route.mtu, route.advmss);
    (by.priority, by.table, by.scope) = (route.priority, route.table, route.scope);
    by
}
