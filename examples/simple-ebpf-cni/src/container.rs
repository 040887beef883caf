//! The inside of a pod.

use std::net::IpAddr;

use cnikit::netlink::{self, AddrGenMode, Ipv4Conf, Ipv6Conf, LOOPBACK_INDEX, Netns, Socket, Sysctl};
use cnikit::plugin::{Context as _, PluginError};
use cnikit::spec::{AddResult, IfName, MacAddr, Route};
use tracing::info_span;

use crate::ipv6;

/// The kernel's defaults for routes: see rtnetlink(7).
const MAIN_TABLE: u32 = 254;
const GLOBAL: u8 = 0;
const ON_LINK: u8 = 253;
const IPV6_PRIORITY: u32 = 1024;

/// Gives the pod's end of the pair its addresses, and the routes. Returns the routes that it has: one that exists already
/// stays as it is, because a pod of several networks leaves by the first.
pub(crate) fn configure(
    netns: &Netns,
    pod: &Socket,
    ifname: &IfName,
    index: u32,
    given: &AddResult,
) -> Result<Vec<Route>, PluginError> {
    let _span = info_span!("pod").entered();
    if given.ips.iter().any(|ip| ip.address.is_ipv6()) {
        let lo = pod.link_by_index(LOOPBACK_INDEX)?;
        let is_off = lo.as_ref().and_then(|lo| lo.ipv6_conf(Ipv6Conf::DisableIpv6)).is_some_and(|is_off| is_off != 0);
        let lo = lo.filter(|_| is_off).map(|lo| lo.name);
        netns.run(|| set_ipv6(ifname, lo.as_ref()))?.map_err(|error| ipv6::of_setting(&error))?;
    } else {
        // All pods would hear of its link-local address, which nobody asked for.
        pod.set_addr_gen_mode(index, AddrGenMode::None)?;
    }
    pod.set_up(LOOPBACK_INDEX)?;
    for ip in &given.ips {
        pod.add_address(index, ip.address).context(format_args!("give {ifname} the address {}", ip.address))?;
    }
    pod.set_up(index)?;
    let mut routes: Vec<Route> = Vec::new();
    for route in &given.routes {
        let wanted = by(index, route);
        let is_had = match pod.add_route(&wanted) {
            Err(netlink::Error::Exists { .. }) => {
                let is_told = routes.iter().any(|told| is_same(&by(index, told), &wanted));
                !is_told && pod.routes_of_all_tables()?.iter().any(|found| is_same(found, &wanted))
            }
            added => added.context(format_args!("give {ifname} the route to {}", route.dst)).map(|()| true)?,
        };
        if is_had {
            routes.push(route.clone());
        }
    }
    Ok(routes)
}

/// Whether a route by the link with this index leads as a result says. Where that names no table, a later plugin such as
/// `sbr` may have moved the route to another.
pub(crate) fn leads_as(found: &netlink::Route, index: u32, told: &Route) -> bool {
    let told = by(index, told);
    let way = |route: &netlink::Route| (destination(route), route.oif, route.gateway);
    way(found) == way(&told) && (told.table.is_none() || table(found) == table(&told))
}

/// Whether two routes are one to the kernel, be its defaults written or not.
fn is_same(one: &netlink::Route, other: &netlink::Route) -> bool {
    let priority = |route: &netlink::Route| match (route.dst.is_ipv4(), route.priority.unwrap_or_default()) {
        (false, 0) => IPV6_PRIORITY,
        (_, priority) => priority,
    };
    let scope = |route: &netlink::Route| match route.dst.is_ipv4() {
        true => route.scope.unwrap_or(if route.gateway.is_some() { GLOBAL } else { ON_LINK }),
        // IPv6 routes have none.
        false => GLOBAL,
    };
    let all = |route: &netlink::Route| {
        (
            destination(route),
            route.oif,
            route.gateway,
            table(route),
            priority(route),
            scope(route),
            route.mtu,
            route.advmss,
        )
    };
    all(one) == all(other)
}

/// Without host bits, which the kernel does not keep.
fn destination(route: &netlink::Route) -> (IpAddr, u8) {
    (route.dst.network(), route.dst.prefix())
}

fn table(route: &netlink::Route) -> u32 {
    route.table.filter(|table| *table != 0).unwrap_or(MAIN_TABLE)
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
///
/// `lo` is named if IPv6 is off there: the pod reaches its own addresses by it.
fn set_ipv6(ifname: &IfName, lo: Option<&IfName>) -> netlink::Result<()> {
    if let Some(lo) = lo {
        Sysctl::Ipv6Conf(lo, Ipv6Conf::DisableIpv6).write(0)?;
    }
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
