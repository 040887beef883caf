//! The files of a cluster. Everything is in one folder, except the programs of the machine.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The folder with prebuilt programs of Kubernetes.
const BIN_DIR: &str = "KUBERNETES_BIN_DIR";

/// The folder of the running cluster, and the file in it that names the prebuilt programs.
const STATE: &str = "cluster";
const PREBUILT: &str = "prebuilt-programs";

/// The paths of programs, images and state.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
    /// The folder with prebuilt programs, of the caller or of the running cluster.
    prebuilt: Option<PathBuf>,
}

impl Layout {
    /// A cluster in this folder.
    ///
    /// # Errors
    ///
    /// If the folder is below a path that each node has for itself.
    pub(crate) fn new(root: &Path) -> Result<Self> {
        let absolute =
            |path: &Path| std::path::absolute(path).with_context(|| format!("cannot resolve {}", path.display()));
        let root = absolute(root)?;
        let stored = fs::read_to_string(root.join(STATE).join(PREBUILT)).ok().map(PathBuf::from);
        let named = std::env::var_os(BIN_DIR).filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let prebuilt = named.or(stored).map(|folder| absolute(&folder)).transpose()?;
        if let Some(folder) = prebuilt.as_ref().filter(|folder| !folder.is_dir()) {
            bail!("{BIN_DIR}={} is not a folder: name one with programs of Kubernetes", folder.display());
        }
        for path in [Some(&root), prebuilt.as_ref()].into_iter().flatten() {
            for covered in crate::node::init::OWN_FOLDERS.iter().chain(&["/run", "/sys", "/proc"]) {
                if path.starts_with(covered) {
                    bail!("{} is below {covered}, which each node has for itself: choose another", path.display());
                }
            }
        }
        Ok(Self { root, prebuilt })
    }

    /// Records the folder with prebuilt programs for later calls.
    pub(crate) fn store_prebuilt(&self) -> Result<()> {
        let Some(folder) = &self.prebuilt else { return Ok(()) };
        fs::write(self.state().join(PREBUILT), folder.as_os_str().as_encoded_bytes())
            .context("cannot record the folder of programs")
    }

    /// The folder of everything.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A program of Kubernetes: from `KUBERNETES_BIN_DIR`, or built.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        let prebuilt = self.prebuilt.as_ref().map(|folder| folder.join(name));
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
        self.root.join(STATE)
    }

    /// The settings of the running cluster.
    pub(crate) fn settings(&self) -> PathBuf {
        self.state().join("settings.json")
    }

    /// Keys, tokens, client configurations and the database of the control plane.
    pub(crate) fn control_plane(&self, name: &str) -> PathBuf {
        self.state().join("control-plane").join(name)
    }

    /// The discovery cache of kubectl. By default, all clusters with the same address share one in
    /// the home of the user.
    pub(crate) fn kubectl_cache(&self) -> PathBuf {
        self.state().join("kubectl-cache")
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
