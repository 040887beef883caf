//! The network of all containers in these tests, and its state.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use cnikit_testbed::{Command, Host, Namespace, eventually, tool};
use serde_json::{Value, json};

use crate::image::{BLOB, BLOB_SIZE, PAGE, SERVED};
use crate::processes::PATIENCE;

/// The network's name.
pub(crate) const NAME: &str = "containers";

/// The first address of its subnet, assigned to the bridge.
const GATEWAY: &str = "10.99.0.1";

/// The directories of plugins and of networks for runtimes.
pub(crate) const BIN_DIR: &str = "/opt/cni/bin";
pub(crate) const CONF_DIR: &str = "/etc/cni/net.d";

/// The plugin that containerd runs for the pod's `lo`.
pub(crate) const LOOPBACK: &str = "loopback";

/// Debian's directory of the reference plugins.
const PEERS: &str = "/usr/lib/cni";

/// A container of [`TINY`](crate::image::TINY) in the network, of any runtime.
pub(crate) trait Attached {
    /// The assigned address.
    #[track_caller]
    fn address(&self) -> String;

    /// A command that runs in the container.
    #[track_caller]
    fn command(&self, words: &[&str]) -> Command;

    /// Runs a command in the container and returns its output.
    #[track_caller]
    fn exec(&self, words: &[&str]) -> String {
        self.command(words).run()
    }

    /// Fetches a page from another container, or from a published port.
    #[track_caller]
    fn wget(&self, address: &str, port: u16, page: &str) -> String {
        self.exec(&wget(&url(address, port, page)))
    }

    /// Waits until the container serves its pages. A runtime returns when the process has started,
    /// before the server is ready.
    #[track_caller]
    fn await_server(&self) {
        let url = url("127.0.0.1", SERVED, "page");
        eventually("the web server", PATIENCE, || self.command(&wget(&url)).output().status.success());
    }
}

/// This plugin's part of a list.
pub(crate) fn ours() -> Value {
    json!({ "type": "simple-ebpf-cni", "bridge": "cbr0", "subnet": "10.99.0.0/24" })
}

/// `portmap`, with the ports that the runtime names.
pub(crate) fn portmap() -> Value {
    json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true })
}

/// Whether the reference plugins are installed. Otherwise as [`tool`].
pub(crate) fn peers(names: &[&str]) -> bool {
    names.iter().all(|name| tool(&format!("{PEERS}/{name}")))
}

/// Installs the plugins and a network of this list in the runtimes' directories.
#[track_caller]
pub(crate) fn install(host: &Host, plugins: &[Value]) {
    host.empty_dir(BIN_DIR);
    let bin = Path::new(BIN_DIR);
    fs::copy(env!("CARGO_BIN_EXE_simple-ebpf-cni"), bin.join("simple-ebpf-cni")).expect("the plugin is installed");
    for peer in fs::read_dir(PEERS).into_iter().flatten() {
        let peer = peer.expect("the folder can be listed");
        // The installed plugin serves this one.
        if peer.file_name() != LOOPBACK {
            symlink(peer.path(), bin.join(peer.file_name())).expect("the plugin is linked");
        }
    }
    symlink("simple-ebpf-cni", bin.join(LOOPBACK)).expect("the plugin is linked");
    host.empty_dir(CONF_DIR);
    let list = json!({ "cniVersion": "1.0.0", "name": NAME, "plugins": plugins });
    fs::write(Path::new(CONF_DIR).join("10-containers.conflist"), list.to_string()).expect("the network is installed");
    for line in ["link cbr0 ", "address cbr0 ", "route 10.99.0.0/24 ", "pin /sys/fs/bpf/simple-ebpf-cni/"] {
        host.keep(line);
    }
    for file in ["lock", "last"] {
        host.keep(&format!("file /var/lib/cni/simple-ebpf-cni/{NAME}/{file}"));
    }
}

/// The lines of `pods`, and the pods of `pods --json`.
#[track_caller]
pub(crate) fn shown_pods(host: &Host) -> (String, Vec<Value>) {
    let command = || host.command(format!("{BIN_DIR}/simple-ebpf-cni")).arg("pods");
    let all = command().arg("--json").json();
    (command().run(), all["pods"].as_array().expect("a list").clone())
}

/// Turns on forwarding, which a host with published ports needs.
pub(crate) fn forward() {
    // The setting of this thread's network namespace, which belongs to the test.
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("the host is the test's");
}

/// Both containers ping each other and fetch each other's page.
#[track_caller]
pub(crate) fn assert_reach_each_other(one: &dyn Attached, two: &dyn Attached) {
    assert_ne!(one.address(), two.address());
    for (from, to) in [(one, two.address()), (two, one.address())] {
        let pinged = from.exec(&["ping", "-c", "3", "-i", "0.1", "-W", "2", &to]);
        assert!(pinged.contains(" 0% packet loss"), "{pinged}");
        assert_eq!(from.wget(&to, SERVED, "page"), PAGE);
    }
}

/// The host and another container fetch the page at a published port.
#[track_caller]
pub(crate) fn assert_published(host: &Host, other: &dyn Attached, port: u16) {
    assert_eq!(host.command("busybox").args(wget(&url(GATEWAY, port, "page"))).run(), PAGE, "from the host");
    assert_eq!(other.wget(GATEWAY, port, "page"), PAGE, "from another container");
}

/// The host gets no answer at the port, and no rule leads to an unused address.
#[track_caller]
pub(crate) fn assert_not_published(host: &Host, port: u16) {
    let output = host.command("busybox").args(wget(&url(GATEWAY, port, "page"))).output();
    assert!(!output.status.success() && output.stderr.contains("refused"), "{output:?}");
}

/// The time for [`BLOB`] from one container to the other.
#[track_caller]
pub(crate) fn fetch(from: &dyn Attached, to: &dyn Attached) -> Duration {
    let address = from.address();
    let start = Instant::now();
    let received = to.wget(&address, SERVED, BLOB);
    let took = start.elapsed();
    assert_eq!(received.len(), BLOB_SIZE);
    took
}

/// The number of pods in the maps.
#[track_caller]
pub(crate) fn map_entries(host: &Host) -> usize {
    let pins = format!("/sys/fs/bpf/simple-ebpf-cni/{NAME}");
    let found = host.command("find").args([&pins, "-name", "pkt_count"]).run();
    let dump = host.command("bpftool").args(["-j", "map", "dump", "pinned", found.trim()]).json();
    dump.as_array().map_or_else(|| panic!("no list: {dump}"), Vec::len)
}

/// The network has no pods: no pair, no map entry, no named network namespace. The search of
/// [`host`](cnikit_testbed::host) covers leases, because they are files.
#[track_caller]
pub(crate) fn assert_deserted(host: &Host) {
    assert_eq!(pairs(host), [""; 0]);
    assert_eq!(map_entries(host), 0);
    let named: Vec<_> = fs::read_dir("/run/netns").into_iter().flatten().collect();
    assert!(named.is_empty(), "{named:?}");
}

/// The host ends of the existing pairs.
#[track_caller]
pub(crate) fn pairs(host: &Host) -> Vec<String> {
    let veths = host.links().into_iter().filter(|link| link["linkinfo"]["info_kind"] == "veth");
    veths.map(|link| link["ifname"].as_str().expect("a link has a name").to_owned()).collect()
}

fn url(address: &str, port: u16, page: &str) -> String {
    format!("http://{address}:{port}/{page}")
}

/// Without a time limit of its own: wget's `-T` crashes in Debian's static busybox.
fn wget(url: &str) -> [&str; 5] {
    ["wget", "-q", "-O", "-", url]
}
