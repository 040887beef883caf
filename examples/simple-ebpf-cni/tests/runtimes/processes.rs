//! Namespaces for runtimes: their processes outlive the command that started them, and must not
//! outlive the test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cnikit_testbed::{Command, Host, Namespace, Running, eventually};

/// Time limit for the start or the end of a runtime or its containers.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The line that shows that the PID namespace and its `/proc` are ready.
const FIRST: &str = "sleep";

/// A PID namespace with its own mounts. Dropping this value ends all processes in the namespace,
/// including daemons.
pub(crate) struct Processes<'h> {
    host: &'h Host,
    unshare: Running,
    cgroup: String,
    mounts: BTreeSet<String>,
}

impl<'h> Processes<'h> {
    #[track_caller]
    pub(crate) fn start(host: &'h Host) -> Self {
        // Ends with the test, also if the test cannot clean up.
        let command = host.command("setpriv").args(["--pdeathsig", "KILL", "--"]);
        let command = command.words("unshare --pid --fork --kill-child --mount-proc --");
        // It waits for no child, and a process that ignores SIGCHLD need not: the kernel releases
        // its orphans.
        let unshare = command.args(["env", "--ignore-signal=CHLD", FIRST, "infinity"]).spawn();
        let cgroup = format!("cnikit-{}", unshare.pid());
        let mut processes = Self { host, unshare, cgroup, mounts: BTreeSet::new() };
        // The shell mounts `/proc` before it executes its final program.
        eventually("the first process", PATIENCE, || processes.all().values().any(|name| name == FIRST));
        processes.mounts = processes.mounted();
        processes
    }

    /// A command that runs in the namespaces.
    #[track_caller]
    pub(crate) fn command(&self, program: &str) -> Command {
        let namespaces = self.namespaces();
        let inside = self.host.command("nsenter").arg(format!("--mount={}", namespaces.join("mnt").display()));
        inside
            .arg(format!("--pid={}", namespaces.join("pid_for_children").display()))
            .args(["--", program])
            .limit(PATIENCE)
    }

    /// A control group for containers, which is removed with these processes.
    pub(crate) fn cgroup(&self, name: &str) -> String {
        format!("/{}/{name}", self.cgroup)
    }

    /// The names of the processes in the namespace, except the first one, by their ids outside.
    pub(crate) fn running(&self) -> BTreeMap<u32, String> {
        let mut running = self.all();
        running.retain(|_, name| name != FIRST);
        running
    }

    /// Waits until only `expected` processes run, and checks that no new mount exists except at
    /// `tolerated`.
    #[track_caller]
    pub(crate) fn assert_only(&self, expected: &[&str], tolerated: &[&str]) {
        eventually(&format!("the end of all processes except {expected:?}"), PATIENCE, || {
            self.running().into_values().collect::<Vec<_>>() == expected
        });
        let mut new_mounts = &self.mounted() - &self.mounts;
        new_mounts.retain(|place| !tolerated.contains(&place.as_str()));
        assert!(new_mounts.is_empty(), "left mounted: {new_mounts:?}");
    }

    fn all(&self) -> BTreeMap<u32, String> {
        let namespace = fs::read_link(self.namespaces().join("pid_for_children")).ok();
        // Before `unshare` has created the namespace and forked, there is no process in it.
        let Some(namespace) = namespace.filter(|link| fs::read_link("/proc/self/ns/pid").is_ok_and(|own| own != *link))
        else {
            return BTreeMap::new();
        };
        let numbers = fs::read_dir("/proc").expect("/proc is mounted").filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.path(), entry.file_name().to_str()?.parse().ok()?))
        });
        let inside = |process: &Path| fs::read_link(process.join("ns/pid")).is_ok_and(|link| link == namespace);
        let name = |process: &Path| fs::read_to_string(process.join("comm")).ok();
        // A process that ends during the listing has no name any more.
        numbers
            .filter(|(process, _)| inside(process))
            .filter_map(|(process, pid)| Some((pid, name(&process)?.trim_end().to_owned())))
            .collect()
    }

    #[track_caller]
    fn mounted(&self) -> BTreeSet<String> {
        let mounts = self.namespaces().with_file_name("mounts");
        let mounts = fs::read_to_string(mounts).expect("the process exists");
        mounts.lines().filter_map(|line| Some(line.split(' ').nth(1)?.to_owned())).collect()
    }

    /// `unshare` itself has all namespaces except the PID namespace: its child is the first process
    /// there.
    fn namespaces(&self) -> PathBuf {
        format!("/proc/{}/ns", self.unshare.pid()).into()
    }
}

impl Drop for Processes<'_> {
    fn drop(&mut self) {
        self.unshare.kill();
        // Removes the group at every mount point of a hierarchy; cgroup v1 has several. A group is
        // busy until the last process of a failed test's containers has ended.
        let find = format!("find /sys/fs/cgroup -depth -type d -path '*/{}*'", self.cgroup);
        let remove = format!("for _ in $(seq 50); do {find} -exec rmdir {{}} + 2>/dev/null && break; sleep 0.1; done");
        let _ = self.host.command("sh").args(["-c", &remove]).output();
    }
}
