//! The networks that there is something of on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use cnikit::datapath::{Datapath, MapSet};
use cnikit::ipam::Store;
use cnikit::netlink::{Link, Socket};
use cnikit::runtime::NetworkConfigList;
use cnikit::spec::NetworkName;
use simple_ebpf_cni::config::DEFAULT_DATA_DIR;
use simple_ebpf_cni::{bridge, naming, programs};

use super::network::Network;
use super::{Error, check};

/// Where runtimes look for network configurations.
pub(crate) const CONF_DIR: &str = "/etc/cni/net.d";

/// Where to look for networks, and for which.
#[derive(Debug, Args)]
pub(crate) struct Scope {
    /// Take this network alone
    #[arg(long, value_name = "NAME")]
    pub(crate) network: Option<NetworkName>,

    /// Where leases are kept, if not where the network's configuration says
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Where the runtime finds the configurations of networks
    #[arg(long, value_name = "DIR", default_value = CONF_DIR)]
    pub(crate) conf_dir: PathBuf,
}

/// What is known of a network before the kernel is asked.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) name: NetworkName,
    /// What configures it, and in which file.
    pub(crate) configured: Option<(PathBuf, Network)>,
    pub(crate) store: Store,
    pub(crate) datapath: Datapath,
}

impl Scope {
    /// The networks that there is something of, as far as the scope goes.
    pub(crate) fn networks(&self) -> Result<Vec<Known>, Error> {
        let conf_dir = std::slice::from_ref(&self.conf_dir);
        let mut known = networks(conf_dir, self.data_dir.as_deref(), &BTreeMap::new(), self.network.as_ref())?;
        known.retain(|known| self.network.is_some() || !known.is_void());
        Ok(known)
    }
}

/// The networks that are configured in one of the directories, have leases, or have programs loaded, by their names; or the
/// one that is asked for. Of some that are configured no more it may be known where their leases are. What cannot be read is passed over here: `doctor` tells of it.
pub(crate) fn networks(
    conf_dirs: &[PathBuf],
    data_dir: Option<&Path>,
    leases: &BTreeMap<NetworkName, PathBuf>,
    asked: Option<&NetworkName>,
) -> Result<Vec<Known>, Error> {
    check::refuse_unprivileged()?;
    let mut configured: BTreeMap<NetworkName, (PathBuf, Network)> = BTreeMap::new();
    for dir in conf_dirs {
        for file in NetworkConfigList::files(dir)? {
            if let Ok(network) = Network::read(&file) {
                // Of several files that name one network, a runtime takes the first.
                configured.entry(network.name.clone()).or_insert((file, network));
            }
        }
    }
    let default = data_dir.unwrap_or(Path::new(DEFAULT_DATA_DIR));
    let mut names: BTreeSet<NetworkName> = configured.keys().cloned().collect();
    names.extend(Store::open_all(default)?.into_keys());
    names.extend(Datapath::networks(naming::PINS)?);
    names.extend(leases.keys().cloned());
    if let Some(asked) = asked {
        if !names.contains(asked) {
            let present = names.iter().map(ToString::to_string).collect();
            return Err(Error::UnknownNetwork { network: asked.clone(), present });
        }
        names.retain(|name| name == asked);
    }
    let known = names.into_iter().map(|name| {
        let configured = configured.remove(&name);
        let data_dir = match &configured {
            Some((_, network)) => network.data_dir(data_dir),
            None => leases.get(&name).map_or(default, PathBuf::as_path).to_owned(),
        };
        let store = naming::leases(&data_dir, &name)?;
        Ok(Known { configured, store, datapath: naming::datapath(&name), name })
    });
    known.collect()
}

impl Known {
    /// Whether nothing is left of the network but a directory for its leases, as a refused ADD leaves it.
    fn is_void(&self) -> bool {
        let pins = self.datapath.directory();
        let has_pins = pins.parent().is_some_and(Path::exists);
        self.configured.is_none() && !has_pins && self.store.leases().is_ok_and(|mut leases| leases.next().is_none())
    }

    /// The maps that count: those that the running programs use, else the pinned ones; none before the first pod.
    pub(crate) fn maps(&self) -> Result<Option<MapSet>, Error> {
        Ok(programs::maps_in_use(&Socket::open()?, &self.datapath, &self.name)?)
    }

    /// The network's bridge: what is configured, what the programs were told or, should both be gone, what bears the
    /// network's alias.
    pub(crate) fn bridge<'l>(&self, links: &'l [Link]) -> Option<&'l Link> {
        let named = self.configured.as_ref().map(|(_, network)| network.bridge());
        let told = self.maps().ok().flatten().and_then(|maps| Some(maps.config().ok()?.bridge_ifindex));
        let alias = naming::bridge_alias(&self.name);
        let of = |is_it: &dyn Fn(&Link) -> bool| links.iter().find(|link| is_it(link));
        of(&|link| link.alias.as_deref() == Some(&alias))
            .or_else(|| of(&|link| Some(link.index) == told))
            .or_else(|| of(&|link| Some(&link.name) == named))
    }

    /// Whether the network has claimed a bridge, or made it and lost its claim, and nobody else has one.
    pub(crate) fn owns(&self, bridge: &Link, host: &Socket) -> bool {
        let is_claimed = bridge::is_claimed(host, &self.name, bridge);
        is_claimed.is_ok_and(|is_claimed| is_claimed || bridge::is_made_for(&self.name, bridge))
    }
}
