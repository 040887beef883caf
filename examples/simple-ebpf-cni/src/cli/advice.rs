//! Advice for an operator: the fix for an error, from the error code and the state of the node.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use cnikit::{datapath, ipam, netlink};
use rustix::io::Errno;

/// The advice for an error without a known fix.
pub(super) const REPORT: &str = "check dmesg; if it has no message, report the error with the kernel release";
const REMOUNT_BPFFS: &str = "mount -o remount,rw /sys/fs/bpf";

/// The end of a message about a file of the operator that cannot be read or written.
pub(crate) fn for_file(source: &io::Error) -> &'static str {
    match source.kind() {
        ErrorKind::PermissionDenied => "; run it as root",
        ErrorKind::ReadOnlyFilesystem => "; choose a directory on a writable file system",
        _ => "",
    }
}

/// The fix if leases cannot be written.
pub(crate) fn for_ipam(error: &ipam::Error) -> String {
    match error {
        ipam::Error::Shared { path, uid: Some(_) } => format!("chown root {}", path.display()),
        ipam::Error::Shared { path, uid: None } => format!("chmod go-w {}", path.display()),
        ipam::Error::Linked { path } => format!("rm {0}; install -d -m 755 {0}", path.display()),
        ipam::Error::Io { path, source, .. } => {
            let shown = path.display();
            match source.kind() {
                ErrorKind::ReadOnlyFilesystem => {
                    format!("mount -o remount,rw $(findmnt -no TARGET -T {shown}), or set another \"dataDir\"")
                }
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    format!("free space or inodes there (df {shown}; df -i {shown}), or set another \"dataDir\"")
                }
                ErrorKind::InvalidInput => format!("rm {shown}: the plugin creates its own"),
                ErrorKind::NotADirectory => format!("move the file away that is in the place of {shown}"),
                // An attribute of the directory can refuse root. So can the causes in refused().
                ErrorKind::PermissionDenied => {
                    format!("lsattr -d {shown}; if it shows an i, chattr -i {shown}; otherwise: {}", refused())
                }
                _ => format!("check {shown}, and dmesg for errors of its disk"),
            }
        }
        _ => REPORT.into(),
    }
}

/// The fix if the programs cannot be loaded or pinned.
pub(crate) fn for_datapath(error: &datapath::Error) -> String {
    use datapath::Error::{Layout, Load, Locked, Map, Mount, NewerLayout, NotBpffs, Pin, Tcx};

    match error {
        Layout { path, .. } => {
            format!("drain the node, then rm -r {}", path.parent().unwrap_or(path).display())
        }
        NewerLayout { .. } => "install the newer build again".into(),
        Locked { path, .. } => format!("fuser -v {} shows the process that holds it", path.display()),
        NotBpffs { .. } => "umount /sys/fs/bpf: another file system is mounted over it".into(),
        Mount { source, .. } if source.kind() == ErrorKind::NotFound => "boot a kernel with CONFIG_BPF_SYSCALL".into(),
        Mount { source, .. } | Load { source } | Pin { source, .. } | Map { source, .. } | Tcx { source, .. } => {
            match source.kind() {
                ErrorKind::ReadOnlyFilesystem => REMOUNT_BPFFS.into(),
                ErrorKind::PermissionDenied => refused(),
                ErrorKind::Unsupported => "boot a kernel with CONFIG_BPF_SYSCALL and CONFIG_BPF_JIT".into(),
                ErrorKind::OutOfMemory | ErrorKind::StorageFull => {
                    "raise the memory limit: eBPF maps count against the control group of the process that creates \
                     them (memory.max), and before Linux 5.11 against ulimit -l"
                        .into()
                }
                _ => REPORT.into(),
            }
        }
        _ => REPORT.into(),
    }
}

/// The fix if the kernel refuses a request about links, qdiscs or the packet filter.
pub(crate) fn for_netlink(error: &netlink::Error) -> String {
    if let netlink::Error::Unsupported { module, .. } = error {
        return with_module(module);
    }
    let is_one = |errnos: &[Errno]| errnos.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
    if is_one(&[Errno::PERM, Errno::ACCESS]) {
        refused()
    } else if is_one(&[Errno::NOSPC, Errno::USERS]) && matches!(error, netlink::Error::Netns { .. }) {
        "raise the sysctl user.max_net_namespaces, or remove namespaces: ip netns, lsns -t net".into()
    } else if is_one(&[Errno::NOMEM, Errno::NOBUFS]) {
        "free memory, or raise the memory limit of the control group of this process".into()
    } else {
        REPORT.into()
    }
}

/// The same for a request that needs a kernel option, which may be built as a module.
pub(crate) fn for_netlink_option(error: &netlink::Error, option: &str, module: &str) -> String {
    const LACKING: [Errno; 5] =
        [Errno::NOENT, Errno::OPNOTSUPP, Errno::PROTONOSUPPORT, Errno::AFNOSUPPORT, Errno::NOSYS];
    if LACKING.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) {
        if module.is_empty() {
            format!("boot a kernel with {option}")
        } else {
            format!("{} ({option})", with_module(module))
        }
    } else {
        for_netlink(error)
    }
}

fn with_module(module: &str) -> String {
    format!("modprobe {module}, and add it to /etc/modules-load.d; or boot a kernel that has it")
}

/// The restrictions of root that are visible on this node.
fn refused() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut restrictions = Vec::new();
    // Root in a user namespace is not root of the node. Only the initial one maps all ids.
    if Path::new("/proc/self/uid_map").exists()
        && read("/proc/self/uid_map").split_whitespace().ne(["0", "0", "4294967295"])
    {
        restrictions.push("this process is in a user namespace: run it outside, as root of the node".to_owned());
    }
    if read("/proc/self/status")
        .lines()
        .any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() != "0"))
    {
        restrictions.push(
            "a seccomp filter restricts this process: run it outside of the container or unit that sets it".to_owned(),
        );
    }
    // The active mode is in brackets.
    let lockdown = read("/sys/kernel/security/lockdown");
    if let Some(mode) = lockdown.split_whitespace().find(|mode| mode.starts_with('[') && *mode != "[none]") {
        restrictions.push(format!("the kernel is in lockdown {mode}: boot it without lockdown="));
    }
    let modules = read("/sys/kernel/security/lsm");
    let modules: Vec<&str> =
        modules.split(',').filter(|one| ["selinux", "apparmor", "smack", "tomoyo", "bpf"].contains(one)).collect();
    if !modules.is_empty() {
        restrictions.push(format!("a rule of {} may refuse it: check dmesg or ausearch -m avc", modules.join(" or ")));
    }
    if restrictions.is_empty() {
        "run it as root of the node, with all capabilities".into()
    } else {
        restrictions.join("; ")
    }
}
