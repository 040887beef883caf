//! A private host for one test.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::fstat;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change};

use crate::{Command, Footprint, Namespace, Pod, require, unshare};

/// The directory for scratch space, on the host's private `/run`.
const SCRATCH: &str = "/run/testbed";

/// Runs a test on a private host, and then checks for leftovers of the test.
///
/// The host is a thread with its own network and mount namespace. `lo` is up, and there is no other
/// link. `/sys` shows the new namespace, `/sys/fs/bpf` is an empty bpffs, `/run` and `/var/lib/cni`
/// are empty. Processes and threads started by the closure live on the host. The rest of the file
/// system is the machine's: write below [`Host::scratch`].
///
/// Skips the test without the privileges, see [`privileged`](crate::privileged).
///
/// # Panics
///
/// If the closure panics; if links, pins or files are left behind that [`Host::keep`] does not
/// name; if the process still holds the host's namespace.
#[track_caller]
pub fn host(test: impl FnOnce(&Host) + Send) {
    if !require::privileged() {
        return;
    }
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let body = || {
        let host = Host::enter();
        let before = host.footprint();
        test(&host);
        host.assert_clean(&before);
    };
    // The thread has the test's name, so that a panic shows it.
    let thread = std::thread::Builder::new().name(name);
    let ended = std::thread::scope(|scope| thread.spawn_scoped(scope, body).expect("a thread can be started").join());
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

/// The private host of one test: see [`host`].
#[derive(Debug)]
pub struct Host {
    netns: OwnedFd,
    kept: Mutex<Vec<String>>,
    scratches: AtomicU32,
}

impl Host {
    /// Moves the calling thread into new namespaces and mounts the host's file systems.
    fn enter() -> Self {
        unshare::unshare(true);
        // Without this, every mount made here would propagate to the machine.
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("/ can be made private");
        let host = Self { netns: unshare::current(), kept: Mutex::default(), scratches: AtomicU32::new(0) };
        furnish("tmpfs", "/run");
        fs::create_dir(SCRATCH).expect("the tmpfs is writable");
        // A sysfs shows the network namespace of the thread that mounted it: the machine's sysfs
        // would show the machine's links. The control groups below it are still the machine's,
        // because container runtimes need them.
        let cgroups = host.scratch();
        mount_bind_recursive("/sys/fs/cgroup", &cgroups).expect("control groups can be bound");
        furnish("sysfs", "/sys");
        mount_bind_recursive(&cgroups, "/sys/fs/cgroup").expect("control groups can be bound");
        furnish("bpf", "/sys/fs/bpf");
        host.empty_dir("/var/lib/cni");
        host.ip("link set lo up");
        host
    }

    /// Creates a pod on this host.
    #[must_use]
    pub fn pod(&self) -> Pod {
        Pod::new()
    }

    /// Creates an empty folder that disappears with the host.
    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        let number = self.scratches.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(SCRATCH).join(number.to_string());
        fs::create_dir(&path).unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
        path
    }

    /// Makes an absolute path an empty, writable folder that only this host sees.
    ///
    /// If the path does not exist, an overlay covers its nearest existing ancestor, so that the
    /// folder is not created on the machine.
    ///
    /// # Panics
    ///
    /// If a mount fails, because the overlay needs a kernel with overlayfs. Also if only the root
    /// folder of the path exists.
    pub fn empty_dir(&self, path: impl AsRef<Path>) {
        let path = path.as_ref();
        if !path.is_dir() {
            let ancestor = path.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/"));
            // A process with a covered root does not see the mount, so the folder
            // would be created on the machine.
            assert!(ancestor.parent().is_some(), "{} has no parent folder on this machine; create one", path.display());
            let [upper, work] = ["upper", "work"].map(|folder| {
                let path = self.scratch().join(folder);
                fs::create_dir(&path).expect("the scratch space is writable");
                path
            });
            let (lower, upper, work) = (ancestor.display(), upper.display(), work.display());
            let data = format!("lowerdir={lower},upperdir={upper},workdir={work}");
            let data = std::ffi::CString::new(data).expect("no path holds a NUL");
            mount("overlay", ancestor, "overlay", MountFlags::empty(), data.as_c_str())
                .unwrap_or_else(|error| panic!("cannot mount an overlay over {lower}: {error}"));
            fs::create_dir_all(path).expect("the overlay is writable");
        }
        furnish("tmpfs", path);
    }

    /// The network namespace of this host, by a path that is valid as long as the host.
    #[must_use]
    pub fn netns(&self) -> PathBuf {
        use std::os::fd::AsRawFd as _;
        format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_raw_fd()).into()
    }

    /// Links, addresses, routes, pins, and the files below `/var/lib/cni`.
    #[track_caller]
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        // Some kernels put two files of their own into every new bpffs.
        let preloaded = ["maps", "progs"].map(|name| format!("pin /sys/fs/bpf/{name}.debug"));
        let pins = Footprint::of_pins("/sys/fs/bpf").beyond(&Footprint::default(), &preloaded);
        Footprint::of_network(self).and(pins).and(Footprint::of_files("/var/lib/cni"))
    }

    /// Permits a leftover of the test, by the beginning of a line of a [`Footprint`], such as
    /// `link cbr0 `.
    pub fn keep(&self, start: &str) {
        self.kept.lock().expect("no test panics in here").push(start.to_owned());
    }

    fn assert_clean(&self, before: &Footprint) {
        let left = self.footprint().beyond(before, &self.kept.lock().expect("no test panics in here"));
        assert!(left.is_empty(), "the test left behind:\n{left}");
        let holders = holders(&self.netns);
        assert!(holders == 1, "the process holds {} more descriptors of the host's namespace", holders - 1);
    }
}

impl Namespace for Host {
    #[track_caller]
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        Command::new(program)
    }
}

/// Mounts a file system by its type, without options.
fn furnish(kind: &str, path: impl AsRef<Path>) {
    let path = path.as_ref();
    mount(kind, path, kind, MountFlags::empty(), None)
        .unwrap_or_else(|error| panic!("cannot mount {kind} on {}: {error}", path.display()));
}

/// The number of descriptors of this process for the given namespace.
fn holders(netns: &OwnedFd) -> usize {
    let inode = fstat(netns).expect("fstat of an open descriptor").st_ino;
    let link = PathBuf::from(format!("net:[{inode}]"));
    let descriptors = fs::read_dir("/proc/self/fd").expect("/proc is mounted");
    descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).filter(|target| *target == link).count()
}
