//! The private host that a rule is tried on, and the pods beside it.

use std::cell::Cell;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change, unmount,
};

use super::Error;
use crate::netlink::{LOOPBACK_INDEX, Netns, Socket};

/// Scratch space, on the host's own `/run`.
pub(super) const SCRATCH: &str = "/run/cni-conformance";

/// Where namespaces are mounted, as runtimes do.
const NETNS_DIR: &str = "/run/netns";

/// Where plugins keep what must last.
const STATE_DIR: &str = "/var/lib/cni";

/// A machine of its own: the calling thread's.
#[derive(Debug)]
pub(super) struct Host {
    netns: Netns,
    socket: Socket,
    pods: Cell<u32>,
}

/// A network namespace beside the host, at a path of its own.
#[derive(Debug)]
pub(super) struct Pod {
    netns: Netns,
    socket: Socket,
    path: PathBuf,
}

impl Host {
    /// Runs `work` on a new host.
    pub(super) fn run<T: Send>(work: impl FnOnce(&Host) -> T + Send) -> Result<T, Error> {
        Netns::run_apart(|| Host::furnish().map(|host| work(&host)))?
    }

    /// Furnishes the namespaces that the calling thread is alone in.
    fn furnish() -> Result<Self, Error> {
        // Else every mount made here would show up on the machine as well.
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(|errno| failed("make the mounts private below", "/", errno))?;
        cover("tmpfs", "/run")?;
        create_dir(SCRATCH)?;
        create_dir(NETNS_DIR)?;
        // A sysfs shows the network namespace in which it was mounted. The control groups below stay the machine's.
        let cgroups = Path::new(SCRATCH).join("cgroup");
        create_dir(&cgroups)?;
        let bound = mount_bind_recursive("/sys/fs/cgroup", &cgroups).is_ok();
        cover("sysfs", "/sys")?;
        if bound {
            mount_bind_recursive(&cgroups, "/sys/fs/cgroup").map_err(|e| failed("bind", "/sys/fs/cgroup", e))?;
            // Scratch space is listed when a rule looks for what was left: it must not lead into the control groups.
            unmount(&cgroups, UnmountFlags::DETACH).map_err(|errno| failed("unmount", &cgroups, errno))?;
        }
        if Path::new("/sys/fs/bpf").is_dir() {
            cover("bpf", "/sys/fs/bpf")?;
        }
        if !Path::new(STATE_DIR).is_dir() {
            // The directory must not appear on the machine.
            overlay("/var/lib")?;
            create_dir(STATE_DIR)?;
        }
        cover("tmpfs", STATE_DIR)?;
        let netns = Netns::current()?;
        let socket = Socket::open()?;
        socket.set_up(LOOPBACK_INDEX)?;
        Ok(Self { netns, socket, pods: Cell::new(0) })
    }

    /// A socket in the host's namespace.
    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// A new pod.
    pub(super) fn pod(&self) -> Result<Pod, Error> {
        self.pods.set(self.pods.get() + 1);
        let path = Path::new(NETNS_DIR).join(format!("pod-{}", self.pods.get()));
        Pod::at(path)
    }

    /// The host's own namespace at a path like a pod's.
    pub(super) fn own_netns(&self) -> Result<PathBuf, Error> {
        let path = Path::new(NETNS_DIR).join("host");
        if !path.exists() {
            bind(&self.netns, &path)?;
        }
        Ok(path)
    }

    /// A new empty directory that ends with the host.
    pub(super) fn scratch(&self, name: &str) -> Result<PathBuf, Error> {
        let path = Path::new(SCRATCH).join(name);
        create_dir(&path)?;
        Ok(path)
    }
}

impl Pod {
    fn at(path: PathBuf) -> Result<Self, Error> {
        let netns = Netns::create()?;
        bind(&netns, &path)?;
        let socket = netns.socket()?;
        Ok(Self { netns, socket, path })
    }

    /// A socket in the pod's namespace.
    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// What `CNI_NETNS` says.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Ends the pod: its links go, and its path with it. Returns the path.
    pub(super) fn end(self) -> Result<PathBuf, Error> {
        unmount(&self.path, UnmountFlags::DETACH).map_err(|errno| failed("unmount", &self.path, errno))?;
        fs::remove_file(&self.path).map_err(|source| error("remove", &self.path, source))?;
        Ok(self.path)
    }

    /// Ends the pod, and another one takes over its path.
    pub(super) fn replace(self) -> Result<Pod, Error> {
        Pod::at(self.end()?)
    }

    /// Whether the namespace is still at the path.
    pub(super) fn is_in_place(&self) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(&self.path).is_ok_and(|there| there.ino() == self.inode())
    }

    /// The kernel's number of the namespace.
    pub(super) fn inode(&self) -> u64 {
        self.netns.id().inode
    }
}

/// Mounts a namespace on a file.
fn bind(netns: &Netns, path: &Path) -> Result<(), Error> {
    use std::os::fd::AsFd as _;
    fs::File::create(path).map_err(|source| error("create", path, source))?;
    let source = format!("/proc/self/fd/{}", netns.as_fd().as_raw_fd());
    mount_bind(source, path).map_err(|errno| failed("mount a network namespace on", path, errno))
}

/// Mounts a new file system of a kind over a directory.
fn cover(kind: &'static str, path: &str) -> Result<(), Error> {
    mount(kind, path, kind, MountFlags::empty(), None).map_err(|errno| failed("mount a file system on", path, errno))
}

/// Lays a writable layer over a directory, so that what is made there is seen here only.
fn overlay(path: &str) -> Result<(), Error> {
    let [upper, work] = ["upper", "work"].map(|name| Path::new(SCRATCH).join(name));
    create_dir(&upper)?;
    create_dir(&work)?;
    let data = format!("lowerdir={path},upperdir={},workdir={}", upper.display(), work.display());
    let data = CString::new(data).map_err(|nul| error("name", path, nul.into()))?;
    mount("overlay", path, "overlay", MountFlags::empty(), data.as_c_str())
        .map_err(|errno| failed("lay an overlay over", path, errno))
}

fn create_dir(path: impl AsRef<Path>) -> Result<(), Error> {
    let path = path.as_ref();
    fs::create_dir_all(path).map_err(|source| error("create", path, source))
}

fn failed(operation: &'static str, path: impl AsRef<Path>, errno: rustix::io::Errno) -> Error {
    error(operation, path, errno.into())
}

fn error(operation: &'static str, path: impl AsRef<Path>, source: io::Error) -> Error {
    Error::Host { operation, path: path.as_ref().to_owned(), source }
}
