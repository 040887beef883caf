//! The maps of one network, opened one by one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use zerocopy::FromZeros as _;

use super::in_use::InUse;
use super::layout::RawDatapathConfig;
use super::map::{Map, MapSpec};
use super::maps::{CounterMap, EndpointMap, NET_CONFIG, NET_DROPS, NET_STATS, ONLY, PortConfigMap, SharedAddressMap};
use super::{DatapathConfig, Drops, NetStats, Result};

/// The maps of one network: those that are pinned, or those that running programs use.
///
/// Nothing is opened before it is needed.
#[derive(Clone, Debug)]
pub struct MapSet(Place);

/// Where the maps are found.
#[derive(Clone, Debug)]
enum Place {
    Pins(PathBuf),
    /// The kernel's ids, by the maps' names.
    Ids(BTreeMap<&'static str, u32>),
}

impl MapSet {
    /// The maps that running programs use, by the ids of these; the first program counts. `None` if they are of another
    /// layout or author, or this process lacks `CAP_SYS_ADMIN`, which the kernel asks for to open by id.
    ///
    /// # Errors
    ///
    /// [`Error::Program`](super::Error::Program) when a program was replaced meanwhile.
    pub fn in_use(programs: &[u32]) -> Result<Option<Self>> {
        Ok(InUse::look(programs)?.map(|in_use| Self::loaded(in_use.maps)))
    }

    /// The maps pinned in `directory`.
    pub(super) fn pinned(directory: &Path) -> Self {
        Self(Place::Pins(directory.to_owned()))
    }

    /// The maps with these ids.
    pub(super) fn loaded(ids: BTreeMap<&'static str, u32>) -> Self {
        Self(Place::Ids(ids))
    }

    /// The directory of the pins.
    pub(super) fn directory(&self) -> Option<&Path> {
        match &self.0 {
            Place::Pins(directory) => Some(directory),
            Place::Ids(_) => None,
        }
    }

    pub(super) fn open(&self, shape: &MapSpec) -> Result<Map> {
        match &self.0 {
            Place::Pins(directory) => Map::open(directory, shape),
            Place::Ids(ids) => Map::open_by_id(ids.get(shape.name).copied(), shape),
        }
    }

    /// Opens a map that sets of older builds lack.
    pub(super) fn open_younger(&self, shape: &MapSpec) -> Result<Option<Map>> {
        match &self.0 {
            Place::Pins(directory) => match Map::open(directory, shape) {
                Err(error) if error.is_missing_pin() => Ok(None),
                map => map.map(Some),
            },
            Place::Ids(ids) if !ids.contains_key(shape.name) => Ok(None),
            Place::Ids(_) => self.open(shape).map(Some),
        }
    }

    /// Opens `pkt_count` and `pkt_count_v6`: what each address sent and received.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`](super::Error::Pin) when a pinned map is missing or may not be opened,
    /// [`Error::Map`](super::Error::Map) for a map of running programs, [`Error::Layout`](super::Error::Layout) when a
    /// map has other sizes than this build's.
    pub fn open_counters(&self) -> Result<CounterMap> {
        CounterMap::open(self)
    }

    /// Opens `pod_ifindex` and `pod_ifindex_v6`: who owns each address.
    ///
    /// # Errors
    ///
    /// As [`open_counters`](Self::open_counters).
    pub fn open_endpoints(&self) -> Result<EndpointMap> {
        EndpointMap::open(self)
    }

    /// Opens `port_config` and `port_drops`: what each port may do, and what was dropped there.
    ///
    /// # Errors
    ///
    /// As [`open_counters`](Self::open_counters).
    pub fn open_port_configs(&self) -> Result<PortConfigMap> {
        PortConfigMap::open(self)
    }

    /// Opens `port_addresses`: the addresses that pods have at other ports of theirs. `None` for the maps of an older
    /// build, until [`Datapath::ensure_for`](super::Datapath::ensure_for) adds this one.
    ///
    /// # Errors
    ///
    /// As [`open_counters`](Self::open_counters).
    pub fn open_shared_addresses(&self) -> Result<Option<SharedAddressMap>> {
        SharedAddressMap::open(self)
    }

    /// Writes what the programs must know of their network; cheap when nothing changes.
    ///
    /// # Errors
    ///
    /// As [`open_counters`](Self::open_counters), and [`Error::Map`](super::Error::Map).
    pub fn configure(&self, config: DatapathConfig) -> Result<()> {
        let map = self.open(&NET_CONFIG)?;
        if read_config(&map)? == config { Ok(()) } else { map.put(&ONLY, &RawDatapathConfig::from(config), "the row") }
    }

    /// What was last written with [`configure`](Self::configure); zeros, and nothing turned on, before the first time.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn config(&self) -> Result<DatapathConfig> {
        read_config(&self.open(&NET_CONFIG)?)
    }

    /// The verdicts since the maps were created, added up over the CPUs.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn stats(&self) -> Result<NetStats> {
        Ok(self.open(&NET_STATS)?.sum(&ONLY, "the row")?.unwrap_or_default())
    }

    /// What was dropped at all ports since the maps were created, added up over the CPUs.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn drops(&self) -> Result<Drops> {
        Ok(self.open(&NET_DROPS)?.sum(&ONLY, "the row")?.unwrap_or_default())
    }
}

fn read_config(map: &Map) -> Result<DatapathConfig> {
    Ok(map.read(&ONLY, "the row")?.unwrap_or_else(RawDatapathConfig::new_zeroed).into())
}
