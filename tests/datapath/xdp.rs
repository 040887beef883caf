//! XDP programs on pods' interfaces, in driver mode: direct packets pass them.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use cnikit_testbed::{Host, Namespace, Pod, Xdp, eventually, host};

use crate::bed::{Bed, addresses, index};
use crate::support::{datapath, make_foreign, map};

const PORT: u16 = 5_000;
const LIMIT: Duration = Duration::from_secs(5);
/// Longer than any delivery takes, and what a test waits where nothing is to arrive.
const LONG: Duration = Duration::from_millis(300);
const PINS: &str = "/sys/fs/bpf/xdp";

/// Three pods whose ports are watched, or not.
fn with_pods(is_watched: bool, test: impl FnOnce(&Host, &Bed) + Send) {
    host(|host| {
        let bed = Bed::new(host);
        std::fs::create_dir(PINS).expect("a bpffs is writable");
        for (name, verdict) in [("drop", Xdp::DROP), ("pass", Xdp::PASS)] {
            Xdp::new(verdict).pin(&Path::new(PINS).join(name));
        }
        if is_watched {
            let links = bed.datapath.open_port_configs().expect("open");
            for veth in ["veth0", "veth1", "veth2"] {
                assert!(links.watch_xdp(index(host, veth)).expect("a look at the port"), "{veth}");
                assert!(links.watches_xdp(index(host, veth)).expect("a look at the port"), "{veth}");
            }
        }
        test(host, &bed);
        std::fs::remove_dir_all(PINS).expect("the pins can be removed");
        bed.end(host);
    });
}

/// Attaches a pinned program, in place of one that is there.
fn attach(pod: &Pod, mode: &str, program: &str) {
    pod.ip(&format!("-force link set dev eth0 {mode} pinned {PINS}/{program}"));
}

fn detach(pod: &Pod, mode: &str) {
    pod.ip(&format!("link set dev eth0 {mode} off"));
}

/// Whether a datagram from the first pod to the second arrives.
fn arrives(bed: &Bed, from: IpAddr, to: IpAddr) -> bool {
    let receiver = bed.pods[1].enter(|| UdpSocket::bind((to, 0)).expect("a free port"));
    receiver.set_read_timeout(Some(LONG)).expect("a limit");
    let sender = bed.pods[0].enter(|| UdpSocket::bind((from, 0)).expect("a free port"));
    sender.send_to(b"through", receiver.local_addr().expect("it is bound")).expect("room");
    receiver.recv_from(&mut [0; 64]).is_ok()
}

#[test]
fn a_program_sees_what_other_pods_send() {
    with_pods(true, |_, bed| {
        for (from, to) in addresses(0).into_iter().zip(addresses(1)) {
            let before = (bed.datapath.stats().unwrap(), bed.counters(to));
            assert!(arrives(bed, from, to), "{to}: without a program");
            attach(&bed.pods[1], "xdpdrv", "drop");
            assert!(!arrives(bed, from, to), "{to}: by netlink");
            detach(&bed.pods[1], "xdpdrv");
            assert!(arrives(bed, from, to), "{to}: after netlink");

            let eth0 = index(&bed.pods[1], "eth0");
            let link = bed.pods[1].enter(|| Xdp::new(Xdp::DROP).link(eth0, Xdp::DRIVER));
            assert!(!arrives(bed, from, to), "{to}: by a link");
            drop(link);
            // A process that another test starts may hold a copy of the descriptor for a moment.
            let is_detached = || bed.pods[1].link("eth0").unwrap()["xdp"].is_null();
            eventually("the link to end", LIMIT, is_detached);
            assert!(arrives(bed, from, to), "{to}: after the link");

            attach(&bed.pods[1], "xdpdrv", "drop");
            attach(&bed.pods[1], "xdpdrv", "pass");
            assert!(arrives(bed, from, to), "{to}: replaced");
            attach(&bed.pods[1], "xdpdrv", "drop");
            assert!(!arrives(bed, from, to), "{to}: replaced again");
            detach(&bed.pods[1], "xdpdrv");

            // Each of the seven was counted once at either end, also if the program dropped it.
            let after = (bed.datapath.stats().unwrap(), bed.counters(to));
            assert_eq!(after.0.direct - before.0.direct, 7, "{to}");
            assert_eq!((after.1.rx_packets - before.1.rx_packets, after.1.rx_direct - before.1.rx_direct), (7, 7));
            assert_eq!(after.0.flows_added, before.0.flows_added, "{to}: the stack delivered none");
        }
    });
}

/// What makes the test above one that can fail: the kernel delivers behind the program.
#[test]
fn a_program_at_a_port_that_is_not_watched_is_bypassed() {
    with_pods(false, |host, bed| {
        assert!(!bed.datapath.open_port_configs().unwrap().watches_xdp(index(host, "veth1")).unwrap());
        let (from, to) = (addresses(0)[0], addresses(1)[0]);
        attach(&bed.pods[1], "xdpdrv", "drop");
        assert!(arrives(bed, from, to));
        detach(&bed.pods[1], "xdpdrv");
    });
}

#[test]
fn a_program_in_generic_mode_sees_direct_packets_as_ever() {
    with_pods(true, |_, bed| {
        let (from, to) = (addresses(0)[0], addresses(1)[0]);
        attach(&bed.pods[1], "xdpgeneric", "drop");
        assert!(!arrives(bed, from, to));
        detach(&bed.pods[1], "xdpgeneric");
        assert!(arrives(bed, from, to));
    });
}

#[test]
fn what_a_pod_with_a_program_sends_is_direct() {
    with_pods(true, |_, bed| {
        attach(&bed.pods[0], "xdpdrv", "pass");
        let (from, to) = (addresses(0)[0], addresses(1)[0]);
        assert!(arrives(bed, from, to));
        assert_eq!(bed.counters(from).tx_direct, 1);
        detach(&bed.pods[0], "xdpdrv");
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
        scope.spawn(|| from.write_all(&sent).expect("it can be sent"));
        to.read_exact(&mut received).expect("it arrives");
    });
    assert!(sent == received, "what arrived is not what was sent");
}

#[test]
fn a_connection_goes_on_while_a_program_comes_and_goes() {
    with_pods(true, |_, bed| {
        for (from, to) in addresses(0).into_iter().zip(addresses(1)) {
            let listener = bed.pods[1].enter(|| TcpListener::bind((to, PORT)).unwrap());
            let mut client = bed.pods[0].enter(|| TcpStream::connect_timeout(&(to, PORT).into(), LIMIT).unwrap());
            let (mut server, _) = listener.accept().unwrap();
            for stream in [&client, &server] {
                stream.set_read_timeout(Some(LIMIT)).unwrap();
            }
            exchange(&mut client, &mut server);
            for pod in [&bed.pods[1], &bed.pods[0]] {
                attach(pod, "xdpdrv", "pass");
                exchange(&mut client, &mut server);
            }
            for pod in [&bed.pods[1], &bed.pods[0]] {
                detach(pod, "xdpdrv");
                exchange(&mut client, &mut server);
            }
            for counters in [bed.counters(from), bed.counters(to)] {
                assert_eq!(counters.tx_packets, counters.tx_direct, "all of it directly");
            }
            assert_eq!(bed.datapath.stats().unwrap().flows_added, 0, "the stack delivered none");
        }
    });
}

#[test]
fn a_pair_that_goes_with_its_program_harms_nothing() {
    with_pods(true, |host, bed| {
        let (from, to) = (addresses(0)[0], addresses(1)[0]);
        attach(&bed.pods[1], "xdpdrv", "drop");
        let gone = index(host, "veth1");
        host.ip("link del veth1");
        // The map entries lead to nothing now.
        let sender = bed.pods[0].enter(|| UdpSocket::bind((from, 0)).unwrap());
        for _ in 0..100 {
            sender.send_to(b"lost", (to, PORT)).unwrap();
        }
        let links = bed.datapath.open_port_configs().unwrap();
        assert!(!links.watch_xdp(gone).unwrap(), "there is nothing to watch");
        assert!(!links.watches_xdp(gone).unwrap());
        links.remove(gone).unwrap();
        host.ip("link add veth1 type veth peer name other");
    });
}

#[test]
fn only_the_host_end_of_a_pair_can_be_watched() {
    with_pods(true, |host, bed| {
        let links = bed.datapath.open_port_configs().unwrap();
        for ifindex in [1, index(host, "cbr0"), 0x7fff_0000] {
            assert!(!links.watch_xdp(ifindex).unwrap(), "{ifindex}");
            assert!(!links.watches_xdp(ifindex).unwrap(), "{ifindex}");
        }
    });
}

/// The kernel keeps links in chains, by the lower eight bits of their indexes, the newest first. One call of the program
/// looks at 16.
#[test]
fn a_port_is_found_behind_many_links_of_its_chain() {
    with_pods(false, |host, bed| {
        let veth = index(host, "veth1");
        for number in 1..=40 {
            host.ip(&format!("link add name many{number} index {} type bridge", veth + 256 * number));
        }
        let links = bed.datapath.open_port_configs().unwrap();
        assert!(links.watch_xdp(veth).unwrap());
        assert!(!links.watch_xdp(veth + 256).unwrap(), "a bridge");
        assert!(!links.watch_xdp(veth + 256 * 41).unwrap(), "no link");
        attach(&bed.pods[1], "xdpdrv", "drop");
        assert!(!arrives(bed, addresses(0)[0], addresses(1)[0]));
        detach(&bed.pods[1], "xdpdrv");
        for number in 1..=40 {
            host.ip(&format!("link del many{number}"));
        }
    });
}

/// A key as bpftool takes it.
fn key(ifindex: u32) -> String {
    ifindex.to_ne_bytes().iter().fold("key".to_owned(), |words, byte| format!("{words} {byte}"))
}

/// An older build has pods attached that nothing watches.
#[test]
fn ports_are_watched_from_the_upgrade_on() {
    with_pods(false, |host, bed| {
        make_foreign(&bed.datapath.directory());
        for pin in ["find_xdp", "port_xdp"] {
            std::fs::remove_file(bed.datapath.directory().join(pin)).unwrap();
        }
        let veth = index(host, "veth1");
        datapath("one").ensure().unwrap();
        assert!(bed.datapath.open_port_configs().unwrap().watches_xdp(veth).unwrap());

        // One that the older build, when it was back, had removed from the map that it knew.
        map("delete", &bed.datapath.directory(), "port_config", &key(veth));
        make_foreign(&bed.datapath.directory());
        datapath("one").ensure().unwrap();
        let links = bed.datapath.open_port_configs().unwrap();
        assert!(!links.watches_xdp(veth).unwrap());
        assert!(links.watches_xdp(index(host, "veth0")).unwrap());
        assert!(!bed.datapath.open_port_configs().unwrap().watches_xdp(index(host, "cbr0")).unwrap());
    });
}
