//! The whole cluster: start, stop, and access to its parts.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::cgroups::Cgroups;
use crate::credentials;
use crate::daemons::{CONTROL_PLANE, Daemon, Daemons};
use crate::images;
use crate::kubectl::Kubectl;
use crate::layout::Layout;
use crate::machine::Machine;
use crate::modules;
use crate::node::{Node, World};
use crate::process::run;
use crate::settings::Settings;

/// A running cluster.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    layout: Layout,
    settings: Settings,
}

impl Cluster {
    /// The cluster that runs.
    pub(crate) fn running(layout: &Layout) -> Result<Self> {
        Ok(Self { settings: Settings::read(layout)?, layout: layout.clone() })
    }

    /// Reserves the folder for a cluster.
    ///
    /// # Errors
    ///
    /// If a cluster has it. The caller must not delete that cluster.
    pub(crate) fn claim(layout: &Layout, settings: &Settings) -> Result<Self> {
        let state = layout.state();
        fs::create_dir_all(layout.root()).with_context(|| format!("cannot create {}", layout.root().display()))?;
        if let Err(error) = fs::create_dir(&state) {
            if error.kind() == io::ErrorKind::AlreadyExists {
                bail!("a cluster runs, or was not removed ({}): make cluster-down", state.display());
            }
            return Err(error).with_context(|| format!("cannot create {}", state.display()));
        }
        fs::write(layout.settings(), serde_json::to_vec_pretty(settings)?)?;
        layout.store_prebuilt()?;
        Ok(Self { layout: layout.clone(), settings: settings.clone() })
    }

    /// Starts the cluster without a network: the nodes are not ready.
    ///
    /// # Errors
    ///
    /// If a part cannot be started. The parts that run stay for [`down`].
    pub(crate) fn start(&self, step: &dyn Fn(&str)) -> Result<()> {
        let archive = images::build_tools(&self.layout)?;
        Machine::observe(&self.layout)?.store(&self.layout)?;
        modules::load(&self.layout)?;
        credentials::create(&self.layout, &self.settings)?;
        step("Creating the namespaces of the nodes");
        self.world().start()?;
        for node in self.nodes() {
            node.boot()?;
        }
        self.write_kubectl()?;
        step("Starting the control plane on node-1");
        let importing = self.start_runtimes(&archive);
        let started = self.start_control_plane();
        step("Importing the images, and starting the kubelets");
        // Also after an error, so that no thread starts a daemon while the cluster is deleted.
        importing.join().map_err(|_panic| anyhow!("importing images panicked"))??;
        started?;
        for node in self.nodes() {
            self.start_node_daemons(&node)?;
        }
        Ok(())
    }

    /// Copies the logs of all daemons, which `down` deletes, and returns their folder.
    pub(crate) fn keep_logs(&self) -> Result<PathBuf> {
        let folder = self.layout.reports().join("logs");
        for node in self.nodes() {
            let own = folder.join(node.name());
            fs::create_dir_all(&own).with_context(|| format!("cannot create {}", own.display()))?;
            let logs = fs::read_dir(self.layout.node(node.number(), "var/log")).into_iter().flatten().flatten();
            for log in logs.map(|entry| entry.path()).filter(|path| path.is_file()) {
                fs::copy(&log, own.join(log.file_name().unwrap_or_default()))?;
            }
        }
        Ok(folder)
    }

    /// Starts the runtime of each node and imports the images, while the control plane starts.
    fn start_runtimes(&self, archive: &Path) -> thread::JoinHandle<Result<()>> {
        let (cluster, archive) = (self.clone(), archive.to_owned());
        thread::spawn(move || {
            for node in cluster.nodes() {
                cluster.daemons().start(&node, Daemon::Containerd)?;
                cluster.import(&node, &archive)?;
            }
            Ok(())
        })
    }

    /// Starts the daemons of a node that do not run, and the node itself.
    pub(crate) fn start_missing(&self, node: &Node) -> Result<()> {
        if node.is_up() { self.start_node_daemons(node) } else { self.boot_again(node) }
    }

    fn start_control_plane(&self) -> Result<()> {
        let first = self.node(1);
        CONTROL_PLANE.into_iter().try_for_each(|daemon| self.daemons().start(&first, daemon))
    }

    fn start_node_daemons(&self, node: &Node) -> Result<()> {
        self.daemons().start(node, Daemon::Containerd)?;
        self.daemons().start(node, Daemon::Kubelet)?;
        self.daemons().start(node, Daemon::Proxy)
    }

    /// Kills all processes of a node at once, and boots it again.
    pub(crate) fn reboot(&self, node: &Node) -> Result<()> {
        node.kill()?;
        self.boot_again(node)
    }

    /// Boots a killed node. The routes to other nodes are lost with its namespaces.
    fn boot_again(&self, node: &Node) -> Result<()> {
        node.boot()?;
        self.daemons().start(node, Daemon::Containerd)?;
        if node.number() == 1 {
            self.start_control_plane()?;
        }
        self.connect_nodes()?;
        self.start_node_daemons(node)
    }

    /// Imports an archive of images on a node.
    pub(crate) fn import(&self, node: &Node, archive: &Path) -> Result<()> {
        let mut import = node.command(self.daemons().ctr())?;
        run(import.args(["--namespace", "k8s.io", "images", "import"]).arg(archive))?;
        Ok(())
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn daemons(&self) -> Daemons<'_> {
        Daemons { layout: &self.layout, settings: &self.settings }
    }

    pub(crate) fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.layout)
    }

    pub(crate) fn world(&self) -> World {
        World::new(&self.layout)
    }

    pub(crate) fn node(&self, number: u8) -> Node {
        Node::new(&self.layout, number)
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = Node> {
        self.settings.numbers().map(|number| self.node(number))
    }

    /// Writes a script that calls kubectl for this cluster.
    fn write_kubectl(&self) -> Result<()> {
        let path = self.layout.kubectl();
        let program = std::env::current_exe()?;
        let text =
            format!("#!/bin/sh\nexec {} --dir {} kubectl -- \"$@\"\n", quoted(&program), quoted(self.layout.root()),);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }
}

/// Ends all processes of the cluster, and deletes its namespaces, control groups and files. Returns
/// what of the machine differs from the time before the cluster.
pub(crate) fn down(layout: &Layout) -> Result<Vec<String>> {
    if !layout.state().exists() {
        return Ok(Vec::new());
    }
    // Without its settings, a cluster may have any number of nodes.
    let numbers = Settings::read(layout).map_or(1..=9, |settings| 1..=settings.nodes);
    for number in numbers.rev() {
        Node::new(layout, number).kill()?;
    }
    World::new(layout).stop()?;
    Cgroups::new(layout)?.remove_parents()?;
    modules::unload(layout);
    let before = Machine::stored(layout);
    fs::remove_dir_all(layout.state()).with_context(|| format!("cannot delete {}", layout.state().display()))?;
    let _ = fs::remove_file(layout.kubectl());
    layout.hand_over()?;
    before.map_or_else(|| Ok(Vec::new()), |before| Ok(Machine::observe(layout)?.changes_since(&before)))
}

/// A word of the shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
