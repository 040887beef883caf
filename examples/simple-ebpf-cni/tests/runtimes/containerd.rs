//! containerd, and containers of its own client.

use std::fs;
use std::path::{Path, PathBuf};

use cnikit_testbed::{Command, Host, Namespace, Running, eventually};

use crate::image::TINY;
use crate::network::Attached;
use crate::processes::{PATIENCE, Processes};

/// A containerd of the test, with the interface for the kubelet.
pub(crate) struct Containerd<'h> {
    host: &'h Host,
    processes: Processes<'h>,
    folder: PathBuf,
}

/// A running container. Its `ctr` stays attached, because `ctr` calls DEL when the task ends.
pub(crate) struct Container<'c> {
    containerd: &'c Containerd<'c>,
    name: &'static str,
    ctr: Running,
}

impl<'h> Containerd<'h> {
    #[track_caller]
    pub(crate) fn start(host: &'h Host) -> Self {
        let folder = host.scratch();
        let [root, state] = ["root", "state"].map(|name| folder.join(name));
        let socket = folder.join("socket");
        // No image comes from a registry. Here a web server holds the namespace of a pod.
        let text = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\n\
             [grpc]\naddress = {socket:?}\n[ttrpc]\naddress = \"{}.ttrpc\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = {TINY:?}\n\
             disable_apparmor = true\nrestrict_oom_score_adj = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n",
            socket.display()
        );
        fs::write(folder.join("config"), text).expect("the scratch space is writable");
        let containerd = Self { host, processes: Processes::start(host), folder };
        containerd.launch();
        containerd
    }

    /// Kills containerd, and starts another one in its place. Containers continue.
    #[track_caller]
    pub(crate) fn restart(&self) {
        let is_there = || self.processes.running().into_iter().find(|(_, name)| name == "containerd");
        let (pid, _) = is_there().expect("containerd runs");
        self.host.command("kill").args(["-KILL", &pid.to_string()]).run();
        eventually("the end of containerd", PATIENCE, || is_there().is_none());
        self.launch();
    }

    /// The path of its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// A command of `ctr`. It must share containerd's view of processes, because it calls the
    /// plugin with a path in `/proc`.
    #[track_caller]
    pub(crate) fn ctr(&self, arguments: &[&str]) -> Command {
        self.processes.command("ctr").arg("--address").arg(self.socket()).args(arguments)
    }

    /// Imports an image. Pods are in the namespace `k8s.io`, containers of `ctr` in `default`.
    #[track_caller]
    pub(crate) fn import(&self, namespace: &str, archive: &Path) {
        let import = ["--namespace", namespace, "images", "import", "--snapshotter", "native"];
        self.ctr(&import).arg(archive).run();
    }

    /// The processes of its containers.
    pub(crate) fn processes(&self) -> &Processes<'h> {
        &self.processes
    }

    /// Starts a container of [`TINY`].
    #[track_caller]
    pub(crate) fn run(&'h self, name: &'static str) -> Container<'h> {
        let cgroup = self.processes.cgroup(name);
        let ctr =
            self.ctr(&["run", "--rm", "--cni", "--snapshotter", "native", "--cgroup", &cgroup, TINY, name]).spawn();
        let container = Container { containerd: self, name, ctr };
        // The task exists before its network, but runs only after that.
        eventually(&format!("container {name}"), PATIENCE, || self.task("default", name).is_some());
        container.await_server();
        container
    }

    /// A command in the namespaces of a running task. `ctr tasks exec` can lose the last output.
    #[track_caller]
    pub(crate) fn exec(&self, namespace: &str, task: &str, words: &[&str]) -> Command {
        let pid = self.task(namespace, task).unwrap_or_else(|| panic!("{task} does not run"));
        let enter = ["--target", &pid, "--mount", "--net", "--pid", "--root", "--"];
        self.processes.command("nsenter").args(enter).args(words)
    }

    /// Waits until no container has left a process or a mount.
    #[track_caller]
    pub(crate) fn assert_idle(&self) {
        self.processes.assert_only(&["containerd"], &[]);
    }

    /// The process id of a running task, as containerd sees it.
    #[track_caller]
    fn task(&self, namespace: &str, task: &str) -> Option<String> {
        let tasks = self.ctr(&["--namespace", namespace, "tasks", "list"]).run();
        tasks.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [name, pid, "RUNNING"] if name == task => Some(pid.to_owned()),
            _ => None,
        })
    }

    #[track_caller]
    fn launch(&self) {
        let log = self.folder.join("log");
        // It is a daemon. The value that represents it is its PID namespace.
        let command = self.processes.command("setsid").args(["--fork", "containerd", "--config"]);
        command.arg(self.folder.join("config")).spawn_logged(&log).wait(PATIENCE);
        let deadline = std::time::Instant::now() + PATIENCE;
        while !self.ctr(&["version"]).output().status.success() {
            let said = fs::read_to_string(&log).unwrap_or_default();
            assert!(std::time::Instant::now() < deadline, "containerd did not start:\n{said}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

impl Container<'_> {
    /// Kills the task. Then `ctr` calls DEL and removes the container.
    #[track_caller]
    pub(crate) fn remove(mut self) {
        self.containerd.ctr(&["tasks", "kill", "--signal", "SIGKILL", self.name]).run();
        self.ctr.wait(PATIENCE);
    }
}

impl Attached for Container<'_> {
    /// `ctr` reports no address, so the function reads it in the container.
    fn address(&self) -> String {
        let shown = self.exec(&["ip", "-4", "-o", "address", "show", "dev", "eth0"]);
        let address = shown.split_whitespace().find_map(|word| word.strip_suffix("/24"));
        address.unwrap_or_else(|| panic!("no address: {shown}")).to_owned()
    }

    fn command(&self, words: &[&str]) -> Command {
        self.containerd.exec("default", self.name, words)
    }
}
