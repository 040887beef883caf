//! The inside of a pod.

use cnikit::netlink::{self, LOOPBACK_INDEX, Socket};
use cnikit::spec::{AddResult, Route};

/// Gives the pod's end of the pair its addresses, and the routes. Returns the routes that it has.
pub(crate) fn configure(pod: &Socket, index: u32, given: &AddResult) -> netlink::Result<Vec<Route>> {
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

/// A route as the kernel is to have it.
fn by(index: u32, route: &Route) -> netlink::Route {
    let mut by = netlink::Route::new(route.dst, index);
    (by.gateway, by.mtu, by.advmss) = (route.gw, route.mtu, route.advmss);
    (by.priority, by.table, by.scope) = (route.priority, route.table, route.scope);
    by
}
