//! Typed access to the maps with an entry for each address or port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::IntoBytes as _;

use super::layout::{RawEndpoint, RawPortAddress, RawPortConfig};
use super::map::{Map, MapSpec};
use super::map_specs::{
    FILTER_SIZE, PKT_COUNT, PKT_COUNT_V6, POD_IFINDEX, POD_IFINDEX_V6, PORT_ADDRESSES, PORT_CONFIG, PORT_DROPS,
    PORT_FILTER,
};
use super::port_xdp::PortXdp;
use super::{Drops, Endpoint, MapSet, PodCounters, PortConfig, Result};
use crate::spec::IfIndex;

/// `pkt_count` and `pkt_count_v6`: the packet counters of each address.
///
/// The programs count each address with an [entry](Self::insert) separately, and all other
/// addresses in [`NetStats::unknown`](super::NetStats::unknown). An IPv4-mapped IPv6 address equals
/// its IPv4 address, also in [`EndpointMap`].
#[derive(Debug)]
pub struct CounterMap(Families);

/// `pod_ifindex` and `pod_ifindex_v6`: the endpoint of each address.
///
/// Packets to an address with an entry are forwarded directly. The programs answer neighbor
/// solicitations and ARP requests for the address. With the
/// [spoof check](super::DatapathConfig::spoof_check), only its port may send from the address.
///
/// The gateway addresses have entries with the bridge as port. The programs pass packets for these
/// addresses to the stack.
#[derive(Debug)]
pub struct EndpointMap(Families);

/// `port_config` and `port_drops`: the configuration and the drop counters of each port.
#[derive(Debug)]
pub struct PortConfigMap {
    config: Map,
    drops: Map,
    /// `None` for a set of an older build.
    filter: Option<Map>,
    /// `None` for a set of an older build.
    xdp: Option<PortXdp>,
}

/// `port_addresses`: the addresses that the pod of a port has at its other ports, in any network.
///
/// The spoof check accepts these addresses at the port. Forwarding does not read this map: the
/// [`EndpointMap`] of the network of an address determines the receiving port.
#[derive(Debug)]
pub struct SharedAddressMap(Map);

/// An entry of the [`SharedAddressMap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SharedAddress {
    /// The port that may send from the address.
    pub ifindex: IfIndex,
    /// The address.
    pub address: IpAddr,
    /// The port at which the pod has the address.
    pub sibling: IfIndex,
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
    #[cfg(cnikit_repository)]
    pub(super) fn new(v4: Map, v6: Map) -> Self {
        Self(Families { v4, v6 })
    }

    /// Starts counting packets of `address`, from zero.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map), for example for a full map.
    pub fn insert(&self, address: IpAddr) -> Result<()> {
        self.put(address, &PodCounters::default())
    }

    /// Starts counting packets of `address`, from these counters.
    pub(super) fn put(&self, address: IpAddr, counters: &PodCounters) -> Result<()> {
        self.0.with(address, |map, key| map.put_sum(key, counters, address))
    }

    /// The counters of `address`, summed over all CPUs. `None` if the address has no entry.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn read(&self, address: IpAddr) -> Result<Option<PodCounters>> {
        self.0.with(address, |map, key| map.sum(key, address))
    }

    /// Deletes the counters of `address`. A missing entry is success.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn remove(&self, address: IpAddr) -> Result<()> {
        self.0.with(address, |map, key| map.delete(key, address))
    }

    /// The addresses with counters, of both families. Entries added or deleted during the call may
    /// be missing, and other entries may be listed twice.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn addresses(&self) -> Result<Vec<IpAddr>> {
        self.0.addresses()
    }
}

impl EndpointMap {
    pub(super) fn open(maps: &MapSet) -> Result<Self> {
        Families::open(maps, &POD_IFINDEX, &POD_IFINDEX_V6).map(Self)
    }

    #[cfg(test)]
    #[cfg(cnikit_repository)]
    pub(super) fn new(v4: Map, v6: Map) -> Self {
        Self(Families { v4, v6 })
    }

    /// Assigns `address` to an endpoint. Replaces an existing entry.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map), for example for a full map.
    pub fn insert(&self, address: IpAddr, port: Endpoint) -> Result<()> {
        self.0.with(address, |map, key| map.put(key, &RawEndpoint::from(port), address))
    }

    /// The endpoint of `address`. `None` if the address has no entry: the bridge then forwards its
    /// packets.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn read(&self, address: IpAddr) -> Result<Option<Endpoint>> {
        self.0.with(address, |map, key| Ok(map.read(key, address)?.and_then(RawEndpoint::endpoint)))
    }

    /// Deletes the entry of `address`. A missing entry is success.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn remove(&self, address: IpAddr) -> Result<()> {
        self.0.with(address, |map, key| map.delete(key, address))
    }

    /// The addresses of both families. Entries added or deleted during the call may be missing, and
    /// other entries may be listed twice.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn addresses(&self) -> Result<Vec<IpAddr>> {
        self.0.addresses()
    }
}

impl PortConfigMap {
    pub(super) fn open(maps: &MapSet) -> Result<Self> {
        let (config, drops) = (maps.open(&PORT_CONFIG)?, maps.open(&PORT_DROPS)?);
        Ok(Self { config, drops, filter: maps.open_optional(&PORT_FILTER)?, xdp: PortXdp::open(maps)? })
    }

    #[cfg(test)]
    #[cfg(cnikit_repository)]
    pub(super) fn new(config: Map, drops: Map, filter: Map) -> Self {
        Self { config, drops, filter: Some(filter), xdp: None }
    }

    /// Sets the configuration of the port `ifindex`, the host end of a pod's veth pair. Existing
    /// drop counters stay.
    ///
    /// From now on, the spoof check applies to the port: it may only send from its addresses in the
    /// [`EndpointMap`] and the [`SharedAddressMap`].
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map), for example for a full map.
    pub fn insert(&self, ifindex: IfIndex, link: PortConfig) -> Result<()> {
        if self.drops(ifindex)?.is_none() {
            self.drops.put_sum(&ifindex.get().to_ne_bytes(), &Drops::default(), port(ifindex))?;
        }
        let raw = RawPortConfig::from(link);
        // Before the flags: without its byte in the filter, the programs do not look for the flags
        // of a receiver.
        if let Some(filter) = self.filter.as_ref().filter(|_| raw.has_flags()) {
            filter.put(&(ifindex.get() % FILTER_SIZE).to_ne_bytes(), &1_u8, port(ifindex))?;
        }
        self.config.put(&ifindex.get().to_ne_bytes(), &raw, port(ifindex))
    }

    /// The configuration of the port. `None` if the port has no entry: the spoof check does not
    /// apply to it.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn read(&self, ifindex: IfIndex) -> Result<Option<PortConfig>> {
        Ok(self.config.read::<RawPortConfig>(&ifindex.get().to_ne_bytes(), port(ifindex))?.map(PortConfig::from))
    }

    /// The drop counters of the port, summed over all CPUs. `None` if the port has no entry.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn drops(&self, ifindex: IfIndex) -> Result<Option<Drops>> {
        self.drops.sum(&ifindex.get().to_ne_bytes(), port(ifindex))
    }

    /// Makes directly forwarded packets for the port pass the driver-mode XDP program of the pod's
    /// interface, also a program attached later. Without this call, `bpf_redirect_peer` bypasses
    /// the program.
    ///
    /// Returns whether the packets pass the program. The port must be the host end of a veth pair
    /// in the network namespace of the caller.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map), for example for a full map.
    /// [`Error::Pin`](super::Error::Pin) if the program `find_xdp` cannot run.
    ///
    /// # Kernel
    ///
    /// BTF (`CONFIG_DEBUG_INFO_BTF`), `CAP_PERFMON` when the programs are loaded, and no
    /// confidentiality lockdown. Otherwise the result is `false`.
    pub fn watch_xdp(&self, ifindex: IfIndex) -> Result<bool> {
        self.xdp.as_ref().map_or(Ok(false), |xdp| xdp.watch(ifindex))
    }

    /// Whether [`watch_xdp`](Self::watch_xdp) is active for the port.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn watches_xdp(&self, ifindex: IfIndex) -> Result<bool> {
        self.xdp.as_ref().map_or(Ok(false), |xdp| xdp.is_watched(ifindex))
    }

    /// Deletes the configuration and the drop counters of the port. A missing entry is success.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn remove(&self, ifindex: IfIndex) -> Result<()> {
        if let Some(xdp) = &self.xdp {
            xdp.forget(ifindex)?;
        }
        // `port_config` last: after a crash in between, `indexes` still lists the port.
        self.drops.delete(&ifindex.get().to_ne_bytes(), port(ifindex))?;
        self.config.delete(&ifindex.get().to_ne_bytes(), port(ifindex))
    }

    /// The ports with a configuration. Entries added or deleted during the call may be missing, and
    /// other entries may be listed twice.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn indexes(&self) -> Result<Vec<IfIndex>> {
        indexes(&self.config)
    }
}

impl SharedAddressMap {
    pub(super) fn open(maps: &MapSet) -> Result<Option<Self>> {
        Ok(maps.open_optional(&PORT_ADDRESSES)?.map(Self))
    }

    #[cfg(test)]
    #[cfg(cnikit_repository)]
    pub(super) fn new(map: Map) -> Self {
        Self(map)
    }

    /// Permits the port `ifindex` to send from `address`, which the pod has at its port `sibling`.
    /// The permission has no effect if the [`EndpointMap`] of the network assigns the address to a
    /// port other than `sibling`.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map), for example for a full map.
    pub fn insert(&self, ifindex: IfIndex, address: IpAddr, sibling: IfIndex) -> Result<()> {
        self.0.put(RawPortAddress::new(ifindex, address).as_bytes(), &sibling.get(), entry(ifindex, address))
    }

    /// The other port of the pod that has `address`.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn sibling(&self, ifindex: IfIndex, address: IpAddr) -> Result<Option<IfIndex>> {
        let key = RawPortAddress::new(ifindex, address);
        Ok(self.0.read(key.as_bytes(), entry(ifindex, address))?.and_then(IfIndex::new))
    }

    /// Deletes an entry. A missing entry is success.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn remove(&self, ifindex: IfIndex, address: IpAddr) -> Result<()> {
        self.0.delete(RawPortAddress::new(ifindex, address).as_bytes(), entry(ifindex, address))
    }

    /// The entries of the ports for which `is_wanted` returns `true`. Entries added or deleted
    /// during the call may be missing.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn entries(&self, is_wanted: impl Fn(IfIndex) -> bool) -> Result<Vec<SharedAddress>> {
        let mut entries = Vec::new();
        for (ifindex, address) in self.keys()?.filter(|(ifindex, _)| is_wanted(*ifindex)) {
            let entry = self.sibling(ifindex, address)?.map(|sibling| SharedAddress { ifindex, address, sibling });
            entries.extend(entry);
        }
        Ok(entries)
    }

    /// The port of each entry, with duplicates.
    ///
    /// # Errors
    ///
    /// [`Error::Map`](super::Error::Map).
    pub fn indexes(&self) -> Result<Vec<IfIndex>> {
        Ok(self.keys()?.map(|(ifindex, _)| ifindex).collect())
    }

    fn keys(&self) -> Result<impl Iterator<Item = (IfIndex, IpAddr)> + use<>> {
        let keys = self.0.keys::<{ size_of::<RawPortAddress>() }>()?;
        Ok(keys.into_iter().map(|key| zerocopy::transmute!(key)).filter_map(RawPortAddress::parts))
    }
}

impl Families {
    fn open(maps: &MapSet, v4: &MapSpec, v6: &MapSpec) -> Result<Self> {
        Ok(Self { v4: maps.open(v4)?, v6: maps.open(v6)? })
    }

    /// Calls `work` with the map of the address family and the key of the address.
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

/// The ports with an entry in a map with interface indexes as keys. The key 0 names no port.
pub(super) fn indexes(map: &Map) -> Result<Vec<IfIndex>> {
    Ok(map.keys()?.into_iter().map(u32::from_ne_bytes).filter_map(IfIndex::new).collect())
}

/// The name of an entry of `port_addresses` in errors.
fn entry(ifindex: IfIndex, address: IpAddr) -> String {
    format!("the address {address} at the port {ifindex}")
}

/// The name of the entry of a port in errors.
fn port(ifindex: IfIndex) -> String {
    format!("the port {ifindex}")
}
