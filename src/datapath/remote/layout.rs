//! Keys and values of the maps for other nodes, as `bpf/abi.h` lays them out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use ipnetwork::IpNetwork;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Peer, PeerWay, RemoteConfig, RemoteStats};
use crate::datapath::map::PerCpu;
use crate::spec::IfIndex;

/// `struct peer_key`
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(in crate::datapath) struct RawPeerKey {
    prefix_length: u32,
    version: u8,
    reserved: [u8; 3],
    address: [u8; 16],
}

/// `struct peer`
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(in crate::datapath) struct RawPeer {
    ifindex: u32,
    node: u32,
    mtu: u32,
    tunnel_id: u32,
    version: u8,
    flags: u8,
    reserved: [u8; 2],
    address: [u8; 16],
}

/// `struct remote_config`
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct RawRemoteConfig {
    tunnel_id: u32,
    pod_mtu: u32,
}

/// The bits of a prefix length that cover `version` and the padding.
const VERSION_BITS: u32 = 32;

/// `CNI_PEER_BYPASS`
const BYPASS: u8 = 1 << 0;
/// `CNI_PEER_TUNNEL`
const TUNNEL: u8 = 1 << 1;

impl From<IpNetwork> for RawPeerKey {
    fn from(cidr: IpNetwork) -> Self {
        let (version, address) = octets(cidr.network());
        Self { prefix_length: VERSION_BITS + u32::from(cidr.prefix()), version, reserved: [0; 3], address }
    }
}

impl RawPeerKey {
    /// `None` for a key that no CIDR has.
    pub(super) fn cidr(self) -> Option<IpNetwork> {
        let prefix = self.prefix_length.checked_sub(VERSION_BITS)?;
        IpNetwork::new(address(self.version, self.address)?, prefix.try_into().ok()?).ok()
    }
}

impl From<Peer> for RawPeer {
    fn from(peer: Peer) -> Self {
        let (ifindex, to, tunnel_id, flags) = match peer.way {
            PeerWay::Direct { uplink, next_hop } => (uplink.get(), Some(next_hop), 0, BYPASS),
            PeerWay::Tunnel { link, remote, vni } => (link.get(), Some(remote), vni, BYPASS | TUNNEL),
            PeerWay::Stack => (0, None, 0, 0),
        };
        let (version, address) = to.map_or((0, [0; 16]), octets);
        Self { ifindex, node: peer.node.get(), mtu: peer.mtu, tunnel_id, version, flags, reserved: [0; 2], address }
    }
}

impl RawPeer {
    /// `None` for a value that no [`Peer`] has.
    pub(super) fn peer(self) -> Option<Peer> {
        let way = if self.flags & BYPASS == 0 {
            PeerWay::Stack
        } else {
            let (ifindex, to) = (IfIndex::new(self.ifindex)?, address(self.version, self.address)?);
            if self.flags & TUNNEL == 0 {
                PeerWay::Direct { uplink: ifindex, next_hop: to }
            } else {
                PeerWay::Tunnel { link: ifindex, remote: to, vni: self.tunnel_id }
            }
        };
        Some(Peer { node: NonZeroU32::new(self.node)?, mtu: self.mtu, way })
    }
}

impl From<RemoteConfig> for RawRemoteConfig {
    fn from(config: RemoteConfig) -> Self {
        Self { tunnel_id: config.vni, pod_mtu: config.pod_mtu.unwrap_or(0) }
    }
}

impl From<RawRemoteConfig> for RemoteConfig {
    fn from(raw: RawRemoteConfig) -> Self {
        Self { vni: raw.tunnel_id, pod_mtu: Some(raw.pod_mtu).filter(|mtu| *mtu != 0) }
    }
}

impl PerCpu for RemoteStats {
    type Words = [u64; 8];

    fn from_words(words: Self::Words) -> Self {
        let [sent_direct, sent_tunnel, received_direct, received_tunnel, too_long, dropped_vni, dropped_source, _] =
            words;
        Self { sent_direct, sent_tunnel, received_direct, received_tunnel, too_long, dropped_vni, dropped_source }
    }

    fn words(&self) -> Self::Words {
        let Self { sent_direct, sent_tunnel, received_direct, received_tunnel, too_long, dropped_vni, dropped_source } =
            *self;
        [sent_direct, sent_tunnel, received_direct, received_tunnel, too_long, dropped_vni, dropped_source, 0]
    }
}

/// The IP version of an address, and its octets as the first ones of 16.
fn octets(address: IpAddr) -> (u8, [u8; 16]) {
    match address {
        IpAddr::V4(v4) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&v4.octets());
            (4, octets)
        }
        IpAddr::V6(v6) => (6, v6.octets()),
    }
}

fn address(version: u8, octets: [u8; 16]) -> Option<IpAddr> {
    match version {
        4 => Some(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]).into()),
        6 => Some(Ipv6Addr::from(octets).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::array;
    use std::mem::{offset_of, size_of};

    use super::super::skeleton::types;
    use super::*;
    use crate::datapath::map_specs::{PEERS, REMOTE_STATS};

    #[test]
    fn layouts_match_the_c_programs() {
        assert_eq!(PEERS.sizes, (size_of::<types::peer_key>(), size_of::<types::peer>()));
        assert_eq!(REMOTE_STATS.sizes, (4, size_of::<types::remote_stats>()));
        assert_eq!(size_of::<RawRemoteConfig>(), size_of::<types::remote_config>());
        macro_rules! same_offsets {
            ($rust:ty, $c:ty, $($member:ident),+) => {
                $(assert_eq!(offset_of!($rust, $member), offset_of!($c, $member), stringify!($member));)+
            };
        }
        same_offsets!(RawPeerKey, types::peer_key, prefix_length, version, address);
        same_offsets!(RawPeer, types::peer, ifindex, node, mtu, tunnel_id, version, flags, address);
        same_offsets!(RawRemoteConfig, types::remote_config, tunnel_id, pod_mtu);
        let stats = RemoteStats::from_words(array::from_fn(|number| number as u64));
        macro_rules! same_order {
            ($($member:ident),+) => {
                $(assert_eq!(stats.$member as usize, offset_of!(types::remote_stats, $member) / 8);)+
            };
        }
        same_order!(sent_direct, sent_tunnel, received_direct, received_tunnel, too_long, dropped_vni, dropped_source);
    }

    #[test]
    fn peers_survive_the_way_through_the_map() {
        let index = IfIndex::new(7).expect("an index");
        let ways = [
            PeerWay::Direct { uplink: index, next_hop: "192.0.2.1".parse().expect("an address") },
            PeerWay::Direct { uplink: index, next_hop: "2001:db8::1".parse().expect("an address") },
            PeerWay::Tunnel { link: index, remote: "192.0.2.1".parse().expect("an address"), vni: 4096 },
            PeerWay::Stack,
        ];
        for way in ways {
            let peer = Peer { node: NonZeroU32::MIN, mtu: 1500, way };
            assert_eq!(RawPeer::from(peer).peer(), Some(peer));
        }
        for cidr in ["10.244.0.0/24", "fd00::/64", "0.0.0.0/0", "10.1.2.3/32"] {
            let cidr: IpNetwork = cidr.parse().expect("a network");
            assert_eq!(RawPeerKey::from(cidr).cidr(), Some(cidr));
        }
    }
}
