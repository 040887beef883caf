//! Inspects a set of pins from outside.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::thread;

use cnikit::datapath::{Datapath, Endpoint};
use cnikit::spec::{IfIndex, MacAddr};
use cnikit_testbed::Command;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use serde_json::Value;

/// The directory for pins, as a plugin chooses it.
pub(crate) const ROOT: &str = "/sys/fs/bpf/example";

pub(crate) const MAPS: [&str; 18] = [
    "flow_filter",
    "flows",
    "net_config",
    "net_drops",
    "net_stats",
    "packet_scratch",
    "peers",
    "pkt_count",
    "pkt_count_v6",
    "pod_ifindex",
    "pod_ifindex_v6",
    "port_addresses",
    "port_config",
    "port_drops",
    "port_filter",
    "port_xdp",
    "remote_stats",
    "stages",
];
pub(crate) const PROGRAMS: [&str; 2] = ["cni_tc_egress", "cni_tc_main"];

pub(crate) fn datapath(network: &str) -> Datapath {
    Datapath::new(ROOT, &network.parse().expect("a network's name"))
}

pub(crate) fn ip(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

pub(crate) fn index(ifindex: u32) -> IfIndex {
    IfIndex::new(ifindex).expect("an index")
}

pub(crate) fn port(ifindex: u32, last: u8) -> Endpoint {
    Endpoint::new(index(ifindex), MacAddr::new([0x02, 0, 0, 0, 0, last]))
}

/// The sorted names in a directory, without the build stamp and without `find_xdp`. Kernels that
/// deny reads of kernel memory refuse `find_xdp`.
pub(crate) fn names(directory: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.retain(|name| !name.starts_with("build-") && name != "find_xdp");
    names.sort();
    names
}

/// Renames the build stamp, so that the programs seem to come from another build.
pub(crate) fn make_foreign(directory: &Path) {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    let is_mark = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"build-"));
    let marks: Vec<_> = entries.filter(|path| is_mark(path)).collect();
    assert_eq!(marks.len(), 1, "one mark: {marks:?}");
    fs::rename(&marks[0], directory.join("build-of-another")).expect("the mark can be renamed");
}

/// The output of `bpftool -j map <verb> pinned <directory>/<map> <rest>`.
#[track_caller]
pub(crate) fn map(verb: &str, directory: &Path, map: &str, rest: &str) -> Value {
    bpftool().args(["map", verb, "pinned"]).arg(directory.join(map)).words(rest).json()
}

/// The output of `bpftool -j prog show` for a pinned program.
#[track_caller]
pub(crate) fn program(directory: &Path, program: &str) -> Value {
    bpftool().words("prog show pinned").arg(directory.join(program)).json()
}

/// The kernel's ids of all programs and maps of a set, by pin name.
///
/// # Panics
///
/// If a pin is missing or unexpected, or if a program uses unexpected maps.
#[track_caller]
pub(crate) fn ids(directory: &Path) -> BTreeMap<String, u64> {
    let mut expected: Vec<_> = MAPS.iter().chain(&PROGRAMS).copied().collect();
    expected.sort_unstable();
    assert_eq!(names(directory), expected);

    let id = |object: &Value| object["id"].as_u64().expect("an id");
    let mut ids: BTreeMap<String, u64> =
        MAPS.iter().map(|name| (name.to_string(), id(&map("show", directory, name, "")))).collect();
    let maps: Vec<u64> = ids.values().copied().collect();
    for name in PROGRAMS {
        let shown = program(directory, name);
        let used = shown["map_ids"].as_array().expect("ids");
        let foreign = used.iter().filter(|id| !maps.contains(&id.as_u64().expect("an id"))).count();
        assert!((1..=3).contains(&foreign), "constants, and what libbpf makes: {maps:?}: {shown}");
        ids.insert(name.to_owned(), id(&shown));
    }
    ids
}

/// A number that the C header defines.
pub(crate) fn header(define: &str) -> usize {
    let mut lines = include_str!("../../bpf/abi.h").lines();
    let number = lines.find_map(|line| line.strip_prefix("#define ")?.strip_prefix(define)?.trim().parse().ok());
    number.unwrap_or_else(|| panic!("the header does not define {define}"))
}

/// Runs a closure on a thread that lacks capabilities.
pub(crate) fn without<T: Send>(lacking: CapabilitySet, deprived: impl FnOnce() -> T + Send) -> T {
    let body = || {
        let mut sets = capabilities(None).expect("capabilities");
        for set in [&mut sets.effective, &mut sets.permitted, &mut sets.inheritable] {
            set.remove(lacking);
        }
        set_capabilities(None, sets).expect("give up capabilities");
        deprived()
    };
    let ended = thread::scope(|scope| scope.spawn(body).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

pub(crate) fn bpftool() -> Command {
    Command::new("bpftool").arg("-j")
}
