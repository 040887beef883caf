//! Typed access to the maps that hold a row for each address or port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::IntoBytes as _;

use super::layout::{RawNetConfig, RawPodPort, RawPortAddress, RawPortConfig};
use super::map::{Map, Shape};
use super::port_xdp::{PORT_XDP, PortXdp};
use super::{Drops, MapSet, NetStats, PodCounters, PodLink, PodPort, Result};

pub(super) const PKT_COUNT: Shape = Shape::of::<[u8; 4], PodCounters>("pkt_count");
pub(super) const PKT_COUNT_V6: Shape = Shape::of::<[u8; 16], PodCounters>("pkt_count_v6");
pub(super) const POD_IFINDEX: Shape = Shape::of::<[u8; 4], RawPodPort>("pod_ifindex");
pub(super) const POD_IFINDEX_V6: Shape = Shape::of::<[u8; 16], RawPodPort>("pod_ifindex_v6");
pub(super) const PORT_CONFIG: Shape = Shape::of::<u32, RawPortConfig>("port_config");
pub(super) const PORT_ADDRESSES: Shape = Shape::of::<RawPortAddress, u32>("port_addresses");
pub(super) const PORT_DROPS: Shape = Shape::of::<u32, Drops>("port_drops");
pub(super) const NET_CONFIG: Shape = Shape::of::<u32, RawNetConfig>("net_config");
pub(super) const NET_STATS: Shape = Shape::of::<u32, NetStats>("net_stats");
pub(super) const NET_DROPS: Shape = Shape::of::<u32, Drops>("net_drops");
/// The memory of flows is the programs' own: a `struct flow_key` and an octet of `enum flow_state`.
pub(super) const FLOWS: Shape = Shape::of::<[u8; 40], u8>("flows");

/// A byte for each remainder of a hash of two addresses: 1 if `flows` may have a flow between them.
pub(super) const FLOW_FILTER: Shape = Shape::of::<u32, u8>("flow_filter");
/// A byte for each remainder of an ifindex: 1 if `port_config` may have flags for the port.
pub(super) const PORT_FILTER: Shape = Shape::of::<u32, u8>("port_filter");
/// A program array, by `enum stage`.
pub(super) const STAGES: Shape = Shape::of::<u32, u32>("stages");
/// The `struct packet` that a program works on.
pub(super) const PACKET_SCRATCH: Shape = Shape::of::<u32, [u8; 256]>("packet_scratch");

/// `CNI_TC_FILTER_SIZE`: the entries of [`FLOW_FILTER`] and [`PORT_FILTER`].
pub(super) const FILTER_SIZE: u32 = 8192;

/// All maps of a set.
pub(super) const MAPS: [Shape; 16] = [
    PKT_COUNT,
    PKT_COUNT_V6,
    POD_IFINDEX,
    POD_IFINDEX_V6,
    PORT_CONFIG,
    PORT_ADDRESSES,
    PORT_DROPS,
    PORT_XDP,
    NET_CONFIG,
    NET_STATS,
    NET_DROPS,
    FLOWS,
    FLOW_FILTER,
    PORT_FILTER,
    STAGES,
    PACKET_SCRATCH,
];

/// Maps that sets of older builds with this layout lack. What they hold is optional: such a set serves its pods without.
pub(super) const YOUNGER: [&str; 6] =
    [PORT_ADDRESSES.name, PORT_XDP.name, FLOW_FILTER.name, PORT_FILTER.name, STAGES.name, PACKET_SCRATCH.name];

/// The key of an array's only row.
pub(super) const ONLY: [u8; 4] = [0; 4];

/// `pkt_count` and `pkt_count_v6`: what each address sent and received.
///
/// The programs count by address for those that are [tracked](Self::track), and for all others together:
/// [`NetStats::unknown`]. An IPv4-mapped IPv6 address is the IPv4 address, here as in [`PortMap`].
#[derive(Debug)]
pub struct CounterMap(Families);

/// `pod_ifindex` and `pod_ifindex_v6`: who owns each address.
///
/// An address with a row is delivered to directly, may be sent from by its port alone where the port is
/// [guarded](super::NetConfig::guard), and has its neighbour questions answered. The gateway's addresses have rows as
/// well, with the bridge as their port: the programs leave packets for them to the stack.
#[derive(Debug)]
pub struct PortMap(Families);

/// `port_config` and `port_drops`: what each port may do, and what it was not let do.
#[derive(Debug)]
pub struct LinkMap {
    config: Map,
    drops: Map,
    /// Absent from sets of an older build.
    filter: Option<Map>,
    /// Absent from sets of an older build.
    xdp: Option<PortXdp>,
}

/// `port_addresses`: the addresses that the pod at a port has at its other ports, of this network or of another one.
///
/// A guarded port may send from them. Delivery does not read this map: a packet for such an address goes to the port
/// that the [`PortMap`] of the address's own network names.
#[derive(Debug)]
pub struct SharedAddressMap(Map);

/// An entry of the [`SharedAddressMap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SharedAddress {
    /// The port, whose pod may send from the address.
    pub ifindex: u32,
    /// The address.
    pub address: IpAddr,
    /// The port at which the pod has the address.
    pub sibling: u32,
}

/// A map for each address family.
#[derive(Debug)]
struct Families {
    v4: Map,
    v6: Map,
}

impl CounterMap {
    pub(super) fn open(maps: &MapSet) -> Result<Self> {
        Families::open(maps, &PKT_COUNT, &PKT_COUNT_V6).map(Self)
    }

    #[cfg(test)]
    pub(super) fn new(v4: Map, v6: Map) -> Self {
        Self(Families { v4, v6 })
    }

    /// Starts to count for `address`, from zero.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map), for a full map among others.
    pub fn track(&self, address: IpAddr) -> Result<()> {
        self.put(address, &PodCounters::default())
    }

    /// Starts to count for `address`, from what was counted elsewhere.
    pub(super) fn put(&self, address: IpAddr, counters: &PodCounters) -> Result<()> {
        self.0.with(address, |map, key| map.put_sum(key, counters, address))
    }

    /// The counts for `address`, added up over the CPUs; `None` when it is not tracked.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn read(&self, address: IpAddr) -> Result<Option<PodCounters>> {
        self.0.with(address, |map, key| map.sum(key, address))
    }

    /// Stops to count for `address` and forgets the counts. Absent is success.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn forget(&self, address: IpAddr) -> Result<()> {
        self.0.with(address, |map, key| map.delete(key, address))
    }

    /// The tracked addresses of both families. Rows that come or go meanwhile may be seen or not, and others twice.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn addresses(&self) -> Result<Vec<IpAddr>> {
        self.0.addresses()
    }
}

impl PortMap {
    pub(super) fn open(maps: &MapSet) -> Result<Self> {
        Families::open(maps, &POD_IFINDEX, &POD_IFINDEX_V6).map(Self)
    }

    #[cfg(test)]
    pub(super) fn new(v4: Map, v6: Map) -> Self {
        Self(Families { v4, v6 })
    }

    /// Gives `address` to `port`, in place of an earlier port.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map), for a full map among others.
    pub fn insert(&self, address: IpAddr, port: PodPort) -> Result<()> {
        self.0.with(address, |map, key| map.put(key, &RawPodPort::from(port), address))
    }

    /// Whose `address` is; `None` when it is nobody's and packets for it are left to the bridge.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn read(&self, address: IpAddr) -> Result<Option<PodPort>> {
        self.0.with(address, |map, key| Ok(map.read::<RawPodPort>(key, address)?.map(PodPort::from)))
    }

    /// Makes `address` nobody's again. Absent is success.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn remove(&self, address: IpAddr) -> Result<()> {
        self.0.with(address, |map, key| map.delete(key, address))
    }

    /// The addresses of both families. Rows that come or go meanwhile may be seen or not, and others twice.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn addresses(&self) -> Result<Vec<IpAddr>> {
        self.0.addresses()
    }
}

impl LinkMap {
    pub(super) fn open(maps: &MapSet) -> Result<Self> {
        let (config, drops) = (maps.open(&PORT_CONFIG)?, maps.open(&PORT_DROPS)?);
        Ok(Self { config, drops, filter: maps.open_younger(&PORT_FILTER)?, xdp: PortXdp::open(maps)? })
    }

    #[cfg(test)]
    pub(super) fn new(config: Map, drops: Map, filter: Map) -> Self {
        Self { config, drops, filter: Some(filter), xdp: None }
    }

    /// Says what the port `ifindex`, the host end of a pod's veth pair, may do, in place of what was said earlier. What
    /// has been dropped there so far stays counted.
    ///
    /// From here on the port is guarded: it may send from the addresses alone that are its own in the [`PortMap`].
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map), for a full map among others.
    pub fn insert(&self, ifindex: u32, link: PodLink) -> Result<()> {
        if self.drops(ifindex)?.is_none() {
            self.drops.put_sum(&ifindex.to_ne_bytes(), &Drops::default(), port(ifindex))?;
        }
        let raw = RawPortConfig::from(link);
        // Before the flags: without its byte in the filter, the programs do not look for the flags of a receiver.
        if let Some(filter) = self.filter.as_ref().filter(|_| raw.has_flags()) {
            filter.put(&(ifindex % FILTER_SIZE).to_ne_bytes(), &1_u8, port(ifindex))?;
        }
        self.config.put(&ifindex.to_ne_bytes(), &raw, port(ifindex))
    }

    /// What the port may do; `None` when nothing was said of it, so that it is not guarded.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn read(&self, ifindex: u32) -> Result<Option<PodLink>> {
        Ok(self.config.read::<RawPortConfig>(&ifindex.to_ne_bytes(), port(ifindex))?.map(PodLink::from))
    }

    /// What was dropped at the port, added up over the CPUs; `None` when nothing was said of it.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn drops(&self, ifindex: u32) -> Result<Option<Drops>> {
        self.drops.sum(&ifindex.to_ne_bytes(), port(ifindex))
    }

    /// Has direct packets for the port pass the XDP program in driver mode that its pod end has, at any time from now on.
    /// Without this, `bpf_redirect_peer` delivers behind that program.
    ///
    /// Returns whether they do: the link must be the host end of a veth pair, in the caller's network namespace.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map), for a full map among others; [`Error::Pin`](super::Error::Pin) if the program that
    /// finds the pod end cannot be run.
    ///
    /// # Kernel
    ///
    /// BTF (`CONFIG_DEBUG_INFO_BTF`) and `CAP_PERFMON` when the programs are loaded, and no lockdown for confidentiality.
    /// Otherwise `false`.
    pub fn watch_xdp(&self, ifindex: u32) -> Result<bool> {
        self.xdp.as_ref().map_or(Ok(false), |xdp| xdp.watch(ifindex))
    }

    /// Whether direct packets for the port pass the XDP program of its pod end, as [`watch_xdp`](Self::watch_xdp) has it.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn watches_xdp(&self, ifindex: u32) -> Result<bool> {
        self.xdp.as_ref().map_or(Ok(false), |xdp| xdp.is_watched(ifindex))
    }

    /// Forgets the port and what was dropped there. Absent is success.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn remove(&self, ifindex: u32) -> Result<()> {
        if let Some(xdp) = &self.xdp {
            xdp.forget(ifindex)?;
        }
        // This order: a port that is forgotten by half is still listed.
        self.drops.delete(&ifindex.to_ne_bytes(), port(ifindex))?;
        self.config.delete(&ifindex.to_ne_bytes(), port(ifindex))
    }

    /// The ports of which something was said. Rows that come or go meanwhile may be seen or not, and others twice.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn indexes(&self) -> Result<Vec<u32>> {
        Ok(self.config.keys()?.into_iter().map(u32::from_ne_bytes).collect())
    }
}

impl SharedAddressMap {
    pub(super) fn open(maps: &MapSet) -> Result<Option<Self>> {
        Ok(maps.open_younger(&PORT_ADDRESSES)?.map(Self))
    }

    #[cfg(test)]
    pub(super) fn new(map: Map) -> Self {
        Self(map)
    }

    /// Lets the pod at the port `ifindex` send from `address`, which it has at the port `sibling`. That does not hold in a
    /// network in which another port than `sibling` has the address.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map), for a full map among others.
    pub fn insert(&self, ifindex: u32, address: IpAddr, sibling: u32) -> Result<()> {
        self.0.put(RawPortAddress::new(ifindex, address).as_bytes(), &sibling, entry(ifindex, address))
    }

    /// The other port at which the pod at the port `ifindex` has `address`.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn sibling(&self, ifindex: u32, address: IpAddr) -> Result<Option<u32>> {
        let key = RawPortAddress::new(ifindex, address);
        self.0.read(key.as_bytes(), entry(ifindex, address))
    }

    /// Deletes an entry. Absent is success.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn remove(&self, ifindex: u32, address: IpAddr) -> Result<()> {
        self.0.delete(RawPortAddress::new(ifindex, address).as_bytes(), entry(ifindex, address))
    }

    /// The entries of those ports that are wanted. Entries that come or go meanwhile may be missing.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn entries(&self, is_wanted: impl Fn(u32) -> bool) -> Result<Vec<SharedAddress>> {
        let mut entries = Vec::new();
        for (ifindex, address) in self.keys()?.filter(|(ifindex, _)| is_wanted(*ifindex)) {
            let entry = self.sibling(ifindex, address)?.map(|sibling| SharedAddress { ifindex, address, sibling });
            entries.extend(entry);
        }
        Ok(entries)
    }

    /// The ports that have entries, each as often as it has some.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn indexes(&self) -> Result<Vec<u32>> {
        Ok(self.keys()?.map(|(ifindex, _)| ifindex).collect())
    }

    fn keys(&self) -> Result<impl Iterator<Item = (u32, IpAddr)> + use<>> {
        let keys = self.0.keys::<{ size_of::<RawPortAddress>() }>()?;
        Ok(keys.into_iter().map(|key| zerocopy::transmute!(key)).map(RawPortAddress::parts))
    }
}

impl Families {
    fn open(maps: &MapSet, v4: &Shape, v6: &Shape) -> Result<Self> {
        Ok(Self { v4: maps.open(v4)?, v6: maps.open(v6)? })
    }

    /// Calls `work` with the map for an address, and the key in there.
    fn with<T>(&self, address: IpAddr, work: impl FnOnce(&Map, &[u8]) -> Result<T>) -> Result<T> {
        match address.to_canonical() {
            IpAddr::V4(v4) => work(&self.v4, &v4.octets()),
            IpAddr::V6(v6) => work(&self.v6, &v6.octets()),
        }
    }

    fn addresses(&self) -> Result<Vec<IpAddr>> {
        let v4 = self.v4.keys::<4>()?.into_iter().map(|octets| Ipv4Addr::from(octets).into());
        let v6 = self.v6.keys::<16>()?.into_iter().map(|octets| Ipv6Addr::from(octets).into());
        Ok(v4.chain(v6).collect())
    }
}

/// What errors call the entry of an address at a port.
fn entry(ifindex: u32, address: IpAddr) -> String {
    format!("the address {address} at the port {ifindex}")
}

/// What errors call the row of a port.
fn port(ifindex: u32) -> String {
    format!("the port {ifindex}")
}
