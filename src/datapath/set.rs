//! The maps of one network.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use zerocopy::FromZeros as _;

use super::in_use::InUse;
use super::layout::RawDatapathConfig;
use super::map::{Map, MapSpec};
use super::map_specs::{NET_CONFIG, NET_DROPS, NET_STATS, SINGLE_KEY};
use super::maps::{CounterMap, EndpointMap, PortConfigMap, SharedAddressMap};
use super::{DatapathConfig, Drops, NetStats, Result};

/// The maps of one network, either pinned or used by running programs.
///
/// Each method opens the maps that it needs.
#[derive(Clone, Debug)]
pub struct MapSet(Source);

/// How the maps are opened.
#[derive(Clone, Debug)]
enum Source {
    Pins(PathBuf),
    /// The kernel's ids of the maps, by map name.
    Ids(BTreeMap<&'static str, u32>),
}

impl MapSet {
    /// The maps of the running programs with the ids `programs`. If the programs use different
    /// maps, the first program decides.
    ///
    /// `None` for programs of another layout or author, and without `CAP_SYS_ADMIN`, which opening
    /// a map by id needs.
    ///
    /// # Errors
    ///
    /// [`Error::Program`](super::Error::Program) if a program was replaced during the call.
    pub fn in_use(programs: &[u32]) -> Result<Option<Self>> {
        Ok(InUse::look(programs)?.map(|in_use| Self::loaded(in_use.maps)))
    }

    /// The maps pinned in `directory`.
    pub(super) fn pinned(directory: &Path) -> Self {
        Self(Source::Pins(directory.to_owned()))
    }

    /// The maps with these ids.
    pub(super) fn loaded(ids: BTreeMap<&'static str, u32>) -> Self {
        Self(Source::Ids(ids))
    }

    /// The directory of the pins.
    pub(super) fn directory(&self) -> Option<&Path> {
        match &self.0 {
            Source::Pins(directory) => Some(directory),
            Source::Ids(_) => None,
        }
    }

    pub(super) fn open(&self, spec: &MapSpec) -> Result<Map> {
        match &self.0 {
            Source::Pins(directory) => Map::open(directory, spec),
            Source::Ids(ids) => Map::open_by_id(ids.get(spec.name).copied(), spec),
        }
    }

    /// Opens a map that sets of older builds lack.
    pub(super) fn open_optional(&self, spec: &MapSpec) -> Result<Option<Map>> {
        match &self.0 {
            Source::Pins(directory) => match Map::open(directory, spec) {
                Err(error) if error.is_missing_pin() => Ok(None),
                map => map.map(Some),
            },
            Source::Ids(ids) if !ids.contains_key(spec.name) => Ok(None),
            Source::Ids(_) => self.open(spec).map(Some),
        }
    }

    /// Opens `pkt_count` and `pkt_count_v6`, the packet counters of each address.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`](super::Error::Pin) if a pinned map is missing or cannot be opened,
    /// [`Error::Map`](super::Error::Map) if a map of running programs cannot be opened.
    /// [`Error::Layout`](super::Error::Layout) if key or value size differ from this build.
    pub fn open_counters(&self) -> Result<CounterMap> {
        CounterMap::open(self)
    }

    /// Opens `pod_ifindex` and `pod_ifindex_v6`, the endpoint of each address.
    ///
    /// # Errors
    ///
    /// As [`open_counters`](Self::open_counters).
    pub fn open_endpoints(&self) -> Result<EndpointMap> {
        EndpointMap::open(self)
    }

    /// Opens `port_config` and `port_drops`, the configuration and the drop counters of each port.
    ///
    /// # Errors
    ///
    /// As [`open_counters`](Self::open_counters).
    pub fn open_port_configs(&self) -> Result<PortConfigMap> {
        PortConfigMap::open(self)
    }

    /// Opens `port_addresses`, the addresses that a pod has at its other ports. `None` for the maps
    /// of an older build, until [`Datapath::ensure_for`](super::Datapath::ensure_for) creates this
    /// map.
    ///
    /// # Errors
    ///
    /// As [`open_counters`](Self::open_counters).
    pub fn open_shared_addresses(&self) -> Result<Option<SharedAddressMap>> {
        SharedAddressMap::open(self)
    }

    /// Writes the configuration of the network. Only reads if nothing changes.
    ///
    /// # Errors
    ///
    /// As [`open_counters`](Self::open_counters), and [`Error::Map`](super::Error::Map) if the
    /// kernel refuses.
    pub fn configure(&self, config: DatapathConfig) -> Result<()> {
        let map = self.open(&NET_CONFIG)?;
        if read_config(&map)? == config {
            Ok(())
        } else {
            map.put(&SINGLE_KEY, &RawDatapathConfig::from(config), "the entry")
        }
    }

    /// The configuration of the network. Before the first [`configure`](Self::configure), all
    /// fields are zero or `false`.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn config(&self) -> Result<DatapathConfig> {
        read_config(&self.open(&NET_CONFIG)?)
    }

    /// The verdict counters since the maps were created, summed over all CPUs.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn stats(&self) -> Result<NetStats> {
        Ok(self.open(&NET_STATS)?.sum(&SINGLE_KEY, "the entry")?.unwrap_or_default())
    }

    /// The drop counters of all ports since the maps were created, summed over all CPUs.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn drops(&self) -> Result<Drops> {
        Ok(self.open(&NET_DROPS)?.sum(&SINGLE_KEY, "the entry")?.unwrap_or_default())
    }
}

fn read_config(map: &Map) -> Result<DatapathConfig> {
    Ok(map.read(&SINGLE_KEY, "the entry")?.unwrap_or_else(RawDatapathConfig::new_zeroed).into())
}
