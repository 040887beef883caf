//! Names and places that derive from a network or an attachment. No other record of them exists.

use std::path::Path;

use cnikit::datapath::Datapath;
use cnikit::ipam::{self, Store};
use cnikit::netlink::SharedBlocks;
use cnikit::spec::{AttachmentKey, MacAddr, NetworkName};

/// The name of the installed plugin, of its directories and of its nftables table.
pub const NAME: &str = "simple-ebpf-cni";

/// The directory of the pinned programs and maps. Each network has a directory in it.
pub const PINS: &str = "/sys/fs/bpf/simple-ebpf-cni";

/// Records the process that a DEL or a GC leaves behind. A reboot empties `/run` and restarts the
/// process numbers.
pub const ORPHANS: &str = "/run/simple-ebpf-cni/orphans";

/// The alias of a host end that never takes part in direct forwarding.
pub const STACK_ONLY_ALIAS: &str = "simple-ebpf-cni:stack-only";

/// The start of the alias of a claimed bridge, for readers of `ip link`.
pub(crate) const BRIDGE_ALIAS_PREFIX: &str = "simple-ebpf-cni:";

/// The start of the name of an nftables chain. With it, no chain has the name of an nft(8) keyword.
pub(crate) const CHAIN_PREFIX: &str = "masquerade-";

/// The maximum length of the name of a masqueraded network, in bytes. The name of a chain has 255
/// bytes at most.
pub(crate) const MAX_MASQUERADED_NAME: usize = 255 - CHAIN_PREFIX.len();

/// The maximum length of a link alias, in bytes.
const MAX_ALIAS: usize = 255;

/// Opens the network's lease store in `data_dir`.
///
/// # Errors
///
/// See [`Store::open`].
pub fn leases(data_dir: &Path, network: &NetworkName) -> ipam::Result<Store> {
    Store::open(data_dir.join(network.as_str()))
}

/// The network's programs and maps.
#[must_use]
pub fn datapath(network: &NetworkName) -> Datapath {
    Datapath::new(PINS, network)
}

/// The reserved owner of a GC's lock.
///
/// A GC holds the lock from the delegate's GC until the map entries of the removed pods are gone.
/// No ADD can lease an address for this owner: each namespace has a link `lo`, so an ADD with that
/// interface name fails first.
///
/// # Panics
///
/// Never: both names are valid constants.
#[must_use]
pub fn gc_owner() -> AttachmentKey {
    let (Ok(container_id), Ok(ifname)) = ("gc-of-the-network".parse(), "lo".parse()) else {
        unreachable!("both are valid names");
    };
    AttachmentKey::new(container_id, ifname)
}

/// The shared filter blocks of a network. The bridge anchors them, and each port joins them.
///
/// They derive from the network's name alone, so the ports stay in them if the bridge is deleted.
#[must_use]
pub fn shared_blocks(network: &NetworkName) -> SharedBlocks {
    SharedBlocks::from_name(&format!("simple-ebpf-cni/{network}"))
}

/// The alias of a claimed bridge.
#[must_use]
pub fn bridge_alias(network: &NetworkName) -> String {
    format!("{BRIDGE_ALIAS_PREFIX}{network}").chars().take(MAX_ALIAS).collect()
}

/// The MAC of a bridge that the plugin creates.
pub(crate) fn bridge_mac(network: &NetworkName) -> MacAddr {
    MacAddr::derived_from(&format!("{network}/bridge"))
}
