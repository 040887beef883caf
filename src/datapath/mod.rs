//! The eBPF datapath: TC programs that guard and count what pods send and deliver it straight into
//! the target pod, and the maps that tell them how.
//!
//! A [`Datapath`] is one network's set of programs and maps, pinned in a directory on the BPF file
//! system. [`Datapath::ensure`] loads and pins the set once; every later caller opens the pins. The
//! set appears under its name whole or not at all, whatever happens to the process that loads it.
//! Pins are names for running programs and their maps, and can be missing or lead to others: a caller that finds programs
//! attached passes their ids to [`Datapath::ensure_for`], which pins the maps that they use.
//!
//! A program is a file descriptor ([`Program`]). [`netlink`](crate::netlink) hangs it on a TC hook as
//! a filter, or [`TcxLink`] does without a qdisc; both take the programs of other authors too. A network's maps say nothing of other
//! networks, so pods of different networks never reach each other by this path.
//!
//! # What the programs do
//!
//! | program | hook | does |
//! |---|---|---|
//! | [`ProgramName::Main`] | ingress of each host veth and of the bridge | drops what is sent in another's name, counts, redirects packets for local pods into the pod, answers ARP requests and neighbour solicitations |
//! | [`ProgramName::Egress`] | egress of the same devices | counts what the bridge delivers to pods, remembers flows that stay with the stack, answers the host's neighbour questions |
//!
//! Whatever they do not redirect or drop goes on to the bridge, as if they were not there.
//!
//! # Kernel
//!
//! 5.10 or newer with `CONFIG_BPF_SYSCALL` and `CONFIG_NET_CLS_BPF`; `CAP_BPF` and `CAP_NET_ADMIN`
//! (or root) to load and to open pins, `CAP_SYS_ADMIN` to mount the BPF file system. Before 6.12,
//! loading can take `CAP_PERFMON` as well: 5.10 and 6.1 are known to ask for it. With `CAP_PERFMON` and the kernel's BTF,
//! direct packets pass the driver-mode XDP programs of pods ([`PortConfigMap::watch_xdp`]).
//!
//! # Example
//!
//! ```no_run
//! use std::net::IpAddr;
//!
//! use cnikit::datapath::{Datapath, NetConfig, PodLink, PodPort};
//! use cnikit::spec::MacAddr;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let datapath = Datapath::new("/sys/fs/bpf/my-plugin", &"mynet".parse()?);
//! datapath.ensure()?;
//!
//! let (bridge, gateway) = (6, MacAddr::new([0x02, 0, 0, 0, 0, 0xfe]));
//! datapath.configure(NetConfig::new(bridge, gateway))?;
//! datapath.ports()?.insert("10.244.1.1".parse()?, PodPort { ifindex: bridge, mac: gateway })?;
//!
//! let pod: IpAddr = "10.244.1.2".parse()?;
//! let port = PodPort { ifindex: 7, mac: MacAddr::new([0x02, 0, 0, 0, 0, 0x01]) };
//! datapath.counters()?.track(pod)?;
//! datapath.ports()?.insert(pod, port)?;
//! datapath.ports()?.insert(port.mac.link_local().into(), port)?;
//! let links = datapath.links()?;
//! links.insert(port.ifindex, PodLink::new(port.mac))?;
//! links.watch_xdp(port.ifindex)?;
//!
//! println!("{:?}", datapath.counters()?.read(pod)?);
//! # Ok(())
//! # }
//! ```

mod bpffs;
mod btf;
mod drops;
mod error;
mod in_use;
mod layout;
mod map;
mod maps;
mod migrate;
mod pins;
mod port_xdp;
mod program;
mod publish;
mod set;
mod skeleton;
mod tcx;

pub use self::drops::{DropReason, Drops};
pub use self::error::Error;
pub use self::layout::{DatapathConfig, Endpoint, NetStats, PodCounters, PortConfig};
pub use self::maps::{CounterMap, EndpointMap, PortConfigMap, SharedAddress, SharedAddressMap};
pub use self::pins::{Datapath, PinState};
pub use self::program::{Program, ProgramName};
pub use self::set::MapSet;
pub use self::tcx::{Direction, TcxInfo, TcxLink, TcxProgram};

/// What calls of this module return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
