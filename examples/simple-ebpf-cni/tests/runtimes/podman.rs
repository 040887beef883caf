//! podman 4 with its CNI backend.

use std::fs;
use std::path::PathBuf;

use cnikit_testbed::{Command, Host, skipped};

use crate::image::{TINY, tiny};
use crate::network::{Attached, BIN_DIR, CONF_DIR, NAME};
use crate::processes::Processes;

/// What podman says where it was built without the backend, as later versions most often are.
const NETAVARK_ONLY: &str = "cni support is not enabled";

/// A podman with a storage and a configuration of the test's own.
pub(crate) struct Podman<'h> {
    processes: Processes<'h>,
    folder: PathBuf,
}

/// A container that podman has made, until it is removed.
pub(crate) struct Container<'p> {
    podman: &'p Podman<'p>,
    name: &'static str,
}

impl<'h> Podman<'h> {
    /// A podman with the CNI backend, and [`TINY`] in its storage. Where this machine's has no such backend, it says so,
    /// and the test should return.
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

    /// A podman for what needs no network, with nothing in its storage.
    #[track_caller]
    pub(crate) fn without_networks(host: &'h Host) -> Self {
        // Whatever its backend, it keeps a lock beside the networks: not beside the machine's.
        let networks = host.scratch();
        Self::configured(host, &format!("cni_plugin_dirs = [{networks:?}]\nnetwork_config_dir = {networks:?}\n"))
    }

    /// A command of podman's.
    #[track_caller]
    pub(crate) fn command(&self, name: &str) -> Command {
        let command = self.processes.command("podman").env("TMPDIR", self.folder.join("tmp"));
        let command = command.env("CONTAINERS_CONF", self.folder.join("containers.conf"));
        command.env("CONTAINERS_STORAGE_CONF", self.folder.join("storage.conf")).arg(name)
    }

    /// Runs a container of [`TINY`] with these options, `--network` among them.
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
        // For the namespaces that it names, podman makes this a mount of its own, and keeps it.
        self.processes.assert_only(&[], &["/run/netns"]);
    }

    /// A control group for containers, which goes with this podman.
    pub(crate) fn cgroup(&self) -> String {
        self.processes.cgroup("podman")
    }

    #[track_caller]
    fn configured(host: &'h Host, network: &str) -> Self {
        // The folders that have no setting.
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
    /// What `podman inspect` says by a template.
    #[track_caller]
    pub(crate) fn inspect(&self, template: &str) -> String {
        self.podman.command("inspect").args(["--format", template, self.name]).run().trim().to_owned()
    }

    /// Stops it and starts it again.
    #[track_caller]
    pub(crate) fn restart(&self) {
        self.podman.command("restart").args(["--time", "0", self.name]).run();
        self.await_server();
    }

    /// Has its network made anew while it runs.
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
    /// As podman tells people.
    fn address(&self) -> String {
        self.inspect(&format!("{{{{.NetworkSettings.Networks.{NAME}.IPAddress}}}}"))
    }

    fn command(&self, words: &[&str]) -> Command {
        self.podman.command("exec").arg(self.name).args(words)
    }
}
