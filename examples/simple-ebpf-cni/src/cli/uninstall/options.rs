//! The options of `uninstall`, and the networks that they select.

use std::collections::BTreeSet;
use std::path::{self, Path, PathBuf};

use clap::Args;
use cnikit::runtime::NetworkConfigList;
use cnikit::spec::NetworkName;

use crate::cli::error::Error;
use crate::cli::inventory::{self, ConfiguredNetwork, NodeNetwork};
use crate::cli::manifest::Manifest;
use crate::cli::paths::CONF_DIR;

const EXIT_STATUS: &str = "\
Exit status:
  0  everything was removed, or nothing was installed; intentionally kept files are listed
  1  pods are attached and nothing was removed, or a listed object could not be removed
  2  the command line is invalid";

/// Remove the configurations that install or the agent has written. After the last one, also remove
/// the binary and its link loopback.
///
/// Fails while pods are attached. Files that were changed, renamed or created since the install
/// stay. The binary stays if a remaining configuration needs it. So does its link loopback while
/// configurations of other plugins remain, because their runtime needs a loopback. --purge also
/// removes the state of the networks on the node: veth pairs, masquerade rules, bridges that the
/// plugin created, pinned programs and maps, leases. It removes the routes and rules of the agent,
/// too. If an object cannot be removed, the objects that lead to it stay, and so does the binary:
/// run uninstall again.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXIT_STATUS)]
pub(crate) struct Options {
    /// Remove only this network, and keep the binary
    #[arg(long, value_name = "NAME")]
    pub(super) network: Option<NetworkName>,

    /// Remove only configurations in this directory. Keep the binary if other directories have
    /// configurations [default: every directory that install has written to, and /etc/cni/net.d]
    #[arg(long, value_name = "DIR")]
    conf_dir: Option<PathBuf>,

    /// Directory for state (leases, install manifest) [default: /var/lib/cni/simple-ebpf-cni, and
    /// for leases the directory in the network's configuration]
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,

    /// Also remove the state of the networks on the node
    #[arg(long)]
    pub(super) purge: bool,

    /// Remove even if pods are attached or other networks need the link loopback, and also remove
    /// changed files, except a `loopback`
    #[arg(long)]
    pub(super) force: bool,

    /// Print the changes without making them
    #[arg(long, short = 'n')]
    pub(super) dry_run: bool,

    /// Output JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl Options {
    /// The options with absolute paths, as in the manifest.
    pub(super) fn absolute(mut self) -> Result<Self, Error> {
        self.data_dir = self.data_dir.as_deref().map(absolute).transpose()?;
        self.conf_dir = self.conf_dir.as_deref().map(absolute).transpose()?;
        Ok(self)
    }

    /// Whether the configuration file of a network is selected.
    pub(super) fn selects(&self, path: &Path, network: &NetworkName) -> bool {
        self.network.as_ref().is_none_or(|selected| selected == network)
            && self.conf_dir.as_ref().is_none_or(|dir| path.parent() == Some(dir))
    }

    /// The selected directories of configurations.
    pub(super) fn dirs(&self, manifest: &Manifest) -> BTreeSet<PathBuf> {
        self.conf_dir.clone().map_or_else(|| written_dirs(manifest), |dir| BTreeSet::from([dir]))
    }

    /// The selected networks, and the networks with a configuration in a directory that is not
    /// selected.
    pub(super) fn networks(&self, manifest: &Manifest) -> Result<(Vec<NodeNetwork>, BTreeSet<NetworkName>), Error> {
        let mut dirs = written_dirs(manifest);
        let Some(dir) = &self.conf_dir else {
            let dirs: Vec<PathBuf> = dirs.into_iter().collect();
            return Ok((self.networks_in(&dirs, manifest)?, BTreeSet::new()));
        };
        dirs.remove(dir);
        let files = configuration_files(&dirs)?;
        let others: BTreeSet<NetworkName> =
            files.iter().filter_map(|file| Some(ConfiguredNetwork::read(file).ok()?.name)).collect();
        let mut networks = self.networks_in(std::slice::from_ref(dir), manifest)?;
        networks.retain(|network| network.configured.is_some() || !others.contains(&network.name));
        Ok((networks, others))
    }

    fn networks_in(&self, conf_dirs: &[PathBuf], manifest: &Manifest) -> Result<Vec<NodeNetwork>, Error> {
        inventory::networks(conf_dirs, self.data_dir.as_deref(), manifest.leases(), self.network.as_ref())
    }
}

/// The configuration files in some directories.
pub(super) fn configuration_files(dirs: &BTreeSet<PathBuf>) -> Result<Vec<PathBuf>, Error> {
    Ok(dirs.iter().map(|dir| NetworkConfigList::files(dir)).collect::<Result<Vec<_>, _>>()?.concat())
}

/// The directories of installed configurations, and the default directory.
fn written_dirs(manifest: &Manifest) -> BTreeSet<PathBuf> {
    let written = manifest.files().filter(|(_, network)| network.is_some()).filter_map(|(path, _)| path.parent());
    let mut dirs: BTreeSet<PathBuf> = written.map(Path::to_owned).collect();
    dirs.insert(CONF_DIR.into());
    dirs
}

fn absolute(dir: &Path) -> Result<PathBuf, Error> {
    path::absolute(dir).map_err(|source| Error::File { operation: "resolve", path: dir.to_owned(), source })
}
