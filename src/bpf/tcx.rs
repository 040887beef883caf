//! TCX links.
#![expect(unsafe_code, reason = "libbpf-rs wraps no call that attaches a program by its descriptor")]

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr;

use libbpf_rs::libbpf_sys as sys;
use libbpf_rs::query::{LinkInfo, LinkTypeInfo};

use super::error::io_error;
use super::object::{self, Kind, check};
use super::{Error, Result, bpffs};
use crate::spec::IfIndex;

/// A BPF link that attaches a program to a TCX hook of an interface.
///
/// The program can come from any author: any type with a descriptor of a loaded
/// `BPF_PROG_TYPE_SCHED_CLS` program works, such as the programs of libbpf-rs.
///
/// The kernel detaches the program when the last descriptor of the link is closed, unless the link
/// is [pinned](TcxLink::pin). A link is dead if its interface was deleted. A dead link holds no
/// program and accepts none, but its pin stays.
///
/// A hook runs its programs in the order of their attachment, and then the filters of a clsact or
/// ingress qdisc. `TC_ACT_UNSPEC` (-1, `TCX_NEXT`) passes the packet to the next program. Every
/// other verdict ends the chain.
///
/// Interface indexes belong to the network namespace of the calling thread. For another namespace,
/// call within [`Netns::run`](crate::netlink::Netns::run).
///
/// ```no_run
/// use cnikit::{
///     bpf::{Direction, TcxLink},
///     spec::IfIndex,
/// };
/// # fn program() -> std::os::fd::OwnedFd { unimplemented!() }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (program, eth7) = (program(), IfIndex::try_from(7)?);
/// // Attaches and pins, replaces in place, or changes nothing: repeated calls are safe.
/// TcxLink::ensure(&program, eth7, Direction::Ingress, "/sys/fs/bpf/my-plugin/eth7")?;
/// for program in TcxLink::attached(eth7, Direction::Ingress)? {
///     println!("program {} by link {:?}", program.program_id, program.link_id);
/// }
/// TcxLink::remove("/sys/fs/bpf/my-plugin/eth7")?;
/// # Ok(())
/// # }
/// ```
///
/// # Kernel
///
/// 6.6 with `CONFIG_NET_XGRESS`. Loading a program and opening a pin need `CAP_BPF` and
/// `CAP_NET_ADMIN`, or root. Attaching needs only the descriptor of the program. Attaching and
/// detaching each wait about 10 ms for the kernel's RCU readers, and no interface of the machine
/// can be changed during that time. A filter in a clsact qdisc,
/// [`Socket::replace_filter`](crate::netlink::Socket::replace_filter), takes 0.1 ms and works since
/// 4.5, but occupies the slot of the qdisc.
#[doc(alias = "BPF_LINK_TYPE_TCX")]
#[derive(Debug)]
pub struct TcxLink(OwnedFd);

/// The direction of the packets that a hook sees.
///
/// Closed: the kernel has these two TCX hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Received packets. On the host end of a veth pair, these are the packets that the pod sends.
    Ingress,
    /// Transmitted packets.
    Egress,
}

/// The kernel's information about a TCX link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcxInfo {
    /// The id of the link, as `bpftool link show id` takes it.
    pub link_id: u32,
    /// The id of the program. A dead link keeps its program loaded.
    pub program_id: u32,
    /// The index of the interface. `None` for a dead link: its interface was deleted, or it was
    /// detached.
    pub ifindex: Option<IfIndex>,
    /// The hook.
    pub direction: Direction,
}

/// A program on a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcxProgram {
    /// The id of the program.
    pub program_id: u32,
    /// The id of the link that holds the program. `None` for a program attached without a link.
    pub link_id: Option<u32>,
}

impl TcxLink {
    /// Attaches a program behind the programs that are already attached.
    ///
    /// # Errors
    ///
    /// [`Error::TcxUnsupported`] on a kernel without TCX. Otherwise [`Error::Tcx`]: `ENODEV` if the
    /// interface does not exist, `EINVAL` for a program of another type, `ERANGE` if the hook
    /// already has 64 programs.
    pub fn attach(program: &impl AsFd, ifindex: IfIndex, direction: Direction) -> Result<Self> {
        let (program, target) = (program.as_fd().as_raw_fd(), ifindex.get().cast_signed());
        // SAFETY: both descriptors are open, and no options are passed.
        let made = check(unsafe { sys::bpf_link_create(program, target, direction.attach_type(), ptr::null()) });
        match made {
            // SAFETY: the kernel has just returned this descriptor, and no other code owns it.
            Ok(fd) => Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) })),
            Err(error) => Err(match Self::attached(ifindex, direction) {
                // EINVAL has many causes. It means a missing hook only if listing the hook fails
                // too.
                Err(unsupported @ Error::TcxUnsupported) => unsupported,
                _ => Error::tcx("attach the program to TCX", hook(ifindex, direction), error),
            }),
        }
    }

    /// Attaches a program and pins the link at `path`.
    ///
    /// If a link is pinned there, the program replaces that link's program, and no packet sees a
    /// gap. A pinned link that is dead or on another hook is replaced. Missing directories of
    /// `path` are created. Concurrent callers attach once.
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach), [`open`](Self::open) except for a missing pin, and
    /// [`pin`](Self::pin). [`Error::Locked`] if another caller hangs.
    pub fn ensure(program: &impl AsFd, ifindex: IfIndex, direction: Direction, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let directory = path.parent().unwrap_or(path);
        bpffs::check_name(path.file_name().unwrap_or_default())?;
        bpffs::ensure_directory(directory)?;
        let _lock = bpffs::lock(directory, bpffs::LOCK_TIMEOUT)?;
        match Self::open(path) {
            Ok(link) => {
                let info = link.info()?;
                if (info.ifindex, info.direction) == (Some(ifindex), direction) {
                    if info.program_id != program_id(program)? {
                        link.update(program)?;
                    }
                    return Ok(link);
                }
                link.detach()?;
                fs::remove_file(path).map_err(|error| Error::pin("remove the pin", path, error))?;
            }
            Err(error) if error.is_missing_pin() => {}
            Err(error) => return Err(error),
        }
        let link = Self::attach(program, ifindex, direction)?;
        link.pin(path)?;
        Ok(link)
    }

    /// Opens the link that is pinned at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`]: its source is `NotFound` if the pin does not exist, and `InvalidData` if the
    /// pin is not a TCX link.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |error| Error::pin("open the pinned link", path, error);
        let link = Self(object::open(path, Kind::Link).map_err(failed)?);
        match link.info() {
            Ok(_) => Ok(link),
            Err(Error::Tcx { source, .. }) if source.kind() == io::ErrorKind::InvalidData => {
                Err(failed(io::Error::new(io::ErrorKind::InvalidData, "the pin is not a TCX link")))
            }
            Err(error) => Err(error),
        }
    }

    /// The links that are pinned in a directory, with the paths of their pins.
    ///
    /// A directory that does not exist has no links. Pins that disappear during the call are left
    /// out.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn pinned(directory: impl AsRef<Path>) -> Result<Vec<(PathBuf, Self)>> {
        let directory = directory.as_ref();
        let failed = |error| Error::pin("list the pinned links in", directory, error);
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut links = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            match Self::open(&path) {
                Err(error) if error.is_missing_pin() => {}
                link => links.push((path, link?)),
            }
        }
        Ok(links)
    }

    /// Detaches and removes the link that is pinned at `path`. An absent pin is success.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open) for a pin that is not a TCX link, as [`detach`](Self::detach), and
    /// [`Error::Pin`]. [`Error::Locked`] if another caller hangs.
    pub fn remove(path: impl AsRef<Path>) -> Result<()> {
        Self::remove_if(path.as_ref(), |_| true)
    }

    /// Removes the pin at `path` if its link is dead. A pin that a concurrent
    /// [`ensure`](Self::ensure) has replaced stays.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub fn remove_dead(path: impl AsRef<Path>) -> Result<()> {
        Self::remove_if(path.as_ref(), |info| info.ifindex.is_none())
    }

    fn remove_if(path: &Path, is_meant: impl Fn(&TcxInfo) -> bool) -> Result<()> {
        let directory = path.parent().unwrap_or(path);
        if !path.try_exists().map_err(|error| Error::pin("look for the pin", path, error))? {
            return Ok(());
        }
        let _lock = bpffs::lock(directory, bpffs::LOCK_TIMEOUT)?;
        let link = match Self::open(path) {
            Err(error) if error.is_missing_pin() => return Ok(()),
            link => link?,
        };
        if !is_meant(&link.info()?) {
            return Ok(());
        }
        link.detach()?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::pin("remove the pin", path, error)),
            _ => Ok(()),
        }
    }

    /// The programs on a hook, in the order of their execution, from all authors.
    ///
    /// Filters of clsact qdiscs are not included: see
    /// [`Socket::filters`](crate::netlink::Socket::filters).
    ///
    /// # Errors
    ///
    /// [`Error::TcxUnsupported`] on a kernel without TCX. Otherwise [`Error::Tcx`]: `ENODEV` if the
    /// interface does not exist, `EPERM` without `CAP_NET_ADMIN`.
    #[doc(alias = "BPF_PROG_QUERY")]
    pub fn attached(ifindex: IfIndex, direction: Direction) -> Result<Vec<TcxProgram>> {
        // `BPF_MPROG_MAX`, the limit of a hook.
        const MAX_PROGRAMS: usize = 64;
        let (mut programs, mut links) = ([0; MAX_PROGRAMS], [0; MAX_PROGRAMS]);
        let mut options = sys::bpf_prog_query_opts {
            sz: size_of::<sys::bpf_prog_query_opts>() as sys::size_t,
            prog_ids: programs.as_mut_ptr(),
            link_ids: links.as_mut_ptr(),
            ..Default::default()
        };
        options.__bindgen_anon_1.count = MAX_PROGRAMS as u32;
        // SAFETY: the kernel writes at most `count` numbers to each array, and `count` is their
        // length.
        let queried =
            unsafe { sys::bpf_prog_query_opts(ifindex.get().cast_signed(), direction.attach_type(), &raw mut options) };
        check(queried).map_err(|error| match error.raw_os_error() {
            Some(code) if code == rustix::io::Errno::INVAL.raw_os_error() => Error::TcxUnsupported,
            _ => Error::tcx("list the programs of TCX", hook(ifindex, direction), error),
        })?;
        // SAFETY: the members of the union are two names of one number.
        let count = unsafe { options.__bindgen_anon_1.count } as usize;
        let found = programs.into_iter().zip(links).take(count);
        Ok(found.map(|(program_id, id)| TcxProgram { program_id, link_id: Some(id).filter(|id| *id != 0) }).collect())
    }

    /// Pins the link, so that it outlives this process.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`]: `EEXIST` if the path exists, `EPERM` if a capability is missing.
    /// [`Error::PinName`] for a name that contains a `.`, which the BPF file system refuses.
    pub fn pin(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        bpffs::check_name(path.file_name().unwrap_or_default())?;
        object::pin(self.0.as_fd(), path).map_err(|error| Error::pin("pin the link", path, error))
    }

    /// Replaces the program of the link atomically: each packet sees one of the two programs.
    ///
    /// # Errors
    ///
    /// [`Error::Tcx`]: `ENOLINK` for a dead link, `EINVAL` for a program of another type.
    pub fn update(&self, program: &impl AsFd) -> Result<()> {
        let program = program.as_fd().as_raw_fd();
        // SAFETY: both descriptors are open, and no options are passed.
        let updated = check(unsafe { sys::bpf_link_update(self.0.as_raw_fd(), program, ptr::null()) });
        updated.map(drop).map_err(|error| Error::tcx("replace the program of", "a TCX link".to_owned(), error))
    }

    /// Detaches the program from its hook. Afterwards the link is dead, even if it is pinned or
    /// other processes hold it. Detaching a dead link is success.
    ///
    /// # Errors
    ///
    /// [`Error::Tcx`] if the kernel refuses.
    pub fn detach(&self) -> Result<()> {
        // SAFETY: the descriptor is open.
        let detached = check(unsafe { sys::bpf_link_detach(self.0.as_raw_fd()) });
        detached.map(drop).map_err(|error| Error::tcx("detach", "a TCX link".to_owned(), error))
    }

    /// The program and the hook of the link.
    ///
    /// # Errors
    ///
    /// [`Error::Tcx`] if the kernel refuses.
    pub fn info(&self) -> Result<TcxInfo> {
        let failed = |error| Error::tcx("read the information of", "a TCX link".to_owned(), error);
        let info = LinkInfo::from_fd(self.0.as_fd()).map_err(|error| failed(io_error(error)))?;
        let LinkTypeInfo::Tcx(tcx) = &info.info else { return Err(failed(io::ErrorKind::InvalidData.into())) };
        let egress = matches!(tcx.attach_type, libbpf_rs::ProgramAttachType::TcxEgress);
        Ok(TcxInfo {
            link_id: info.id,
            program_id: info.prog_id,
            ifindex: IfIndex::new(tcx.ifindex),
            direction: if egress { Direction::Egress } else { Direction::Ingress },
        })
    }
}

impl AsFd for TcxLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Direction {
    const fn attach_type(self) -> sys::bpf_attach_type {
        match self {
            Self::Ingress => sys::BPF_TCX_INGRESS,
            Self::Egress => sys::BPF_TCX_EGRESS,
        }
    }
}

fn program_id(program: &impl AsFd) -> Result<u32> {
    libbpf_rs::Program::id_from_fd(program.as_fd())
        .map_err(|error| Error::tcx("read the information of", "the program".to_owned(), io_error(error)))
}

fn hook(ifindex: IfIndex, direction: Direction) -> String {
    let direction = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    format!("{direction} of link {ifindex}")
}
