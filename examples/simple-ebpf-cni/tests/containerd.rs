//! A real runtime as the caller: containerd and runc, with the plugin installed as on a node.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cnikit_testbed::{Command, Host, Namespace, Running, eventually, host, privileged, tool};
use serde_json::json;

const IMAGE: &str = "docker.io/library/tiny:1";

/// What the web server of the image serves.
const PAGE: &str = "served by a container\n";

/// How long containerd and its containers may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn two_containers_reach_each_other_and_leave_nothing() {
    if !privileged() || !["containerd", "ctr", "runc", "busybox"].into_iter().all(tool) {
        return;
    }
    host(|host| {
        install(host);
        let containerd = Containerd::start(host);
        containerd.ctr(&["images", "import", "--snapshotter", "native"]).arg(image(host)).run();

        let (one, two) = (containerd.run("one"), containerd.run("two"));
        let (first, second) = (one.address(), two.address());
        assert_ne!(first, second);
        for (from, to) in [(&one, &second), (&two, &first)] {
            let pinged = from.exec(&["ping", "-c", "3", "-W", "2", to]);
            assert!(pinged.contains(" 0% packet loss"), "{pinged}");
            // Without a time limit of its own: wget's -T crashes in Debian's static busybox.
            assert_eq!(from.exec(&["wget", "-q", "-O", "-", &format!("http://{to}:8080/page")]), PAGE);
        }
        assert_eq!(rows(host), 2);

        two.remove();
        one.remove();
        let veths = host.ip("link show type veth");
        assert!(veths.as_array().is_none_or(|links| links.iter().all(|link| link["ifname"].is_null())), "{veths}");
        assert_eq!(rows(host), 0);
    });
}

/// Puts the plugin and a network configuration where runtimes look for them.
fn install(host: &Host) {
    host.empty_dir("/opt/cni/bin");
    fs::copy(env!("CARGO_BIN_EXE_simple-ebpf-cni"), "/opt/cni/bin/simple-ebpf-cni").expect("the plugin is installed");
    host.empty_dir("/etc/cni/net.d");
    let list = json!({
        "cniVersion": "1.0.0", "name": "containers",
        "plugins": [{ "type": "simple-ebpf-cni", "bridge": "cbr0", "subnet": "10.99.0.0/24" }],
    });
    fs::write("/etc/cni/net.d/10-containers.conflist", list.to_string()).expect("the configuration is installed");
    for line in [
        "link cbr0 ",
        "address cbr0 ",
        "route 10.99.0.0/24 ",
        "pin /sys/fs/bpf/simple-ebpf-cni/",
        "file /var/lib/cni/simple-ebpf-cni/containers/lock",
        "file /var/lib/cni/simple-ebpf-cni/containers/last",
    ] {
        host.keep(line);
    }
}

/// How many pods the maps know of.
#[track_caller]
fn rows(host: &Host) -> usize {
    let found = host.command("find").args(["/sys/fs/bpf/simple-ebpf-cni/containers", "-name", "pkt_count"]).run();
    let dump = host.command("bpftool").args(["-j", "map", "dump", "pinned", found.trim()]).json();
    dump.as_array().map_or_else(|| panic!("no list: {dump}"), Vec::len)
}

/// Builds an image of one layer around the machine's static busybox, and returns its archive.
fn image(host: &Host) -> PathBuf {
    let folder = host.scratch();
    let files = folder.join("layer");
    fs::create_dir_all(files.join("bin")).expect("the scratch space is writable");
    let busybox = host.command("sh").args(["-c", "command -v busybox"]).run();
    fs::copy(busybox.trim(), files.join("bin/busybox")).expect("busybox is copied");
    for applet in ["httpd", "ip", "ping", "wget"] {
        std::os::unix::fs::symlink("busybox", files.join("bin").join(applet)).expect("the applet is linked");
    }
    fs::write(files.join("page"), PAGE).expect("the page is written");

    let tar = |name: &str, from: &Path, what: &[&str]| {
        host.command("tar").arg("-C").arg(from).arg("-cf").arg(folder.join(name)).args(what).run()
    };
    tar("layer.tar", &files, &["."]);
    let sum = host.command("sha256sum").arg(folder.join("layer.tar")).run();
    let digest = sum.split_whitespace().next().expect("a digest").to_owned();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture, "os": "linux", "config": { "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]);
    for (name, document) in [("config.json", config), ("manifest.json", manifest)] {
        fs::write(folder.join(name), document.to_string()).expect("the scratch space is writable");
    }
    tar("image.tar", &folder, &["manifest.json", "config.json", "layer.tar"]);
    folder.join("image.tar")
}

/// A containerd of the test's own. It is the first process of a PID namespace, so that all it started ends with it.
struct Containerd<'h> {
    host: &'h Host,
    process: Running,
    socket: PathBuf,
    cgroup: String,
}

/// A running container. Its `ctr` stays attached: it is `ctr` that calls DEL, when the task ends.
struct Container<'c> {
    containerd: &'c Containerd<'c>,
    name: &'static str,
    ctr: Running,
}

impl<'h> Containerd<'h> {
    fn start(host: &'h Host) -> Self {
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
    fn ctr(&self, arguments: &[&str]) -> Command {
        let namespaces = format!("/proc/{}/ns", self.process.pid());
        let inside = self.host.command("nsenter");
        let inside = inside.args([format!("--mount={namespaces}/mnt"), format!("--pid={namespaces}/pid_for_children")]);
        inside.args(["--", "ctr", "--address"]).arg(&self.socket).args(arguments).limit(PATIENCE)
    }

    /// Starts a container that serves a page.
    fn run(&'h self, name: &'static str) -> Container<'h> {
        let cgroup = format!("/{}/{name}", self.cgroup);
        let run = self.ctr(&["run", "--rm", "--cni", "--snapshotter", "native", "--cgroup", &cgroup, IMAGE, name]);
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
    fn exec(&self, command: &[&str]) -> String {
        self.containerd.ctr(&["tasks", "exec", "--exec-id", "test", self.name]).args(command).run()
    }

    /// The address that the container was given.
    #[track_caller]
    fn address(&self) -> String {
        let shown = self.exec(&["ip", "-4", "-o", "address", "show", "dev", "eth0"]);
        let address = shown.split_whitespace().find_map(|word| word.split_once("/24"));
        address.unwrap_or_else(|| panic!("no address in {shown:?}")).0.to_owned()
    }

    /// Kills the task, which has `ctr` call DEL and remove the container.
    #[track_caller]
    fn remove(mut self) {
        self.containerd.ctr(&["tasks", "kill", "--signal", "SIGKILL", self.name]).run();
        self.ctr.wait(PATIENCE);
    }
}
