//! The ways from a pod to a pod of another node.

use std::path::Path;

use serde_json::json;

use crate::network::{Case, Contestant, Network};
use crate::report::{DIRECT, VXLAN};

use super::super::path::PROBES;
use super::node::{Counted, pod_cidr};

pub(super) const FLOOR: &str = crate::report::FLOOR;

/// The MTU of the link between the nodes.
pub(super) const MTU: u32 = 1500;

/// The headers of VXLAN over IPv4.
const OVERHEAD: u32 = 50;

/// How the packets of a pod get to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The programs of this project, by the uplink.
    Direct,
    /// The programs of this project, by VXLAN.
    Tunnel,
    /// `ptp` with routes and packet filter: the data path of kindnet.
    Ptp,
    /// `bridge` with routes and packet filter: the data path of flannel with `host-gw`.
    Bridge,
    /// `bridge` with a VXLAN device and packet filter: the data path of flannel with `vxlan`.
    BridgeTunnel,
}

impl Way {
    pub(super) const ALL: [Self; 5] = [Self::Direct, Self::Tunnel, Self::Ptp, Self::Bridge, Self::BridgeTunnel];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Direct => DIRECT,
            Self::Tunnel => VXLAN,
            Self::Ptp => "ptp, routes",
            Self::Bridge => "bridge, routes",
            Self::BridgeTunnel => "bridge, VXLAN",
        }
    }

    /// The plugin of the pods.
    pub(super) const fn contestant(self) -> &'static str {
        match self {
            Self::Direct | Self::Tunnel => "cnikit",
            Self::Ptp => "ptp",
            Self::Bridge | Self::BridgeTunnel => "bridge",
        }
    }

    pub(super) fn is_tunnel(self) -> bool {
        matches!(self, Self::Tunnel | Self::BridgeTunnel)
    }

    /// The longest packet of this way.
    pub(super) fn mtu(self) -> u32 {
        if self.is_tunnel() { MTU - OVERHEAD } else { MTU }
    }

    /// The network of a node's pods.
    pub(super) fn network(self, plugin: &Contestant, node: u8) -> Network {
        let mut network = plugin.network(Case::Ipv4, Path::new(""));
        let cidr = pod_cidr(node);
        network.config["mtu"] = self.mtu().into();
        match self.contestant() {
            "cnikit" => network.config["subnets"] = json!([{ "subnet": cidr }]),
            _ => network.config["ipam"]["ranges"] = json!([[{ "subnet": cidr }]]),
        }
        network
    }

    /// The counters of a node after the packets of the check. The first node sends them.
    pub(super) fn expected(self, node: u8) -> Counted {
        let none = Counted::default();
        let [sent, received] = [u64::from(node == 1), u64::from(node == 2)].map(|factor| factor * PROBES);
        match self {
            Self::Direct => Counted { sent_direct: sent, received_direct: received, ..none },
            Self::Tunnel => Counted { sent_tunnel: sent, received_tunnel: received, device: PROBES, ..none },
            Self::Ptp | Self::Bridge => Counted { forwarded: PROBES, ..none },
            Self::BridgeTunnel => Counted { forwarded: PROBES, device: PROBES, ..none },
        }
    }
}
