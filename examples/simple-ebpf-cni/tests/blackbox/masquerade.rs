//! Masquerading: machines outside see the host's address, pods and the host see the pod's. The
//! tests read the rules with nft.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use cnikit_testbed::{Namespace, Pod, tool};
use serde_json::{Value, json};

use crate::cli::shown;
use crate::support::{DATA_DIR, GATEWAY, NAME, Network, code, on_host};

const IPV4_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
const IPV6_FORWARD: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

/// Time limit of a datagram.
const PATIENCE: Duration = Duration::from_secs(2);

/// The addresses of one family: the host's uplink, the machine beyond it, and the first pod.
struct Family {
    host: &'static str,
    outsider: &'static str,
    pod: &'static str,
}

const IPV4: Family = Family { host: "192.0.2.1", outsider: "192.0.2.9", pod: "10.99.0.2" };
const IPV6: Family = Family { host: "2001:db8::1", outsider: "2001:db8::9", pod: "fd00:99::2" };

/// Runs a test on a host without forwarding. A machine without a route to pods is beyond its uplink
/// `up0`.
#[track_caller]
fn with_outsider(test: impl FnOnce(&Network, &Pod) + Send) {
    if !tool("nft") {
        return;
    }
    on_host(|network| {
        for setting in [IPV4_FORWARD, IPV6_FORWARD] {
            fs::write(setting, "0").unwrap_or_else(|error| panic!("{setting}: {error}"));
        }
        let (host, outsider) = (network.host, network.host.pod());
        host.keep("route fd00:99::/64");
        host.ip(&format!("link add up0 type veth peer name eth0 netns {}", outsider.netns().display()));
        for (side, link, ipv4, ipv6) in
            [(host as &dyn Ip, "up0", IPV4.host, IPV6.host), (&outsider, "eth0", IPV4.outsider, IPV6.outsider)]
        {
            side.run(&format!("address add {ipv4}/24 dev {link}"));
            side.run(&format!("address add {ipv6}/64 dev {link} nodad"));
            side.run(&format!("link set {link} up"));
        }
        test(&Network { host, plugin: network.plugin.clone(), config: masqueraded(network) }, &outsider);
        host.ip("link del up0");
    });
}

/// The host or a pod.
trait Ip {
    fn run(&self, line: &str);
}

impl<N: Namespace> Ip for N {
    fn run(&self, line: &str) {
        self.ip(line);
    }
}

/// A configuration of both families.
fn masqueraded(network: &Network) -> Value {
    let mut config = network.with("ipMasq", true);
    config.as_object_mut().expect("an object").remove("subnet");
    config["subnets"] = json!(["10.99.0.0/24", "fd00:99::/64"]);
    config
}

fn at(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), 4711)
}

/// The source address that a socket sees when the pod sends to it.
#[track_caller]
fn seen_by(there: &UdpSocket, from: &Pod, pod: &str, to: &str) -> IpAddr {
    there.set_read_timeout(Some(PATIENCE)).expect("a socket has a time limit");
    let here = from.enter(|| UdpSocket::bind(at(pod)).expect("the port is free"));
    // The first datagrams may be lost while a neighbor or a link becomes ready.
    for _ in 0..5 {
        here.send_to(b"word", at(to)).unwrap_or_else(|error| panic!("{pod} to {to}: {error}"));
        if let Ok((_, seen)) = there.recv_from(&mut [0; 4]) {
            return seen.ip();
        }
    }
    panic!("no packet of {pod} arrived at {to}");
}

fn listen(pod: &Pod, address: &str) -> UdpSocket {
    pod.enter(|| UdpSocket::bind(at(address)).expect("the port is free"))
}

/// The plugin's table as nft lists it: chains and rules, with their handles.
#[track_caller]
fn table(network: &Network) -> Vec<Value> {
    let listed = network.host.command("nft").words("-j list ruleset").json();
    let objects = listed["nftables"].as_array().expect("a list").iter();
    objects
        .filter(|object| ["chain", "rule"].iter().any(|kind| object[kind]["table"] == "simple-ebpf-cni"))
        .cloned()
        .collect()
}

/// The prefixes with a rule in the chain of a network.
#[track_caller]
fn sources(network: &Network, name: &str) -> BTreeSet<String> {
    let chain = format!("masquerade-{name}");
    let rules: Vec<_> = table(network).into_iter().filter(|object| object["rule"]["chain"] == chain.as_str()).collect();
    let prefixes: BTreeSet<_> = rules
        .iter()
        .map(|rule| {
            let prefix = &rule["rule"]["expr"][0]["match"]["right"]["prefix"];
            format!("{}/{}", prefix["addr"].as_str().expect("a prefix"), prefix["len"])
        })
        .collect();
    assert_eq!(prefixes.len(), rules.len(), "a rule for each subnet: {rules:?}");
    prefixes
}

fn prefixes<const N: usize>(prefixes: [&str; N]) -> BTreeSet<String> {
    prefixes.map(str::to_owned).into()
}

#[test]
fn machines_outside_see_the_host_and_reply() {
    with_outsider(|network, outsider| {
        let pod = network.attach("one");
        for family in [&IPV4, &IPV6] {
            let there = listen(outsider, family.outsider);
            let seen = seen_by(&there, &pod.pod, family.pod, family.outsider);
            assert_eq!(seen.to_string(), family.host);
            assert!(pod.pod.ping(family.outsider, 3).status.success(), "{} does not answer", family.outsider);
        }
        for setting in [IPV4_FORWARD, IPV6_FORWARD] {
            assert_eq!(fs::read_to_string(setting).expect("a setting"), "1\n", "{setting}");
        }
        network.check(&pod).silent();
        network.detach(&pod);
    });
}

/// The control: the effect in the other tests comes from the rules.
#[test]
fn without_the_rules_machines_outside_see_the_pod() {
    with_outsider(|network, outsider| {
        let pod = network.attach("one");
        network.host.command("nft").words("flush chain inet simple-ebpf-cni masquerade-blackbox").run();
        for family in [&IPV4, &IPV6] {
            let there = listen(outsider, family.outsider);
            outsider.ip(&format!("route add {} via {}", family.pod, family.host));
            let seen = seen_by(&there, &pod.pod, family.pod, family.outsider);
            assert_eq!(seen.to_string(), family.pod);
        }
        network.detach(&pod);
    });
}

#[test]
fn pods_and_the_host_see_the_pod() {
    with_outsider(|network, _| {
        let network = &Network {
            host: network.host,
            plugin: network.plugin.clone(),
            config: network.with("directForwarding", false),
        };
        if let Ok(mut setting) = fs::OpenOptions::new().write(true).open("/proc/sys/net/bridge/bridge-nf-call-iptables")
        {
            // Packets on the bridge pass the rules, too.
            std::io::Write::write_all(&mut setting, b"1").expect("a setting can be written");
        }
        let (one, two) = (network.attach("one"), network.attach("two"));
        let there = listen(&two.pod, two.address());
        assert_eq!(seen_by(&there, &one.pod, one.address(), two.address()).to_string(), one.address());
        for address in [GATEWAY, IPV4.host] {
            let there = UdpSocket::bind(at(address)).expect("the port is free");
            assert_eq!(seen_by(&there, &one.pod, one.address(), address).to_string(), one.address(), "{address}");
        }
        network.detach(&one);
        network.detach(&two);
    });
}

#[test]
fn the_rules_are_created_once_and_outlive_the_pods() {
    with_outsider(|network, _| {
        assert_eq!(table(network), [Value::Null; 0]);
        let one = network.attach("one");
        let first = table(network);
        let text = "add table inet theirs
            add chain inet theirs rules { type nat hook postrouting priority srcnat; }
            add rule inet theirs rules ip saddr 10.99.0.0/24 ip daddr != 10.99.0.0/24 ip daddr != 224.0.0.0/4 \
                oifname != \"cbr0\" masquerade fully-random
            add rule inet theirs rules ip6 saddr fd00:99::/64 ip6 daddr != fd00:99::/64 ip6 daddr != ff00::/8 \
                oifname != \"cbr0\" masquerade fully-random";
        network.host.command("nft").args(["-f", "-"]).stdin(text).run();
        let listed = network.host.command("nft").words("-j list table inet theirs").json();
        let expected: Vec<_> =
            listed["nftables"].as_array().expect("a list").iter().map(|object| &object["rule"]["expr"]).collect();
        let made: Vec<_> = first.iter().map(|object| &object["rule"]["expr"]).filter(|rule| rule.is_array()).collect();
        assert_eq!(made.len(), 2, "{first:#?}");
        assert_eq!(made, expected.into_iter().filter(|rule| rule.is_array()).collect::<Vec<_>>());

        let two = network.attach("two");
        network.detach(&one);
        network.detach(&two);
        assert_eq!(table(network), first, "handles included");
    });
}

#[test]
fn the_next_add_creates_missing_rules_again() {
    with_outsider(|network, outsider| {
        let one = network.attach("one");
        let there = listen(outsider, IPV4.outsider);
        for (removal, name) in [
            ("delete table inet simple-ebpf-cni", "two"),
            ("flush ruleset", "three"),
            ("flush chain inet simple-ebpf-cni masquerade-blackbox", "four"),
            ("add rule inet simple-ebpf-cni masquerade-blackbox drop", "five"),
        ] {
            network.host.command("nft").words(removal).run();
            let message = network.check(&one).error(code::DIFFERS);
            assert!(message.contains("masquerade-blackbox"), "{message}");
            let pod = network.attach(name);
            network.check(&one).silent();
            let seen = seen_by(&there, &pod.pod, pod.address(), IPV4.outsider);
            assert_eq!(seen.to_string(), IPV4.host, "after {removal}");
            network.detach(&pod);
        }
        fs::write(IPV4_FORWARD, "0").expect("a setting can be written");
        let message = network.check(&one).error(code::DIFFERS);
        assert!(message.contains("ip_forward"), "{message}");
        let six = network.attach("six");
        assert_eq!(fs::read_to_string(IPV4_FORWARD).expect("a setting"), "1\n");
        network.detach(&six);
        network.detach(&one);
    });
}

#[test]
fn changed_subnets_replace_the_rules() {
    with_outsider(|network, _| {
        network.host.keep("route 10.98.0.0/24 ");
        let one = network.attach("one");
        assert_eq!(sources(network, NAME), prefixes(["10.99.0.0/24", "fd00:99::/64"]));
        network.detach(&one);
        let moved = Network {
            host: network.host,
            plugin: network.plugin.clone(),
            config: network.with("subnets", json!(["10.98.0.0/24"])),
        };
        let two = moved.attach("two");
        assert_eq!(sources(network, NAME), prefixes(["10.98.0.0/24"]));
        moved.check(&two).silent();
        moved.detach(&two);
    });
}

#[test]
fn two_networks_coexist_until_one_stops_masquerading() {
    with_outsider(|network, _| {
        let other_files = format!("file {DATA_DIR}/other/");
        for line in ["link cbr1 ", "address cbr1 ", "route 10.98.0.0/24 ", "pin /sys/fs/bpf/", &other_files] {
            network.host.keep(line);
        }
        let mut other = network.with("name", "other");
        (other["bridge"], other["subnets"]) = ("cbr1".into(), json!(["10.98.0.0/24"]));
        let (one, pod) = (network.attach("one"), network.host.pod());
        network.plugin.on("ADD", &other, "one", &pod).run().result();
        assert_eq!(sources(network, NAME), prefixes(["10.99.0.0/24", "fd00:99::/64"]));
        assert_eq!(sources(network, "other"), prefixes(["10.98.0.0/24"]));

        // GC removes objects that the configuration no longer requests.
        (other["cniVersion"], other["cni.dev/valid-attachments"]) =
            ("1.1.0".into(), json!([{ "containerID": "one", "ifname": "eth0" }]));
        let gc = |config: &Value| network.plugin.invocation("GC").config(config).run().silent();
        gc(&other);
        assert_eq!(sources(network, "other"), prefixes(["10.98.0.0/24"]));
        other["ipMasq"] = false.into();
        gc(&other);
        gc(&other);
        assert_eq!(sources(network, "other"), prefixes([]));
        assert_eq!(sources(network, NAME), prefixes(["10.99.0.0/24", "fd00:99::/64"]));
        network.plugin.on("DEL", &other, "one", &pod).run().silent();
        network.detach(&one);
    });
}

/// The first ADDs, in parallel: with pools of the network, and with another plugin.
#[test]
fn parallel_adds_create_one_rule_for_each_subnet() {
    with_outsider(|network, _| {
        let dir = network.host.scratch();
        let mut delegated = network.config.clone();
        delegated.as_object_mut().expect("an object").remove("subnets");
        delegated["ipam"] = json!({ "type": "host-local", "subnet": "10.99.0.0/24", "dataDir": dir });
        for (config, expected) in
            [(&network.config, prefixes(["10.99.0.0/24", "fd00:99::/64"])), (&delegated, prefixes(["10.99.0.0/24"]))]
        {
            for _ in 0..3 {
                let pods: Vec<_> = (0..8).map(|_| network.host.pod()).collect();
                let call = |verb, number: usize| {
                    network
                        .plugin
                        .on(verb, config, &format!("pod-{number}"), &pods[number])
                        .env("CNI_PATH", "/usr/lib/cni")
                };
                std::thread::scope(|scope| {
                    for number in 0..pods.len() {
                        let add = call("ADD", number);
                        scope.spawn(move || add.run().result());
                    }
                });
                assert_eq!(sources(network, NAME), expected);
                for number in 0..pods.len() {
                    call("DEL", number).run().silent();
                }
                network.host.command("nft").words("delete table inet simple-ebpf-cni").run();
            }
        }
    });
}

/// The plugin does not know the other pods in the subnets of another plugin.
#[test]
fn subnets_of_another_plugin_add_up() {
    with_outsider(|network, _| {
        network.host.keep("route 10.98.0.0/24 ");
        let mut seen = BTreeSet::new();
        let dir = network.host.scratch();
        for subnet in ["10.99.0.0/24", "10.98.0.0/24", "10.99.0.0/24"] {
            let mut config = network.config.clone();
            config.as_object_mut().expect("an object").remove("subnets");
            config["ipam"] = json!({ "type": "host-local", "subnet": subnet, "dataDir": dir });
            let pod = network.host.pod();
            let call = |verb, config: &Value| {
                network.plugin.on(verb, config, "one", &pod).env("CNI_PATH", "/usr/lib/cni").run()
            };
            let result = call("ADD", &config).result();
            seen.insert(subnet.to_owned());
            assert_eq!(sources(network, NAME), seen);
            config["prevResult"] = result;
            call("CHECK", &config).silent();
            call("DEL", &config).silent();
        }
    });
}

/// A host that gets its router from advertisements would lose it when it becomes a router.
#[test]
fn the_uplink_still_accepts_router_advertisements() {
    with_outsider(|network, _| {
        network.host.ip("link add other0 type bridge");
        for link in ["up0", "other0"] {
            fs::write(format!("/proc/sys/net/ipv6/conf/{link}/accept_ra"), "1").expect("a setting can be written");
        }
        network.host.ip(&format!("-6 route add default via {} dev up0", IPV6.outsider));
        let pod = network.attach("one");
        let heeds =
            |link: &str| fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{link}/accept_ra")).expect("a setting");
        assert_eq!([heeds("up0"), heeds("other0")], ["2\n", "1\n"]);
        network.detach(&pod);
        network.host.ip("link del other0");
    });
}

#[test]
fn read_only_settings_are_reported() {
    with_outsider(|network, _| {
        let status = || network.plugin.invocation("STATUS").config(&network.with("cniVersion", "1.1.0")).run();
        status().silent();
        assert_eq!(table(network), [Value::Null; 0], "STATUS changes nothing");
        for setting in [IPV4_FORWARD, IPV6_FORWARD] {
            for options in ["--bind", "-o remount,bind,ro"] {
                network.host.command("mount").words(options).args([setting, setting]).run();
            }
        }
        let message = status().error(50);
        assert!(message.contains("ip_forward"), "{message}");
        let pod = network.host.pod();
        let outcome = network.call("ADD", "one", &pod);
        for setting in [IPV4_FORWARD, IPV6_FORWARD] {
            assert!(outcome.stderr.contains(setting), "{outcome:?}");
        }
        outcome.result();
        network.call("DEL", "one", &pod).silent();
        for setting in [IPV4_FORWARD, IPV6_FORWARD] {
            network.host.command("umount").arg(setting).run();
        }
        status().silent();
    });
}

/// The plugin's networks share the table. The last network removes it.
#[test]
fn a_purge_leaves_no_rule_and_no_table() {
    with_outsider(|network, _| {
        let tables = || network.host.command("nft").words("-j list tables").json()["nftables"].to_string();
        let before = tables();
        let mut other = network.config.clone();
        (other["name"], other["bridge"]) = ("other".into(), "cbr1".into());
        other["subnets"] = json!(["10.98.0.0/24"]);
        let pods = [network.host.pod(), network.host.pod()];
        let call = |verb: &str, config: &Value, pod: &Pod| network.plugin.on(verb, config, "one", pod).run();
        call("ADD", &network.config, &pods[0]).result();
        call("ADD", &other, &pods[1]).result();
        let purge = |network: &str| shown(&format!("uninstall --purge --force --network {network}"));
        purge(NAME);
        assert_eq!(sources(network, "other"), prefixes(["10.98.0.0/24"]), "the chain of another network remains");
        assert!(sources(network, NAME).is_empty());
        purge("other");
        assert_eq!(tables(), before);
        call("DEL", &network.config, &pods[0]).silent();
        call("DEL", &other, &pods[1]).silent();
    });
}
