//! The agent's comparison with the kernel, on a private host.

use std::fs;
use std::path::Path;
use std::time::Duration;

use clap::Parser as _;
use cnikit::bpf::{Direction, TcxLink};
use cnikit::ipam::Range;
use cnikit::netlink::{FilterTarget, Link, Route, Socket};
use cnikit::spec::{AttachmentKey, IfName, NetworkName};
use cnikit_testbed::{Host, Namespace as _, host};
use ipnetwork::IpNetwork;
use simple_ebpf_agent::reconcile::Reconciler;
use simple_ebpf_agent::settings::Settings;
use simple_ebpf_agent::view::{ClusterView, OwnNode, PeerNode};
use simple_ebpf_cni::agent::{ROUTE_PROTOCOL, Report, Way, remote_datapath};
use simple_ebpf_cni::naming;

/// The time to wait for the lock of the leases.
const LOCK: Duration = Duration::from_secs(5);

const CONFLIST: &str = "/run/agent-test/10-podnet.conflist";

/// Settings with the mode `direct`, unless the options have another one.
fn settings(options: &[&str]) -> Settings {
    let common = ["agent", "--node-name", "a", "--plugin-dir", "/run/agent-test", "--conflist", CONFLIST];
    let mode = if options.contains(&"--mode") { &[][..] } else { &["--mode", "direct"] };
    Settings::parse_from(common.iter().chain(mode).chain(options))
}

/// Node `a` with these peers: a name, a pod CIDR and an address each.
fn view(peers: &[(&str, &str, &str)]) -> ClusterView {
    let network = |text: &str| -> IpNetwork { text.parse().expect("a network") };
    let peer = |(name, cidr, address): &(&str, &str, &str)| PeerNode {
        name: (*name).to_owned(),
        pod_cidrs: vec![network(cidr)],
        addresses: vec![address.parse().expect("an address")],
        mode: None,
    };
    let own = OwnNode {
        name: "a".to_owned(),
        pod_cidrs: vec![network("10.244.1.0/24")],
        addresses: vec!["192.0.2.1".parse().expect("an address")],
    };
    ClusterView { own: Some(own), peers: peers.iter().map(peer).collect(), problems: Vec::new() }
}

/// Runs a test on a host with an uplink to 192.0.2.0/24.
fn on_node(test: impl FnOnce(&Host) + Send) {
    host(|host| {
        fs::create_dir("/run/agent-test").expect("create a directory");
        host.ip("link add uplink type veth peer name switch");
        host.ip("link set switch up");
        host.ip("address add 192.0.2.1/24 dev uplink");
        host.ip("link set uplink up");
        test(host);
        // The agent leaves these objects on purpose.
        for route in own_routes() {
            Socket::open().expect("a socket").delete_route(&route).expect("delete a route");
        }
        host.ip("link delete cbr0");
        host.ip("link delete uplink");
        if nft(host, "list tables").contains("simple-ebpf-agent") {
            nft(host, "delete table inet simple-ebpf-agent");
        }
        simple_ebpf_agent::tunnel::remove(&"cni-vxlan".parse().expect("a name")).expect("remove the tunnel");
        let network = "podnet".parse().expect("a name");
        remote_datapath(&network).remove().expect("remove the pins");
        simple_ebpf_cni::naming::datapath(&network).remove().expect("remove the pins");
        let _ = fs::remove_dir_all("/var/lib/cni/simple-ebpf-cni");
        fs::remove_dir_all("/run/agent-test").expect("remove the directory");
    });
}

fn ready(report: &Report) {
    assert!(report.is_ready && report.problems.is_empty(), "{:?}", report.problems);
}

fn nft(host: &Host, line: &str) -> String {
    host.command("nft").words(line).run()
}

fn own_routes() -> Vec<Route> {
    let routes = Socket::open().expect("a socket").routes_of(Route::MAIN_TABLE).expect("routes");
    routes.into_iter().filter(|route| route.protocol == Some(ROUTE_PROTOCOL)).collect()
}

fn destinations() -> Vec<String> {
    own_routes().iter().map(|route| format!("{} via {}", route.dst, route.gateway.expect("a gateway"))).collect()
}

fn bridge() -> Option<Link> {
    let name: IfName = "cbr0".parse().expect("a name");
    Socket::open().expect("a socket").link_by_name(&name).expect("look up the bridge")
}

#[test]
fn node_gets_bridge_routes_rules_and_configuration() {
    on_node(|host| {
        let mut reconciler = Reconciler::new(settings(&[]));
        let report = reconciler.apply(&view(&[("b", "10.244.2.0/24", "192.0.2.2")]));
        ready(&report);
        assert_eq!(report.peers[0].way, Way::Direct);
        assert_eq!(report.peers[0].link.as_deref(), Some("uplink"));
        assert_eq!(destinations(), ["10.244.2.0/24 via 192.0.2.2"]);
        assert!(bridge().is_some_and(|bridge| bridge.up));
        let rules = nft(host, "list table inet simple-ebpf-agent");
        assert!(rules.contains("elements = { 10.244.1.0/24, 10.244.2.0/24 }"), "{rules}");
        assert!(rules.contains("elements = { 192.0.2.2 }"), "{rules}");
        assert!(rules.contains("ip saddr 10.244.1.0/24 ip daddr != @pod_cidrs_v4 ip daddr != @nodes_v4"), "{rules}");
        let text = fs::read_to_string(CONFLIST).expect("a configuration");
        assert!(text.contains("10.244.1.0/24") && text.contains("\"ipMasq\": false"), "{text}");
    });
}

#[test]
fn second_comparison_changes_nothing() {
    on_node(|host| {
        let view = view(&[("b", "10.244.2.0/24", "192.0.2.2"), ("c", "10.244.3.0/24", "192.0.2.3")]);
        let mut reconciler = Reconciler::new(settings(&[]));
        ready(&reconciler.apply(&view));
        let state = || {
            // Without the timers of the bridge.
            let links = Socket::open().expect("a socket").links().expect("links").into_iter();
            let links: Vec<_> = links.map(|link| (link.index, link.name, link.up, link.mac, link.alias)).collect();
            let written = fs::metadata(CONFLIST).expect("a file").modified().expect("a time");
            (links, own_routes(), nft(host, "-a list ruleset"), written)
        };
        let before = state();
        ready(&reconciler.apply(&view));
        // A restarted agent knows nothing of the first comparison.
        ready(&Reconciler::new(settings(&[])).apply(&view));
        assert_eq!(state(), before);
    });
}

#[test]
fn masquerading_can_be_off() {
    on_node(|host| {
        let view = view(&[("b", "10.244.2.0/24", "192.0.2.2")]);
        ready(&Reconciler::new(settings(&[])).apply(&view));
        assert!(nft(host, "list tables").contains("simple-ebpf-agent"));
        let mut without = Reconciler::new(settings(&["--masquerade", "false"]));
        for _ in 0..2 {
            ready(&without.apply(&view));
            assert!(!nft(host, "list tables").contains("simple-ebpf-agent"));
        }
        assert_eq!(destinations().len(), 1);
    });
}

#[test]
fn node_deleted_while_the_agent_was_down_loses_its_route() {
    on_node(|host| {
        host.ip("route add 10.99.0.0/24 via 192.0.2.9");
        let both = view(&[("b", "10.244.2.0/24", "192.0.2.2"), ("c", "10.244.3.0/24", "192.0.2.3")]);
        ready(&Reconciler::new(settings(&[])).apply(&both));
        ready(&Reconciler::new(settings(&[])).apply(&view(&[("c", "10.244.7.0/24", "192.0.2.33")])));
        assert_eq!(destinations(), ["10.244.7.0/24 via 192.0.2.33"]);
        let rules = nft(host, "list table inet simple-ebpf-agent");
        assert!(!rules.contains("10.244.2.0/24") && !rules.contains("192.0.2.2 "), "{rules}");
        assert!(host.ip("route show").to_string().contains("10.99.0.0/24"), "the route of the operator stays");
    });
}

#[test]
fn removed_objects_come_back() {
    on_node(|host| {
        let view = view(&[("b", "10.244.2.0/24", "192.0.2.2")]);
        let mut reconciler = Reconciler::new(settings(&[]));
        ready(&reconciler.apply(&view));
        for breakage in ["link set cbr0 down", "link delete cbr0", "route delete 10.244.2.0/24"] {
            host.ip(breakage);
            ready(&reconciler.apply(&view));
            assert!(bridge().is_some_and(|bridge| bridge.up), "{breakage}");
            assert_eq!(destinations().len(), 1, "{breakage}");
        }
        nft(host, "flush ruleset");
        ready(&reconciler.apply(&view));
        assert!(nft(host, "list table inet simple-ebpf-agent").contains("masquerade fully-random"));
        let block = host.tc("filter show dev cbr0 ingress").to_string();
        assert!(block.contains("cni_tc_main"), "{block}");
        host.tc("qdisc delete dev cbr0 clsact");
        ready(&reconciler.apply(&view));
        let block = host.tc("filter show dev cbr0 ingress").to_string();
        assert!(block.contains("cni_tc_main"), "{block}");
    });
}

#[test]
fn unreachable_node_does_not_stop_the_others() {
    on_node(|_| {
        let peers = [("b", "10.244.2.0/24", "198.51.100.2"), ("c", "10.244.3.0/24", "192.0.2.3")];
        let report = Reconciler::new(settings(&[])).apply(&view(&peers));
        assert!(report.is_ready && Path::new(CONFLIST).exists());
        assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
        assert!(report.problems[0].contains("node b") && report.problems[0].contains("198.51.100.2"));
        assert_eq!(destinations(), ["10.244.3.0/24 via 192.0.2.3"]);
    });
}

/// Without an answer to a probe, packets use the tunnel.
#[test]
fn mode_auto_uses_the_tunnel_and_prepares_the_direct_way() {
    on_node(|host| {
        let auto = ["--mode", "auto"];
        let view = view(&[("b", "10.244.2.0/24", "192.0.2.2"), ("c", "10.244.3.0/24", "198.51.100.3")]);
        host.ip("route add 198.51.100.0/24 via 192.0.2.254");
        let report = Reconciler::new(settings(&auto)).apply(&view);
        ready(&report);
        assert_eq!(report.mtu, Some(1450));
        for peer in &report.peers {
            assert_eq!(
                (peer.way, peer.link.as_deref(), peer.bypass),
                (Way::Vxlan, Some("cni-vxlan"), true),
                "{peer:?}"
            );
        }
        let shown = host.command("ip").words("route show proto 201").run();
        let lines: Vec<&str> = shown.lines().map(str::trim).collect();
        assert_eq!(lines.len(), 3, "{shown}");
        for part in [
            "10.244.2.0/24  encap ip id 1 src 0.0.0.0 dst 192.0.2.2 ttl 64 tos 0 dev cni-vxlan scope link src 10.244.1.1",
            "10.244.2.0/24 via 192.0.2.2 dev uplink metric 20100",
            "10.244.3.0/24  encap ip id 1 src 0.0.0.0 dst 198.51.100.3",
        ] {
            assert!(lines.iter().any(|line| line.starts_with(part)), "{part} in {shown}");
        }
        let remote = remote_datapath(&"podnet".parse().expect("a name"));
        let entries = remote.open_peers().and_then(|peers| peers.entries()).expect("entries");
        assert_eq!(entries.len(), 2);
        let addresses = remote.open_node_addresses().and_then(|addresses| addresses.entries()).expect("entries");
        assert_eq!(addresses.len(), 2);
        // No other link has the programs.
        for (link, count) in [("uplink", 2), ("cni-vxlan", 2), ("switch", 0)] {
            let index = Socket::open().expect("a socket").require_link(&link.parse().expect("a name")).expect("a link");
            let on = |direction| TcxLink::attached(index.index, direction).map_or(1, |found| found.len());
            let found = on(Direction::Ingress) + on(Direction::Egress);
            assert_eq!(found, count, "{link}");
        }

        let untracked = || nft(host, "list table inet simple-ebpf-agent").matches("udp dport 8472 notrack").count();
        assert_eq!(untracked(), 2);

        // A change of the mode removes the tunnel.
        ready(&Reconciler::new(settings(&["--mode", "routed"])).apply(&view));
        assert!(own_routes().is_empty() && host.link("cni-vxlan").is_none() && untracked() == 0);
        ready(&Reconciler::new(settings(&auto)).apply(&view));
        assert_eq!(own_routes().len(), 3);
        ready(&Reconciler::new(settings(&auto)).apply(&ClusterView { peers: Vec::new(), ..view.clone() }));
        assert!(remote.open_peers().and_then(|peers| peers.entries()).expect("entries").is_empty());
        host.ip("route delete 198.51.100.0/24");
    });
}

/// A pod that is attached after the comparison, so the agent has never compared it.
#[test]
fn lost_entries_of_a_pod_come_back() {
    on_node(|host| {
        let mut reconciler = Reconciler::new(settings(&[]));
        ready(&reconciler.apply(&view(&[])));
        let network: NetworkName = "podnet".parse().expect("a name");
        let store = naming::leases(Path::new("/var/lib/cni/simple-ebpf-cni"), &network).expect("the leases");
        let owner = AttachmentKey::new("pod".parse().expect("an id"), "eth0".parse().expect("a name"));
        let attachment = owner.clone().in_network(&network);
        let (port, index) = (attachment.host_ifname(), attachment.host_ifindex());
        host.ip(&format!("link add {port} index {index} type veth peer name eth0"));
        host.ip(&format!("link set {port} master cbr0 up"));
        ready(&reconciler.apply(&view(&[])));
        let pool = Range::new("10.244.1.0/24".parse().expect("a subnet"), None).expect("a range").into();
        let lease = store.lock(LOCK).and_then(|mut guard| guard.allocate(&owner, &[pool], &[])).expect("a lease");
        let datapath = naming::datapath(&network);
        let configs = || datapath.open_port_configs().expect("the map");
        let endpoints = || datapath.open_endpoints().expect("the map");
        let address = lease.addresses[0].ip();
        let is_whole = || {
            let runs = host.tc(&format!("qdisc show dev {port} clsact")).to_string().contains("clsact");
            let link = Socket::open().and_then(|socket| socket.require_link(&port)).expect("the port");
            (
                configs().read(index).expect("read").is_some(),
                endpoints().read(address).expect("read").map(|endpoint| endpoint.ifindex) == Some(index),
                runs || TcxLink::attached(index, Direction::Ingress).is_ok_and(|found| !found.is_empty()),
                link.up && link.master == bridge().map(|bridge| bridge.index),
            )
        };
        let breakages: [(&str, &dyn Fn()); 6] = [
            ("nothing was there", &|| ()),
            ("port entry", &|| configs().remove(index).expect("remove")),
            ("address entry", &|| endpoints().remove(address).expect("remove")),
            ("link down", &|| drop(host.ip(&format!("link set {port} down")))),
            ("no port", &|| drop(host.ip(&format!("link set {port} nomaster")))),
            ("all entries", &|| {
                configs().remove(index).expect("remove");
                endpoints().remove(address).expect("remove");
            }),
        ];
        for (what, breakage) in breakages {
            breakage();
            assert_ne!(is_whole(), (true, true, true, true), "{what}");
            ready(&reconciler.apply(&view(&[])));
            assert_eq!(is_whole(), (true, true, true, true), "{what}");
        }
        host.ip(&format!("link delete {port}"));
    });
}

/// A network manager deletes links and routes that it does not know, and an operator removes pins.
#[test]
fn removed_objects_of_the_tunnel_come_back() {
    on_node(|host| {
        let view = view(&[("b", "10.244.2.0/24", "192.0.2.2")]);
        let mut reconciler = Reconciler::new(settings(&["--mode", "auto"]));
        ready(&reconciler.apply(&view));
        let remote = remote_datapath(&"podnet".parse().expect("a name"));
        let entries = || remote.open_peers().and_then(|peers| peers.entries()).expect("entries");
        let programs = || {
            let attached = ["uplink", "cni-vxlan"].map(|link| {
                let link =
                    Socket::open().expect("a socket").require_link(&link.parse().expect("a name")).expect("a link");
                // On a kernel without TCX, these are filters.
                let links = TcxLink::attached(link.index, Direction::Ingress).map_or(0, |found| found.len());
                let filters =
                    Socket::open().expect("a socket").filters(&FilterTarget::Ingress(link.index)).expect("filters");
                links + filters.len()
            });
            attached.iter().sum::<usize>()
        };
        let state = || (own_routes().len(), entries(), programs());
        let before = state();
        assert_eq!((before.0, before.1.len(), before.2), (2, 1, 2));
        let pins = remote.directory();
        let network = simple_ebpf_cni::naming::datapath(&"podnet".parse().expect("a name"));
        let breakages: [(&str, &dyn Fn()); 6] = [
            ("link", &|| drop(host.ip("link delete cni-vxlan"))),
            ("routes", &|| drop(host.ip("route flush proto 201"))),
            ("entries", &|| remote.open_peers().and_then(|peers| peers.remove(entries()[0].0)).expect("remove")),
            ("pins", &|| fs::remove_dir_all(&pins).expect("remove the pins")),
            ("pins of the network", &|| fs::remove_dir_all(network.directory()).expect("remove the pins")),
            ("pins of links", &|| fs::remove_dir_all(remote.link_pins()).unwrap_or_default()),
        ];
        for (what, breakage) in breakages {
            breakage();
            ready(&reconciler.apply(&view));
            let now = state();
            assert_eq!((now.0, now.1.len(), now.2), (2, 1, 2), "{what}");
            assert!(now.1[0].1.is_some(), "{what}");
        }
    });
}

#[test]
fn five_thousand_nodes_have_routes_and_entries() {
    on_node(|_| {
        let peers = (0..5_000_u32).map(|number| {
            let [_, _, high, low] = number.to_be_bytes();
            PeerNode {
                name: format!("node-{number}"),
                pod_cidrs: vec![format!("10.{}.{low}.0/24", 100 + high).parse().expect("a network")],
                addresses: vec![format!("198.18.{high}.{low}").parse().expect("an address")],
                mode: None,
            }
        });
        let view = ClusterView { peers: peers.collect(), ..view(&[]) };
        Socket::open()
            .and_then(|socket| {
                let uplink = socket.require_link(&"uplink".parse().expect("a name"))?;
                socket.add_route(&Route::new("198.18.0.0/16".parse().expect("a network"), uplink.index))
            })
            .expect("a route");
        let report = Reconciler::new(settings(&["--mode", "auto"])).apply(&view);
        assert!(report.is_ready, "{:?}", report.problems);
        let remote = remote_datapath(&"podnet".parse().expect("a name"));
        let count = || remote.open_peers().and_then(|peers| peers.entries()).expect("entries").len();
        assert_eq!((own_routes().len(), count()), (10_000, 5_000));
        let report = Reconciler::new(settings(&["--mode", "auto"])).apply(&ClusterView { peers: Vec::new(), ..view });
        assert!(report.is_ready, "{:?}", report.problems);
        assert_eq!((own_routes().len(), count()), (0, 0));
    });
}

#[test]
fn node_without_pod_cidr_changes_nothing() {
    on_node(|host| {
        let report = Reconciler::new(settings(&[])).apply(&ClusterView::default());
        assert!(!report.is_ready);
        assert!(report.problems[0].contains("--allocate-node-cidrs"), "{:?}", report.problems);
        assert!(bridge().is_none() && own_routes().is_empty() && !Path::new(CONFLIST).exists());
        assert!(!nft(host, "list ruleset").contains("simple-ebpf-agent"));
        // The cleaning up of the fixture expects them.
        ready(&Reconciler::new(settings(&[])).apply(&view(&[])));
    });
}

#[test]
fn foreign_configuration_stays_and_is_a_problem() {
    on_node(|_| {
        fs::write(CONFLIST, r#"{"plugins": [{"type": "flannel"}]}"#).expect("write");
        let report = Reconciler::new(settings(&[])).apply(&view(&[]));
        assert!(!report.is_ready && report.problems[0].contains(CONFLIST), "{:?}", report.problems);
        assert!(fs::read_to_string(CONFLIST).expect("read").contains("flannel"));
    });
}
