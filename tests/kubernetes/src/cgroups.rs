//! Control groups: each node has one group in each hierarchy of the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::layout::Layout;
use crate::process::wait_until;

/// The mount point of the control groups.
pub(crate) const ROOT: &str = "/sys/fs/cgroup";

/// With version 2, the group of the daemons within a node's group. A group with processes cannot
/// delegate controllers to its children, so the processes leave the node's group itself.
const DAEMONS: &str = "daemons";

/// The controllers of version 2 that the kubelet and runc use.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "hugetlb", "io"];

/// How long the kernel needs to empty a group after its processes are killed.
const EMPTY: Duration = Duration::from_secs(20);

/// How the machine mounts its control groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hierarchies {
    /// One hierarchy of version 2.
    Unified,
    /// A mount for each controller of version 1, by name. `unified` has no controllers.
    Separate(Vec<String>),
}

/// The control groups of a cluster.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    hierarchies: Hierarchies,
    /// The group of all nodes, relative to the root of a hierarchy. Two clusters in different
    /// folders have different groups.
    parent: String,
    /// The file with the controllers that were not enabled on this machine.
    enabled: PathBuf,
}

impl Hierarchies {
    /// The hierarchies of this machine.
    pub(crate) fn of_machine() -> Result<Self> {
        if Path::new(ROOT).join("cgroup.controllers").exists() {
            return Ok(Self::Unified);
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(ROOT).with_context(|| format!("cannot list {ROOT}: mount the control groups"))? {
            let entry = entry?;
            // Symbolic links such as `cpu` are other names of a mount.
            if entry.file_type()?.is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(Self::Separate(names))
    }
}

impl Cgroups {
    pub(crate) fn new(layout: &Layout) -> Result<Self> {
        let digest = Sha256::digest(layout.root().as_os_str().as_encoded_bytes());
        let suffix: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self {
            hierarchies: Hierarchies::of_machine()?,
            parent: format!("simple-ebpf-cni-cluster-{suffix}"),
            enabled: layout.state().join("enabled-controllers"),
        })
    }

    /// The parents of the nodes' groups.
    fn parents(&self) -> Vec<PathBuf> {
        match &self.hierarchies {
            Hierarchies::Unified => vec![Path::new(ROOT).join(&self.parent)],
            Hierarchies::Separate(names) => {
                names.iter().map(|name| Path::new(ROOT).join(name).join(&self.parent)).collect()
            }
        }
    }

    /// The existing groups, and the controllers that the machine enables for its groups.
    pub(crate) fn traces(&self) -> Vec<String> {
        let existing = self.parents().into_iter().filter(|parent| parent.exists());
        let enabled = fs::read_to_string(Path::new(ROOT).join("cgroup.subtree_control"));
        existing.map(|parent| parent.display().to_string()).chain(enabled.ok()).collect()
    }

    /// The groups of a node. They are the roots in its cgroup namespace.
    pub(crate) fn roots(&self, node: &str) -> Vec<PathBuf> {
        self.parents().into_iter().map(|parent| parent.join(node)).collect()
    }

    /// The groups that processes of a running node join.
    pub(crate) fn of_daemons(&self, node: &str) -> Vec<PathBuf> {
        let roots = self.roots(node).into_iter();
        match self.hierarchies {
            Hierarchies::Unified => roots.map(|group| group.join(DAEMONS)).collect(),
            Hierarchies::Separate(_) => roots.collect(),
        }
    }

    /// Creates the groups of a node.
    pub(crate) fn create(&self, node: &str) -> Result<()> {
        for parent in self.parents() {
            let group = parent.join(node);
            fs::create_dir_all(&group)
                .with_context(|| format!("cannot create the control group {}", group.display()))?;
            match self.hierarchies {
                Hierarchies::Unified => {
                    let new = enable_controllers(Path::new(ROOT))?;
                    if !new.is_empty() {
                        fs::write(&self.enabled, new.join(" "))?;
                    }
                    enable_controllers(&parent)?;
                }
                // A new group of this controller has no processors and no memory, and accepts no
                // process.
                Hierarchies::Separate(_) if parent.parent().is_some_and(|mount| mount.ends_with("cpuset")) => {
                    for file in ["cpuset.cpus", "cpuset.mems"] {
                        let value = fs::read_to_string(Path::new(ROOT).join("cpuset").join(file))?;
                        for group in [&parent, &group] {
                            write(&group.join(file), value.trim())?;
                        }
                    }
                }
                Hierarchies::Separate(_) => {}
            }
        }
        Ok(())
    }

    /// With version 2, enables all controllers for the groups of pods. The node's namespaces exist.
    pub(crate) fn delegate(&self, node: &str) -> Result<()> {
        if self.hierarchies == Hierarchies::Unified {
            for root in self.roots(node) {
                let daemons = root.join(DAEMONS);
                fs::create_dir_all(&daemons)?;
                for pid in fs::read_to_string(root.join("cgroup.procs"))?.lines() {
                    write(&daemons.join("cgroup.procs"), pid)?;
                }
                enable_controllers(&root)?;
            }
        }
        Ok(())
    }

    /// Removes the groups of a killed node.
    pub(crate) fn remove(&self, node: &str) -> Result<()> {
        for group in self.roots(node) {
            wait_until(&format!("the end of the processes in {}", group.display()), EMPTY, || {
                remove_tree(&group)?;
                Ok(true)
            })?;
        }
        Ok(())
    }

    /// Removes the parents of the nodes' groups, and disables the controllers again that the
    /// machine had not enabled.
    pub(crate) fn remove_parents(&self) -> Result<()> {
        self.parents().iter().try_for_each(|parent| remove_tree(parent))?;
        if let Ok(enabled) = fs::read_to_string(&self.enabled) {
            for name in enabled.split_whitespace() {
                // A controller that other groups use by now stays. The comparison of the machine
                // reports it.
                let _ = write(&Path::new(ROOT).join("cgroup.subtree_control"), &format!("-{name}"));
            }
        }
        Ok(())
    }
}

/// Removes a group and the groups below it. An absent group is no error.
fn remove_tree(group: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(group) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group).with_context(|| format!("cannot remove the control group {}", group.display()))
}

/// Enables the controllers of a group of version 2 for its children. Returns those that were not
/// enabled before.
fn enable_controllers(group: &Path) -> Result<Vec<String>> {
    let read = |file: &str| -> Result<String> {
        fs::read_to_string(group.join(file)).with_context(|| format!("cannot read {file} of {}", group.display()))
    };
    let (available, before) = (read("cgroup.controllers")?, read("cgroup.subtree_control")?);
    let has = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
    let is_new = |name: &&str| has(&available, name) && !has(&before, name);
    let new: Vec<_> = CONTROLLERS.into_iter().filter(is_new).map(str::to_owned).collect();
    for name in &new {
        write(&group.join("cgroup.subtree_control"), &format!("+{name}"))
            .context("a group with processes cannot have children with controllers: run this outside of a container")?;
    }
    Ok(new)
}

fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).with_context(|| format!("cannot write {value:?} to {}", path.display()))
}
