//! The eBPF datapath: TC programs that check, count and forward the packets of pods, and their
//! maps.
//!
//! A [`Datapath`] is the set of programs and maps of one network, pinned in a directory on the BPF
//! file system. [`Datapath::ensure`] loads and pins the set once. Later callers open the pins. The
//! set appears under its name completely or not at all, even if the loading process is killed.
//!
//! Pins are names for running programs and their maps. They can be missing, or name other maps than
//! the running programs use. A caller that finds attached programs passes their ids to
//! [`Datapath::ensure_for`], which pins the maps that these programs use.
//!
//! A [`Program`](crate::bpf::Program) is a file descriptor. [`netlink`](crate::netlink) attaches it
//! to a TC hook as a filter, and [`TcxLink`](crate::bpf::TcxLink) attaches it without a qdisc. The
//! maps of a network contain no other network, so direct forwarding never connects two networks.
//!
//! The programs of other authors are loaded and pinned by a [`PinSet`](crate::bpf::PinSet).
//!
//! # What the programs do
//!
//! | program | hook | does |
//! |---|---|---|
//! | [`ProgramName::Main`] | ingress of each host veth and of the bridge | drops spoofed packets, counts, redirects packets for local pods into the pod, answers ARP requests and neighbor solicitations |
//! | [`ProgramName::Egress`] | egress of the same devices | counts packets from the bridge to pods, tracks flows that must stay with the stack, answers neighbor solicitations of the host |
//!
//! All other packets continue to the bridge as if no program were attached.
//!
//! [`RemoteDatapath`] forwards packets between pods of several nodes, for a node agent.
//!
//! # Kernel
//!
//! 5.10 or newer with `CONFIG_BPF_SYSCALL` and `CONFIG_NET_CLS_BPF`. Loading programs and opening
//! pins needs `CAP_BPF` and `CAP_NET_ADMIN`, or root. Mounting the BPF file system needs
//! `CAP_SYS_ADMIN`. Before 6.12, loading can also need `CAP_PERFMON`: 5.10 and 6.1 are known to
//! require it.
//!
//! With `CAP_PERFMON` and the BTF of the kernel, packets forwarded directly pass the driver-mode
//! XDP programs of pods ([`PortConfigMap::watch_xdp`]).
//!
//! # Example
//!
//! ```no_run
//! use std::net::IpAddr;
//!
//! use cnikit::datapath::{Datapath, DatapathConfig, Endpoint, PortConfig};
//! use cnikit::spec::{IfIndex, MacAddr};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let datapath = Datapath::new("/sys/fs/bpf/my-plugin", &"mynet".parse()?);
//! datapath.ensure()?;
//!
//! let (bridge, gateway) = (IfIndex::try_from(6)?, MacAddr::new([0x02, 0, 0, 0, 0, 0xfe]));
//! datapath.configure(DatapathConfig::new(bridge, gateway))?;
//! let endpoints = datapath.open_endpoints()?;
//! endpoints.insert("10.244.1.1".parse()?, Endpoint::new(bridge, gateway))?;
//!
//! let pod: IpAddr = "10.244.1.2".parse()?;
//! let endpoint = Endpoint::new(IfIndex::try_from(7)?, MacAddr::new([0x02, 0, 0, 0, 0, 0x01]));
//! let counters = datapath.open_counters()?;
//! counters.insert(pod)?;
//! endpoints.insert(pod, endpoint)?;
//! endpoints.insert(endpoint.mac.link_local().into(), endpoint)?;
//! let ports = datapath.open_port_configs()?;
//! ports.insert(endpoint.ifindex, PortConfig::new(endpoint.mac))?;
//! ports.watch_xdp(endpoint.ifindex)?;
//!
//! println!("{:?}", counters.read(pod)?);
//! # Ok(())
//! # }
//! ```

mod btf;
mod drops;
mod in_use;
mod layout;
mod map;
mod map_specs;
mod maps;
mod migrate;
mod pins;
mod port_xdp;
mod program;
mod publish;
mod remote;
mod set;
mod skeleton;

pub use self::drops::{DropReason, Drops};
pub use self::layout::{DatapathConfig, Endpoint, NetStats, PodCounters, PortConfig};
pub use self::maps::{CounterMap, EndpointMap, PortConfigMap, SharedAddress, SharedAddressMap};
pub use self::pins::{Datapath, PinState};
pub use self::program::ProgramName;
pub use self::remote::{
    NodeAddressMap, Peer, PeerMap, PeerWay, RemoteConfig, RemoteDatapath, RemoteStats, UnderlayProgram,
};
pub use self::set::MapSet;

/// The errors of this module are the errors of [`bpf`](crate::bpf).
#[doc(no_inline)]
pub use crate::bpf::{Error, Result};
