use std::fmt;
use std::path::{Path, PathBuf};

use cnikit::ipam::{self, Pool, Store, Usage};
use cnikit::runtime::NetworkList;
use cnikit::spec::{IfName, NetworkName};
use serde::Serialize;

use super::Error;
use crate::NAME;
use crate::config::Config;

/// A network of ours, as a file configures it.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) name: NetworkName,
    config: Config,
}

/// How full a configured range is.
#[derive(Debug, Serialize)]
pub(crate) struct Range {
    range: String,
    used: u128,
    pub(crate) free: u128,
    total: u128,
}

impl Network {
    /// Reads a file that configures one plugin, or a list of them with ours among them.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        Self::of(&NetworkList::load_file(path)?, path)
    }

    /// A network by a list that was read already; `path` is what errors call it.
    pub(crate) fn of(list: &NetworkList, path: &Path) -> Result<Self, Error> {
        let Some(plugin) = list.plugins.iter().find(|plugin| plugin.plugin_type.as_str() == NAME) else {
            return Err(Error::NotOurs { path: path.to_owned() });
        };
        let config = plugin.decode().map_err(|source| Error::Config { path: path.to_owned(), source })?;
        Ok(Self { name: list.name.clone(), config })
    }

    /// Where leases are kept, unless the command line says otherwise.
    pub(crate) fn data_dir(&self, instead: Option<&PathBuf>) -> PathBuf {
        instead.unwrap_or(&self.config.data_dir).clone()
    }

    pub(crate) fn store(&self, data_dir: &Path) -> Result<Store, Error> {
        Ok(crate::network::leases(data_dir, &self.name)?)
    }

    /// The bridge that pods are ports of.
    pub(crate) fn bridge(&self) -> &IfName {
        &self.config.bridge
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn pools(&self) -> &[Pool] {
        self.config.pools()
    }
}

impl Range {
    /// The ranges of a pool.
    pub(crate) fn of(pool: &Pool, store: &Store) -> Result<Vec<Self>, Error> {
        let usages = store.usage(pool)?;
        let ranges = pool.ranges().iter().zip(usages);
        let range = |(range, usage): (&ipam::Range, Usage)| Self {
            range: range.to_string(),
            used: usage.used,
            free: usage.free(),
            total: usage.total,
        };
        Ok(ranges.map(range).collect())
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { range, used, free, total } = self;
        write!(f, "{range}: {used} used, {free} free, {total} in all")
    }
}
