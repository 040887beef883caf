use std::path::{Path, PathBuf};

use cnikit::ipam::{Pool, Store};
use cnikit::runtime::NetworkList;
use cnikit::spec::NetworkName;

use super::Error;
use crate::NAME;
use crate::config::Config;

/// A network of ours, as a file configures it.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) name: NetworkName,
    config: Config,
}

impl Network {
    /// Reads a file that configures one plugin, or a list of them with ours among them.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let NetworkList { name, plugins, .. } = NetworkList::load_file(path)?;
        let Some(plugin) = plugins.iter().find(|plugin| plugin.plugin_type.as_str() == NAME) else {
            return Err(Error::NotOurs { path: path.to_owned() });
        };
        let config = plugin.decode().map_err(|source| Error::Config { path: path.to_owned(), source })?;
        Ok(Self { name, config })
    }

    /// Where leases are kept, unless the command line says otherwise.
    pub(crate) fn data_dir(&self, instead: Option<&PathBuf>) -> PathBuf {
        instead.unwrap_or(&self.config.data_dir).clone()
    }

    pub(crate) fn store(&self, data_dir: &Path) -> Result<Store, Error> {
        Ok(crate::network::leases(data_dir, &self.name)?)
    }

    pub(crate) fn pools(&self) -> &[Pool] {
        self.config.pools()
    }
}
