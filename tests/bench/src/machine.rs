//! The conditions of the results: machine, kernel and versions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cnikit_testbed::{Command, Plugin};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::system::uname;
use rustix::thread::{CapabilitySet, capabilities};
use serde::{Deserialize, Serialize};

use crate::options::Common;

/// The machine and software of the measurement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) date: String,
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) kernel: String,
    /// The load average at the start: runnable processes in the minute before. Near 0 on an idle
    /// machine.
    pub(crate) load: String,
    /// The version output of each binary, and the file systems of the state.
    pub(crate) versions: BTreeMap<String, String>,
}

impl Machine {
    /// Reads the properties of this machine and the plugins.
    pub(crate) fn look(options: &Common) -> Self {
        let ours = &options.plugin;
        let size = fs::metadata(ours).unwrap_or_else(|error| panic!("{}: {error}", ours.display())).len();
        let version = Command::new(ours).arg("--version").run();
        let linked = if is_static(ours) { "static" } else { "dynamic" };
        let version = format!("{}, {linked}, {size} bytes", version.lines().next().unwrap_or_default());
        let mut versions =
            BTreeMap::from([("simple-ebpf-cni".to_owned(), version), ("priority".to_owned(), priority())]);
        for name in ["bridge", "ptp", "host-local"] {
            let path = options.peers.join(name);
            if path.exists() {
                versions.insert(name.to_owned(), peer_version(&path));
            }
        }
        Self { versions, ..Self::read_host() }
    }

    /// Reads the properties of this machine.
    pub(crate) fn read_host() -> Self {
        let load = fs::read_to_string("/proc/loadavg").expect("/proc is mounted");
        Self {
            date: Command::new("date").words("-u +%Y-%m-%d").run().trim().to_owned(),
            cpu: cpu(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: uname().release().to_string_lossy().into_owned(),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
            versions: BTreeMap::new(),
        }
    }
}

/// Whether this process may create namespaces and links.
pub(crate) fn is_privileged() -> bool {
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN;
    capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}

/// Each pod holds a descriptor, and there are thousands of pods.
pub(crate) fn allow_many_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // A lack of descriptors fails with a clear error later.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// The file system type of a folder.
pub(crate) fn file_system(folder: &Path) -> String {
    Command::new("findmnt").words("-n -o FSTYPE -T").arg(folder).run().trim().to_owned()
}

fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split(": ").nth(1)).unwrap_or(std::env::consts::ARCH);
    let kind = if text.contains("hypervisor") { ", virtual" } else { "" };
    format!("{name}{kind}")
}

/// The scheduling priority of this process and its descendants.
fn priority() -> String {
    let stat = fs::read_to_string("/proc/self/stat").expect("/proc is mounted");
    // The process name, in parentheses, may contain spaces. The third field of proc_pid_stat(5)
    // follows it.
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let setup = |number: usize| fields.split_whitespace().nth(number - 3).unwrap_or_default();
    match (setup(41), setup(19)) {
        ("0", "0") => "normal".to_owned(),
        ("0", nice) => format!("nice {nice}"),
        _ => "real time".to_owned(),
    }
}

/// The version of a reference plugin, from its output without a command, such as
/// `CNI bridge plugin v1.9.1`. Builds without a version are in a folder named after it.
fn peer_version(path: &Path) -> String {
    let call = Plugin::new(path).invocation("VERSION").without("CNI_COMMAND").run();
    let words = format!("{} {}", call.stdout, call.stderr);
    let is_version = |word: &&str| word.starts_with('v') && word[1..].starts_with(|digit: char| digit.is_ascii_digit());
    let folder = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    let version = words.split_whitespace().find(is_version).or(folder.filter(is_version));
    version.map_or_else(|| format!("from {}", path.display()), str::to_owned)
}

/// Whether an ELF file has no interpreter.
fn is_static(path: &Path) -> bool {
    !Command::new("readelf").args(["-lW"]).arg(path).run().contains("INTERP")
}
