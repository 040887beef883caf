//! Network interfaces, addresses, routes, traffic control and packet filters of the kernel
//! ([rtnetlink(7)]), in any network namespace.
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
//! | objects | types | operations |
//! |---|---|---|
//! | links of every kind, also directly in the namespace of a pod | [`Link`], [`LinkSpec`], [`LinkKind`], [`VethPair`] | [`Socket::links`], [`Socket::create_link`], [`Socket::create_veth`], [`Socket::move_link`], [`Socket::delete_link`] |
//! | bridges, their ports, VLANs and forwarding entries | [`BridgeSpec`], [`BridgePort`], [`BridgeVlan`], [`FdbEntry`] | [`Socket::create_bridge`], [`Socket::set_bridge_port`], [`Socket::add_bridge_vlan`], [`Socket::set_fdb`] |
//! | addresses | [`AddressSpec`], [`Address`] | [`Socket::add_address`], [`Socket::addresses`], [`Socket::wait_addresses_settled`] |
//! | neighbors, and machines that use an address | [`Neighbor`], [`AddressProbe`] | [`Socket::set_neighbor`], [`Socket::ensure_proxy_neighbor`], [`Netns::announce`] |
//! | routes | [`Route`], [`RejectRoute`] | [`Socket::add_route`], [`Socket::replace_route`], [`Socket::routes_of`] |
//! | rules of policy routing | [`RoutingRule`] | [`Socket::add_rule`], [`Socket::rules`], [`Socket::free_table`] |
//! | traffic control | [`BpfFilter`], [`SharedBlocks`], [`Tbf`], [`Redirect`] | [`Socket::ensure_clsact`], [`Socket::replace_filter`], [`Socket::ensure_tbf`] |
//! | packet filter and address translation | [`nftables`] | [`nftables::Socket::commit`] |
//! | tracked connections | [`conntrack`] | [`conntrack::Socket::delete`] |
//! | namespaces | [`Netns`], [`NetnsId`] | [`Netns::open`], [`Netns::create`], [`Netns::run`] |
//! | settings below `/proc/sys` | [`Sysctl`], [`SysctlName`] | [`Sysctl::ensure`] |
//! | the result of a plugin | [`ConfiguredInterface`], [`VerifyError`] | [`Netns::configure`] for ADD, [`Netns::verify`] for CHECK |
//! | everything else | [`raw`] | [`Socket::raw_request`] |
//!
//! The operations have these rules:
//!
//! * Each is one netlink exchange if the kernel permits it. [`Socket::create_veth`] sets both names
//!   and both MAC addresses, the bridge, and the peer's namespace in one message.
//! * `create_*` and `add_*` fail with [`Error::Exists`] if the object exists. `ensure_*` succeeds
//!   if the same object exists. `delete_*` succeeds if the object is absent.
//! * A list has the objects of all programs. An inconsistent list is read again.
//! * An error has the kernel's explanation (extended acknowledgement) and the missing capability.
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
//! The module does not watch for events. It replaces no qdisc of another program. It deletes a
//! qdisc only by request, for example with [`Socket::delete_clsact`]: the `clsact` qdisc of a link
//! may carry filters of other programs.
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
pub use routes::{RejectAction, RejectRoute, ResolvedRoute, Route, TunnelEncap};
pub use rules::{RoutingRule, RuleAction};
pub use socket::Socket;
pub use sysctls::{AddrGenMode, Ipv4Conf, Ipv6Conf, Sysctl, SysctlName};
pub use tc::{
    BpfFilter, FilterInfo, FilterTarget, IngressQdisc, Qdisc, QdiscParent, QdiscStats, RateError, Redirect,
    SharedBlock, SharedBlocks, Tbf,
};

pub use crate::spec::IfIndex;
