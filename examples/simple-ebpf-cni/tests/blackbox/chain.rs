//! Plugins of other projects after this one in a list, run by the library's runtime: Debian's
//! `portmap`, `tuning` and `bandwidth`.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use cnikit::runtime::{AttachmentParameters, NetworkConfigList, ResultCache, Runtime};
use cnikit::spec::AddResult;
use cnikit_testbed::{Namespace, Pod, eventually, kernel, tool};
use serde_json::{Value, json};

use crate::support::{Attached, GATEWAY, NAME, Network, bin, on_host};

/// Debian's directory of plugins.
const PEERS: &str = "/usr/lib/cni";

/// The settings for `tuning`.
const MAC: &str = "02:00:5e:00:53:17";
const MTU: u32 = 1400;
const SOMAXCONN: &str = "321";

/// The published port of a pod: inside, and on the host.
const POD_PORT: u16 = 8080;
const HOST_PORT: u16 = 30_080;

/// Part of the error of Debian's `portmap` at CHECK, for every pod without an IPv6 address. See
/// [plugins#819](https://github.com/containernetworking/plugins/issues/819).
const PORTMAP_819: &str = "could not check ipv6 dnat";

/// Time limit of a connection. A connection without an answer takes all of it.
const PATIENCE: Duration = Duration::from_secs(2);

/// A list of plugins, with the runtime that calls them.
struct Chain<'n> {
    network: &'n Network<'n>,
    list: NetworkConfigList,
    runtime: Runtime,
}

impl<'n> Chain<'n> {
    #[track_caller]
    fn new(network: &'n Network<'n>, first: &Value, after: &[Value]) -> Self {
        let plugins: Vec<&Value> = std::iter::once(first).chain(after).collect();
        let list = json!({ "cniVersion": "1.0.0", "name": NAME, "plugins": plugins });
        let runtime = Runtime::new([bin(), PEERS.as_ref()])
            .cache(ResultCache::new(network.host.scratch()))
            .timeout(Duration::from_secs(15));
        Self { network, list: NetworkConfigList::parse(list.to_string()).expect("the list is valid"), runtime }
    }

    /// Attaches a pod, runs CHECK of all plugins and the test, and detaches the pod.
    #[track_caller]
    fn with_pod(&self, test: impl FnOnce(&Pod, &AddResult)) {
        let pod = self.network.host.pod();
        let publish = json!([{ "hostPort": HOST_PORT, "containerPort": POD_PORT, "protocol": "tcp" }]);
        let parameters =
            AttachmentParameters::new("one".parse().expect("a valid id"), "eth0".parse().expect("a valid name"))
                .netns(pod.netns())
                .with_capability("portMappings", publish);
        let result = self.runtime.add(&self.list, &parameters).unwrap_or_else(|error| panic!("ADD: {error}"));
        let check = || match self.runtime.check(&self.list, &parameters) {
            // `portmap` runs after this plugin, which has thus found no fault.
            Err(error) if error.to_string().contains(PORTMAP_819) => {}
            checked => checked.unwrap_or_else(|error| panic!("CHECK: {error}")),
        };
        check();
        test(&pod, &result);
        check();
        for _ in 0..2 {
            self.runtime.del(&self.list, &parameters).unwrap_or_else(|error| panic!("DEL: {error}"));
        }
        let address = result.ips[0].address.ip().to_string();
        assert!(pod.link("eth0").is_none() && !self.network.taken().contains(&address));
    }
}

/// A configuration that lets pods change their MACs.
fn without_spoof_check(network: &Network) -> Value {
    network.with("spoofCheck", false)
}

/// A server in a pod.
struct Server {
    listener: TcpListener,
}

impl Server {
    fn start(pod: &Pod) -> Self {
        let listener = pod.enter(|| TcpListener::bind(("0.0.0.0", POD_PORT)).expect("the pod has a free port"));
        listener.set_nonblocking(true).expect("a socket can be nonblocking");
        Self { listener }
    }

    /// Connects from the calling thread's namespace to an address. The server sends a word over
    /// that connection.
    fn answers_at(&self, address: &str) -> io::Result<()> {
        let address: SocketAddr = address.parse().expect("an address with a port");
        let mut client = TcpStream::connect_timeout(&address, PATIENCE)?;
        client.set_read_timeout(Some(PATIENCE))?;
        let mut accepted = Err(ErrorKind::WouldBlock.into());
        eventually("the connection to arrive in the pod", PATIENCE, || {
            accepted = self.listener.accept();
            accepted.is_ok()
        });
        accepted?.0.write_all(b"word")?;
        let mut word = [0; 4];
        client.read_exact(&mut word)?;
        assert_eq!(&word, b"word");
        Ok(())
    }
}

fn portmap() -> Value {
    json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true })
}

fn tuning() -> Value {
    json!({ "type": "tuning", "mac": MAC, "mtu": MTU, "sysctl": { "net.core.somaxconn": SOMAXCONN } })
}

fn installed(plugins: &[&str]) -> bool {
    plugins.iter().all(|plugin| tool(&format!("{PEERS}/{plugin}")))
}

/// Adds an uplink to the host, `192.0.2.1`, and a machine behind it.
fn outside_machine(network: &Network) -> Pod {
    let outside_machine = network.host.pod();
    ["link up0 ", "address up0 ", "route 192.0.2.0/24 "].into_iter().for_each(|line| network.host.keep(line));
    network.host.ip(&format!("link add up0 type veth peer name eth0 netns {}", outside_machine.netns().display()));
    network.host.ip("address add 192.0.2.1/24 dev up0");
    network.host.ip("link set up0 up");
    outside_machine.ip("address add 192.0.2.2/24 dev eth0");
    outside_machine.ip("link set eth0 up");
    // The setting of this thread's network namespace, which belongs to the test.
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("the host is the test's");
    outside_machine
}

/// The published port answers the host, another pod, and a machine outside.
#[track_caller]
fn assert_published(pod: &Pod, other: &Attached, outside_machine: &Pod) {
    let server = Server::start(pod);
    for address in ["192.0.2.1", GATEWAY] {
        let address = format!("{address}:{HOST_PORT}");
        server.answers_at(&address).unwrap_or_else(|error| panic!("the host at {address}: {error}"));
        let reached = other.pod.enter(|| server.answers_at(&address));
        reached.unwrap_or_else(|error| panic!("another pod at {address}: {error}"));
    }
    let reached = outside_machine.enter(|| server.answers_at(&format!("192.0.2.1:{HOST_PORT}")));
    reached.unwrap_or_else(|error| panic!("a machine outside: {error}"));
}

/// The host refuses a connection to the port. A leftover rule would translate it to an unused
/// address.
#[track_caller]
fn assert_unpublished() {
    let address = SocketAddr::from(([192, 0, 2, 1], HOST_PORT));
    let error = TcpStream::connect_timeout(&address, PATIENCE).expect_err("no process listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
}

/// The pod's interface and namespace have the settings of `tuning`, and the pod is reachable.
#[track_caller]
fn assert_tuned(pod: &Pod, result: &AddResult, other: &Attached) {
    let link = pod.link("eth0").expect("the pod has an interface");
    assert_eq!((&link["address"], &link["mtu"]), (&json!(MAC), &json!(MTU)));
    assert_eq!(pod.command("cat").arg("/proc/sys/net/core/somaxconn").run().trim(), SOMAXCONN);
    assert_eq!(result.interfaces[2].mac.as_deref(), Some(MAC));
    for (from, to) in [(pod, other.address()), (&other.pod, &result.ips[0].address.ip().to_string())] {
        let output = from.ping(to, 5);
        assert!(output.status.success(), "{to} does not answer: {output:?}");
    }
}

#[test]
fn portmap_publishes_a_port_until_del() {
    if !installed(&["portmap"]) {
        return;
    }
    on_host(|network| {
        let (outside_machine, other) = (outside_machine(network), network.attach("other"));
        Chain::new(network, &network.config, &[portmap()]).with_pod(|pod, result| {
            assert_eq!(result.interfaces.len(), 3, "portmap returns its prevResult");
            assert_published(pod, &other, &outside_machine);
        });
        assert_unpublished();
        network.detach(&other);
    });
}

#[test]
fn tuning_changes_mac_mtu_and_sysctl() {
    if !installed(&["tuning"]) {
        return;
    }
    on_host(|network| {
        let other = network.attach("other");
        Chain::new(network, &without_spoof_check(network), &[tuning()])
            .with_pod(|pod, result| assert_tuned(pod, result, &other));
        network.detach(&other);
    });
}

/// CHECK reports a MAC that the next plugin changed, if the spoof check applies to it.
#[test]
fn check_names_a_mac_that_tuning_changed_without_the_port() {
    if !installed(&["tuning"]) {
        return;
    }
    on_host(|network| {
        let chain = Chain::new(network, &network.config, &[json!({ "type": "tuning", "mac": MAC })]);
        let pod = network.host.pod();
        let parameters =
            AttachmentParameters::new("one".parse().expect("a valid id"), "eth0".parse().expect("a valid name"))
                .netns(pod.netns());
        chain.runtime.add(&chain.list, &parameters).unwrap_or_else(|error| panic!("ADD: {error}"));
        assert!(!pod.ping(GATEWAY, 1).status.success());
        let error = chain.runtime.check(&chain.list, &parameters).expect_err("the pod is cut off").to_string();
        assert!(error.contains("\"spoofCheck\""), "{error}");
        chain.runtime.del(&chain.list, &parameters).unwrap_or_else(|error| panic!("DEL: {error}"));
    });
}

#[test]
fn tuning_and_portmap_in_one_list() {
    if !installed(&["tuning", "portmap"]) {
        return;
    }
    on_host(|network| {
        let (outside_machine, other) = (outside_machine(network), network.attach("other"));
        for after in [[tuning(), portmap()], [portmap(), tuning()]] {
            Chain::new(network, &without_spoof_check(network), &after).with_pod(|pod, result| {
                assert_tuned(pod, result, &other);
                assert_published(pod, &other, &outside_machine);
            });
            assert_unpublished();
        }
        network.detach(&other);
    });
}

/// A pod with shaped traffic. The plugin receives the same capability, and leaves packets to the
/// queueing discipline.
#[test]
fn bandwidth_limits_both_directions() {
    /// A mebibyte per second in bits, and the time for one and a half mebibytes after a burst of an
    /// eighth.
    const RATE: u64 = 8 << 20;
    const AMOUNT: usize = 3 << 19;
    const LEAST: Duration = Duration::from_millis(1200);
    if !installed(&["bandwidth"]) || kernel() < (6, 6) {
        return;
    }
    on_host(|network| {
        let mut first = network.config.clone();
        first["capabilities"] = json!({ "bandwidth": true });
        let shaped = json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } });
        let chain = Chain::new(network, &first, &[shaped]);
        let (pod, other) = (network.host.pod(), network.attach("other"));
        let limits =
            json!({ "ingressRate": RATE, "ingressBurst": RATE / 8, "egressRate": RATE, "egressBurst": RATE / 8 });
        let parameters =
            AttachmentParameters::new("one".parse().expect("a valid id"), "eth0".parse().expect("a valid name"))
                .netns(pod.netns())
                .with_capability("bandwidth", limits);
        let result = chain.runtime.add(&chain.list, &parameters).unwrap_or_else(|error| panic!("ADD: {error}"));
        chain.runtime.check(&chain.list, &parameters).unwrap_or_else(|error| panic!("CHECK: {error}"));
        let own = result.ips[0].address.ip().to_string();
        for (from, to, target) in [(&pod, &other.pod, other.address()), (&other.pod, &pod, own.as_str())] {
            let took = transfer(from, to, target, AMOUNT);
            assert!(took > LEAST, "{AMOUNT} bytes to {target} took {took:?}");
        }
        let unshaped = network.attach("unshaped");
        let took = transfer(&unshaped.pod, &other.pod, other.address(), AMOUNT);
        assert!(took < LEAST / 2, "{AMOUNT} bytes between others took {took:?}");
        chain.runtime.del(&chain.list, &parameters).unwrap_or_else(|error| panic!("DEL: {error}"));
        network.detach(&unshaped);
        network.detach(&other);
    });
}

/// The time for this number of bytes from one pod to the other.
#[track_caller]
fn transfer(from: &Pod, to: &Pod, target: &str, amount: usize) -> Duration {
    let listener = to.enter(|| TcpListener::bind(("0.0.0.0", 0)).expect("a pod has free ports"));
    let port = listener.local_addr().expect("it is bound").port();
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = from.enter(|| TcpStream::connect((target, port)).expect("the other pod listens"));
            client.write_all(&vec![0; amount]).expect("the other pod reads");
        });
        let mut received = Vec::new();
        let (mut server, _) = listener.accept().expect("the pod connects");
        server.read_to_end(&mut received).expect("the pod writes");
        assert_eq!(received.len(), amount);
    });
    start.elapsed()
}
