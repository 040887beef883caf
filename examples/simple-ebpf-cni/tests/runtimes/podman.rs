//! podman 4 with its CNI backend.

use std::fs;
use std::path::PathBuf;

use cnikit_testbed::{Command, Host, skipped};

use crate::image::{TINY, tiny};
use crate::network::{Attached, BIN_DIR, CONF_DIR, NAME};
use crate::processes::Processes;

/// podman's error if it was built without the backend, as most later versions are.
const NETAVARK_ONLY: &str = "cni support is not enabled";

/// A podman with its own storage and configuration.
pub(crate) struct Podman<'h> {
    processes: Processes<'h>,
    folder: PathBuf,
}

/// A container of podman, until its removal.
pub(crate) struct Container<'p> {
    podman: &'p Podman<'p>,
    name: &'static str,
}

impl<'h> Podman<'h> {
    /// A podman with the CNI backend, and [`TINY`] in its storage. If this machine's podman has no
    /// such backend, the function prints a `SKIP` line, and the test must return.
    #[track_caller]
    pub(crate) fn start(host: &'h Host) -> Option<Self> {
        let podman = Self::configured(
            host,
            &format!("network_backend = \"cni\"\ncni_plugin_dirs = [{BIN_DIR:?}]\nnetwork_config_dir = {CONF_DIR:?}\n"),
        );
        let info = podman.command("info").output();
        if info.stderr.contains(NETAVARK_ONLY) {
            skipped("needs podman with its CNI backend, and this one is built without");
            return None;
        }
        assert!(info.status.success(), "{info:?}");
        podman.command("load").arg("--input").arg(tiny(host)).run();
        Some(podman)
    }

    /// A podman without network, with an empty storage.
    #[track_caller]
    pub(crate) fn without_networks(host: &'h Host) -> Self {
        // Every backend has a lock beside the networks. Here this is not the machine's.
        let networks = host.scratch();
        Self::configured(host, &format!("cni_plugin_dirs = [{networks:?}]\nnetwork_config_dir = {networks:?}\n"))
    }

    /// A command of podman.
    #[track_caller]
    pub(crate) fn command(&self, name: &str) -> Command {
        let command = self.processes.command("podman").env("TMPDIR", self.folder.join("tmp"));
        let command = command.env("CONTAINERS_CONF", self.folder.join("containers.conf"));
        command.env("CONTAINERS_STORAGE_CONF", self.folder.join("storage.conf")).arg(name)
    }

    /// Runs a container of [`TINY`] with these options, which include `--network`.
    #[track_caller]
    pub(crate) fn run(&self, name: &'static str, options: &[&str]) -> Container<'_> {
        let run = self.command("run").args(["--detach", "--name", name, "--cgroup-parent", &self.cgroup()]);
        run.args(options).arg(TINY).run();
        let container = Container { podman: self, name };
        container.await_server();
        container
    }

    /// Waits until no container has left a process or a mount.
    #[track_caller]
    pub(crate) fn assert_idle(&self) {
        // podman makes this a mount of its own for named namespaces, and keeps it.
        self.processes.assert_only(&[], &["/run/netns"]);
    }

    /// A control group for containers, which is removed with this podman.
    pub(crate) fn cgroup(&self) -> String {
        self.processes.cgroup("podman")
    }

    #[track_caller]
    fn configured(host: &'h Host, network: &str) -> Self {
        // The directories without a setting.
        for folder in ["/var/lib/containers", "/dev/shm"] {
            host.empty_dir(folder);
        }
        let folder = host.scratch();
        let [root, runroot, tmp] = ["root", "runroot", "tmp"].map(|name| folder.join(name));
        fs::create_dir(&tmp).expect("the scratch space is writable");
        let engine = format!(
            "[network]\n{network}[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nlock_type = \"file\"\n\
             runtime = \"runc\"\ntmp_dir = {tmp:?}\n[containers]\nlog_driver = \"k8s-file\"\n"
        );
        let storage = format!("[storage]\ndriver = \"vfs\"\ngraphroot = {root:?}\nrunroot = {runroot:?}\n");
        for (name, text) in [("containers.conf", engine), ("storage.conf", storage)] {
            fs::write(folder.join(name), text).expect("the scratch space is writable");
        }
        Self { processes: Processes::start(host), folder }
    }
}

impl Container<'_> {
    /// The output of `podman inspect` with a template.
    #[track_caller]
    pub(crate) fn inspect(&self, template: &str) -> String {
        self.podman.command("inspect").args(["--format", template, self.name]).run().trim().to_owned()
    }

    /// Stops the container and starts it again.
    #[track_caller]
    pub(crate) fn restart(&self) {
        self.podman.command("restart").args(["--time", "0", self.name]).run();
        self.await_server();
    }

    /// Sets up the container's network again while the container runs.
    #[track_caller]
    pub(crate) fn reload(&self) {
        self.podman.command("network").args(["reload", self.name]).run();
    }

    #[track_caller]
    pub(crate) fn remove(self) {
        self.podman.command("rm").args(["--force", "--time", "0", self.name]).run();
    }
}

impl Attached for Container<'_> {
    /// The address that podman shows.
    fn address(&self) -> String {
        self.inspect(&format!("{{{{.NetworkSettings.Networks.{NAME}.IPAddress}}}}"))
    }

    fn command(&self, words: &[&str]) -> Command {
        self.podman.command("exec").arg(self.name).args(words)
    }
}
