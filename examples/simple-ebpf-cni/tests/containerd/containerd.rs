//! containerd, and containers under it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cnikit_testbed::{Command, Host, Namespace, Running, eventually};

use crate::image::TINY;

/// How long containerd and its containers may take to start or to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A containerd of the test's own. It is the first process of a PID namespace, so that all it started ends with it.
pub(crate) struct Containerd<'h> {
    host: &'h Host,
    process: Running,
    socket: PathBuf,
    cgroup: String,
}

/// A running container. Its `ctr` stays attached: it is `ctr` that calls DEL, when the task ends.
pub(crate) struct Container<'c> {
    containerd: &'c Containerd<'c>,
    name: &'static str,
    ctr: Running,
}

impl<'h> Containerd<'h> {
    pub(crate) fn start(host: &'h Host) -> Self {
        let folder = host.scratch();
        let [root, state, socket, log, config] =
            ["root", "state", "socket", "log", "config"].map(|name| folder.join(name));
        let text = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \
             \"io.containerd.cri.v1.runtime\"]\n\
             [grpc]\naddress = {socket:?}\n[ttrpc]\naddress = \"{}.ttrpc\"\n",
            socket.display()
        );
        fs::write(&config, text).expect("the scratch space is writable");
        // Ends with the test even where that has no time to clean up.
        let command = host.command("setpriv").args(["--pdeathsig", "KILL", "--"]);
        let command =
            command.words("unshare --pid --fork --kill-child --mount-proc -- containerd --config").arg(config);
        let process = command.spawn_logged(&log);
        let cgroup = format!("cnikit-containerd-{}", process.pid());
        let containerd = Self { host, process, socket, cgroup };
        let deadline = std::time::Instant::now() + PATIENCE;
        while !containerd.ctr(&["version"]).output().status.success() {
            let said = fs::read_to_string(&log).unwrap_or_default();
            assert!(std::time::Instant::now() < deadline, "containerd does not answer:\n{said}");
            std::thread::sleep(Duration::from_millis(50));
        }
        containerd
    }

    /// A command of `ctr`, which has to share containerd's view of processes: it calls the plugin with a path in `/proc`.
    pub(crate) fn ctr(&self, arguments: &[&str]) -> Command {
        let namespaces = format!("/proc/{}/ns", self.process.pid());
        let inside = self.host.command("nsenter");
        let inside = inside.args([format!("--mount={namespaces}/mnt"), format!("--pid={namespaces}/pid_for_children")]);
        inside.args(["--", "ctr", "--address"]).arg(&self.socket).args(arguments).limit(PATIENCE)
    }

    /// Takes in an image.
    #[track_caller]
    pub(crate) fn import(&self, archive: &Path) {
        self.ctr(&["images", "import", "--snapshotter", "native"]).arg(archive).run();
    }

    /// The control group for a container of this name, which goes with this containerd.
    pub(crate) fn cgroup(&self, name: &str) -> String {
        format!("/{}/{name}", self.cgroup)
    }

    /// Starts a container that serves a page.
    pub(crate) fn run(&'h self, name: &'static str) -> Container<'h> {
        let cgroup = self.cgroup(name);
        let run = self.ctr(&["run", "--rm", "--cni", "--snapshotter", "native", "--cgroup", &cgroup, TINY, name]);
        let ctr = run.args(["/bin/httpd", "-f", "-p", "8080", "-h", "/"]).spawn();
        let container = Container { containerd: self, name, ctr };
        eventually(&format!("container {name}"), PATIENCE, || {
            let tasks = self.ctr(&["tasks", "list"]).run();
            tasks.lines().any(|line| line.starts_with(name) && line.contains("RUNNING"))
        });
        container
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        self.process.kill();
        // Wherever the hierarchies are mounted; of the older kind there are several. They are busy until the last
        // process of containers that a failed test left behind is gone.
        let find = format!("find /sys/fs/cgroup -depth -type d -path '*/{}*'", self.cgroup);
        let remove = format!("for _ in $(seq 50); do {find} -exec rmdir {{}} + 2>/dev/null && break; sleep 0.1; done");
        let _ = self.host.command("sh").args(["-c", &remove]).output();
    }
}

impl Container<'_> {
    /// Runs a command in the container and returns what it printed.
    #[track_caller]
    pub(crate) fn exec(&self, command: &[&str]) -> String {
        self.containerd.ctr(&["tasks", "exec", "--exec-id", "test", self.name]).args(command).run()
    }

    /// The address that the container was given.
    #[track_caller]
    pub(crate) fn address(&self) -> String {
        let mut address = None;
        // A task is there before its network is.
        eventually("the container to have an address", PATIENCE, || {
            let shown = self.exec(&["ip", "-4", "-o", "address", "show"]);
            let eth0 = shown.lines().find(|line| line.contains(" eth0 ")).unwrap_or_default();
            address =
                eth0.split_whitespace().find_map(|word| word.split_once("/24")).map(|(address, _)| address.to_owned());
            address.is_some()
        });
        address.expect("it has come to have one")
    }

    /// Kills the task, which has `ctr` call DEL and remove the container.
    #[track_caller]
    pub(crate) fn remove(mut self) {
        self.containerd.ctr(&["tasks", "kill", "--signal", "SIGKILL", self.name]).run();
        self.ctr.wait(PATIENCE);
    }
}
