//! Packets between pods of several nodes: the programs at the uplinks and at the tunnel's link.

pub(in crate::datapath) mod layout;
mod maps;
mod skeleton;

use std::path::{Path, PathBuf};

use self::layout::RawRemoteConfig;
pub use self::maps::{NodeAddressMap, Peer, PeerMap, PeerWay};
use super::map::{Map, MapSpec};
use super::map_specs::{MAPS, REMOTE_STATS, SINGLE_KEY};
use super::{Datapath, Result};
use crate::bpf::{PinSet, Program};
use crate::spec::NetworkName;

const REMOTE_CONFIG: MapSpec = MapSpec::of::<u32, RawRemoteConfig>("remote_config");

/// The programs at the links between the nodes, for one network.
///
/// They use the maps of the network's [`Datapath`]. [`PeerMap`] has the ways to the pods of other
/// nodes: with an entry, the programs of both sets forward the packets of these pods directly.
///
/// | program | hook | does |
/// |---|---|---|
/// | [`UnderlayProgram::Uplink`] | ingress of each uplink | redirects packets from pods of other nodes into the pod |
/// | [`UnderlayProgram::Tunnel`] | ingress of the VXLAN link | drops packets that their node must not send, and redirects the others |
/// | [`UnderlayProgram::Egress`] | egress of the same links | tracks the flows that the stack forwards to other nodes |
///
/// The programs return `TC_ACT_UNSPEC` for all other frames. The caller attaches them, and creates
/// routes for the packets that the programs leave to the stack.
///
/// A `RemoteDatapath` holds only paths. Each method opens the pins that it needs.
///
/// # Kernel
///
/// 5.10, with the capabilities of [`Datapath::ensure`].
#[derive(Clone, Debug)]
pub struct RemoteDatapath {
    pins: PinSet,
    network: Datapath,
}

/// A program of the [`RemoteDatapath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnderlayProgram {
    /// `cni_up_ingress`, for the ingress of an uplink.
    Uplink,
    /// `cni_tun_ingress`, for the ingress of the VXLAN link.
    Tunnel,
    /// `cni_up_egress`, for the egress of both.
    Egress,
}

/// The configuration of the [`RemoteDatapath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteConfig {
    /// The VXLAN network identifier of received packets, 24 bits.
    pub vni: u32,
    /// The smallest MTU of the pods on this node, in bytes. The stack receives longer packets,
    /// because a redirect into a pod drops them. `None` for no limit.
    pub pod_mtu: Option<u32>,
}

/// The packets of pods on other nodes: `struct remote_stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteStats {
    /// From a pod, redirected to an uplink.
    pub sent_direct: u64,
    /// From a pod, redirected to the tunnel.
    pub sent_tunnel: u64,
    /// From an uplink, redirected into a pod.
    pub received_direct: u64,
    /// From the tunnel, redirected into a pod.
    pub received_tunnel: u64,
    /// Longer than the MTU of the way or of the pods, passed to the stack.
    pub too_long: u64,
    /// From the tunnel, dropped: another VNI, an unknown node, or not IP.
    pub dropped_vni: u64,
    /// From the tunnel, dropped: the source does not belong to the node that sent the packet.
    pub dropped_source: u64,
}

impl UnderlayProgram {
    const ALL: [Self; 3] = [Self::Uplink, Self::Tunnel, Self::Egress];

    /// The name of the program in the C source, and of its pin.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uplink => "cni_up_ingress",
            Self::Tunnel => "cni_tun_ingress",
            Self::Egress => "cni_up_egress",
        }
    }
}

impl RemoteConfig {
    /// Packets of this VNI, and pods without a limit.
    #[must_use]
    pub const fn new(vni: u32) -> Self {
        Self { vni, pod_mtu: None }
    }

    /// Sets the smallest MTU of the pods.
    #[must_use]
    pub const fn pod_mtu(mut self, mtu: u32) -> Self {
        self.pod_mtu = Some(mtu);
        self
    }
}

impl RemoteDatapath {
    /// The programs for `network`, with the maps of `datapath`. They are pinned below `root`, which
    /// must not be the root of the datapath.
    #[must_use]
    pub fn new(root: impl AsRef<Path>, network: &NetworkName, datapath: &Datapath) -> Self {
        Self { pins: PinSet::new(root, network), network: datapath.clone() }
    }

    /// Loads and pins the programs, onto the pinned maps of the datapath. Pins new programs if the
    /// pinned ones are of another build, or use other maps. The caller then replaces the attached
    /// programs.
    ///
    /// # Errors
    ///
    /// As [`PinSet::ensure`], and [`Error::Pin`](super::Error::Pin) if a map of the datapath is not
    /// pinned: [`Datapath::ensure_for`] creates it.
    pub fn ensure(&self) -> Result<()> {
        let mut build = env!("CNI_TC_BUILD").to_owned();
        let directory = self.network.directory();
        for spec in &MAPS {
            let id = super::in_use::map_id(&Map::open(&directory, spec)?.into_handle())?;
            build = format!("{build} {id}");
        }
        self.pins.ensure(&build, |pins| skeleton::load(&directory, pins))
    }

    /// Opens a pinned program.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`](super::Error::Pin) if the pin is missing or cannot be opened.
    pub fn program(&self, program: UnderlayProgram) -> Result<Program> {
        self.pins.open_program(program.as_str())
    }

    /// The directory that holds the pins.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.pins.directory()
    }

    /// The directory for the pins of [TCX links](crate::bpf::TcxLink) of the programs.
    #[must_use]
    pub fn link_pins(&self) -> PathBuf {
        self.pins.link_pins()
    }

    /// Opens `peers`, the ways to the pods of other nodes.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`](super::Error::Pin) if the pin is missing or cannot be opened,
    /// [`Error::Layout`](super::Error::Layout) if key or value size differ from this build.
    pub fn open_peers(&self) -> Result<PeerMap> {
        PeerMap::open(&self.network.maps())
    }

    /// Opens `node_addresses`, the addresses of other nodes.
    ///
    /// # Errors
    ///
    /// As [`open_peers`](Self::open_peers).
    pub fn open_node_addresses(&self) -> Result<NodeAddressMap> {
        NodeAddressMap::open(&self.pins.directory())
    }

    /// Writes the configuration. Only reads if nothing changes.
    ///
    /// # Errors
    ///
    /// As [`open_peers`](Self::open_peers), and [`Error::Map`](super::Error::Map) if the kernel
    /// refuses.
    pub fn configure(&self, config: RemoteConfig) -> Result<()> {
        let map = Map::open(&self.pins.directory(), &REMOTE_CONFIG)?;
        let found: Option<RawRemoteConfig> = map.read(&SINGLE_KEY, "the entry")?;
        if found.map(RemoteConfig::from) == Some(config) {
            return Ok(());
        }
        map.put(&SINGLE_KEY, &RawRemoteConfig::from(config), "the entry")
    }

    /// The packet counters since the maps were created, summed over all CPUs.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn stats(&self) -> Result<RemoteStats> {
        Ok(self.network.maps().open(&REMOTE_STATS)?.sum(&SINGLE_KEY, "the entry")?.unwrap_or_default())
    }

    /// Deletes all entries of [`PeerMap`]. Then removes the pins of the programs and of their TCX
    /// links, which detaches these. Missing pins are success.
    ///
    /// # Errors
    ///
    /// As [`PinSet::remove`], and [`Error::Map`](super::Error::Map) if an entry cannot be deleted.
    pub fn remove(&self) -> Result<()> {
        // With an entry, but without the programs, each node would forward in one direction only.
        match self.open_peers() {
            Ok(peers) => peers.entries()?.into_iter().try_for_each(|(cidr, _)| peers.remove(cidr))?,
            Err(error) if error.is_missing_pin() => {}
            Err(error) => return Err(error),
        }
        self.pins.remove()
    }
}
