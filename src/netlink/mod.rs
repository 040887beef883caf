//! Links, addresses, routes, traffic control ([rtnetlink(7)]) and network namespaces.
//!
//! [`Netns::socket`] opens a [`Socket`] *inside* a namespace, and any thread can then use the
//! socket from outside. It enters the namespace on the calling thread, opens the socket and returns
//! to the thread's own namespace. Only [`Netns::run`] and [`Netns::create`] change the namespace of
//! a thread, so an early return cannot leave a thread in the wrong namespace.
//!
//! ```no_run
//! use cnikit::netlink::{LOOPBACK_INDEX, Netns};
//!
//! # fn main() -> cnikit::netlink::Result<()> {
//! let pod = Netns::open("/run/netns/blue")?;
//! let inside = pod.socket()?;
//! inside.set_up(LOOPBACK_INDEX)?;
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
//! * `create_*` and `add_*` fail with [`Error::Exists`] if the object exists. `delete_*` succeeds
//!   if the object is absent.
//! * Errors carry the kernel's extended acknowledgement and name the missing capability.
//! * [`AddressProbe`] detects whether a machine on a link already uses an address.
//! * [`Sysctl`] reads and writes settings of a namespace that have no netlink message.
//! * A dump that the kernel marks as inconsistent is repeated.
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
//! use cnikit::netlink::{BpfFilter, FilterTarget, SharedBlocks, Socket};
//! # fn program() -> std::os::fd::OwnedFd { unimplemented!() }
//!
//! # fn main() -> cnikit::netlink::Result<()> {
//! # let (bridge, port) = (2, 3);
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
//! # Packet filter
//!
//! [`nftables`] creates tables, chains, rules, sets and maps for packet filtering and address
//! translation. [`conntrack`] lists and deletes tracked connections.
//!
//! # What it does not do
//!
//! The module does not watch for events. Only [`Socket::delete_clsact`] deletes a qdisc, because
//! the `clsact` qdisc of a link may carry filters of other programs.
//!
//! # Kernel
//!
//! Linux 4.20 or later filters dumps in the kernel. On older kernels this module filters the dumps.
//! All operations that change something need `CAP_NET_ADMIN` in the user namespace that owns the
//! network namespace. Entering a namespace needs `CAP_SYS_ADMIN`.
//!
//! [rtnetlink(7)]: https://man7.org/linux/man-pages/man7/rtnetlink.7.html

mod address;
mod attrs;
mod background;
mod bridge;
mod clsact;
pub mod conntrack;
mod error;
mod fdb;
mod filter;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod ipv6;
mod link;
mod message;
mod neighbor;
mod netns;
mod next_hop;
mod nfnetlink;
pub mod nftables;
mod notices;
mod orphans;
mod probe;
mod reply;
mod route;
mod socket;
mod sysctl;
mod tables;
mod veth;

pub use bridge::{BridgePort, BridgeSpec};
pub use clsact::{IngressQdisc, SharedBlock, SharedBlocks};
pub use error::{Error, Result};
pub use fdb::{FdbEntry, FdbState};
pub use filter::{BpfFilter, FilterInfo, FilterTarget};
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use fuzz::read_replies;
pub use ipv6::{AddrGenMode, Ipv6Conf};
pub use link::{LOOPBACK_INDEX, Link};
pub use netns::{Netns, NetnsId};
pub use orphans::OrphanRecord;
pub use probe::{AddressAnswer, AddressProbe};
pub use route::Route;
pub use socket::Socket;
pub use sysctl::{Ipv4Conf, Sysctl};
pub use veth::{VethEnd, VethIndexes, VethPair};
