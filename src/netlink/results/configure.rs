//! The addresses and routes of a CNI result, applied to an interface.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use tracing::debug;

use crate::netlink::{
    error::{Error, Result},
    links::Link,
    netns::Netns,
    operation::Operation,
    routes::{RT_SCOPE_UNIVERSE, Route},
    socket::Socket,
    sysctls::{Ipv6Conf, Sysctl},
};
use crate::spec::{self, AddResult, IfIndex, IfName, IpConfig, MacAddr};

/// An interface with the addresses and routes of a result, as [`Netns::configure`] returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfiguredInterface {
    /// The index of the interface in the namespace.
    pub index: IfIndex,
    /// The routes of the result that the interface has. A route is missing here if another route
    /// with its destination and priority existed before.
    pub routes: Vec<spec::Route>,
}

impl Netns {
    /// Applies a result to an interface of the namespace: adds its addresses, brings the interface
    /// up, and adds its routes. The function has the meaning of `ipam.ConfigureIface` of the
    /// reference plugins.
    ///
    /// * Addresses: all that name the interface, and all that name none, as in the result of an
    ///   IPAM plugin. Duplicate address detection is off.
    /// * Routes: all, except routes through a gateway in the subnet of another interface of the
    ///   result. A route without `gw` gets a gateway as in [`Route::from_spec`]. If the interface
    ///   has only addresses of full length (/32 or /128), the gateway needs no subnet: the route is
    ///   [on the link](Route::onlink).
    /// * IPv6: if the result has an IPv6 address, the function enables IPv6 on the interface and on
    ///   `lo`. Runtimes disable it in pods without IPv6.
    ///
    /// Existing addresses and routes stay. A second call with the same result changes nothing. If
    /// another route has the destination and priority of a route of the result, the existing one
    /// stays. The default route of a pod with several networks therefore uses the first network. An
    /// ADD must return only the routes that the interface has:
    ///
    /// ```no_run
    /// use cnikit::{
    ///     netlink::{Netns, Result},
    ///     spec::{AddResult, IfName},
    /// };
    ///
    /// fn apply(netns: &Netns, ifname: &IfName, result: &mut AddResult) -> Result<()> {
    ///     let interface = netns.configure(ifname, result)?;
    ///     result.routes = interface.routes;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// The function neither waits for the carrier nor undoes anything after an error. The kernel
    /// accepts router advertisements on the interface, unless the caller sets
    /// [`Ipv6Conf::AcceptRa`] to 0 before.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`] with `ENODEV` if the namespace has no such interface, and with `EPERM`
    /// without `CAP_NET_ADMIN`. The kernel returns `ENETUNREACH` or `EINVAL` for a gateway on no
    /// subnet of the interface, unless its addresses of the family are single hosts.
    /// [`Error::Exists`] if the interface has an IPv6 address with another prefix length.
    /// [`Error::Sysctl`] if IPv6 is disabled and `/proc/sys` is not writable. [`Error::Netns`] if
    /// the namespace cannot be entered.
    ///
    /// # Kernel
    ///
    /// Needs `CAP_NET_ADMIN`, and `CAP_SYS_ADMIN` to enter the namespace.
    #[doc(alias = "ConfigureIface")]
    pub fn configure(&self, ifname: &IfName, result: &AddResult) -> Result<ConfiguredInterface> {
        let part = Part::of(result, ifname);
        let (socket, index) = self.run(|| {
            let socket = Socket::open()?;
            let link = socket.link_by_name(ifname)?;
            let link = link.ok_or_else(|| Operation::new("configure", ifname).no_device())?;
            if part.ips.iter().any(|ip| ip.address.is_ipv6()) {
                enable_ipv6(&link)?;
                let lo = socket.link_by_index(IfIndex::LOOPBACK)?;
                lo.as_ref().map_or(Ok(()), enable_ipv6)?;
            }
            Ok((socket, link.index))
        })??;
        for ip in &part.ips {
            socket.ensure_address(index, ip.address)?;
        }
        socket.set_up(index)?;
        let mut in_place: Vec<(&spec::Route, Route)> = Vec::new();
        for (route, wanted) in part.routes(index) {
            match socket.add_route(&wanted) {
                Err(Error::Exists { .. }) => {
                    // `onlink` is not part of the result: the route works with it and without it.
                    let is_wanted = |found: &Route| found.is_same_as(&Route { onlink: found.onlink, ..wanted.clone() });
                    let is_there = socket.routes_of_all_tables()?.iter().any(is_wanted);
                    debug!(route = %wanted, is_there, "a route with this destination exists");
                    // The result may have one route twice.
                    if !is_there || in_place.iter().any(|(_, earlier)| earlier.is_same_as(&wanted)) {
                        continue;
                    }
                }
                added => added?,
            }
            in_place.push((route, wanted));
        }
        let routes = in_place.into_iter().map(|(route, _)| route.clone()).collect();
        Ok(ConfiguredInterface { index, routes })
    }
}

impl Route {
    /// The route of a CNI result through a link. A route without `gw` gets the first of `gateways`
    /// with the family of its destination, or is on the link if there is none.
    ///
    /// A route without `gw` stays on the link if it has a scope other than global (0). So does a
    /// route to the gateway itself. A `gw` of `0.0.0.0` or `::` also means on the link: DHCP
    /// clients write such routes ([RFC 3442](https://www.rfc-editor.org/rfc/rfc3442)).
    ///
    /// ```
    /// use cnikit::{netlink, spec};
    ///
    /// let eth0 = spec::IfIndex::try_from(2)?;
    /// let ip = spec::IpConfig::new("10.1.0.5/16".parse()?).gateway("10.1.0.1".parse()?);
    /// let result = spec::AddResult::default().with_ip(ip);
    /// let route = spec::Route::new("0.0.0.0/0".parse()?);
    ///
    /// let gateways = result.ips.iter().filter_map(|ip| ip.gateway);
    /// let route = netlink::Route::from_spec(&route, eth0, gateways);
    /// assert_eq!(route.gateway, Some("10.1.0.1".parse()?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn from_spec(route: &spec::Route, ifindex: IfIndex, gateways: impl IntoIterator<Item = IpAddr>) -> Self {
        let dst = route.dst;
        let is_near = route.scope.is_some_and(|scope| scope != RT_SCOPE_UNIVERSE);
        let default = gateways.into_iter().find(|gateway| gateway.is_ipv4() == dst.is_ipv4());
        let default = default.filter(|gateway| !is_near && dst != IpNetwork::from(*gateway));
        let mut converted = Self::new(dst, ifindex);
        converted.gateway = route.gw.or(default).filter(|gateway| !gateway.is_unspecified());
        (converted.mtu, converted.advmss) = (route.mtu, route.advmss);
        (converted.priority, converted.table, converted.scope) = (route.priority, route.table, route.scope);
        converted
    }
}

/// The part of a result for one interface.
pub(super) struct Part<'r> {
    pub(super) ips: Vec<&'r IpConfig>,
    /// The MAC that the result has for the interface.
    pub(super) mac: Option<MacAddr>,
    routes: Vec<&'r spec::Route>,
}

impl<'r> Part<'r> {
    pub(super) fn of(result: &'r AddResult, ifname: &IfName) -> Self {
        let named = || result.interfaces.iter().enumerate().filter(|(_, found)| found.name == ifname.as_str());
        // An interface of the host may have the same name.
        let in_sandbox = named().find(|(_, found)| found.sandbox.is_some());
        let own = in_sandbox.or_else(|| named().next());
        let index = own.map(|(index, _)| index);
        let is_own = |ip: &&IpConfig| ip.interface.is_none() || ip.interface == index;
        let (ips, others): (Vec<_>, Vec<_>) = result.ips.iter().partition(is_own);
        let leads_elsewhere = |route: &&spec::Route| {
            let through = |ips: &[&IpConfig]| route.gw.is_some_and(|gw| ips.iter().any(|ip| ip.address.contains(gw)));
            through(&others) && !through(&ips)
        };
        let routes = result.routes.iter().filter(|route| !leads_elsewhere(route)).collect();
        Self { ips, mac: own.and_then(|(_, found)| found.mac_addr()), routes }
    }

    /// Each route of the result, and its form for the kernel.
    pub(super) fn routes(&self, index: IfIndex) -> impl Iterator<Item = (&'r spec::Route, Route)> {
        self.routes.iter().map(move |route| {
            let gateways = self.ips.iter().filter_map(|ip| ip.gateway);
            let mut converted = Route::from_spec(route, index, gateways);
            converted.onlink = converted.gateway.is_some_and(|gateway| self.has_no_subnet_for(gateway));
            (*route, converted)
        })
    }

    /// Whether the interface has addresses of the gateway's family, all of full length. The kernel
    /// then accepts a gateway only with `onlink`.
    fn has_no_subnet_for(&self, gateway: IpAddr) -> bool {
        let mut of_family = self.ips.iter().filter(|ip| ip.address.is_ipv4() == gateway.is_ipv4()).peekable();
        of_family.peek().is_some() && of_family.all(|ip| ip.address == ip.address.ip().into())
    }
}

fn enable_ipv6(link: &Link) -> Result<()> {
    match link.ipv6_conf(Ipv6Conf::DisableIpv6) {
        Some(is_off) if is_off != 0 => Sysctl::Ipv6Conf(&link.name, Ipv6Conf::DisableIpv6).write(0),
        _ => Ok(()),
    }
}

/// The destination without host bits, which the kernel does not keep.
pub(super) fn destination(route: &Route) -> (IpAddr, u8) {
    (route.dst.network(), route.dst.prefix())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Interface;

    const ETH0: IfIndex = IfIndex::LOOPBACK;

    fn ip(address: &str, gateway: &str) -> IpConfig {
        IpConfig::new(address.parse().expect("a network")).gateway(gateway.parse().expect("an address"))
    }

    fn converted(route: spec::Route) -> Option<String> {
        let gateways = ["10.1.0.1", "10.1.0.2", "fd00::1"].map(|gateway| gateway.parse().expect("an address"));
        Route::from_spec(&route, ETH0, gateways).gateway.map(|gateway| gateway.to_string())
    }

    fn to(dst: &str) -> spec::Route {
        spec::Route::new(dst.parse().expect("a network"))
    }

    #[test]
    fn route_without_gateway_gets_the_first_of_its_family() {
        assert_eq!(converted(to("0.0.0.0/0")).as_deref(), Some("10.1.0.1"));
        assert_eq!(converted(to("10.0.0.0/8")).as_deref(), Some("10.1.0.1"));
        assert_eq!(converted(to("::/0")).as_deref(), Some("fd00::1"));
        assert_eq!(converted(to("::/0").via([10, 9, 9, 9].into())).as_deref(), Some("10.9.9.9"));
        assert_eq!(Route::from_spec(&to("::/0"), ETH0, [IpAddr::from([10, 1, 0, 1])]).gateway, None);
    }

    #[test]
    fn link_scope_and_the_gateway_itself_are_on_the_link() {
        let mut route = to("192.0.2.0/24");
        route.scope = Some(253);
        assert_eq!(converted(route.clone()), None);
        route.scope = Some(0);
        assert_eq!(converted(route).as_deref(), Some("10.1.0.1"));
        assert_eq!(converted(to("10.1.0.1/32")), None);
        assert_eq!(converted(to("fd00::1/128")), None);
        assert_eq!(converted(to("198.51.100.0/24").via([0; 4].into())), None);
        assert_eq!(converted(to("fd00:96::/48").via([0; 16].into())), None);
    }

    #[test]
    fn gateway_of_addresses_without_subnet_is_on_the_link() {
        let name = "eth0".parse().expect("a name");
        let onlink = |addresses: &[&str]| {
            let ips = addresses.iter().map(|address| IpConfig::new(address.parse().expect("a network")));
            let result = ips.fold(AddResult::default(), AddResult::with_ip);
            let result = result.with_route(spec::Route::default_via([169, 254, 1, 1].into()));
            Part::of(&result, &name).routes(ETH0).next().expect("it has a route").1.onlink
        };
        assert!(onlink(&["10.1.0.5/32"]) && onlink(&["10.1.0.5/32", "fd00::5/64"]));
        assert!(!onlink(&["10.1.0.5/32", "10.2.0.5/16"]) && !onlink(&["fd00::5/128"]) && !onlink(&[]));
    }

    #[test]
    fn part_has_the_addresses_and_routes_of_one_interface() {
        let mut result = AddResult::default();
        // A host interface of the same name precedes the pod's.
        result.push_interface(Interface::new("eth0"));
        let eth0 = result.push_interface(Interface::new("eth0").sandbox("/run/netns/blue"));
        let net1 = result.push_interface(Interface::new("net1").sandbox("/run/netns/blue"));
        let result = result
            .with_ip(ip("10.1.0.5/16", "10.1.0.1").interface(eth0))
            .with_ip(ip("10.2.0.5/16", "10.2.0.1").interface(net1))
            .with_ip(ip("10.3.0.5/16", "10.3.0.1").interface(0))
            .with_ip(ip("10.4.0.5/16", "10.4.0.1"))
            .with_route(to("192.0.2.0/24").via([10, 1, 0, 9].into()))
            .with_route(to("198.51.100.0/24").via([10, 2, 0, 9].into()))
            .with_route(to("0.0.0.0/0"));
        let part = |name: &str| {
            let part = Part::of(&result, &name.parse().expect("a name"));
            let ips = part.ips.iter().map(|ip| ip.address.ip().to_string()).collect::<Vec<_>>();
            let routes = part.routes(ETH0).map(|(_, route)| route.to_string()).collect::<Vec<_>>();
            (ips.join(" "), routes.join(", "))
        };
        let expected = "192.0.2.0/24 via 10.1.0.9 by link 1, 0.0.0.0/0 via 10.1.0.1 by link 1";
        assert_eq!(part("eth0"), ("10.1.0.5 10.4.0.5".into(), expected.into()));
        let expected = "198.51.100.0/24 via 10.2.0.9 by link 1, 0.0.0.0/0 via 10.2.0.1 by link 1";
        assert_eq!(part("net1"), ("10.2.0.5 10.4.0.5".into(), expected.into()));
    }
}
