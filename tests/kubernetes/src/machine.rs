//! The state of the machine that a cluster must not change.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cgroups::Cgroups;
use crate::layout::Layout;
use crate::process::run;

/// The file with the state before the cluster.
const FILE: &str = "machine-before";

/// Sysctls that change by themselves, or that the kernel computes.
const VOLATILE: [&str; 15] = [
    "kernel/ns_last_pid",
    "kernel/pty/nr",
    "kernel/random",
    "kernel/tainted",
    "kernel/perf_event_max_sample_rate",
    "kernel/perf_cpu_time_max_percent",
    "fs/dentry-state",
    "fs/file-nr",
    "fs/inode-nr",
    "fs/inode-state",
    "fs/quota",
    "fs/aio-nr",
    "fs/binfmt_misc",
    "net/netfilter/nf_conntrack_count",
    "net/ipv4/tcp_fastopen_key",
];

/// The state of the machine as lines, which can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    lines: BTreeSet<String>,
}

impl Machine {
    /// The present state: links, addresses, routes, rules of packet filters, mounts, sysctls, and
    /// the cluster's control groups.
    pub(crate) fn observe(layout: &Layout) -> Result<Self> {
        let mut lines = BTreeSet::new();
        for (what, words) in [
            ("link", &["-o", "link", "show"][..]),
            ("address", &["-o", "address", "show"]),
            ("route", &["-4", "route", "show", "table", "all"]),
            ("route", &["-6", "route", "show", "table", "all"]),
            ("rule", &["rule", "show"]),
            ("namespace", &["netns", "list"]),
        ] {
            let text = run(Command::new("ip").args(words))?;
            // The number of an interface, and the time left of an address or a route, change.
            lines.extend(text.lines().map(|line| format!("{what} {}", without_times(line))));
        }
        // A kernel without nf_tables has no rules.
        let rules = run(Command::new("nft").args(["-s", "list", "ruleset"])).unwrap_or_default();
        lines.extend(rules.lines().map(|line| format!("nft {line}")));
        let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
        lines.extend(mounts.lines().map(|line| format!("mount {line}")));
        sysctls(Path::new("/proc/sys"), &mut lines);
        lines.extend(Cgroups::new(layout)?.traces().into_iter().map(|line| format!("cgroup {line}")));
        Ok(Self { lines })
    }

    /// Stores the state beside the cluster's.
    pub(crate) fn store(&self, layout: &Layout) -> Result<()> {
        let lines: Vec<_> = self.lines.iter().map(String::as_str).collect();
        fs::write(layout.state().join(FILE), lines.join("\n")).context("cannot store the state of the machine")
    }

    /// The state that [`store`](Self::store) has stored.
    pub(crate) fn stored(layout: &Layout) -> Option<Self> {
        let text = fs::read_to_string(layout.state().join(FILE)).ok()?;
        Some(Self { lines: text.lines().map(str::to_owned).collect() })
    }

    /// The differences from an earlier state: `+` is new, `-` is gone. New names of sysctls do not
    /// count, because the kernel loads modules for the packet filters of the nodes.
    pub(crate) fn changes_since(&self, before: &Self) -> Vec<String> {
        let names: BTreeSet<_> = before.lines.iter().filter_map(|line| sysctl_name(line)).collect();
        let is_known = |line: &&String| sysctl_name(line).is_none_or(|name| names.contains(name));
        let new = self.lines.difference(&before.lines).filter(is_known).map(|line| format!("+ {line}"));
        let gone = before.lines.difference(&self.lines).map(|line| format!("- {line}"));
        new.chain(gone).collect()
    }
}

/// The name in a line of a sysctl.
fn sysctl_name(line: &str) -> Option<&str> {
    line.strip_prefix("sysctl ")?.split_once(" = ").map(|(name, _)| name)
}

/// A line of `ip` without the remaining lifetimes.
fn without_times(line: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    let mut skip = false;
    for word in line.split_whitespace() {
        let is_time = matches!(word, "valid_lft" | "preferred_lft" | "expires");
        if !skip && !is_time {
            words.push(word);
        }
        skip = is_time;
    }
    words.join(" ")
}

/// Adds a line for each readable setting.
fn sysctls(folder: &Path, lines: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = path.strip_prefix("/proc/sys").unwrap_or(&path);
        if VOLATILE.iter().any(|volatile| name.starts_with(volatile)) {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sysctls(&path, lines);
        } else if let Ok(value) = fs::read_to_string(&path) {
            lines.insert(format!("sysctl {} = {}", name.display(), value.trim().replace('\n', " ")));
        }
    }
}
