//! The networks of this node: their configurations, leases and pinned programs.

pub(crate) mod configured;
pub(crate) mod pods;
mod result_cache;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use cnikit::datapath::{Datapath, MapSet};
use cnikit::ipam::Store;
use cnikit::netlink::{Link, Socket};
use cnikit::runtime::NetworkConfigList;
use cnikit::spec::NetworkName;

pub(crate) use configured::ConfiguredNetwork;
pub(crate) use result_cache::CachedTenants;

use super::error::Error;
use super::paths::{BIN_DIR, CONF_DIR};
use super::privileges;
use simple_ebpf_cni::config::DEFAULT_DATA_DIR;
use simple_ebpf_cni::{bridge, naming, programs};

/// The directories to search, and the network to select.
#[derive(Debug, Args)]
pub(crate) struct Selector {
    /// Select only this network
    #[arg(long, value_name = "NAME")]
    pub(crate) network: Option<NetworkName>,

    /// Directory for leases, instead of the directory in the network's configuration
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Directory of the runtime for network configurations
    #[arg(long, value_name = "DIR", default_value = CONF_DIR)]
    pub(crate) conf_dir: PathBuf,
}

/// A network, as far as files show it.
#[derive(Debug)]
pub(crate) struct NodeNetwork {
    pub(crate) name: NetworkName,
    /// The configuration, if a file has one.
    pub(crate) configured: Option<ConfiguredNetwork>,
    pub(crate) store: Store,
    pub(crate) datapath: Datapath,
    /// The options that select the same directories, for commands in a remedy.
    pub(crate) options: String,
}

impl Selector {
    /// The selected networks. Without a selection, empty ones are left out.
    pub(crate) fn networks(&self) -> Result<Vec<NodeNetwork>, Error> {
        let conf_dir = std::slice::from_ref(&self.conf_dir);
        let mut found = networks(conf_dir, self.data_dir.as_deref(), &BTreeMap::new(), self.network.as_ref())?;
        found.retain(|network| self.network.is_some() || !network.is_empty());
        for network in &mut found {
            network.options = self.directories(None);
        }
        Ok(found)
    }

    /// The options of a command for directories that differ from the defaults.
    pub(crate) fn directories(&self, bin_dir: Option<&Path>) -> String {
        let dirs = [
            ("conf-dir", Some(self.conf_dir.as_path()), CONF_DIR),
            ("data-dir", self.data_dir.as_deref(), DEFAULT_DATA_DIR),
            ("bin-dir", bin_dir, BIN_DIR),
        ];
        let differing = dirs
            .into_iter()
            .filter_map(|(option, dir, default)| Some((option, dir.filter(|dir| *dir != Path::new(default))?)));
        differing.map(|(option, dir)| format!(" --{option} {}", dir.display())).collect()
    }

    /// The message of a command that finds no network.
    pub(crate) fn no_network(&self) -> String {
        let none = "There is no network on this node";
        if self.conf_dir.exists() {
            format!("{none}.")
        } else {
            format!("{none}, and no directory {}.", self.conf_dir.display())
        }
    }
}

/// The networks that have a configuration, leases or pinned programs, sorted by name, or only
/// `selected`.
///
/// `leases` maps networks without a configuration to their lease directories. Configurations that
/// cannot be read are ignored, because `doctor` and `status` report them.
pub(crate) fn networks(
    conf_dirs: &[PathBuf],
    data_dir: Option<&Path>,
    leases: &BTreeMap<NetworkName, PathBuf>,
    selected: Option<&NetworkName>,
) -> Result<Vec<NodeNetwork>, Error> {
    privileges::require()?;
    let mut configured: BTreeMap<NetworkName, ConfiguredNetwork> = BTreeMap::new();
    for dir in conf_dirs {
        for file in NetworkConfigList::files(dir)? {
            if let Ok(network) = ConfiguredNetwork::read(&file) {
                // If several files configure one network, a runtime uses the first.
                configured.entry(network.name.clone()).or_insert(network);
            }
        }
    }
    let default = data_dir.unwrap_or(Path::new(DEFAULT_DATA_DIR));
    let mut names: BTreeSet<NetworkName> = configured.keys().cloned().collect();
    names.extend(Store::open_all(default)?.into_keys());
    names.extend(Datapath::networks(naming::PINS)?);
    names.extend(leases.keys().cloned());
    if let Some(selected) = selected {
        if !names.contains(selected) {
            let present = names.iter().map(ToString::to_string).collect();
            return Err(Error::UnknownNetwork { network: selected.clone(), present });
        }
        names.retain(|name| name == selected);
    }
    let found = names.into_iter().map(|name| {
        let configured = configured.remove(&name);
        let data_dir = match &configured {
            Some(network) => network.data_dir(data_dir),
            None => leases.get(&name).map_or(default, PathBuf::as_path).to_owned(),
        };
        let store = naming::leases(&data_dir, &name)?;
        Ok(NodeNetwork { configured, store, datapath: naming::datapath(&name), name, options: String::new() })
    });
    found.collect()
}

impl NodeNetwork {
    /// Whether the network has only an empty lease directory. A refused ADD leaves one.
    fn is_empty(&self) -> bool {
        let pins = self.datapath.directory();
        let has_pins = pins.parent().is_some_and(Path::exists);
        self.configured.is_none() && !has_pins && self.store.leases().is_ok_and(|mut leases| leases.next().is_none())
    }

    /// The maps of the running programs, otherwise the pinned maps. `None` before the first pod.
    pub(crate) fn maps(&self) -> Result<Option<MapSet>, Error> {
        Ok(programs::maps_in_use(&Socket::open()?, &self.datapath, &self.name)?)
    }

    /// The network's bridge: the link with the network's alias, otherwise the one in the maps,
    /// otherwise the configured one.
    pub(crate) fn bridge<'l>(&self, links: &'l [Link]) -> Option<&'l Link> {
        let configured = self.configured.as_ref().map(ConfiguredNetwork::bridge);
        let in_maps = self.maps().ok().flatten().and_then(|maps| maps.config().ok()?.bridge_ifindex);
        let alias = naming::bridge_alias(&self.name);
        let find = |is_bridge: &dyn Fn(&Link) -> bool| links.iter().find(|link| is_bridge(link));
        find(&|link| link.alias.as_deref() == Some(&alias))
            .or_else(|| find(&|link| Some(link.index) == in_maps))
            .or_else(|| find(&|link| Some(&link.name) == configured))
    }

    /// Whether the network has claimed the bridge. A bridge that the network created and that has
    /// no claim counts too.
    pub(crate) fn owns(&self, bridge: &Link, host: &Socket) -> bool {
        let is_claimed = bridge::is_claimed(host, &self.name, bridge);
        is_claimed.is_ok_and(|is_claimed| is_claimed || bridge::is_made_for(&self.name, bridge))
    }
}
