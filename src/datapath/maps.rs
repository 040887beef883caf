//! Typed access to the maps.

use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr};

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use zerocopy::{FromZeros, IntoBytes};

use super::error::io_error;
use super::layout::{PerCpu, RawNetConfig, RawPodPort};
use super::{Error, NetConfig, NetStats, PodCounters, PodPort, Result};

/// The maps' names, in the C source and as pins.
pub(super) const PKT_COUNT: &str = "pkt_count";
pub(super) const POD_IFINDEX: &str = "pod_ifindex";
pub(super) const NET_CONFIG: &str = "net_config";
pub(super) const NET_STATS: &str = "net_stats";

/// Sizes of the arrays' keys and values, in bytes.
pub(super) const NET_CONFIG_SIZES: (usize, usize) = (4, size_of::<RawNetConfig>());
pub(super) const NET_STATS_SIZES: (usize, usize) = (4, size_of::<NetStats>());

/// The key of an array's only row.
const ONLY: [u8; 4] = [0; 4];

/// `pkt_count`: what each pod address sent and received.
///
/// The programs count for addresses that are [tracked](Self::track) and look at nothing else.
#[derive(Debug)]
pub struct CounterMap {
    v4: MapHandle,
}

/// `pod_ifindex`: where each pod address lives. A packet for an address in here goes straight into
/// its pod.
#[derive(Debug)]
pub struct PortMap {
    v4: MapHandle,
}

impl CounterMap {
    pub(super) const SIZES: (usize, usize) = (4, size_of::<PodCounters>());

    pub(super) fn new(v4: MapHandle) -> Self {
        Self { v4 }
    }

    /// Starts to count for `address`, from zero.
    ///
    /// # Errors
    ///
    /// [`Error::Map`], for a full map among others; [`Error::AddressFamily`].
    pub fn track(&self, address: IpAddr) -> Result<()> {
        let key = key(address)?;
        let failed = |error| map_error(format!("put {address}"), PKT_COUNT, error);
        let cpus = libbpf_rs::num_possible_cpus().map_err(failed)?;
        let zeros = vec![PodCounters::default().as_bytes().to_vec(); cpus];
        self.v4.update_percpu(&key, &zeros, MapFlags::ANY).map_err(failed)
    }

    /// The counts for `address`, added up over the CPUs; `None` when it is not tracked.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]; [`Error::AddressFamily`].
    pub fn read(&self, address: IpAddr) -> Result<Option<PodCounters>> {
        let per_cpu = self
            .v4
            .lookup_percpu(&key(address)?, MapFlags::ANY)
            .map_err(|error| map_error(format!("look up {address}"), PKT_COUNT, error))?;
        Ok(per_cpu.map(sum))
    }

    /// Stops to count for `address` and forgets the counts. Absent is success.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]; [`Error::AddressFamily`].
    pub fn forget(&self, address: IpAddr) -> Result<()> {
        delete(&self.v4, PKT_COUNT, address)
    }

    /// The tracked addresses. Rows that come or go meanwhile may be seen or not, and others twice.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        addresses(&self.v4)
    }
}

impl PortMap {
    pub(super) const SIZES: (usize, usize) = (4, size_of::<RawPodPort>());

    pub(super) fn new(v4: MapHandle) -> Self {
        Self { v4 }
    }

    /// Has packets for `address` delivered to `port`, in place of an earlier port.
    ///
    /// # Errors
    ///
    /// [`Error::Map`], for a full map among others; [`Error::AddressFamily`].
    pub fn insert(&self, address: IpAddr, port: PodPort) -> Result<()> {
        self.v4
            .update(&key(address)?, RawPodPort::from(port).as_bytes(), MapFlags::ANY)
            .map_err(|error| map_error(format!("put {address}"), POD_IFINDEX, error))
    }

    /// Where `address` lives; `None` when packets for it are left to the bridge.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]; [`Error::AddressFamily`].
    pub fn read(&self, address: IpAddr) -> Result<Option<PodPort>> {
        let mut raw = RawPodPort::new_zeroed();
        let found = self
            .v4
            .lookup_into(&key(address)?, raw.as_mut_bytes(), MapFlags::ANY)
            .map_err(|error| map_error(format!("look up {address}"), POD_IFINDEX, error))?;
        Ok(found.then(|| raw.into()))
    }

    /// Leaves packets for `address` to the bridge again. Absent is success.
    ///
    /// # Errors
    ///
    /// [`Error::Map`]; [`Error::AddressFamily`].
    pub fn remove(&self, address: IpAddr) -> Result<()> {
        delete(&self.v4, POD_IFINDEX, address)
    }

    /// The addresses in the map. Rows that come or go meanwhile may be seen or not, and others twice.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        addresses(&self.v4)
    }
}

pub(super) fn read_config(map: &MapHandle) -> Result<NetConfig> {
    let mut raw = RawNetConfig::new_zeroed();
    map.lookup_into(&ONLY, raw.as_mut_bytes(), MapFlags::ANY)
        .map_err(|error| map_error("read the row".into(), NET_CONFIG, error))?;
    Ok(raw.into())
}

pub(super) fn write_config(map: &MapHandle, config: NetConfig) -> Result<()> {
    map.update(&ONLY, RawNetConfig::from(config).as_bytes(), MapFlags::ANY)
        .map_err(|error| map_error("write the row".into(), NET_CONFIG, error))
}

pub(super) fn read_stats(map: &MapHandle) -> Result<NetStats> {
    let per_cpu =
        map.lookup_percpu(&ONLY, MapFlags::ANY).map_err(|error| map_error("read the row".into(), NET_STATS, error))?;
    Ok(per_cpu.map(sum).unwrap_or_default())
}

fn key(address: IpAddr) -> Result<[u8; 4]> {
    match address {
        IpAddr::V4(v4) => Ok(v4.octets()),
        IpAddr::V6(_) => Err(Error::AddressFamily { address }),
    }
}

fn delete(map: &MapHandle, name: &'static str, address: IpAddr) -> Result<()> {
    match map.delete(&key(address)?) {
        Err(error) if error.kind() != libbpf_rs::ErrorKind::NotFound => {
            Err(map_error(format!("delete {address}"), name, error))
        }
        _ => Ok(()),
    }
}

fn addresses(map: &MapHandle) -> impl Iterator<Item = IpAddr> + '_ {
    map.keys().filter_map(|key| <[u8; 4]>::try_from(key).ok()).map(|octets| Ipv4Addr::from(octets).into())
}

/// The kernel hands out one value per CPU, each of the size that `Datapath::map` has checked.
fn sum<T: PerCpu>(per_cpu: Vec<Vec<u8>>) -> T {
    per_cpu.iter().filter_map(|bytes| T::read_from_bytes(bytes).ok()).fold(T::default(), |mut total, value| {
        total.add(&value);
        total
    })
}

fn map_error(operation: String, map: &'static str, error: libbpf_rs::Error) -> Error {
    Error::Map { operation, map, source: io_error(error) }
}
