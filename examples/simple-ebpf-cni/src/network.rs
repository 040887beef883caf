//! What the pods of a network share: the leases, the bridge, the programs on it.

use std::path::Path;

use cnikit::datapath::{self, Datapath, DatapathConfig, Endpoint, MapSet};
use cnikit::ipam::{self, Owner, Store};
use cnikit::netlink::{self, Link, OrphanRecord, Socket};
use cnikit::plugin::{Context as _, PluginError};
use cnikit::spec::{Attachment, ErrorCode, MacAddr, NetworkName};
use ipnetwork::IpNetwork;
use tracing::{info_span, warn};

use crate::bridge::{self, Found};
use crate::config::Config;
use crate::programs::{self, Programs};
use crate::resync;

/// Programs and maps are pinned below this directory, by network.
pub(crate) const PINS: &str = "/sys/fs/bpf/simple-ebpf-cni";

/// Records the process that a DEL or a GC leaves behind. `/run` is emptied at a reboot, as are the process numbers.
pub(crate) const ORPHANS: &str = "/run/simple-ebpf-cni/orphans";

/// Deletes a veth pair by its host end, without waiting for the kernel's clean-up.
pub(crate) fn delete_pair(host: &Socket, index: u32) -> netlink::Result<()> {
    host.delete_link_nowait(index, &OrphanRecord::new(ORPHANS))
}

/// The network's leases, below `data_dir`.
pub(crate) fn leases(data_dir: &Path, network: &NetworkName) -> ipam::Result<Store> {
    Store::open(data_dir.join(network.as_str()))
}

/// The attachment as the leases know it.
pub(crate) fn owner(attachment: &Attachment) -> Owner {
    Owner { container_id: attachment.container_id.clone(), ifname: attachment.ifname.clone() }
}

/// The attachment that the leases know as `owner`.
pub(crate) fn attachment(network: &NetworkName, owner: Owner) -> Attachment {
    Attachment::new(network.clone(), owner.container_id, owner.ifname)
}

/// The reserved owner whose lock a GC holds while the map entries of pods are there whose addresses the plugin in
/// `ipam.type` has back already.
///
/// No ADD can lease an address for this owner: each namespace has a link `lo`, so an ADD of that interface fails first.
pub(crate) fn gc_owner() -> Owner {
    let (Ok(container_id), Ok(ifname)) = ("gc-of-the-network".parse(), "lo".parse()) else {
        unreachable!("both are valid names");
    };
    Owner { container_id, ifname }
}

/// The subnet that an address with its prefix length is of.
pub(crate) fn subnet(address: IpNetwork) -> IpNetwork {
    IpNetwork::new(address.network(), address.prefix()).unwrap_or(address)
}

/// How often an ADD starts again because programs of another mount namespace have begun to run.
const ATTEMPTS: usize = 5;

/// The network's programs and maps.
pub(crate) fn datapath(network: &NetworkName) -> Datapath {
    Datapath::new(PINS, network)
}

/// The maps of the network that count: those that the running programs use, else the pinned ones; none before the first
/// pod.
pub(crate) fn maps(host: &Socket, datapath: &Datapath, network: &NetworkName) -> Result<Option<MapSet>, cnikit::Error> {
    if let Some(maps) = programs::unpinned_maps(host, datapath, network)? {
        return Ok(Some(maps));
    }
    Ok(datapath.is_complete()?.then(|| datapath.maps()))
}

/// Makes the network, or mends what is missing of it: a few looks when all is there. Gives the bridge.
///
/// Concurrent calls make one network between them: each step takes what another has made meanwhile for
/// its own.
pub(crate) fn ensure(
    host: &Socket,
    network: &NetworkName,
    config: &Config,
    leases: &Store,
    datapath: &Datapath,
    programs: &mut Programs,
    found: Option<Found>,
) -> Result<Link, PluginError> {
    let _span = info_span!("bridge").entered();
    let bridge = bridge::ensure(host, network, config, datapath, found).context("set up the bridge")?;
    for _ in 0..ATTEMPTS {
        if !programs.are_settled() {
            let restore = resync::Restore { host, network, config, leases, datapath, programs, bridge: &bridge };
            restore.run().context("put right the map entries of pods that are attached")?;
        }
        datapath.configure(net_config(&bridge, config)).context("configure the eBPF programs")?;
        if programs.ensure_attached(host).context("attach the eBPF programs")? {
            if !programs.are_settled() {
                datapath.settle()?;
            }
            datapath.remove_outdated().context("remove the eBPF programs of an older version")?;
            return Ok(bridge);
        }
        *programs = Programs::ensure(host, datapath, network)?;
    }
    let msg = format!("the eBPF programs of {network} are replaced by other callers all the time: try again");
    Err(PluginError::new(ErrorCode::TRY_AGAIN, msg))
}

/// The bridge's MAC by the maps, which pods have in their neighbor tables; none before the first pod.
pub(crate) fn known_mac(datapath: &Datapath) -> datapath::Result<Option<MacAddr>> {
    let known = datapath.config()?.gateway_mac;
    Ok((known != MacAddr::new([0; 6])).then_some(known))
}

/// What the programs are to know of the network.
pub(crate) fn net_config(bridge: &Link, config: &Config) -> DatapathConfig {
    let Endpoint { ifindex, mac } = gateway_port(bridge);
    let mut net_config = DatapathConfig::new(ifindex, mac);
    (net_config.direct_forwarding, net_config.spoof_check) = (config.direct_forwarding, config.spoof_check);
    net_config
}

/// Where the gateway's addresses live.
pub(crate) fn gateway_port(bridge: &Link) -> Endpoint {
    Endpoint { ifindex: bridge.index, mac: bridge.mac.unwrap_or(MacAddr::new([0; 6])) }
}

/// A step back that fails does not stop the others; what it leaves, the runtime's DEL removes.
pub(crate) fn undo<T, E: std::error::Error>(step: &str, undone: Result<T, E>) {
    if let Err(error) = undone {
        warn!("cannot undo the failed ADD: {step}: {error}");
    }
}
