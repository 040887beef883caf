//! Service addresses: the host translates what a pod sends to one, and must be given the answers to translate back.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cnikit_testbed::{Host, Namespace, host, tool};

use crate::bed::{Bed, addresses};
use crate::support::{bpftool, header};

const PORT: u16 = 5_000;
/// How long a connection may take that is to come through, and one that is not.
const LIMIT: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(150);
const FLOWS: usize = 200;

/// The service's addresses: behind the first stands the second pod, behind the other the first.
const OTHER: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 1))];
const OWN: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 96, 0, 2)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 2))];

/// Has the host translate, and the second pod answer, while `test` runs.
fn serve(test: impl FnOnce(&Host, &Bed) + Send) {
    if !tool("nft") || !tool("bpftool") {
        return;
    }
    host(|host| {
        let bed = Bed::new(host);
        host.command("sysctl").words("-q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1").run();
        let mut rules = String::new();
        for (family, name) in ["ip", "ip6"].into_iter().enumerate() {
            let ([own, other], [client, server]) =
                ([OWN[family], OTHER[family]], [0, 1].map(|pod| addresses(pod)[family]));
            rules += &format!(
                "table {name} service {{
                    chain translate {{
                        type nat hook prerouting priority dstnat;
                        {name} daddr {other} dnat to {server}
                        {name} daddr {own} dnat to {client}
                    }}
                    chain hairpin {{
                        type nat hook postrouting priority srcnat;
                        {name} saddr {client} {name} daddr {client} masquerade
                    }}
                    chain conntrack {{
                        type filter hook forward priority filter;
                        ct state invalid drop
                    }}
                }}\n"
            );
        }
        host.command("nft").args(["-f", "-"]).stdin(rules).run();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (pod, address) in [0, 1].into_iter().flat_map(|pod| addresses(pod).map(|address| (pod, address))) {
                let (listener, socket) = bed.pods[usize::from(pod)].enter(|| {
                    (TcpListener::bind((address, PORT)).expect("bind"), UdpSocket::bind((address, PORT)).expect("bind"))
                });
                scope.spawn(|| echo_streams(listener, &over));
                scope.spawn(|| echo_datagrams(socket, &over));
            }
            let tested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(host, &bed)));
            over.store(true, Ordering::Relaxed);
            if let Err(panic) = tested {
                std::panic::resume_unwind(panic);
            }
        });
        bed.end(host);
    });
}

#[test]
fn every_flow_by_a_service_address_is_answered() {
    serve(|_, bed| {
        for family in [0, 1] {
            let before = bed.datapath.stats().unwrap();
            let came = (0..FLOWS).filter(|_| stream(bed, OTHER[family], LIMIT)).count();
            assert_eq!(came, FLOWS, "TCP to {}", OTHER[family]);
            let came = (0..FLOWS).filter(|_| datagram(bed, OTHER[family], LIMIT)).count();
            assert_eq!(came, FLOWS, "UDP to {}", OTHER[family]);
            let stats = bed.datapath.stats().unwrap();
            // Not all of them if the kernel gave a port twice.
            let added = usize::try_from(stats.flows_added - before.flows_added).unwrap();
            assert!((2 * FLOWS - FLOWS / 10..=2 * FLOWS).contains(&added), "{added} are remembered");
            assert_eq!(stats.direct, before.direct, "none of it directly");
        }
    });
}

#[test]
fn without_the_egress_program_none_is() {
    serve(|host, bed| {
        for port in ["veth0", "veth1"] {
            host.tc(&format!("filter del dev {port} egress"));
        }
        for (family, address) in OTHER.into_iter().enumerate() {
            assert!(stream(bed, addresses(1)[family], LIMIT), "the pod itself is there");
            assert_eq!((0..5).filter(|_| stream(bed, address, SHORT)).count(), 0, "TCP to {address}");
            assert_eq!((0..5).filter(|_| datagram(bed, address, SHORT)).count(), 0, "UDP to {address}");
        }
    });
}

#[test]
fn a_pod_reaches_itself_by_its_service_address() {
    serve(|host, bed| {
        // The bridge translates what it switches, and sends it back by the port that it came from.
        host.ip("link set veth0 type bridge_slave hairpin on");
        for address in OWN {
            assert_eq!((0..20).filter(|_| stream(bed, address, LIMIT)).count(), 20, "TCP to {address}");
            assert_eq!((0..20).filter(|_| datagram(bed, address, LIMIT)).count(), 20, "UDP to {address}");
        }
    });
}

#[test]
fn direct_conversations_stay_direct_beside_those_by_a_service_address() {
    serve(|_, bed| {
        for family in [0, 1] {
            let pod = addresses(1)[family];
            let mut streams = Vec::new();
            for _ in 0..20 {
                bed.pods[0].use_ports(20_000..=29_999);
                streams.push(connect(bed, OTHER[family]));
                streams.iter_mut().for_each(|stream| assert!(is_echoed(stream), "to {}", OTHER[family]));
                assert!(datagram(bed, OTHER[family], LIMIT), "to {}", OTHER[family]);

                // Not of the same ports: what shares its ends with a flow of the stack is to follow it.
                bed.pods[0].use_ports(30_000..=39_999);
                let (flows, before) = (bed.datapath.stats().unwrap().flows_added, bed.counters(addresses(0)[family]));
                assert!(stream(bed, pod, LIMIT) && datagram(bed, pod, LIMIT), "to {pod}");
                let direct = bed.counters(addresses(0)[family]).tx_direct - before.tx_direct;
                assert!(direct >= 5, "{direct} packets: to open, confirm, ask and close, and a datagram");
                assert_eq!(bed.datapath.stats().unwrap().flows_added, flows, "none by the stack");
            }
        }
    });
}

/// What is one conversation for the server are two for the client, which tells them apart by whom it asked.
#[test]
fn one_port_serves_for_conversations_by_a_service_address_and_directly() {
    serve(|_, bed| {
        for netfilter in ["0", "1"] {
            let settings = ["iptables", "ip6tables"].map(|name| format!("/proc/sys/net/bridge/bridge-nf-call-{name}"));
            if settings.iter().any(|setting| std::fs::write(setting, netfilter).is_err()) {
                eprintln!("SKIP {netfilter}: there is no br_netfilter");
                continue;
            }
            for (family, round) in [0, 1].into_iter().flat_map(|family| (0..10).map(move |round| (family, round))) {
                let what = format!("round {round} to {}, br_netfilter {netfilter}", OTHER[family]);
                let port = if netfilter == "0" { 40_000 } else { 41_000 } + round;
                bed.pods[0].use_ports(port..=port);
                let mut streams = [OTHER[family], addresses(1)[family]].map(|to| connect(bed, to));
                for _ in 0..3 {
                    streams.iter_mut().for_each(|stream| {
                        assert_eq!(stream.local_addr().unwrap().port(), port);
                        assert!(is_echoed(stream), "{what}");
                    });
                }
                let socket = bed.pods[0].enter(|| UdpSocket::bind((addresses(0)[family], port)).unwrap());
                socket.set_read_timeout(Some(LIMIT)).unwrap();
                for to in [OTHER[family], addresses(1)[family], OTHER[family]] {
                    let mut buffer = [0; 16];
                    socket.send_to(b"who", (to, PORT)).unwrap();
                    let (_, from) = socket.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{what}: {error}"));
                    assert_eq!(from, SocketAddr::from((to, PORT)), "{what}");
                }
            }
        }
    });
}

#[test]
fn a_port_that_is_free_again_serves_for_a_direct_conversation() {
    serve(|_, bed| {
        for (family, round) in [0, 1].into_iter().flat_map(|family| (0..10).map(move |round| (family, round))) {
            bed.pods[0].use_ports(40_000 + round..=40_000 + round);
            let mut closed = connect(bed, OTHER[family]);
            closed.shutdown(Shutdown::Write).expect("shut down");
            assert_eq!(closed.read(&mut [0]).expect("the other side closes too"), 0);
            let before = bed.datapath.stats().unwrap();
            assert!(stream(bed, addresses(1)[family], LIMIT));
            let after = bed.datapath.stats().unwrap();
            assert_eq!((after.flows_added, after.flows_forgotten), (before.flows_added, before.flows_forgotten + 1));
            assert!(after.direct >= before.direct + 5, "from its first packet on");
        }
    });
}

#[test]
fn what_runs_while_direct_delivery_is_turned_on_goes_on() {
    serve(|_, bed| {
        for family in [0, 1] {
            bed.configure(|config| config.direct_forwarding = false);
            let mut streams: Vec<_> = [OTHER[family], addresses(1)[family]].map(|to| connect(bed, to)).into();
            streams.iter_mut().for_each(|stream| assert!(is_echoed(stream), "before"));
            bed.configure(|config| config.direct_forwarding = true);
            for _ in 0..20 {
                streams.iter_mut().for_each(|stream| assert!(is_echoed(stream), "after"));
            }
        }
    });
}

#[test]
fn a_full_table_takes_new_flows_and_keeps_those_in_use() {
    serve(|_, bed| {
        let most = header("CNI_TC_MAX_FLOWS");
        let mut streams: Vec<_> = (0..FLOWS).map(|_| connect(bed, OTHER[0])).collect();
        // Flows of nobody's, twice as many as there is room for; those in use are used meanwhile.
        for part in 0..8 {
            fill(bed, part * most / 4, most / 4);
            streams.iter_mut().for_each(|stream| assert!(is_echoed(stream), "in use, part {part}"));
        }
        for address in OTHER {
            assert_eq!((0..FLOWS).filter(|_| stream(bed, address, LIMIT)).count(), FLOWS, "TCP to {address}");
            assert_eq!((0..FLOWS).filter(|_| datagram(bed, address, LIMIT)).count(), FLOWS, "UDP to {address}");
        }
    });
}

/// Puts rows into the memory of flows, from `first` on.
fn fill(bed: &Bed, first: usize, count: usize) {
    let pin = bed.datapath.directory().join("flows");
    let mut commands = String::new();
    for number in first..first + count {
        let [.., a, b, c, d] = number.to_be_bytes();
        let zeros = "0 ".repeat(35);
        commands += &format!("map update pinned {} key {a} {b} {c} {d} {zeros} 4 value 1\n", pin.display());
    }
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(commands.as_bytes()).expect("write");
    bpftool().args(["batch", "file"]).arg(file.path()).run();
}

/// A connection of the first pod's.
fn connect(bed: &Bed, to: IpAddr) -> TcpStream {
    bed.pods[0]
        .enter(|| TcpStream::connect_timeout(&(to, PORT).into(), LIMIT))
        .unwrap_or_else(|error| panic!("{to}: {error}"))
}

/// Whether a new connection from the first pod is echoed.
fn stream(bed: &Bed, to: IpAddr, limit: Duration) -> bool {
    let connected = bed.pods[0].enter(|| TcpStream::connect_timeout(&(to, PORT).into(), limit));
    connected.is_ok_and(|mut stream| is_echoed(&mut stream))
}

fn is_echoed(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4];
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream.write_all(b"echo").is_ok() && stream.read_exact(&mut buffer).is_ok() && buffer == *b"echo"
}

/// Whether a datagram from a new port of the first pod is echoed by whom it was sent to.
fn datagram(bed: &Bed, to: IpAddr, limit: Duration) -> bool {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = bed.pods[0].enter(|| UdpSocket::bind((any, 0)).expect("bind"));
    socket.set_read_timeout(Some(limit)).expect("a limit");
    // Connected, so that an answer from anybody else is none.
    socket.connect((to, PORT)).expect("a route");
    let mut buffer = [0; 4];
    socket.send(b"echo").is_ok() && socket.recv(&mut buffer).is_ok() && buffer == *b"echo"
}

fn echo_streams(listener: TcpListener, over: &AtomicBool) {
    listener.set_nonblocking(true).expect("set");
    let mut streams: Vec<TcpStream> = Vec::new();
    while !over.load(Ordering::Relaxed) {
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true).expect("set");
            streams.push(stream);
        }
        streams.retain_mut(|stream| {
            let mut buffer = [0; 64];
            match stream.read(&mut buffer) {
                Ok(0) => false,
                Ok(length) => stream.write_all(&buffer[..length]).is_ok(),
                Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            }
        });
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn echo_datagrams(socket: UdpSocket, over: &AtomicBool) {
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a limit");
    let mut buffer = [0; 64];
    while !over.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}
