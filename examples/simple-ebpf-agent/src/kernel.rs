//! The links and addresses of the node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cnikit::netlink::{self, Address, Link, Socket};
use cnikit::spec::{IfIndex, IfName};

use crate::desired::LinkInfo;

/// The state of the kernel at the beginning of a comparison.
#[derive(Debug)]
pub struct Kernel {
    /// A socket in the network namespace of the node.
    pub host: Socket,
    /// All links.
    pub links: Vec<Link>,
    addresses: Vec<Address>,
}

impl Kernel {
    /// Lists links and addresses.
    ///
    /// # Errors
    ///
    /// Fails if the kernel refuses a listing.
    pub fn look() -> Result<Self, String> {
        let look = || {
            let host = Socket::open()?;
            let (links, addresses) = (host.links()?, host.all_addresses()?);
            Ok(Self { host, links, addresses })
        };
        look().map_err(|error: netlink::Error| error.to_string())
    }

    /// The parts of links that the ways depend on.
    #[must_use]
    pub fn link_infos(&self) -> BTreeMap<IfIndex, LinkInfo> {
        // Links without MACs, such as WireGuard links, carry IP packets without a frame.
        let info = |link: &Link| LinkInfo { mtu: link.mtu, is_ethernet: link.mac.is_some() };
        self.links.iter().map(|link| (link.index, info(link))).collect()
    }

    /// The names of links, by index.
    pub fn names<'a>(&self, wanted: impl Iterator<Item = &'a IfIndex>) -> BTreeMap<IfIndex, IfName> {
        let wanted: BTreeSet<&IfIndex> = wanted.collect();
        let found = self.links.iter().filter(|link| wanted.contains(&link.index));
        found.map(|link| (link.index, link.name.clone())).collect()
    }

    /// The MTU of the link with an address of the own node, or of the default route.
    ///
    /// # Errors
    ///
    /// Fails if the kernel refuses a listing.
    pub fn underlay_mtu(&self, own: &[IpAddr]) -> Result<Option<u32>, String> {
        let found = self.addresses.iter().find(|address| own.contains(&address.address.ip()));
        let link = found.and_then(|address| self.links.iter().find(|link| link.index == address.ifindex));
        match link {
            Some(link) => Ok(Some(link.mtu)),
            None => Ok(self.host.uplink().map_err(|error| error.to_string())?.map(|link| link.mtu)),
        }
    }

    /// The smallest MTU of the pods on a bridge. A host end has the MTU of its pod.
    #[must_use]
    pub fn pod_mtu(&self, bridge: &IfName) -> Option<u32> {
        let bridge = self.links.iter().find(|link| link.name == *bridge)?.index;
        self.links.iter().filter(|link| link.master == Some(bridge)).map(|link| link.mtu).min()
    }
}
