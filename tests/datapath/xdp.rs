//! Driver-mode XDP programs on the interfaces of pods: directly forwarded packets pass them.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use cnikit::spec::IfIndex;
use cnikit_testbed::{Host, Namespace, Pod, Xdp, eventually, host};

use crate::fixture::{Fixture, addresses, index};
use crate::support::{datapath, make_foreign, map};

const PORT: u16 = 5_000;
const TIMEOUT: Duration = Duration::from_secs(5);
/// The wait for a packet that must not arrive. Longer than any delivery takes.
const NO_PACKET_TIMEOUT: Duration = Duration::from_millis(300);
const PINS: &str = "/sys/fs/bpf/xdp";

/// Runs a test with three pods, with or without watched ports.
fn with_pods(is_watched: bool, test: impl FnOnce(&Host, &Fixture) + Send) {
    host(|host| {
        let fixture = Fixture::new(host);
        std::fs::create_dir(PINS).expect("a bpffs is writable");
        for (name, verdict) in [("drop", Xdp::DROP), ("pass", Xdp::PASS)] {
            Xdp::new(verdict).pin(&Path::new(PINS).join(name));
        }
        if is_watched {
            let ports = fixture.datapath.open_port_configs().expect("open");
            for veth in ["veth0", "veth1", "veth2"] {
                assert!(ports.watch_xdp(index(host, veth)).expect("watch the port"), "{veth}");
                assert!(ports.watches_xdp(index(host, veth)).expect("read the port"), "{veth}");
            }
        }
        test(host, &fixture);
        std::fs::remove_dir_all(PINS).expect("the pins can be removed");
        fixture.end(host);
    });
}

/// Attaches a pinned program, or replaces the attached program.
fn attach(pod: &Pod, mode: &str, program: &str) {
    pod.ip(&format!("-force link set dev eth0 {mode} pinned {PINS}/{program}"));
}

fn detach(pod: &Pod, mode: &str) {
    pod.ip(&format!("link set dev eth0 {mode} off"));
}

/// Whether a datagram from the first pod to the second arrives.
fn arrives(fixture: &Fixture, from: IpAddr, to: IpAddr) -> bool {
    let receiver = fixture.pods[1].enter(|| UdpSocket::bind((to, 0)).expect("a free port"));
    receiver.set_read_timeout(Some(NO_PACKET_TIMEOUT)).expect("a timeout");
    let sender = fixture.pods[0].enter(|| UdpSocket::bind((from, 0)).expect("a free port"));
    sender.send_to(b"through", receiver.local_addr().expect("it is bound")).expect("room");
    receiver.recv_from(&mut [0; 64]).is_ok()
}

#[test]
fn programs_see_packets_from_other_pods() {
    with_pods(true, |_, fixture| {
        for (from, to) in addresses(0).into_iter().zip(addresses(1)) {
            let before = (fixture.datapath.stats().unwrap(), fixture.counters(to));
            assert!(arrives(fixture, from, to), "{to}: without a program");
            attach(&fixture.pods[1], "xdpdrv", "drop");
            assert!(!arrives(fixture, from, to), "{to}: by netlink");
            detach(&fixture.pods[1], "xdpdrv");
            assert!(arrives(fixture, from, to), "{to}: after netlink");

            let eth0 = index(&fixture.pods[1], "eth0");
            let link = fixture.pods[1].enter(|| Xdp::new(Xdp::DROP).link(eth0.get(), Xdp::DRIVER));
            assert!(!arrives(fixture, from, to), "{to}: by a link");
            drop(link);
            // A process started by another test may hold a copy of the descriptor until exec(2).
            let is_detached = || fixture.pods[1].link("eth0").unwrap()["xdp"].is_null();
            eventually("the link to end", TIMEOUT, is_detached);
            assert!(arrives(fixture, from, to), "{to}: after the link");

            attach(&fixture.pods[1], "xdpdrv", "drop");
            attach(&fixture.pods[1], "xdpdrv", "pass");
            assert!(arrives(fixture, from, to), "{to}: replaced");
            attach(&fixture.pods[1], "xdpdrv", "drop");
            assert!(!arrives(fixture, from, to), "{to}: replaced again");
            detach(&fixture.pods[1], "xdpdrv");

            // Each of the seven packets was counted once for each pod, even if the program dropped
            // it.
            let after = (fixture.datapath.stats().unwrap(), fixture.counters(to));
            assert_eq!(after.0.direct - before.0.direct, 7, "{to}");
            assert_eq!((after.1.rx_packets - before.1.rx_packets, after.1.rx_direct - before.1.rx_direct), (7, 7));
            assert_eq!(after.0.flows_added, before.0.flows_added, "{to}: the stack delivered none");
        }
    });
}

/// The control of the test above: without a watch, `bpf_redirect_peer` bypasses the program.
#[test]
fn programs_at_unwatched_ports_are_bypassed() {
    with_pods(false, |host, fixture| {
        assert!(!fixture.datapath.open_port_configs().unwrap().watches_xdp(index(host, "veth1")).unwrap());
        let (from, to) = (addresses(0)[0], addresses(1)[0]);
        attach(&fixture.pods[1], "xdpdrv", "drop");
        assert!(arrives(fixture, from, to));
        detach(&fixture.pods[1], "xdpdrv");
    });
}

#[test]
fn generic_mode_programs_see_direct_packets() {
    with_pods(true, |_, fixture| {
        let (from, to) = (addresses(0)[0], addresses(1)[0]);
        attach(&fixture.pods[1], "xdpgeneric", "drop");
        assert!(!arrives(fixture, from, to));
        detach(&fixture.pods[1], "xdpgeneric");
        assert!(arrives(fixture, from, to));
    });
}

#[test]
fn packets_from_a_pod_with_a_program_are_direct() {
    with_pods(true, |_, fixture| {
        attach(&fixture.pods[0], "xdpdrv", "pass");
        let (from, to) = (addresses(0)[0], addresses(1)[0]);
        assert!(arrives(fixture, from, to));
        assert_eq!(fixture.counters(from).tx_direct, 1);
        detach(&fixture.pods[0], "xdpdrv");
    });
}

/// Sends a mebibyte each way.
fn exchange(client: &mut TcpStream, server: &mut TcpStream) {
    send(client, server);
    send(server, client);
}

fn send(from: &mut TcpStream, to: &mut TcpStream) {
    const BYTES: usize = 1 << 20;
    let sent: Vec<u8> = (0..BYTES).map(|number| (number % 251) as u8).collect();
    let mut received = vec![0; BYTES];
    std::thread::scope(|scope| {
        scope.spawn(|| from.write_all(&sent).expect("send"));
        to.read_exact(&mut received).expect("receive");
    });
    assert!(sent == received, "received other bytes than sent");
}

#[test]
fn connections_survive_attaching_and_detaching_a_program() {
    with_pods(true, |_, fixture| {
        for (from, to) in addresses(0).into_iter().zip(addresses(1)) {
            let listener = fixture.pods[1].enter(|| TcpListener::bind((to, PORT)).unwrap());
            let mut client = fixture.pods[0].enter(|| TcpStream::connect_timeout(&(to, PORT).into(), TIMEOUT).unwrap());
            let (mut server, _) = listener.accept().unwrap();
            for stream in [&client, &server] {
                stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            }
            exchange(&mut client, &mut server);
            for pod in [&fixture.pods[1], &fixture.pods[0]] {
                attach(pod, "xdpdrv", "pass");
                exchange(&mut client, &mut server);
            }
            for pod in [&fixture.pods[1], &fixture.pods[0]] {
                detach(pod, "xdpdrv");
                exchange(&mut client, &mut server);
            }
            for counters in [fixture.counters(from), fixture.counters(to)] {
                assert_eq!(counters.tx_packets, counters.tx_direct, "all packets directly");
            }
            assert_eq!(fixture.datapath.stats().unwrap().flows_added, 0, "the stack delivered none");
        }
    });
}

#[test]
fn deleting_a_veth_pair_with_a_program_is_harmless() {
    with_pods(true, |host, fixture| {
        let (from, to) = (addresses(0)[0], addresses(1)[0]);
        attach(&fixture.pods[1], "xdpdrv", "drop");
        let deleted = index(host, "veth1");
        host.ip("link del veth1");
        // The map entries refer to a deleted interface now.
        let sender = fixture.pods[0].enter(|| UdpSocket::bind((from, 0)).unwrap());
        for _ in 0..100 {
            sender.send_to(b"lost", (to, PORT)).unwrap();
        }
        let ports = fixture.datapath.open_port_configs().unwrap();
        assert!(!ports.watch_xdp(deleted).unwrap(), "the interface does not exist");
        assert!(!ports.watches_xdp(deleted).unwrap());
        ports.remove(deleted).unwrap();
        host.ip("link add veth1 type veth peer name other");
    });
}

#[test]
fn only_host_ends_of_veth_pairs_can_be_watched() {
    with_pods(true, |host, fixture| {
        let ports = fixture.datapath.open_port_configs().unwrap();
        for ifindex in [IfIndex::LOOPBACK, index(host, "cbr0"), IfIndex::new(0x7fff_0000).unwrap()] {
            assert!(!ports.watch_xdp(ifindex).unwrap(), "{ifindex}");
            assert!(!ports.watches_xdp(ifindex).unwrap(), "{ifindex}");
        }
    });
}

/// The kernel keeps interfaces in hash chains, by the lower eight bits of the index, the newest
/// first. One run of `find_xdp` visits 16 of them.
#[test]
fn ports_are_found_in_long_hash_chains() {
    with_pods(false, |host, fixture| {
        let veth = index(host, "veth1");
        let same_chain = |number: u32| IfIndex::new(veth.get() + 256 * number).unwrap();
        for number in 1..=40 {
            host.ip(&format!("link add name many{number} index {} type bridge", same_chain(number)));
        }
        let ports = fixture.datapath.open_port_configs().unwrap();
        assert!(ports.watch_xdp(veth).unwrap());
        assert!(!ports.watch_xdp(same_chain(1)).unwrap(), "a bridge");
        assert!(!ports.watch_xdp(same_chain(41)).unwrap(), "no interface");
        attach(&fixture.pods[1], "xdpdrv", "drop");
        assert!(!arrives(fixture, addresses(0)[0], addresses(1)[0]));
        detach(&fixture.pods[1], "xdpdrv");
        for number in 1..=40 {
            host.ip(&format!("link del many{number}"));
        }
    });
}

/// An ifindex as the key argument of bpftool.
fn key(ifindex: IfIndex) -> String {
    ifindex.get().to_ne_bytes().iter().fold("key".to_owned(), |words, byte| format!("{words} {byte}"))
}

/// Ports from an older build are not watched before the upgrade.
#[test]
fn an_upgrade_watches_all_ports() {
    with_pods(false, |host, fixture| {
        make_foreign(&fixture.datapath.directory());
        for pin in ["find_xdp", "port_xdp"] {
            std::fs::remove_file(fixture.datapath.directory().join(pin)).unwrap();
        }
        let veth = index(host, "veth1");
        datapath("one").ensure().unwrap();
        assert!(fixture.datapath.open_port_configs().unwrap().watches_xdp(veth).unwrap());

        // After a downgrade, the older build removed a port from `port_config` only.
        map("delete", &fixture.datapath.directory(), "port_config", &key(veth));
        make_foreign(&fixture.datapath.directory());
        datapath("one").ensure().unwrap();
        let ports = fixture.datapath.open_port_configs().unwrap();
        assert!(!ports.watches_xdp(veth).unwrap());
        assert!(ports.watches_xdp(index(host, "veth0")).unwrap());
        assert!(!fixture.datapath.open_port_configs().unwrap().watches_xdp(index(host, "cbr0")).unwrap());
    });
}
