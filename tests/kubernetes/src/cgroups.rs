//! Control groups: each node has one group in each hierarchy of the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::process::wait_until;

/// The mount point of the control groups.
pub(crate) const ROOT: &str = "/sys/fs/cgroup";

/// The parent of the groups of all nodes.
const PARENT: &str = "simple-ebpf-cni-cluster";

/// With version 2, the group of the daemons within a node's group. A group with processes cannot
/// delegate controllers to its children, so the processes leave the node's group itself.
const DAEMONS: &str = "daemons";

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

    /// The parents of the nodes' groups.
    pub(crate) fn parents(&self) -> Vec<PathBuf> {
        match self {
            Self::Unified => vec![Path::new(ROOT).join(PARENT)],
            Self::Separate(names) => names.iter().map(|name| Path::new(ROOT).join(name).join(PARENT)).collect(),
        }
    }

    /// The groups of a node. They are the roots in its cgroup namespace.
    pub(crate) fn roots(&self, node: &str) -> Vec<PathBuf> {
        self.parents().into_iter().map(|parent| parent.join(node)).collect()
    }

    /// The groups that processes of a running node join.
    pub(crate) fn of_daemons(&self, node: &str) -> Vec<PathBuf> {
        let roots = self.roots(node).into_iter();
        match self {
            Self::Unified => roots.map(|group| group.join(DAEMONS)).collect(),
            Self::Separate(_) => roots.collect(),
        }
    }

    /// Creates the groups of a node.
    pub(crate) fn create(&self, node: &str) -> Result<()> {
        for parent in self.parents() {
            let group = parent.join(node);
            fs::create_dir_all(&group)
                .with_context(|| format!("cannot create the control group {}", group.display()))?;
            match self {
                Self::Unified => {
                    delegate_controllers(Path::new(ROOT))?;
                    delegate_controllers(&parent)?;
                }
                // A new group of this controller has no processors and no memory, and accepts no
                // process.
                Self::Separate(_) if parent.parent().is_some_and(|mount| mount.ends_with("cpuset")) => {
                    for file in ["cpuset.cpus", "cpuset.mems"] {
                        let value = fs::read_to_string(Path::new(ROOT).join("cpuset").join(file))?;
                        for group in [&parent, &group] {
                            write(&group.join(file), value.trim())?;
                        }
                    }
                }
                Self::Separate(_) => {}
            }
        }
        Ok(())
    }

    /// With version 2, delegates all controllers to the groups of pods. The node's namespaces exist.
    pub(crate) fn delegate(&self, node: &str) -> Result<()> {
        if *self == Self::Unified {
            for root in self.roots(node) {
                let daemons = root.join(DAEMONS);
                fs::create_dir_all(&daemons)?;
                for pid in fs::read_to_string(root.join("cgroup.procs"))?.lines() {
                    write(&daemons.join("cgroup.procs"), pid)?;
                }
                delegate_controllers(&root)?;
            }
        }
        Ok(())
    }

    /// Removes the groups of a node, whose processes are killed.
    pub(crate) fn remove(&self, node: &str) -> Result<()> {
        for parent in self.parents() {
            let group = parent.join(node);
            wait_until(&format!("the end of the processes in {}", group.display()), EMPTY, || {
                remove_tree(&group)?;
                Ok(true)
            })?;
        }
        Ok(())
    }

    /// Removes the parents of the nodes' groups.
    pub(crate) fn remove_parents(&self) -> Result<()> {
        for parent in self.parents() {
            remove_tree(&parent)?;
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

/// Enables all controllers of a group of version 2 for its children.
fn delegate_controllers(group: &Path) -> Result<()> {
    let controllers = fs::read_to_string(group.join("cgroup.controllers"))?;
    let all: Vec<_> = controllers.split_whitespace().map(|name| format!("+{name}")).collect();
    write(&group.join("cgroup.subtree_control"), &all.join(" "))
}

fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).with_context(|| format!("cannot write {value:?} to {}", path.display()))
}
