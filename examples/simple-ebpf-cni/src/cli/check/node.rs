//! What an ADD of any network needs of the node.

use std::fs;
use std::path::Path;

use cnikit::netlink::Sysctl;
use simple_ebpf_cni::naming;

use super::{Check, Verdict, held};
use crate::cli::{Error, trial};

/// The oldest kernel that the programs were tried on.
const LEAST_KERNEL: (u32, u32) = (5, 10);

/// What the kernel calls a capability in `/proc/self/status`: the number of its bit.
const CAPABILITIES: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21), ("CAP_BPF", 39)];

/// Whether the node can do what every ADD asks of it.
pub(crate) fn node() -> Vec<Check> {
    let mut checks = vec![kernel(), capabilities(), bpffs()];
    // It would complain of the same, or mount the file system.
    if checks.iter().all(|check| check.verdict == Verdict::Ok) {
        checks.push(match trial::run() {
            Ok(()) => Check::ok("trial", "a bridge, a pair and the eBPF programs work, in a namespace of their own"),
            Err(trouble) => Check::fail("trial", trouble.found, trouble.remedy),
        });
    } else {
        checks.push(Check::warn("trial", "not made, for what stands above", "run it again when that is done"));
    }
    checks.extend(held(Path::new(naming::PINS)));
    checks.extend([btf(), bridge_netfilter()]);
    checks
}

fn kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    if version >= LEAST_KERNEL {
        Check::ok("kernel", release)
    } else {
        let (major, minor) = LEAST_KERNEL;
        Check::fail("kernel", format!("{release:?} is too old"), format!("boot Linux {major}.{minor} or newer"))
    }
}

fn capabilities() -> Check {
    match missing_capabilities() {
        None => Check::ok("capabilities", "all that are needed"),
        Some(missing) => Check::fail("capabilities", format!("this process lacks {missing}"), "run it as root"),
    }
}

/// Refuses a process that may not look at networks: it would say that there are none.
pub(crate) fn refuse_unprivileged() -> Result<(), Error> {
    missing_capabilities().map_or(Ok(()), |missing| Err(Error::Unprivileged { missing }))
}

fn missing_capabilities() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    let effective = effective.unwrap_or_default();
    let missing = CAPABILITIES.iter().filter(|(_, bit)| effective >> bit & 1 == 0);
    let missing: Vec<&str> = missing.map(|(name, _)| *name).collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

pub(crate) fn bpffs() -> Check {
    const CHECK: &str = "bpffs";
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    // Of mounts that lie on each other, the last is seen.
    let there = { fields }.rfind(|fields| fields.get(1) == Some(&"/sys/fs/bpf"));
    match there.as_deref() {
        Some([_, _, "bpf", options, ..]) if options.split(',').any(|option| option == "ro") => Check::fail(
            CHECK,
            "mounted read-only on /sys/fs/bpf: no program can be pinned",
            "mount -o remount,rw /sys/fs/bpf, and look in /etc/fstab for what mounts it so",
        ),
        Some([_, _, "bpf", ..]) => Check::ok(CHECK, "mounted on /sys/fs/bpf"),
        _ if !Path::new("/sys/fs/bpf").exists() => Check::fail(
            CHECK,
            "there is no directory /sys/fs/bpf to mount it on",
            "mount -t sysfs sysfs /sys; where that is done, boot a kernel with CONFIG_BPF_SYSCALL",
        ),
        // An ADD may run in a mount namespace of its runtime's, where what it mounts is nobody else's.
        _ => Check::warn(
            CHECK,
            "not mounted: the first ADD does it",
            "mount -t bpf bpf /sys/fs/bpf, and by /etc/fstab at boot",
        ),
    }
}

fn btf() -> Check {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        Check::ok("BTF", "the kernel has its types")
    } else {
        Check::warn(
            "BTF",
            "none of the kernel's own: the plugin does without",
            "bpftool shows more with CONFIG_DEBUG_INFO_BTF",
        )
    }
}

fn bridge_netfilter() -> Check {
    const CHECK: &str = "br_netfilter";
    match Sysctl::BridgeNfCallIptables.read() {
        Ok(1..) => Check::ok(CHECK, "on: Services lead to pods of the same node"),
        // Only where something translates service addresses does it matter.
        _ if !Path::new("/var/lib/kubelet").exists() => Check::ok(CHECK, "off, and no kubelet here that would need it"),
        Ok(_) => Check::warn(
            CHECK,
            "off: a Service does not lead to a pod of the node that asks",
            "sysctl -w net.bridge.bridge-nf-call-iptables=1",
        ),
        Err(_) => Check::warn(
            CHECK,
            "not loaded: a Service does not lead to a pod of the node that asks",
            "modprobe br_netfilter, and name it in /etc/modules-load.d",
        ),
    }
}
