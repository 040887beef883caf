//! The files of a cluster. Everything is in one folder, except the programs of the machine.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The folder with prebuilt programs of Kubernetes.
const BIN_DIR: &str = "KUBERNETES_BIN_DIR";

/// The paths of programs, images and state.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// A cluster in this folder.
    ///
    /// # Errors
    ///
    /// If the folder is below a path that each node has for itself.
    pub(crate) fn new(root: &Path) -> Result<Self> {
        let root = std::path::absolute(root).with_context(|| format!("cannot resolve {}", root.display()))?;
        for covered in crate::node::init::OWN_FOLDERS.iter().chain(&["/run", "/sys", "/proc"]) {
            if root.starts_with(covered) {
                bail!("{} is below {covered}, which each node has for itself: choose another --dir", root.display());
            }
        }
        Ok(Self { root })
    }

    /// The folder of everything.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A program of Kubernetes: from `KUBERNETES_BIN_DIR`, or built.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        let prebuilt = std::env::var_os(BIN_DIR).map(|folder| Path::new(&folder).join(name));
        prebuilt.filter(|path| path.is_file()).unwrap_or_else(|| self.root.join("bin").join(name))
    }

    /// The folder of a containerd that replaces the machine's.
    pub(crate) fn containerd(&self) -> PathBuf {
        self.root.join("bin/containerd-2")
    }

    /// The archive of an image.
    pub(crate) fn image(&self, name: &str) -> PathBuf {
        self.root.join("images").join(name).with_extension("tar")
    }

    /// Reports of tests.
    pub(crate) fn reports(&self) -> PathBuf {
        self.root.join("reports")
    }

    /// The state of the running cluster. `down` deletes it.
    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("cluster")
    }

    /// The settings of the running cluster.
    pub(crate) fn settings(&self) -> PathBuf {
        self.state().join("settings.json")
    }

    /// Keys, tokens, client configurations and the database of the control plane.
    pub(crate) fn control_plane(&self, name: &str) -> PathBuf {
        self.state().join("control-plane").join(name)
    }

    /// The files of a node.
    pub(crate) fn node(&self, number: u8, name: &str) -> PathBuf {
        self.state().join("nodes").join(number.to_string()).join(name)
    }

    /// The identity of the process that holds a set of namespaces.
    pub(crate) fn holder(&self, name: &str) -> PathBuf {
        self.state().join("holders").join(name)
    }

    /// Gives the files that outlive a cluster to the owner of the folder. The owner builds without
    /// root, and must be able to replace them.
    pub(crate) fn hand_over(&self) -> Result<()> {
        let owner = fs::metadata(&self.root).with_context(|| format!("cannot read {}", self.root.display()))?;
        for folder in [self.root.join("images"), self.reports()] {
            // A folder that is not there yet has no files.
            let files = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
            for path in files.chain([folder.clone()]).filter(|path| path.exists()) {
                chown(&path, Some(owner.uid()), Some(owner.gid()))
                    .with_context(|| format!("cannot change the owner of {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// `kubectl` for this cluster.
    pub(crate) fn kubectl(&self) -> PathBuf {
        self.root.join("kubectl")
    }
}
