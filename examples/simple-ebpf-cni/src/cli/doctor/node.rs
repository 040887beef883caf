//! The requirements of every ADD on the node.

use std::fs;
use std::path::Path;

use cnikit::netlink::Sysctl;

use super::diagnostic::{Diagnostic, Verdict, failures};
use super::lock::check_lock;
use super::selftest;
use crate::cli::privileges;
use simple_ebpf_cni::naming;

/// The oldest kernel that the programs were tested on.
const MIN_KERNEL: (u32, u32) = (5, 10);

/// The check of the BPF file system.
const BPFFS: &str = "bpffs";

/// The state of a kubelet. Nodes of Kubernetes have it.
pub(super) const KUBELET: &str = "/var/lib/kubelet";

/// Checks the node for the requirements of every ADD.
pub(crate) fn node() -> Vec<Diagnostic> {
    const SELFTEST: &str = "selftest";
    let mut checks = vec![kernel(), capabilities(), bpffs()];
    // The self-test would report the same problem, or mount the BPF file system.
    if checks.iter().all(|check| check.verdict == Verdict::Ok) {
        checks.push(match selftest::run() {
            Ok(()) => {
                Diagnostic::ok(SELFTEST, "a bridge, a veth pair and the eBPF programs work in a temporary namespace")
            }
            Err(failure) => Diagnostic::fail(SELFTEST, failure.found, failure.remedy),
        });
    } else {
        let (found, remedy) = if checks.iter().any(|check| check.verdict != Verdict::Ok && check.check != BPFFS) {
            ("skipped because of the problems above", "fix them and run doctor again")
        } else if failures(&checks) > 0 {
            ("skipped because of the problem above", "fix it and run doctor again")
        } else {
            ("skipped: it would mount the BPF file system", "mount it and run doctor again")
        };
        checks.push(Diagnostic::warn(SELFTEST, found, remedy));
    }
    checks.extend(check_lock(Path::new(naming::PINS)));
    checks.extend([btf(), bridge_netfilter()]);
    checks
}

fn kernel() -> Diagnostic {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    if version >= MIN_KERNEL {
        Diagnostic::ok("kernel", release)
    } else {
        let (major, minor) = MIN_KERNEL;
        Diagnostic::fail("kernel", format!("{release:?} is too old"), format!("boot Linux {major}.{minor} or newer"))
    }
}

fn capabilities() -> Diagnostic {
    match privileges::missing() {
        None => Diagnostic::ok("capabilities", "all required capabilities are present"),
        Some(missing) => Diagnostic::fail("capabilities", format!("this process lacks {missing}"), "run it as root"),
    }
}

pub(crate) fn bpffs() -> Diagnostic {
    const CHECK: &str = BPFFS;
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    // If several file systems are mounted on one directory, the last one is visible.
    let mounted = { fields }.rfind(|fields| fields.get(1) == Some(&"/sys/fs/bpf"));
    match mounted.as_deref() {
        Some([_, _, "bpf", options, ..]) if options.split(',').any(|option| option == "ro") => Diagnostic::fail(
            CHECK,
            "mounted read-only on /sys/fs/bpf: no program can be pinned",
            "mount -o remount,rw /sys/fs/bpf, and correct its entry in /etc/fstab",
        ),
        Some([_, _, "bpf", ..]) => Diagnostic::ok(CHECK, "mounted on /sys/fs/bpf"),
        _ if !Path::new("/sys/fs/bpf").exists() => Diagnostic::fail(
            CHECK,
            "the mount point /sys/fs/bpf does not exist",
            "mount -t sysfs sysfs /sys; if /sys is mounted, boot a kernel with CONFIG_BPF_SYSCALL",
        ),
        // An ADD may run in a mount namespace of its runtime, and then mounts it only there.
        _ => Diagnostic::warn(
            CHECK,
            "not mounted: the first ADD mounts it",
            "mount -t bpf bpf /sys/fs/bpf, and add it to /etc/fstab",
        ),
    }
}

fn btf() -> Diagnostic {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        Diagnostic::ok("BTF", "the kernel has BTF")
    } else {
        Diagnostic::warn(
            "BTF",
            "the kernel has no BTF: the plugin does not need it",
            "bpftool shows more with CONFIG_DEBUG_INFO_BTF",
        )
    }
}

fn bridge_netfilter() -> Diagnostic {
    const CHECK: &str = "br_netfilter";
    match Sysctl::BridgeNfCallIptables.read() {
        Ok(1..) => Diagnostic::ok(CHECK, "on: Services reach pods of the same node"),
        // Only a program that translates service addresses needs it.
        _ if !Path::new(KUBELET).exists() => Diagnostic::ok(CHECK, "off, and this node has no kubelet that needs it"),
        Ok(_) => Diagnostic::warn(
            CHECK,
            "off: a Service does not reach a pod on the node of the client",
            "sysctl -w net.bridge.bridge-nf-call-iptables=1",
        ),
        Err(_) => Diagnostic::warn(
            CHECK,
            "not loaded: a Service does not reach a pod on the node of the client",
            "modprobe br_netfilter, and add it to /etc/modules-load.d",
        ),
    }
}
