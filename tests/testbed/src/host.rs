//! The host: a machine of its own for one test.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::fstat;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change};

use crate::{Command, Footprint, Namespace, Pod, require, unshare};

/// Where the scratch space of a host lives: on its private `/run`.
const SCRATCH: &str = "/run/testbed";

/// Runs a test on a machine of its own, and searches that for what the test left behind.
///
/// The machine is a thread with its own network and mount namespace: `lo` is up and there is no other link; `/sys` shows
/// the new namespace, `/sys/fs/bpf` is an empty bpffs, `/run` and `/var/lib/cni` are empty. Processes and threads started
/// from the closure live in there. The rest of the file system is the machine's: write below [`Host::scratch`].
///
/// Skips the test if it lacks the privileges, see [`privileged`](crate::privileged).
///
/// # Panics
///
/// With whatever the closure panics; if links, pins or files are left behind that were not named to [`Host::keep`]; if
/// the process still holds the host's namespace.
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
    // The name is the test's, so that a panic names it.
    let thread = std::thread::Builder::new().name(name);
    let ended = std::thread::scope(|scope| thread.spawn_scoped(scope, body).expect("a thread can be started").join());
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

/// The machine of one test: see [`host`].
#[derive(Debug)]
pub struct Host {
    netns: OwnedFd,
    kept: Mutex<Vec<String>>,
    scratches: AtomicU32,
}

impl Host {
    /// Moves the calling thread into namespaces of its own and furnishes them.
    fn enter() -> Self {
        unshare::unshare(true);
        // Else every mount made here would show up on the machine as well.
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("/ can be made private");
        let host = Self { netns: unshare::current(), kept: Mutex::default(), scratches: AtomicU32::new(0) };
        furnish("tmpfs", "/run");
        fs::create_dir(SCRATCH).expect("the tmpfs is writable");
        // A sysfs shows the network namespace in which it was mounted: the machine's would show the machine's links.
        // The control groups below it are the machine's still; container runtimes need them.
        let cgroups = host.scratch();
        mount_bind_recursive("/sys/fs/cgroup", &cgroups).expect("control groups can be bound");
        furnish("sysfs", "/sys");
        mount_bind_recursive(&cgroups, "/sys/fs/cgroup").expect("control groups can be bound");
        furnish("bpf", "/sys/fs/bpf");
        host.empty_dir("/var/lib/cni");
        host.ip("link set lo up");
        host
    }

    /// A new pod beside this host.
    #[must_use]
    pub fn pod(&self) -> Pod {
        Pod::new()
    }

    /// A new empty folder that vanishes with the host.
    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        let number = self.scratches.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(SCRATCH).join(number.to_string());
        fs::create_dir(&path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        path
    }

    /// Makes an absolute path an empty, writable folder that only this host sees.
    ///
    /// Where the path does not exist, its next existing ancestor is covered by an overlay, so that the machine itself
    /// does not get the folder.
    ///
    /// # Panics
    ///
    /// If a mount fails, as the overlay needs a kernel with overlayfs; if nothing but the root folder exists of the path.
    pub fn empty_dir(&self, path: impl AsRef<Path>) {
        let path = path.as_ref();
        if !path.is_dir() {
            let ancestor = path.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/"));
            // A mount over the root is not seen by those whose root it covers, and the folder would be the machine's.
            assert!(ancestor.parent().is_some(), "no folder leads to {}: the machine needs one", path.display());
            let [upper, work] = ["upper", "work"].map(|folder| {
                let path = self.scratch().join(folder);
                fs::create_dir(&path).expect("the scratch space is writable");
                path
            });
            let (lower, upper, work) = (ancestor.display(), upper.display(), work.display());
            let data = format!("lowerdir={lower},upperdir={upper},workdir={work}");
            let data = std::ffi::CString::new(data).expect("no path holds a NUL");
            mount("overlay", ancestor, "overlay", MountFlags::empty(), data.as_c_str())
                .unwrap_or_else(|error| panic!("cannot lay an overlay over {lower}: {error}"));
            fs::create_dir_all(path).expect("the overlay is writable");
        }
        furnish("tmpfs", path);
    }

    /// The network namespace of this host, by a path that holds as long as the host does.
    #[must_use]
    pub fn netns(&self) -> PathBuf {
        use std::os::fd::AsRawFd as _;
        format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_raw_fd()).into()
    }

    /// Links, addresses, routes, pins, and the files below `/var/lib/cni`.
    #[track_caller]
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        // Some kernels put two files of their own into every new bpffs, and keep them there.
        let preloaded = ["maps", "progs"].map(|name| format!("pin /sys/fs/bpf/{name}.debug"));
        let pins = Footprint::of_pins("/sys/fs/bpf").beyond(&Footprint::default(), &preloaded);
        Footprint::of_network(self).and(pins).and(Footprint::of_files("/var/lib/cni"))
    }

    /// Names what the test may leave behind: the beginning of a line of a [`Footprint`], such as `link cbr0 `.
    pub fn keep(&self, start: &str) {
        self.kept.lock().expect("no test panics in here").push(start.to_owned());
    }

    fn assert_clean(&self, before: &Footprint) {
        let left = self.footprint().beyond(before, &self.kept.lock().expect("no test panics in here"));
        assert!(left.is_empty(), "the test left behind:\n{left}");
        let holders = holders(&self.netns);
        assert!(holders == 1, "the process holds the host's namespace by {} more descriptors", holders - 1);
    }
}

impl Namespace for Host {
    #[track_caller]
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        Command::new(program)
    }
}

/// Mounts a file system of its own kind, without options.
fn furnish(kind: &str, path: impl AsRef<Path>) {
    let path = path.as_ref();
    mount(kind, path, kind, MountFlags::empty(), None)
        .unwrap_or_else(|error| panic!("cannot mount {kind} on {}: {error}", path.display()));
}

/// How many descriptors of this process are the given namespace.
fn holders(netns: &OwnedFd) -> usize {
    let inode = fstat(netns).expect("an open descriptor has a state").st_ino;
    let link = PathBuf::from(format!("net:[{inode}]"));
    let descriptors = fs::read_dir("/proc/self/fd").expect("/proc is mounted");
    descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).filter(|target| *target == link).count()
}
