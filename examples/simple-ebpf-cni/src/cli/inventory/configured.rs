//! Network configurations with this plugin.

use std::fmt;
use std::path::{Path, PathBuf};

use cnikit::ipam::{self, Pool, Store, Usage};
use cnikit::runtime::NetworkConfigList;
use cnikit::spec::{IfName, NetworkName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::NAME;
use crate::cli::error::Error;
use simple_ebpf_cni::config::Config;

/// A network of this plugin, from its configuration file.
#[derive(Debug)]
pub(crate) struct ConfiguredNetwork {
    pub(crate) name: NetworkName,
    file: PathBuf,
    config: Config,
    shared: SharedKeys,
}

/// Keys of the configuration that the specification or the library defines, not this plugin.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SharedKeys {
    ip_masq: Option<bool>,
    log_file: Option<PathBuf>,
    ipam: Option<Value>,
}

/// The numbers of used and free addresses in a configured range.
#[derive(Debug, Serialize)]
pub(crate) struct RangeUsage {
    range: String,
    used: u128,
    pub(crate) free: u128,
    total: u128,
}

impl ConfiguredNetwork {
    /// Reads a file with one plugin or a list of plugins.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        Self::from_list(&NetworkConfigList::load_file(path)?, path)
    }

    /// The network of a list. Errors name `path`.
    pub(crate) fn from_list(list: &NetworkConfigList, path: &Path) -> Result<Self, Error> {
        let Some(plugin) = list.plugins.iter().find(|plugin| plugin.plugin_type.as_str() == NAME) else {
            return Err(Error::NotOurs { path: path.to_owned() });
        };
        let unusable = |source: cnikit::spec::Error| Error::Config { path: path.to_owned(), source: source.into() };
        let (config, shared) = (plugin.decode().map_err(unusable)?, plugin.decode().map_err(unusable)?);
        Ok(Self { name: list.name.clone(), file: path.to_owned(), config, shared })
    }

    /// The file that configures the network.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// The lease directory: `instead`, or the configured one.
    pub(crate) fn data_dir(&self, instead: Option<&Path>) -> PathBuf {
        instead.unwrap_or(&self.config.data_dir).to_owned()
    }

    pub(crate) fn store(&self, data_dir: &Path) -> Result<Store, Error> {
        Ok(simple_ebpf_cni::naming::leases(data_dir, &self.name)?)
    }

    /// The bridge to which the pods are attached.
    pub(crate) fn bridge(&self) -> &IfName {
        &self.config.bridge
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Whether the network has `ipMasq`.
    pub(crate) fn masquerades(&self) -> bool {
        self.shared.ip_masq.unwrap_or_default()
    }

    /// The unchanged key `ipam`, for the keys of another plugin.
    pub(crate) fn ipam(&self) -> Option<&Value> {
        self.shared.ipam.as_ref()
    }

    /// The key `logFile`.
    pub(crate) fn log_file(&self) -> Option<&Path> {
        self.shared.log_file.as_deref()
    }

    pub(crate) fn pools(&self) -> &[Pool] {
        self.config.pools()
    }
}

impl RangeUsage {
    /// The usage of each range of a pool.
    pub(crate) fn of_pool(pool: &Pool, store: &Store) -> Result<Vec<Self>, Error> {
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

impl fmt::Display for RangeUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { range, used, free, total } = self;
        write!(f, "{range}: {used} used, {free} free, {total} in all")
    }
}
