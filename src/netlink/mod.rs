//! Links, addresses, routes, policy routing, traffic control ([rtnetlink(7)]) and network
//! namespaces.
//!
//! [`Netns::socket`] opens a [`Socket`] *inside* a namespace, and any thread can then use the
//! socket from outside. It enters the namespace on the calling thread, opens the socket and returns
//! to the thread's own namespace. Only [`Netns::run`] and [`Netns::create`] change the namespace of
//! a thread, so an early return cannot leave a thread in the wrong namespace.
//!
//! ```no_run
//! use cnikit::netlink::{IfIndex, Netns};
//!
//! # fn main() -> cnikit::netlink::Result<()> {
//! let pod = Netns::open("/run/netns/blue")?;
//! let inside = pod.socket()?;
//! inside.set_up(IfIndex::LOOPBACK)?;
//! for link in inside.links()? {
//!     println!("{}: {} mtu {}", link.index, link.name, link.mtu);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//!
//! * Operations are methods of [`Socket`], with one netlink exchange each if the kernel permits it.
//!   [`Socket::create_veth`] sets both names and both MAC addresses, the bridge, and the peer's
//!   namespace in one message.
//! * [`Socket::create_link`] creates macvlan, ipvlan, VLAN, VXLAN, VRF, dummy, ifb and tap links,
//!   and links of any other kind, directly in the namespace of a pod.
//! * `create_*` and `add_*` fail with [`Error::Exists`] if the object exists. `delete_*` succeeds
//!   if the object is absent.
//! * [`Netns::configure`] applies the addresses and routes of a CNI result to an interface.
//!   [`Netns::verify`] compares them in CHECK. [`Netns::announce`] announces addresses to the
//!   neighbors.
//! * Errors carry the kernel's extended acknowledgement and name the missing capability.
//! * [`AddressProbe`] detects whether a machine on a link already uses an address.
//! * [`Sysctl`] reads and writes settings of a namespace that have no netlink message. For example,
//!   `Sysctl::Ipv4Forward.ensure(1)` makes the namespace of the thread a router.
//! * A dump that the kernel marks as inconsistent is repeated.
//! * [`raw`] sends requests that the module has no operation for.
//!
//! # Attaching programs
//!
//! Any loaded BPF program of type `BPF_PROG_TYPE_SCHED_CLS` can be attached by its file descriptor,
//! for example a program loaded with libbpf-rs. There are three ways. `examples/attach.rs` shows
//! the first and the last.
//!
//! | | a filter per link | a filter in a shared block | a TCX link |
//! |---|---|---|---|
//! | attach (idempotent) | [`Socket::ensure_clsact`], [`Socket::replace_filter`] | the same, once; then `ensure_clsact` for each link | `TcxLink::ensure` |
//! | replace, atomically | `replace_filter` | `replace_filter`, for all links at once | `TcxLink::update` |
//! | inspect | [`Socket::filters`], [`Socket::ingress_qdisc`] | the same | `TcxLink::attached` |
//! | detach | [`Socket::delete_filter`], or delete the link | the same | `TcxLink::remove` |
//! | cost | 0.1 ms | 0.06 ms per link | 10 ms; other link changes wait |
//! | needs | Linux 4.5, the clsact slot | Linux 4.16, the clsact slot | Linux 6.6, bpffs |
//!
//! A shared block exists while a qdisc refers to it. Anchor the block on a link that outlives the
//! pods, for example the bridge:
//!
//! ```no_run
//! use cnikit::netlink::{BpfFilter, FilterTarget, IfIndex, SharedBlocks, Socket};
//! # fn program() -> std::os::fd::OwnedFd { unimplemented!() }
//!
//! # fn attach(bridge: IfIndex, port: IfIndex) -> cnikit::netlink::Result<()> {
//! let host = Socket::open()?;
//! let blocks = SharedBlocks::from_name("my-plugin/mynet");
//! host.ensure_clsact(bridge, blocks)?;
//! if let Some(ingress) = blocks.ingress {
//!     host.replace_filter(&FilterTarget::Block(ingress), &BpfFilter::new(&program(), "count"))?;
//! }
//! // For each pod, only this call:
//! host.ensure_clsact(port, blocks)?;
//! # Ok(())
//! # }
//! ```
//!
//! A [`BpfFilter`] has a handle that is computed from its name, so that programs of different
//! plugins do not replace each other.
//!
//! # Rate limits
//!
//! [`Tbf`] limits the rate at which a link sends. [`Redirect`] sends the packets that arrive at a
//! link through an `ifb` link, and a [`Tbf`] there limits them. [`Socket::qdiscs`] returns the
//! counters.
//!
//! # VLANs of a bridge
//!
//! [`BridgeSpec::vlan_filtering`] makes a bridge separate VLANs, and [`Socket::add_bridge_vlan`]
//! adds its ports to them.
//!
//! # Packet filter
//!
//! [`nftables`] creates tables, chains, rules, sets and maps for packet filtering and address
//! translation. [`conntrack`] lists and deletes tracked connections.
//!
//! # What it does not do
//!
//! The module does not watch for events. It does not replace a qdisc of another program. It deletes
//! a qdisc only by request, because the `clsact` qdisc of a link may carry filters of other
//! programs.
//!
//! # Kernel
//!
//! Linux 4.20 or later filters dumps in the kernel. On older kernels this module filters the dumps.
//! All operations that change something need `CAP_NET_ADMIN` in the user namespace that owns the
//! network namespace. Entering a namespace needs `CAP_SYS_ADMIN`.
//!
//! [rtnetlink(7)]: https://man7.org/linux/man-pages/man7/rtnetlink.7.html

mod addresses;
mod bridges;
pub mod conntrack;
mod error;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod links;
mod neighbors;
mod netns;
pub mod nftables;
mod operation;
pub mod raw;
mod results;
mod routes;
mod rules;
mod socket;
mod sysctls;
mod tc;
mod wire;

pub use addresses::{Address, AddressSpec};
pub use bridges::{BridgeSpec, BridgeVlan, FdbEntry, FdbState};
pub use error::{Error, Result};
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use fuzz::read_replies;
pub use links::{
    BridgePort, Ipvlan, IpvlanFlag, IpvlanMode, Link, LinkKind, LinkSpec, Macvlan, MacvlanMode, OrphanRecord,
    OtherKind, Tap, VethEnd, VethIndexes, VethPair, Vlan, VlanProtocol, Vrf, Vxlan, link_names_of_pci,
};
pub use neighbors::{AddressAnswer, AddressProbe, Neighbor, NeighborState};
pub use netns::{Netns, NetnsId};
pub use results::{ConfiguredInterface, Difference, INTERFACE_DIFFERS, VerifyError};
pub use routes::{RejectAction, RejectRoute, Route};
pub use rules::{RoutingRule, RuleAction};
pub use socket::Socket;
pub use sysctls::{AddrGenMode, Ipv4Conf, Ipv6Conf, Sysctl, SysctlName};
pub use tc::{
    BpfFilter, FilterInfo, FilterTarget, IngressQdisc, Qdisc, QdiscParent, QdiscStats, RateError, Redirect,
    SharedBlock, SharedBlocks, Tbf,
};

pub use crate::spec::IfIndex;
