//! Own eBPF programs: loaded once, pinned as a whole, and attached to TC hooks.
//!
//! A plugin process ends after each call, so the kernel must keep its programs and maps. The BPF
//! file system gives them names, which are called *pins*.
//!
//! | type | for |
//! |---|---|
//! | [`PinSet`] | the pins of all programs and maps of a network: mounts the file system, loads once under a lock, publishes all pins or none, replaces another build in place |
//! | [`Program`] | an open pinned program, for [`Socket::replace_filter`](crate::netlink::Socket::replace_filter) and [`TcxLink`] |
//! | [`TcxLink`] | attaches a program to a TC hook without a qdisc |
//! | [`ensure_directory`] | mounts the file system, for pins of another kind |
//!
//! Programs and maps are passed as file descriptors, so every loader works: libbpf-rs in any
//! version, aya, or bpf(2). The programs of [`datapath`](crate::datapath) are pinned by a
//! [`PinSet`], too.
//!
//! # Building
//!
//! The feature `bpf` compiles the libbpf of the crate libbpf-sys. This needs a C compiler, make,
//! pkg-config and the headers of libelf and zlib, but no clang. A plugin that compiles its own
//! programs in its build script, for example with libbpf-cargo, needs clang for that step.
//!
//! # Example
//!
//! A plugin loads a skeleton that libbpf-cargo has generated, with the map `hits` and the program
//! `count_packets`. ADD calls `attach` for the host end of the veth pair of each pod.
//!
//! ```no_run
//! use std::error::Error;
//! use std::mem::MaybeUninit;
//! use std::os::fd::AsFd as _;
//!
//! use cnikit::bpf::{Direction, PinSet, TcxLink};
//! use cnikit::spec::{IfIndex, NetworkName};
//! use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};
//! # use libbpf_rs::{MapHandle, ProgramHandle};
//! # // What `include!(concat!(env!("OUT_DIR"), "/count.skel.rs"))` would define.
//! # #[derive(Default)]
//! # struct CountSkelBuilder { builder: libbpf_rs::ObjectBuilder }
//! # struct OpenCountSkel<'obj> { object: libbpf_rs::OpenObject, _storage: &'obj mut MaybeUninit<libbpf_rs::OpenObject> }
//! # struct CountSkel { maps: Maps, progs: Progs }
//! # struct Maps { hits: MapHandle }
//! # struct Progs { count_packets: ProgramHandle }
//! # impl CountSkelBuilder {
//! #     fn open(self, _storage: &mut MaybeUninit<libbpf_rs::OpenObject>) -> libbpf_rs::Result<OpenCountSkel<'_>> { unimplemented!() }
//! # }
//! # impl OpenCountSkel<'_> {
//! #     fn open_object_mut(&mut self) -> &mut libbpf_rs::OpenObject { &mut self.object }
//! #     fn load(self) -> libbpf_rs::Result<CountSkel> { unimplemented!() }
//! # }
//!
//! /// The object file, which identifies the build of the programs.
//! const OBJECT: &[u8] = // include_bytes!(concat!(env!("OUT_DIR"), "/count.bpf.o"));
//! #   b"";
//!
//! fn attach(network: &NetworkName, ifindex: IfIndex) -> Result<(), Box<dyn Error + Send + Sync>> {
//!     let set = PinSet::new("/sys/fs/bpf/my-plugin", network).layout(1);
//!     set.ensure(OBJECT, |pins| {
//!         let mut storage = MaybeUninit::uninit();
//!         let mut open = CountSkelBuilder::default().open(&mut storage)?;
//!         // An older build may have pinned the maps. Their entries survive.
//!         for mut map in open.open_object_mut().maps_mut() {
//!             if let Some(existing) = pins.existing_map(map.name())? {
//!                 map.reuse_fd(existing.as_fd())?;
//!             }
//!         }
//!         let skeleton = open.load()?;
//!         pins.pin("hits", &skeleton.maps.hits)?;
//!         pins.pin("count_packets", &skeleton.progs.count_packets)?;
//!         Ok(())
//!     })?;
//!
//!     // Attaches, replaces the program of an older build, or changes nothing.
//!     let program = set.open_program("count_packets")?;
//!     let pin = set.link_pins().join(ifindex.to_string());
//!     TcxLink::ensure(&program, ifindex, Direction::Ingress, pin)?;
//!     Ok(())
//! }
//! ```
//!
//! [`Socket::replace_filter`](crate::netlink::Socket::replace_filter) attaches the same program as
//! a filter, also on kernels before 6.6. On DEL of the last pod, [`PinSet::remove`] deletes the
//! pins.
//!
//! # Kernel
//!
//! 5.10 with `CONFIG_BPF_SYSCALL`. Loading programs and opening pins need `CAP_BPF` and
//! `CAP_NET_ADMIN`, or root. Mounting the BPF file system needs `CAP_SYS_ADMIN`.

pub(crate) mod bpffs;
pub(crate) mod error;
pub(crate) mod messages;
mod new_pins;
mod object;
pub(crate) mod pin_set;
pub(crate) mod prog_info;
mod program;
mod tcx;

pub use self::bpffs::ensure_directory;
pub use self::error::Error;
pub use self::new_pins::NewPins;
pub use self::pin_set::PinSet;
pub use self::program::Program;
pub use self::tcx::{Direction, TcxInfo, TcxLink, TcxProgram};

/// The result of a call of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;
