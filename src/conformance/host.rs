//! The private host for a trial, and its pods.

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
use crate::netlink::{IfIndex, Netns, Socket};

/// The directory for scratch files, on the host's own `/run`.
pub(super) const SCRATCH: &str = "/run/cni-conformance";

/// The directory for namespace files, as runtimes use it.
const NETNS_DIR: &str = "/run/netns";

/// The directory for the persistent state of plugins.
const STATE_DIR: &str = "/var/lib/cni";

/// A private host: the namespaces of the calling thread.
#[derive(Debug)]
pub(super) struct Host {
    netns: Netns,
    socket: Socket,
    pods: Cell<u32>,
    attachments: Cell<u32>,
}

/// A network namespace beside the host, with its own path.
#[derive(Debug)]
pub(super) struct Pod {
    netns: Netns,
    socket: Socket,
    path: PathBuf,
}

impl Host {
    /// Runs `work` on a new host.
    pub(super) fn run<T: Send>(work: impl FnOnce(&Host) -> T + Send) -> Result<T, Error> {
        Netns::run_apart(|| Host::set_up().map(|host| work(&host)))?
    }

    /// Sets up the new namespaces of the calling thread.
    fn set_up() -> Result<Self, Error> {
        // Otherwise every mount made here would also appear on the machine.
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(|errno| failed("make the mounts private in", "/", errno))?;
        mount_over("tmpfs", "/run")?;
        create_dir(SCRATCH)?;
        create_dir(NETNS_DIR)?;
        // A sysfs shows the network namespace of the process that mounted it. The cgroups in it
        // remain the machine's cgroups.
        let cgroups = Path::new(SCRATCH).join("cgroup");
        create_dir(&cgroups)?;
        let bound = mount_bind_recursive("/sys/fs/cgroup", &cgroups).is_ok();
        mount_over("sysfs", "/sys")?;
        if bound {
            mount_bind_recursive(&cgroups, "/sys/fs/cgroup").map_err(|e| failed("bind", "/sys/fs/cgroup", e))?;
            // Rules list the scratch directory for leftovers, so it must not contain the cgroups.
            unmount(&cgroups, UnmountFlags::DETACH).map_err(|errno| failed("unmount", &cgroups, errno))?;
        }
        if Path::new("/sys/fs/bpf").is_dir() {
            mount_over("bpf", "/sys/fs/bpf")?;
        }
        if !Path::new(STATE_DIR).is_dir() {
            // The directory must not appear on the machine.
            overlay("/var/lib")?;
            create_dir(STATE_DIR)?;
        }
        mount_over("tmpfs", STATE_DIR)?;
        let netns = Netns::current()?;
        let socket = Socket::open()?;
        socket.set_up(IfIndex::LOOPBACK)?;
        Ok(Self { netns, socket, pods: Cell::new(0), attachments: Cell::new(0) })
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

    /// The number of a new attachment that the suite makes itself, from 1.
    pub(super) fn next_attachment(&self) -> u32 {
        self.attachments.set(self.attachments.get() + 1);
        self.attachments.get()
    }

    /// The host's own namespace, mounted at a path like a pod's.
    pub(super) fn own_netns(&self) -> Result<PathBuf, Error> {
        let path = Path::new(NETNS_DIR).join("host");
        if !path.exists() {
            bind(&self.netns, &path)?;
        }
        Ok(path)
    }

    /// A new empty directory that is removed with the host.
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

    /// The pod's namespace.
    pub(super) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The value for `CNI_NETNS`.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Ends the pod with its links and removes its path. Returns the path.
    pub(super) fn end(self) -> Result<PathBuf, Error> {
        unmount(&self.path, UnmountFlags::DETACH).map_err(|errno| failed("unmount", &self.path, errno))?;
        fs::remove_file(&self.path).map_err(|source| error("remove", &self.path, source))?;
        Ok(self.path)
    }

    /// Ends the pod and creates another one at the same path.
    pub(super) fn replace(self) -> Result<Pod, Error> {
        Pod::at(self.end()?)
    }

    /// Whether the namespace is still mounted at the path.
    pub(super) fn is_in_place(&self) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(&self.path).is_ok_and(|there| there.ino() == self.inode())
    }

    /// The inode number of the namespace.
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

/// Mounts a new file system over a directory.
fn mount_over(kind: &'static str, path: &str) -> Result<(), Error> {
    mount(kind, path, kind, MountFlags::empty(), None).map_err(|errno| failed("mount a file system on", path, errno))
}

/// Mounts an overlay over a directory, so that new files are visible only here.
fn overlay(path: &str) -> Result<(), Error> {
    let [upper, work] = ["upper", "work"].map(|name| Path::new(SCRATCH).join(name));
    create_dir(&upper)?;
    create_dir(&work)?;
    let data = format!("lowerdir={path},upperdir={},workdir={}", upper.display(), work.display());
    let data = CString::new(data).map_err(|nul| error("name", path, nul.into()))?;
    mount("overlay", path, "overlay", MountFlags::empty(), data.as_c_str())
        .map_err(|errno| failed("mount an overlay on", path, errno))
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
