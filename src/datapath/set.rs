//! The maps of one network, opened one by one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use zerocopy::FromZeros as _;

use super::layout::RawNetConfig;
use super::map::{Map, Shape};
use super::maps::{CounterMap, LinkMap, NET_CONFIG, NET_DROPS, NET_STATS, ONLY, PortMap, SharedAddressMap};
use super::{Drops, NetConfig, NetStats, Result};

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

    pub(super) fn open(&self, shape: &Shape) -> Result<Map> {
        match &self.0 {
            Place::Pins(directory) => Map::open(directory, shape),
            Place::Ids(ids) => Map::open_by_id(ids.get(shape.name).copied(), shape),
        }
    }

    /// Opens `pkt_count` and `pkt_count_v6`: what each address sent and received.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`](super::Error::Pin) when a pinned map is missing or may not be opened,
    /// [`Error::Map`](super::Error::Map) for a map of running programs, [`Error::Layout`](super::Error::Layout) when a
    /// map has other sizes than this build's.
    pub fn counters(&self) -> Result<CounterMap> {
        CounterMap::open(self)
    }

    /// Opens `pod_ifindex` and `pod_ifindex_v6`: who owns each address.
    ///
    /// # Errors
    ///
    /// As [`counters`](Self::counters).
    pub fn ports(&self) -> Result<PortMap> {
        PortMap::open(self)
    }

    /// Opens `port_config` and `port_drops`: what each port may do, and what was dropped there.
    ///
    /// # Errors
    ///
    /// As [`counters`](Self::counters).
    pub fn links(&self) -> Result<LinkMap> {
        LinkMap::open(self)
    }

    /// Opens `port_addresses`: the addresses that pods have at other ports of theirs.
    ///
    /// # Errors
    ///
    /// As [`counters`](Self::counters).
    pub fn shared_addresses(&self) -> Result<SharedAddressMap> {
        SharedAddressMap::open(self)
    }

    /// Writes what the programs must know of their network; cheap when nothing changes.
    ///
    /// # Errors
    ///
    /// As [`counters`](Self::counters), and [`Error::Map`](super::Error::Map).
    pub fn configure(&self, config: NetConfig) -> Result<()> {
        let map = self.open(&NET_CONFIG)?;
        if read_config(&map)? == config { Ok(()) } else { map.put(&ONLY, &RawNetConfig::from(config), "the row") }
    }

    /// What was last written with [`configure`](Self::configure); zeros, and nothing turned on, before the first time.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn config(&self) -> Result<NetConfig> {
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

fn read_config(map: &Map) -> Result<NetConfig> {
    Ok(map.read(&ONLY, "the row")?.unwrap_or_else(RawNetConfig::new_zeroed).into())
}
