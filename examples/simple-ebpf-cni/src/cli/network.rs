use std::fmt;
use std::path::{Path, PathBuf};

use cnikit::ipam::{self, Pool, Store, Usage};
use cnikit::runtime::NetworkConfigList;
use cnikit::spec::{IfName, NetworkName};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use simple_ebpf_cni::config::Config;
use simple_ebpf_cni::naming;

use super::Error;
use crate::NAME;

/// A network of ours, as a file configures it.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) name: NetworkName,
    file: PathBuf,
    config: Config,
    beside: Beside,
}

/// Keys that are not the plugin's own part of its configuration.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Beside {
    ip_masq: Option<bool>,
    log_file: Option<PathBuf>,
    ipam: Option<Value>,
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
        Self::of(&NetworkConfigList::load_file(path)?, path)
    }

    /// A network by a list that was read already; `path` is what errors call it.
    pub(crate) fn of(list: &NetworkConfigList, path: &Path) -> Result<Self, Error> {
        let Some(plugin) = list.plugins.iter().find(|plugin| plugin.plugin_type.as_str() == NAME) else {
            return Err(Error::NotOurs { path: path.to_owned() });
        };
        let unusable = |source| Error::Config { path: path.to_owned(), source };
        let (config, beside) = (plugin.decode().map_err(unusable)?, plugin.decode().map_err(unusable)?);
        Ok(Self { name: list.name.clone(), file: path.to_owned(), config, beside })
    }

    /// The file that configures the network.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Where leases are kept, unless the command line says otherwise.
    pub(crate) fn data_dir(&self, instead: Option<&Path>) -> PathBuf {
        instead.unwrap_or(&self.config.data_dir).to_owned()
    }

    pub(crate) fn store(&self, data_dir: &Path) -> Result<Store, Error> {
        Ok(naming::leases(data_dir, &self.name)?)
    }

    /// The bridge that pods are ports of.
    pub(crate) fn bridge(&self) -> &IfName {
        &self.config.bridge
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Whether pods are to reach the world by the host's address.
    pub(crate) fn masquerades(&self) -> bool {
        self.beside.ip_masq.unwrap_or_default()
    }

    /// The key `ipam` as it stands in the file, for keys of another plugin.
    pub(crate) fn ipam(&self) -> Option<&Value> {
        self.beside.ipam.as_ref()
    }

    /// Where its calls are logged.
    pub(crate) fn log_file(&self) -> Option<&Path> {
        self.beside.log_file.as_deref()
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
