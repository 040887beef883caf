//! What an operator can do about an error, by what the kernel said and by what this node shows of itself.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use cnikit::{datapath, ipam, netlink};
use rustix::io::Errno;

use super::Error;

/// Where no other remedy is known.
pub(super) const REPORT: &str = "look into dmesg; where that says nothing, report it with the release of the kernel";
const REMOUNT_BPFFS: &str = "mount -o remount,rw /sys/fs/bpf";

/// What to do about an error of a command.
pub(crate) fn of(error: &Error) -> String {
    match error {
        Error::Leases(error) => of_ipam(error),
        Error::Datapath(error) => of_datapath(error),
        Error::Netlink(error) => of_netlink(error),
        Error::Library(cnikit::Error::Datapath(error)) => of_datapath(error),
        Error::Library(cnikit::Error::Netlink(error)) => of_netlink(error),
        _ => REPORT.into(),
    }
}

/// What to do where a file of an operator's cannot be read or written, as part of a message.
pub(crate) fn of_file(source: &io::Error) -> &'static str {
    match source.kind() {
        ErrorKind::PermissionDenied => " (run it as root)",
        ErrorKind::ReadOnlyFilesystem => " (name a directory on a file system that can be written)",
        _ => "",
    }
}

/// What to do where leases cannot be kept.
pub(crate) fn of_ipam(error: &ipam::Error) -> String {
    match error {
        ipam::Error::Shared { path, uid: Some(_) } => format!("chown root {}", path.display()),
        ipam::Error::Shared { path, uid: None } => format!("chmod go-w {}", path.display()),
        ipam::Error::Linked { path } => format!("rm {0}; install -d -m 755 {0}", path.display()),
        ipam::Error::Io { path, source, .. } => {
            let shown = path.display();
            match source.kind() {
                ErrorKind::ReadOnlyFilesystem => {
                    format!("mount -o remount,rw $(findmnt -no TARGET -T {shown}), or name another \"dataDir\"")
                }
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    format!("free space or inodes there (df {shown}; df -i {shown}), or name another \"dataDir\"")
                }
                ErrorKind::InvalidInput => format!("rm {shown}: the plugin makes its own"),
                ErrorKind::NotADirectory => format!("move the file away that has the place of {shown}"),
                // Root is refused by an attribute of the directory, or by what is told of there.
                ErrorKind::PermissionDenied => {
                    format!("lsattr -d {shown}; where that shows an i, chattr -i {shown}; else: {}", refused())
                }
                _ => format!("look at {shown}, and into dmesg for its disk"),
            }
        }
        _ => REPORT.into(),
    }
}

/// What to do where the programs cannot be loaded or pinned.
pub(crate) fn of_datapath(error: &datapath::Error) -> String {
    use datapath::Error::{Layout, Load, Locked, Map, Mount, NewerLayout, NotBpffs, Pin, Tcx};

    match error {
        Layout { path, .. } => {
            format!("drain the node, then rm -r {}", path.parent().unwrap_or(path).display())
        }
        NewerLayout { .. } => "install the newer build again".into(),
        Locked { path, .. } => format!("fuser -v {}, for the process that holds it", path.display()),
        NotBpffs { .. } => "umount what lies over /sys/fs/bpf".into(),
        Mount { source, .. } if source.kind() == ErrorKind::NotFound => "boot a kernel with CONFIG_BPF_SYSCALL".into(),
        Mount { source, .. } | Load { source } | Pin { source, .. } | Map { source, .. } | Tcx { source, .. } => {
            match source.kind() {
                ErrorKind::ReadOnlyFilesystem => REMOUNT_BPFFS.into(),
                ErrorKind::PermissionDenied => refused(),
                ErrorKind::Unsupported => "boot a kernel with CONFIG_BPF_SYSCALL and CONFIG_BPF_JIT".into(),
                ErrorKind::OutOfMemory | ErrorKind::StorageFull => {
                    "give it memory: eBPF maps count against the control group of whoever makes them (memory.max), and \
                     before Linux 5.11 against ulimit -l"
                        .into()
                }
                _ => REPORT.into(),
            }
        }
        _ => REPORT.into(),
    }
}

/// What to do where the kernel refuses a request about links, qdiscs or the packet filter.
pub(crate) fn of_netlink(error: &netlink::Error) -> String {
    if let netlink::Error::Unsupported { module, .. } = error {
        return with_module(module);
    }
    let is_one = |errnos: &[Errno]| errnos.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
    if is_one(&[Errno::PERM, Errno::ACCESS]) {
        refused()
    } else if is_one(&[Errno::NOSPC, Errno::USERS]) && matches!(error, netlink::Error::Netns { .. }) {
        "raise user.max_net_namespaces by sysctl, or remove namespaces: ip netns, lsns -t net".into()
    } else if is_one(&[Errno::NOMEM, Errno::NOBUFS]) {
        "free memory, or raise the limit of the control group that this runs in".into()
    } else {
        REPORT.into()
    }
}

/// The same, for a request that needs an option of the kernel's, which comes as a module.
pub(crate) fn of_netlink_by(error: &netlink::Error, option: &str, module: &str) -> String {
    const LACKING: [Errno; 5] =
        [Errno::NOENT, Errno::OPNOTSUPP, Errno::PROTONOSUPPORT, Errno::AFNOSUPPORT, Errno::NOSYS];
    if LACKING.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) {
        if module.is_empty() {
            format!("boot a kernel with {option}")
        } else {
            format!("{} ({option})", with_module(module))
        }
    } else {
        of_netlink(error)
    }
}

fn with_module(module: &str) -> String {
    format!("modprobe {module}, and name it in /etc/modules-load.d; or boot a kernel that has it")
}

/// What on this node may refuse root what it asks for, as far as that can be seen.
fn refused() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut refusers = Vec::new();
    // Root of a namespace is root of nothing else. The first one maps all there are.
    if Path::new("/proc/self/uid_map").exists()
        && read("/proc/self/uid_map").split_whitespace().ne(["0", "0", "4294967295"])
    {
        refusers.push("this process is in a user namespace: run it outside of it, as root of the node".to_owned());
    }
    if read("/proc/self/status")
        .lines()
        .any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() != "0"))
    {
        refusers.push(
            "a seccomp filter holds this process: run it outside of the container or unit that sets it".to_owned(),
        );
    }
    // The mode that is on stands in brackets.
    let lockdown = read("/sys/kernel/security/lockdown");
    if let Some(mode) = lockdown.split_whitespace().find(|mode| mode.starts_with('[') && *mode != "[none]") {
        refusers.push(format!("the kernel is in lockdown {mode}: boot it without lockdown="));
    }
    let modules = read("/sys/kernel/security/lsm");
    let modules: Vec<&str> =
        modules.split(',').filter(|one| ["selinux", "apparmor", "smack", "tomoyo", "bpf"].contains(one)).collect();
    if !modules.is_empty() {
        refusers.push(format!("a rule of {} may refuse it: dmesg or ausearch -m avc tells", modules.join(" or ")));
    }
    if refusers.is_empty() { "run it as root of the node, with all capabilities".into() } else { refusers.join("; ") }
}
