//! The first process of a node, in new namespaces: gives the node its own file systems, and then
//! holds the namespaces and reaps orphans.

use std::ffi::CString;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::process::{WaitOptions, wait};
use signal_hook::consts::SIGCHLD;
use signal_hook::iterator::Signals;

use crate::cgroups::{Hierarchies, ROOT};

/// The folders that each node has for itself.
pub(crate) const OWN_FOLDERS: [&str; 8] = [
    "/etc/cni",
    "/etc/kubernetes",
    "/opt/cni",
    "/opt/nri",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/log",
];

/// Settings that the kubelet writes, and that all namespaces of a machine share. A node gets a file
/// in place of each.
const SHARED_SYSCTLS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Files of the node that are not for its programs, on its own `/run`.
pub(crate) const RUN: &str = "/run/cluster";

/// The folder of the daemons for temporary files. The machine's `/tmp` is visible on the node.
pub(crate) const TMP: &str = "/run/cluster/tmp";

/// The properties of a node.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Host name
    #[arg(long)]
    pub(crate) name: String,
    /// Folder with the node's files
    #[arg(long)]
    pub(crate) state: PathBuf,
    /// The node's value of kernel.random.boot_id [default: the machine's]
    #[arg(long)]
    pub(crate) boot_id: Option<String>,
}

/// Prepares the node, prints the process id on this machine, and holds the namespaces.
pub(crate) fn run_node(options: &Options) -> Result<()> {
    // Outside of namespaces of its own, this process would change the mounts of the machine.
    if std::process::id() != 1 {
        bail!("only `up` runs this command, as the first process of a PID namespace");
    }
    let pid = outer_pid()?;
    // Decides by the machine's mounts, which the node's replace.
    let hierarchies = Hierarchies::of_machine()?;
    receive_mounts()?;
    rustix::system::sethostname(options.name.as_bytes()).context("cannot set the host name")?;
    new_mount("proc", "/proc", "")?;
    new_mount("tmpfs", "/run", "mode=755")?;
    fs::create_dir_all("/run/lock")?;
    fs::create_dir_all(TMP)?;
    new_mount("sysfs", "/sys", "")?;
    new_mount("bpf", "/sys/fs/bpf", "mode=700")?;
    mount_cgroups(&hierarchies)?;
    own_folders(&options.state)?;
    fs::create_dir_all("/etc/cni/net.d")?;
    for name in SHARED_SYSCTLS {
        let path = Path::new("/proc/sys").join(name);
        // A kernel without keys has no settings of keys.
        if let Ok(value) = fs::read_to_string(&path) {
            cover_file(&path, &value)?;
        }
    }
    if let Some(boot_id) = &options.boot_id {
        cover_file(Path::new("/proc/sys/kernel/random/boot_id"), &format!("{boot_id}\n"))?;
    }
    // containerd and the kubelet need mounts that propagate between the node and its pods.
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC).context("cannot share /")?;
    hold(pid)
}

/// Prints the process id on this machine, and holds the namespaces. `/sys` shows the new network.
pub(crate) fn run_world() -> Result<()> {
    let pid = outer_pid()?;
    receive_mounts()?;
    new_mount("sysfs", "/sys", "")?;
    hold(pid)
}

/// Mounts made here stay here. Unmounts on the machine arrive here: otherwise a node would keep the
/// machine's file systems busy.
fn receive_mounts() -> Result<()> {
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", flags).context("cannot separate the mounts from the machine's")
}

/// The id of this process in the PID namespace that mounted `/proc`: the machine's.
fn outer_pid() -> Result<String> {
    let link = fs::read_link("/proc/self").context("cannot read /proc/self")?;
    Ok(link.to_string_lossy().into_owned())
}

#[expect(clippy::print_stdout, reason = "the parent reads the process id from standard output")]
fn hold(pid: String) -> Result<()> {
    // Before the parent continues, so that no child ends unnoticed.
    let mut signals = Signals::new([SIGCHLD]).context("cannot handle SIGCHLD")?;
    println!("{pid}");
    std::io::stdout().flush()?;
    for _ in signals.forever() {
        // An error means that there is no child.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    }
    Ok(())
}

fn mount_cgroups(hierarchies: &Hierarchies) -> Result<()> {
    match hierarchies {
        Hierarchies::Unified => new_mount("cgroup2", ROOT, ""),
        Hierarchies::Separate(names) => {
            new_mount("tmpfs", ROOT, "mode=755")?;
            for name in names {
                let path = Path::new(ROOT).join(name);
                fs::create_dir(&path)?;
                match name.as_str() {
                    "unified" => new_mount("cgroup2", &path, "")?,
                    "systemd" => new_mount("cgroup", &path, "none,name=systemd")?,
                    _ => new_mount("cgroup", &path, name)?,
                }
            }
            Ok(())
        }
    }
}

/// Mounts the node's own folders. If the machine lacks a path, an overlay of the nearest folder has
/// it, so that nothing is created on the machine.
fn own_folders(state: &Path) -> Result<()> {
    let mut covered = Vec::new();
    for path in OWN_FOLDERS.map(Path::new).into_iter().filter(|path| !path.is_dir()) {
        let ancestor = path.ancestors().find(|ancestor| ancestor.is_dir()).context("the root folder exists")?;
        if !covered.iter().any(|overlay| ancestor.starts_with(overlay)) {
            let [upper, work] = ["upper", "work"].map(|part| Path::new(RUN).join(part).join(covered.len().to_string()));
            fs::create_dir_all(&upper)?;
            fs::create_dir_all(&work)?;
            let (lower, upper, work) = (ancestor.display(), upper.display(), work.display());
            new_mount("overlay", ancestor, &format!("lowerdir={lower},upperdir={upper},workdir={work}"))?;
            covered.push(ancestor);
        }
        fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    // An overlay would hide folders that are mounted before it.
    for path in OWN_FOLDERS {
        let own = state.join(path.trim_start_matches('/'));
        fs::create_dir_all(&own).with_context(|| format!("cannot create {}", own.display()))?;
        mount_bind(&own, path).with_context(|| format!("cannot bind {} to {path}", own.display()))?;
    }
    Ok(())
}

/// Mounts a file over a file of `/proc/sys`.
fn cover_file(path: &Path, content: &str) -> Result<()> {
    let own = Path::new(RUN).join(path.display().to_string().replace('/', "."));
    fs::write(&own, content)?;
    mount_bind(&own, path).with_context(|| format!("cannot bind {} to {}", own.display(), path.display()))
}

fn new_mount(kind: &str, path: impl AsRef<Path>, options: &str) -> Result<()> {
    let path = path.as_ref();
    let data = CString::new(options).context("mount options have no NUL")?;
    mount(kind, path, kind, MountFlags::empty(), data.as_c_str())
        .with_context(|| format!("cannot mount {kind} on {}", path.display()))
}
