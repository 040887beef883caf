//! Packets that the programs leave to the stack, drop or change.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};

use cnikit::datapath::{PortConfig, RemoteConfig};
use cnikit::spec::MacAddr;
use cnikit_testbed::{Namespace as _, Xdp};

use super::nodes::{MTU, Nodes, OVERHEAD, PORT, SHORT, TIMEOUT, VNI, Way, answers, is_echoed, on_nodes, stream};
use super::{FORWARDED, targets};

/// The output of `ping` for IP packets of `length` bytes that no router may fragment.
fn ping(nodes: &Nodes, length: u32, family: usize) -> String {
    let to = nodes.0[1].addresses()[family].to_string();
    let payload = length - [28, 48][family];
    let words = format!("-n -c 3 -i 0.05 -W 1 -M do -s {payload} {to}");
    let output = nodes.0[0].pod.command("ping").words(&words).output();
    format!("{}{}", output.stdout, output.stderr)
}

#[test]
fn too_long_packets_are_answered_with_the_mtu() {
    for (way, mtu) in [(Way::Direct, 1400), (Way::Tunnel, MTU - OVERHEAD)] {
        on_nodes(way, |nodes| {
            for node in &nodes.0 {
                node.pod.ip(&format!("link set eth0 mtu {MTU}"));
                if way == Way::Direct {
                    node.netns.ip(&format!("link set up0 mtu {mtu}"));
                }
            }
            nodes.set_mtu(way, mtu);
            for family in [0, 1] {
                let fits = ping(nodes, mtu, family);
                assert!(fits.contains("3 received"), "{way:?}: {fits}");
                let refused = ping(nodes, mtu + 1, family);
                let reported = [format!("mtu = {mtu}"), format!("mtu={mtu}"), format!("mtu: {mtu}")];
                assert!(reported.iter().any(|mtu| refused.contains(mtu)), "{way:?}: {refused}");
                assert!(nodes.0[0].stats().too_long > 0);
            }
        });
    }
}

/// A redirect into a pod with a smaller MTU would drop the packet without an error.
#[test]
fn packets_that_are_too_long_for_the_receiver_are_answered_with_its_mtu() {
    on_nodes(Way::Direct, |nodes| {
        let [a, b] = &nodes.0;
        a.pod.ip(&format!("link set eth0 mtu {MTU}"));
        b.netns.ip("link set veth0 mtu 1300");
        b.netns.ip("link set cbr0 mtu 1300");
        b.pod.ip("link set eth0 mtu 1300");
        b.remote.configure(RemoteConfig::new(VNI).pod_mtu(1300)).expect("configure");
        for family in [0, 1] {
            assert!(ping(nodes, 1300, family).contains("3 received"));
            let refused = ping(nodes, 1400, family);
            assert!(refused.contains("mtu = 1300") || refused.contains("mtu=1300"), "{refused}");
        }
        assert!(b.stats().too_long > 0);
    });
}

/// A stream of full segments, with segmentation and checksums by the links and without.
#[test]
fn streams_arrive_with_and_without_offloads() {
    for way in [Way::Direct, Way::Tunnel] {
        on_nodes(way, |nodes| {
            for offloads in ["on", "off"] {
                for node in &nodes.0 {
                    let links = if way == Way::Direct { &["up0"][..] } else { &["up0", "vx0"][..] };
                    for link in links {
                        node.netns
                            .command("ethtool")
                            .words(&format!("-K {link} tso {offloads} gso {offloads} tx {offloads} gro {offloads}"))
                            .run();
                    }
                }
                for to in targets(nodes) {
                    let before = nodes.0[0].stats();
                    let mut stream =
                        nodes.0[0].pod.enter(|| TcpStream::connect_timeout(&to, TIMEOUT)).expect("connect");
                    stream.set_read_timeout(Some(TIMEOUT)).expect("a limit");
                    stream.set_write_timeout(Some(TIMEOUT)).expect("a limit");
                    let sent: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
                    let mut reader = stream.try_clone().expect("clone");
                    let received = std::thread::scope(|scope| {
                        let length = sent.len();
                        let reading = scope.spawn(move || {
                            let mut received = vec![0; length];
                            std::io::Read::read_exact(&mut reader, &mut received).map(|()| received)
                        });
                        let written = stream.write_all(&sent);
                        assert!(written.is_ok(), "{way:?}, offloads {offloads}, {to}: {written:?}");
                        reading.join().expect("no panic")
                    });
                    assert!(received.is_ok_and(|received| received == sent), "{way:?}, offloads {offloads}, {to}");
                    let now = nodes.0[0].stats();
                    assert_eq!(now.too_long, before.too_long, "{way:?}, offloads {offloads}, {to}");
                    assert!(now.sent_direct + now.sent_tunnel > before.sent_direct + before.sent_tunnel);
                }
            }
        });
    }
}

#[test]
fn fragments_arrive_through_the_stack() {
    for way in [Way::Direct, Way::Tunnel] {
        on_nodes(way, |nodes| {
            for to in targets(nodes) {
                let socket = nodes.0[0]
                    .pod
                    .enter(|| UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }))
                    .expect("bind");
                socket.set_read_timeout(Some(TIMEOUT)).expect("a limit");
                let before = [&nodes.0[0], &nodes.0[1]].map(super::nodes::Node::redirected);
                for _ in 0..3 {
                    let mut buffer = vec![0; 10_000];
                    socket.send_to(&[7; 6_000], to).expect("send");
                    assert_eq!(
                        socket.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{way:?}, {to}: {error}")).0,
                        6_000,
                        "{way:?}, {to}"
                    );
                }
                assert_eq!([&nodes.0[0], &nodes.0[1]].map(super::nodes::Node::redirected), before, "{way:?}, {to}");
            }
        });
    }
}

#[test]
fn errors_of_the_other_pod_reach_the_sender() {
    for way in [Way::Direct, Way::Tunnel] {
        on_nodes(way, |nodes| {
            for to in nodes.0[1].addresses() {
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = nodes.0[0].pod.enter(|| UdpSocket::bind(any)).expect("bind");
                socket.set_read_timeout(Some(TIMEOUT)).expect("a limit");
                // No process has this port, so the pod answers with "port unreachable".
                socket.connect(SocketAddr::from((to, PORT + 1))).and_then(|()| socket.send(b"x")).expect("send");
                let error = socket.recv(&mut [0]).expect_err("an ICMP error").kind();
                assert_eq!(error, std::io::ErrorKind::ConnectionRefused, "{way:?}, {to}");
            }
        });
    }
}

/// Both nodes are routers: the packet of a pod has two hops to the other pod.
#[test]
fn hop_limit_decreases_at_each_node() {
    for way in [Way::Direct, Way::Tunnel, Way::Stack] {
        on_nodes(way, |nodes| {
            for (family, to) in nodes.0[1].addresses().into_iter().enumerate() {
                let ping = |hops: u32| {
                    let output = nodes.0[0].pod.command("ping").words(&format!("-n -c 1 -W 1 -t {hops} {to}")).output();
                    output.stdout
                };
                let gateway = nodes.0[0].gateway()[family].to_string();
                let first = ping(1);
                assert!(first.contains(&gateway) && !first.contains("1 received"), "{way:?}: {first}");
                assert!(!ping(2).contains("1 received"), "{way:?}: the other node is a router");
                assert!(ping(3).contains("1 received"), "{way:?}: {}", ping(3));
            }
        });
    }
}

#[test]
fn shaped_ports_use_the_stack_in_both_directions() {
    for way in FORWARDED {
        on_nodes(way, |nodes| {
            for (node, other) in [(&nodes.0[0], &nodes.0[1]), (&nodes.0[1], &nodes.0[0])] {
                let ports = node.datapath.open_port_configs().expect("open");
                let config = ports.read(node.port()).expect("read").expect("an entry");
                ports.insert(node.port(), PortConfig::new(config.mac).stack_only(true)).expect("insert");
                let before = node.redirected();
                for to in targets(nodes) {
                    assert_eq!(answers(&nodes.0[0].pod, to, TIMEOUT), [true, true], "{way:?} to {to}");
                }
                assert_eq!(node.redirected(), before, "{way:?}");
                assert!(other.redirected() > 0, "{way:?}: each node decides for itself");
                ports.insert(node.port(), config).expect("insert");
            }
        });
    }
}

#[test]
fn tunnel_drops_packets_that_their_node_must_not_send() {
    on_nodes(Way::Tunnel, |nodes| {
        let [a, b] = &nodes.0;
        let to = targets(nodes)[0];
        assert!(stream(&a.pod, to, TIMEOUT));
        // The pod CIDR belongs to another node.
        let peers = b.remote.open_peers().expect("open");
        let [cidr, _] = a.pod_cidrs();
        let entries = peers.entries().expect("list");
        let (_, own) = entries.iter().find(|(known, _)| *known == cidr).expect("an entry");
        let own = own.expect("a valid entry");
        let mut stolen = own;
        stolen.node = std::num::NonZeroU32::new(99).expect("a number");
        peers.insert(cidr, stolen).expect("insert");
        assert!(!stream(&a.pod, to, SHORT));
        assert!(b.stats().dropped_source > 0 && b.stats().dropped_vni == 0, "{:?}", b.stats());
        peers.insert(cidr, own).expect("insert");

        // A machine that is no node.
        let addresses = b.remote.open_node_addresses().expect("open");
        let number =
            addresses.entries().expect("list").into_iter().find(|(address, _)| *address == a.node_addresses()[0]);
        addresses.remove(a.node_addresses()[0]).expect("remove");
        assert!(!stream(&a.pod, to, SHORT));
        assert!(b.stats().dropped_vni > 0, "{:?}", b.stats());
        let number = std::num::NonZeroU32::new(number.expect("an entry").1).expect("a number");
        addresses.insert(a.node_addresses()[0], number).expect("insert");

        // Another VNI.
        let before = b.stats().dropped_vni;
        b.remote.configure(RemoteConfig::new(VNI + 1)).expect("configure");
        assert!(!stream(&a.pod, to, SHORT) && b.stats().dropped_vni > before);
        b.remote.configure(RemoteConfig::new(VNI)).expect("configure");

        // A source that no node owns.
        let before = b.stats().dropped_source;
        a.netns.ip("address add 203.0.113.9/32 dev vx0");
        let from = a.netns.enter(|| UdpSocket::bind((Ipv4Addr::new(203, 0, 113, 9), 0))).expect("bind");
        a.netns.enter(|| from.send_to(b"x", to)).expect("send");
        std::thread::sleep(SHORT);
        assert_eq!(b.stats().dropped_source, before + 1);
        assert!(stream(&a.pod, to, TIMEOUT), "all is as before");
    });
}

/// A pod can send only from its own address, so no pod of another node is reached from a forged
/// one.
#[test]
fn forged_sources_do_not_leave() {
    on_nodes(Way::Direct, |nodes| {
        let [a, b] = &nodes.0;
        a.pod.ip("address add 10.244.1.99/32 dev eth0");
        let from = a.pod.enter(|| UdpSocket::bind((Ipv4Addr::new(10, 244, 1, 99), 0))).expect("bind");
        let before = b.redirected();
        from.send_to(b"x", targets(nodes)[0]).expect("send");
        std::thread::sleep(SHORT);
        assert_eq!(b.redirected(), before);
        assert!(a.datapath.drops().expect("read").total() > 0);
    });
}

#[test]
fn change_of_the_way_keeps_connections() {
    on_nodes(Way::Direct, |nodes| {
        let mut streams: Vec<_> = targets(nodes)
            .map(|to| nodes.0[0].pod.enter(|| TcpStream::connect_timeout(&to, TIMEOUT)).expect("connect"))
            .into();
        for way in [Way::Tunnel, Way::DirectOverIpv6, Way::TunnelOverIpv6, Way::Stack, Way::Direct, Way::Stack] {
            nodes.set_way(way);
            for stream in &mut streams {
                assert!(is_echoed(stream, TIMEOUT), "{way:?}");
            }
            // One node changes before the other.
            nodes.0[0].set_way(&nodes.0[1], Way::Tunnel);
            for stream in &mut streams {
                assert!(is_echoed(stream, TIMEOUT), "tunnel to the other node, {way:?} back");
            }
        }
    });
}

#[test]
fn packets_pass_the_xdp_program_of_a_pod() {
    on_nodes(Way::Direct, |nodes| {
        let [a, b] = &nodes.0;
        let ports = b.datapath.open_port_configs().expect("open");
        if !b.netns.enter(|| ports.watch_xdp(b.port())).expect("watch") {
            eprintln!("SKIP the kernel denies reads of its memory");
            return;
        }
        let to = targets(nodes)[0];
        assert!(stream(&a.pod, to, TIMEOUT));
        let pin = "/sys/fs/bpf/dropper";
        Xdp::new(Xdp::DROP).pin(pin.as_ref());
        b.pod.ip(&format!("link set eth0 xdpdrv pinned {pin}"));
        assert!(!stream(&a.pod, to, SHORT), "the program drops all packets");
        b.pod.ip("link set eth0 xdpdrv off");
        std::fs::remove_file(pin).expect("remove the pin");
        assert!(stream(&a.pod, to, TIMEOUT));
    });
}

/// The kernel sends a frame for another machine to the hooks of a promiscuous uplink, too.
#[test]
fn frames_for_other_machines_do_not_enter_pods() {
    on_nodes(Way::Direct, |nodes| {
        let [a, b] = &nodes.0;
        b.netns.ip("link set up0 promisc on");
        let neighbor = b.node_addresses()[0];
        let other = MacAddr::new([0x02, 9, 9, 9, 9, 9]);
        a.netns.ip(&format!("neighbor replace {neighbor} lladdr {other} dev up0 nud permanent"));
        let before = b.redirected();
        assert!(!stream(&a.pod, targets(nodes)[0], SHORT));
        assert_eq!(b.redirected(), before);
    });
}
