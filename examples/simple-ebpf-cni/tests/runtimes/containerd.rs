//! containerd, and containers that its own client runs.

use std::fs;
use std::path::{Path, PathBuf};

use cnikit_testbed::{Command, Host, Namespace, Running, eventually};

use crate::image::TINY;
use crate::network::Attached;
use crate::processes::{PATIENCE, Processes};

/// A containerd of the test's own, with the interface of the kubelet's.
pub(crate) struct Containerd<'h> {
    host: &'h Host,
    processes: Processes<'h>,
    folder: PathBuf,
}

/// A running container. Its `ctr` stays attached: it is `ctr` that calls DEL, when the task ends.
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
        // No image comes from a registry: the one that holds a pod's namespace is a web server here.
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

    /// Kills containerd, and starts another in its place. Containers go on.
    #[track_caller]
    pub(crate) fn restart(&self) {
        let is_there = || self.processes.running().into_iter().find(|(_, name)| name == "containerd");
        let (pid, _) = is_there().expect("containerd runs");
        self.host.command("kill").args(["-KILL", &pid.to_string()]).run();
        eventually("the end of containerd", PATIENCE, || is_there().is_none());
        self.launch();
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// A command of `ctr`, which has to share containerd's view of processes: it calls the plugin with a path in `/proc`.
    #[track_caller]
    pub(crate) fn ctr(&self, arguments: &[&str]) -> Command {
        self.processes.command("ctr").arg("--address").arg(self.socket()).args(arguments)
    }

    /// Takes in an image. Pods are in the namespace `k8s.io`, what `ctr` runs is in `default`.
    #[track_caller]
    pub(crate) fn import(&self, namespace: &str, archive: &Path) {
        let import = ["--namespace", namespace, "images", "import", "--snapshotter", "native"];
        self.ctr(&import).arg(archive).run();
    }

    /// Where its containers run.
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
        // It is there before its network, but does not run before.
        eventually(&format!("container {name}"), PATIENCE, || self.task("default", name).is_some());
        container.await_server();
        container
    }

    /// A command in the namespaces of a running task, `ctr tasks exec` without its habit of losing what is printed last.
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
        // It is a daemon: the value that stands for it is that of the namespace which it runs in.
        let command = self.processes.command("setsid").args(["--fork", "containerd", "--config"]);
        command.arg(self.folder.join("config")).spawn_logged(&log).wait(PATIENCE);
        let deadline = std::time::Instant::now() + PATIENCE;
        while !self.ctr(&["version"]).output().status.success() {
            let said = fs::read_to_string(&log).unwrap_or_default();
            assert!(std::time::Instant::now() < deadline, "containerd does not answer:\n{said}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

impl Container<'_> {
    /// Kills the task, which has `ctr` call DEL and remove the container.
    #[track_caller]
    pub(crate) fn remove(mut self) {
        self.containerd.ctr(&["tasks", "kill", "--signal", "SIGKILL", self.name]).run();
        self.ctr.wait(PATIENCE);
    }
}

impl Attached for Container<'_> {
    /// `ctr` tells of none, so that the container is asked.
    fn address(&self) -> String {
        let shown = self.exec(&["ip", "-4", "-o", "address", "show", "dev", "eth0"]);
        let address = shown.split_whitespace().find_map(|word| word.strip_suffix("/24"));
        address.unwrap_or_else(|| panic!("no address: {shown}")).to_owned()
    }

    fn command(&self, words: &[&str]) -> Command {
        self.containerd.exec("default", self.name, words)
    }
}
