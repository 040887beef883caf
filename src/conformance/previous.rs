//! The plugin before a chained plugin in its chain: the suite itself.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::{IpNetwork, Ipv4Network};
use serde_json::Value;

use super::Error;
use super::host::{Host, Pod};
use super::subject::Subject;
use crate::netlink::{Route as KernelRoute, VethEnd, VethPair};
use crate::spec::{AddResult, IfName, Interface, IpConfig, MacAddr, Route, Version};

/// The prefix of the names of the host's ends.
pub(super) const HOST_PREFIX: &str = "cnisuite";

/// The gateway of the pods. The network is for tests of network devices (RFC 2544), so that a
/// plugin's own subnets do not overlap with it.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const PREFIX: u8 = 15;

impl Subject {
    /// Connects the pod to the host, if the plugin is chained. Returns the `prevResult`.
    pub(super) fn prev_result(&self, host: &Host, pod: &Pod, ifname: &str) -> Result<Option<AddResult>, Error> {
        if self.chained { attach(host, pod, ifname).map(Some) } else { Ok(None) }
    }
}

/// A result as the value of `prevResult` in a version.
pub(super) fn json(result: &AddResult, version: Version) -> Result<Value, Error> {
    Ok(serde_json::from_str(&result.to_json(version)?).unwrap_or_default())
}

fn attach(host: &Host, pod: &Pod, ifname: &str) -> Result<AddResult, Error> {
    let number = host.next_attachment();
    let [_, a, b, c] = number.to_be_bytes();
    let [host_mac, pod_mac] = [0, 1].map(|end| MacAddr::new([0x02, end, 0, a, b, c]));
    let name: IfName = format!("{HOST_PREFIX}{number}").parse()?;
    let ifname: IfName = ifname.parse()?;
    let outside = VethEnd { name: name.clone(), mac: host_mac };
    let inside = VethEnd { name: ifname.clone(), mac: pod_mac };
    let pair = host.socket().create_veth(&VethPair::new(outside, inside, pod.netns()).host_up())?;

    let address = Ipv4Addr::from(u32::from(GATEWAY) + number);
    // The prefix length is valid for IPv4.
    let address = Ipv4Network::new(address, PREFIX).map_or(IpNetwork::from(IpAddr::from(address)), IpNetwork::from);
    pod.socket().add_address(pair.peer, address)?;
    pod.socket().set_up(pair.peer)?;
    let route = Route::default_via(GATEWAY.into());
    match pod.socket().add_route(&KernelRoute::default_via(GATEWAY.into(), pair.peer)) {
        // The default route of a second interface.
        Err(crate::netlink::Error::Exists { .. }) => {}
        added => added?,
    }
    let mut result = AddResult::default().with_interface(Interface::new(&name).mac(host_mac));
    let index = result.push_interface(Interface::new(&ifname).mac(pod_mac).sandbox(pod.path()));
    Ok(result.with_ip(IpConfig::new(address).gateway(GATEWAY.into()).interface(index)).with_route(route))
}
