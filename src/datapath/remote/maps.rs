//! Typed access to `peers` and `node_addresses`.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;

use ipnetwork::IpNetwork;
use zerocopy::IntoBytes as _;

use super::layout::{RawPeer, RawPeerKey};
use crate::datapath::map::{Map, MapSpec};
use crate::datapath::map_specs::PEERS;
use crate::datapath::{MapSet, Result};
use crate::spec::IfIndex;

/// The numbers of the nodes, by their addresses: IPv4 addresses are IPv4-mapped.
pub(super) const NODE_ADDRESSES: MapSpec = MapSpec::of::<[u8; 16], u32>("node_addresses");

/// The way of packets to the pods of another node, and back.
///
/// Closed: the programs know these ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerWay {
    /// Packets leave by an uplink, for a next hop on that link. An IPv4 packet can have an IPv6
    /// next hop.
    Direct {
        /// The link to the next hop.
        uplink: IfIndex,
        /// The address of the node, or of a router.
        next_hop: IpAddr,
    },
    /// Packets leave by a VXLAN link that takes VNI and remote address from each packet.
    Tunnel {
        /// The VXLAN link.
        link: IfIndex,
        /// The address of the node.
        remote: IpAddr,
        /// The VXLAN network identifier, 24 bits.
        vni: u32,
    },
    /// The stack forwards the packets in both directions, by its routes.
    Stack,
}

/// The way to the pods of another node: a value of the [`PeerMap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// The number of the node in the [`NodeAddressMap`]. The caller chooses it.
    pub node: NonZeroU32,
    /// The longest IP packet of this way, in bytes. The stack receives longer ones, and answers
    /// with its ICMP error.
    pub mtu: u32,
    /// The way.
    pub way: PeerWay,
}

/// `peers`: the ways to the pod CIDRs of other nodes.
///
/// The programs forward packets of a pod of this network to these CIDRs, and packets from these
/// CIDRs into the pods. Without an entry, the stack forwards them by its routes.
#[derive(Debug)]
pub struct PeerMap(Map);

/// `node_addresses`: the addresses of other nodes.
///
/// A packet from a tunnel must come from an address of the node that owns its source.
#[derive(Debug)]
pub struct NodeAddressMap(Map);

impl Peer {
    /// The way to the pods of the node with this number.
    #[must_use]
    pub const fn new(node: NonZeroU32, way: PeerWay, mtu: u32) -> Self {
        Self { node, mtu, way }
    }
}

impl PeerMap {
    pub(in crate::datapath) fn open(maps: &MapSet) -> Result<Self> {
        maps.open(&PEERS).map(Self)
    }

    /// Sets the way to a pod CIDR, and replaces an existing entry: each packet takes one of the two
    /// ways.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](crate::bpf::Error::Map), for example for a full map.
    pub fn insert(&self, cidr: IpNetwork, peer: Peer) -> Result<()> {
        self.0.put(RawPeerKey::from(cidr).as_bytes(), &RawPeer::from(peer), format_args!("the pod CIDR {cidr}"))
    }

    /// Deletes the entry of a pod CIDR. A missing entry is success.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](crate::bpf::Error::Map).
    pub fn remove(&self, cidr: IpNetwork) -> Result<()> {
        self.0.delete(RawPeerKey::from(cidr).as_bytes(), format_args!("the pod CIDR {cidr}"))
    }

    /// All entries. Entries added or deleted during the call may be missing. The peer of an invalid
    /// entry is `None`.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](crate::bpf::Error::Map).
    pub fn entries(&self) -> Result<Vec<(IpNetwork, Option<Peer>)>> {
        let mut entries = Vec::new();
        for key in self.0.keys::<{ size_of::<RawPeerKey>() }>()? {
            let raw: RawPeerKey = zerocopy::transmute!(key);
            let Some(cidr) = raw.cidr() else { continue };
            // A lookup of a deleted entry finds the next shorter prefix.
            if let Some(value) = self.0.read::<RawPeer>(&key, format_args!("the pod CIDR {cidr}"))? {
                entries.push((cidr, value.peer()));
            }
        }
        Ok(entries)
    }
}

impl NodeAddressMap {
    pub(super) fn open(directory: &std::path::Path) -> Result<Self> {
        Map::open(directory, &NODE_ADDRESSES).map(Self)
    }

    /// Assigns an address to a node.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](crate::bpf::Error::Map), for example for a full map.
    pub fn insert(&self, address: IpAddr, node: NonZeroU32) -> Result<()> {
        self.0.put(&key(address), &node.get(), format_args!("the node address {address}"))
    }

    /// Deletes an address. A missing entry is success.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](crate::bpf::Error::Map).
    pub fn remove(&self, address: IpAddr) -> Result<()> {
        self.0.delete(&key(address), format_args!("the node address {address}"))
    }

    /// All entries. Entries added or deleted during the call may be missing.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](crate::bpf::Error::Map).
    pub fn entries(&self) -> Result<Vec<(IpAddr, u32)>> {
        let mut entries = Vec::new();
        for key in self.0.keys::<16>()? {
            let address = IpAddr::from(Ipv6Addr::from(key)).to_canonical();
            if let Some(node) = self.0.read::<u32>(&key, format_args!("the node address {address}"))? {
                entries.push((address, node));
            }
        }
        Ok(entries)
    }
}

fn key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
