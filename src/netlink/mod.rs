//! Links, addresses, routes and traffic control over [rtnetlink(7)], and the network namespaces
//! that they live in.
//!
//! A [`Socket`] is opened *inside* a namespace and used from outside: [`Netns::socket`] enters the
//! namespace on a thread of its own, opens the socket there and comes back with it. No other code
//! of this crate changes a thread's namespace, so an early return can leave nobody in the wrong
//! one.
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
//! * Verbs are methods of [`Socket`], one netlink exchange each where the kernel lets it be one:
//!   [`Socket::create_veth`] names both ends, gives them their addresses, puts one on a bridge and
//!   the other into a pod in a single message.
//! * `create_*` and `add_*` fail with [`Error::Exists`] when the object is there; deleting what is
//!   absent is success.
//! * Errors carry the kernel's own explanation (the extended acknowledgement) and name the
//!   capability that is missing.
//! * [`AddressProbe`] asks the machines on a link whether one of them has an address.
//! * [`Sysctl`] reads and writes the settings of a namespace that have no netlink message.
//! * Dumps that the kernel marks as inconsistent are repeated.
//!
//! # Attaching programs
//!
//! Any loaded BPF program of type `BPF_PROG_TYPE_SCHED_CLS` can be attached by its descriptor, such as those of
//! libbpf-rs. There are three ways; `examples/attach.rs` shows the first and the last.
//!
//! | | a filter per link | a filter in a shared block | a TCX link |
//! |---|---|---|---|
//! | attach, again and again | [`Socket::ensure_clsact`], [`Socket::replace_filter`] | the same, once; then `ensure_clsact` per link | `TcxLink::ensure` |
//! | replace, atomically | `replace_filter` | `replace_filter`, for all links at once | `TcxLink::update` |
//! | look | [`Socket::filters`], [`Socket::ingress_qdisc`] | the same | `TcxLink::attached` |
//! | detach | [`Socket::delete_filter`], or with the link | the same | `TcxLink::remove` |
//! | costs | 0.1 ms | 0.06 ms per link | 10 ms, and all other changes of links wait |
//! | needs | Linux 4.5, the clsact slot | Linux 4.16, the clsact slot | Linux 6.6, the BPF file system |
//!
//! A shared block lives as long as a qdisc refers to it, so something that outlives the pods anchors it, the bridge for
//! example:
//!
//! ```no_run
//! use cnikit::netlink::{BpfFilter, Blocks, FilterTarget, Socket};
//! # fn program() -> std::os::fd::OwnedFd { unimplemented!() }
//!
//! # fn main() -> cnikit::netlink::Result<()> {
//! # let (bridge, port) = (2, 3);
//! let host = Socket::open()?;
//! let blocks = Blocks::from_name("my-plugin/mynet");
//! host.ensure_clsact(bridge, blocks)?;
//! if let Some(ingress) = blocks.ingress {
//!     host.replace_filter(&FilterTarget::SharedBlock(ingress), &BpfFilter::new(&program(), "count"))?;
//! }
//! // All that is left to do for each pod:
//! host.ensure_clsact(port, blocks)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Rules
//!
//! [`nftables`] makes tables, chains and rules of the packet filter and of address translation.
//!
//! # What it does not do
//!
//! It does not watch for events, and it never deletes a qdisc: the `clsact` qdisc of a link may
//! carry other people's filters.
//!
//! # Kernel
//!
//! Linux 4.20 or later for filtering in the kernel; older ones work and are filtered here. All
//! verbs that change something need `CAP_NET_ADMIN` in the user namespace that owns the network
//! namespace; entering one needs `CAP_SYS_ADMIN`.
//!
//! [rtnetlink(7)]: https://man7.org/linux/man-pages/man7/rtnetlink.7.html

mod address;
mod attrs;
mod background;
mod bridge;
mod clsact;
mod error;
mod fdb;
mod filter;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod ipv6;
mod link;
mod neighbor;
mod netns;
mod next_hop;
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
