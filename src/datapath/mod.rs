//! The eBPF datapath: TC programs that count what pods send and deliver it straight into the
//! target pod, and the maps that tell them how.
//!
//! A [`Datapath`] is one network's set of programs and maps, pinned in a directory on the BPF file
//! system. [`Datapath::ensure`] loads and pins the set once; every later caller opens the pins. The
//! set appears under its name whole or not at all, whatever happens to the process that loads it.
//!
//! Attaching is not done here: a program is a file descriptor ([`Program`]), and
//! [`netlink`](crate::netlink) hangs it on a TC hook. A network's maps say nothing of other
//! networks, so pods of different networks never reach each other by this path.
//!
//! # What the programs do
//!
//! | program | hook | does |
//! |---|---|---|
//! | [`ProgramName::Main`] | ingress of each host veth and of the bridge | counts by source address, redirects packets for local pods into the pod |
//! | [`ProgramName::Egress`] | egress of the same devices | counts what the bridge delivers to pods |
//!
//! Whatever they do not redirect goes on to the bridge, as if they were not there.
//!
//! # Kernel
//!
//! 5.10 or newer with `CONFIG_BPF_SYSCALL` and `CONFIG_NET_CLS_BPF`; `CAP_BPF` and `CAP_NET_ADMIN`
//! (or root) to load and to open pins, `CAP_SYS_ADMIN` to mount the BPF file system.
//!
//! # Example
//!
//! ```no_run
//! use std::net::IpAddr;
//!
//! use cnikit::datapath::{Datapath, PodPort};
//! use cnikit::spec::MacAddr;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let datapath = Datapath::new("/sys/fs/bpf/my-plugin", &"mynet".parse()?);
//! datapath.ensure()?;
//!
//! let pod: IpAddr = "10.244.1.2".parse()?;
//! let mac = MacAddr::new([0x02, 0, 0, 0, 0, 0x01]);
//! datapath.counters()?.track(pod)?;
//! datapath.ports()?.insert(pod, PodPort { ifindex: 7, mac })?;
//!
//! println!("{:?}", datapath.counters()?.read(pod)?);
//! # Ok(())
//! # }
//! ```

mod bpffs;
mod error;
mod layout;
mod maps;
mod pins;
mod skeleton;

pub use self::error::Error;
pub use self::layout::{NetConfig, NetStats, PodCounters, PodPort};
pub use self::maps::{CounterMap, PortMap};
pub use self::pins::{Datapath, Program, ProgramName};

/// What calls of this module return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
