//! Service addresses. The host translates packets to a service address, and must see the answers to
//! translate them back.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cnikit_testbed::{Host, Namespace, host, tool};

use crate::fixture::{Fixture, addresses};
use crate::support::{bpftool, header};

const PORT: u16 = 5_000;
/// The timeout of a connection that must succeed, and of a connection that must fail.
const TIMEOUT: Duration = Duration::from_secs(5);
const SHORT_TIMEOUT: Duration = Duration::from_millis(150);
const FLOWS: usize = 200;

/// The service addresses. `OTHER` leads to the second pod, `OWN` to the first pod.
const OTHER: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 1))];
const OWN: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 96, 0, 2)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 2))];

/// Runs `test` while the host translates service addresses, and the first two pods echo.
fn serve(test: impl FnOnce(&Host, &Fixture) + Send) {
    if !tool("nft") || !tool("bpftool") {
        return;
    }
    host(|host| {
        let fixture = Fixture::new(host);
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
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (pod, address) in [0, 1].into_iter().flat_map(|pod| addresses(pod).map(|address| (pod, address))) {
                let (listener, socket) = fixture.pods[usize::from(pod)].enter(|| {
                    (TcpListener::bind((address, PORT)).expect("bind"), UdpSocket::bind((address, PORT)).expect("bind"))
                });
                scope.spawn(|| echo_streams(listener, &stop));
                scope.spawn(|| echo_datagrams(socket, &stop));
            }
            let tested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(host, &fixture)));
            stop.store(true, Ordering::Relaxed);
            if let Err(panic) = tested {
                std::panic::resume_unwind(panic);
            }
        });
        fixture.end(host);
    });
}

#[test]
fn every_flow_to_a_service_address_is_answered() {
    serve(|_, fixture| {
        for family in [0, 1] {
            let before = fixture.datapath.stats().unwrap();
            let answered = (0..FLOWS).filter(|_| stream(fixture, OTHER[family], TIMEOUT)).count();
            assert_eq!(answered, FLOWS, "TCP to {}", OTHER[family]);
            let answered = (0..FLOWS).filter(|_| datagram(fixture, OTHER[family], TIMEOUT)).count();
            assert_eq!(answered, FLOWS, "UDP to {}", OTHER[family]);
            let stats = fixture.datapath.stats().unwrap();
            // Fewer than all if the kernel used a port twice.
            let added = usize::try_from(stats.flows_added - before.flows_added).unwrap();
            assert!((2 * FLOWS - FLOWS / 10..=2 * FLOWS).contains(&added), "{added} flows added");
            assert_eq!(stats.direct, before.direct, "no packet directly");
        }
    });
}

#[test]
fn without_the_egress_program_no_flow_is_answered() {
    serve(|host, fixture| {
        for port in ["veth0", "veth1"] {
            host.tc(&format!("filter del dev {port} egress"));
        }
        for (family, address) in OTHER.into_iter().enumerate() {
            assert!(stream(fixture, addresses(1)[family], TIMEOUT), "the pod address itself");
            assert_eq!((0..5).filter(|_| stream(fixture, address, SHORT_TIMEOUT)).count(), 0, "TCP to {address}");
            assert_eq!((0..5).filter(|_| datagram(fixture, address, SHORT_TIMEOUT)).count(), 0, "UDP to {address}");
        }
    });
}

#[test]
fn a_pod_reaches_itself_through_its_service_address() {
    serve(|host, fixture| {
        // The bridge translates switched packets, and sends them back through their ingress port.
        host.ip("link set veth0 type bridge_slave hairpin on");
        for address in OWN {
            assert_eq!((0..20).filter(|_| stream(fixture, address, TIMEOUT)).count(), 20, "TCP to {address}");
            assert_eq!((0..20).filter(|_| datagram(fixture, address, TIMEOUT)).count(), 20, "UDP to {address}");
        }
    });
}

#[test]
fn direct_flows_stay_direct_beside_flows_to_a_service_address() {
    serve(|_, fixture| {
        for family in [0, 1] {
            let pod = addresses(1)[family];
            let mut streams = Vec::new();
            for _ in 0..20 {
                fixture.pods[0].use_ports(20_000..=29_999);
                streams.push(connect(fixture, OTHER[family]));
                streams.iter_mut().for_each(|stream| assert!(is_echoed(stream), "to {}", OTHER[family]));
                assert!(datagram(fixture, OTHER[family], TIMEOUT), "to {}", OTHER[family]);

                // With other ports: packets between the ends of a flow of the stack go to the
                // stack.
                fixture.pods[0].use_ports(30_000..=39_999);
                let (flows, before) =
                    (fixture.datapath.stats().unwrap().flows_added, fixture.counters(addresses(0)[family]));
                assert!(stream(fixture, pod, TIMEOUT) && datagram(fixture, pod, TIMEOUT), "to {pod}");
                let direct = fixture.counters(addresses(0)[family]).tx_direct - before.tx_direct;
                assert!(direct >= 5, "{direct} packets: SYN, ACK, data, FIN and a datagram");
                assert_eq!(fixture.datapath.stats().unwrap().flows_added, flows, "none through the stack");
            }
        }
    });
}

/// The two flows have the same addresses and ports at the server. The client distinguishes them by
/// the destination address.
#[test]
fn one_client_port_works_for_a_service_address_and_the_pod_address() {
    serve(|_, fixture| {
        for netfilter in ["0", "1"] {
            let settings = ["iptables", "ip6tables"].map(|name| format!("/proc/sys/net/bridge/bridge-nf-call-{name}"));
            if settings.iter().any(|setting| std::fs::write(setting, netfilter).is_err()) {
                eprintln!("SKIP {netfilter}: there is no br_netfilter");
                continue;
            }
            for (family, round) in [0, 1].into_iter().flat_map(|family| (0..10).map(move |round| (family, round))) {
                let what = format!("round {round} to {}, br_netfilter {netfilter}", OTHER[family]);
                let port = if netfilter == "0" { 40_000 } else { 41_000 } + round;
                fixture.pods[0].use_ports(port..=port);
                let mut streams = [OTHER[family], addresses(1)[family]].map(|to| connect(fixture, to));
                for _ in 0..3 {
                    streams.iter_mut().for_each(|stream| {
                        assert_eq!(stream.local_addr().unwrap().port(), port);
                        assert!(is_echoed(stream), "{what}");
                    });
                }
                let socket = fixture.pods[0].enter(|| UdpSocket::bind((addresses(0)[family], port)).unwrap());
                socket.set_read_timeout(Some(TIMEOUT)).unwrap();
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
fn a_port_is_reusable_for_a_direct_flow_after_close() {
    serve(|_, fixture| {
        for (family, round) in [0, 1].into_iter().flat_map(|family| (0..10).map(move |round| (family, round))) {
            fixture.pods[0].use_ports(40_000 + round..=40_000 + round);
            let mut closed = connect(fixture, OTHER[family]);
            closed.shutdown(Shutdown::Write).expect("shut down");
            assert_eq!(closed.read(&mut [0]).expect("the server closes too"), 0);
            let before = fixture.datapath.stats().unwrap();
            assert!(stream(fixture, addresses(1)[family], TIMEOUT));
            let after = fixture.datapath.stats().unwrap();
            assert_eq!((after.flows_added, after.flows_forgotten), (before.flows_added, before.flows_forgotten + 1));
            assert!(after.direct >= before.direct + 5, "direct from the first packet");
        }
    });
}

#[test]
fn running_flows_survive_turning_on_direct_forwarding() {
    serve(|_, fixture| {
        for family in [0, 1] {
            fixture.configure(|config| config.direct_forwarding = false);
            let mut streams: Vec<_> = [OTHER[family], addresses(1)[family]].map(|to| connect(fixture, to)).into();
            streams.iter_mut().for_each(|stream| assert!(is_echoed(stream), "before"));
            fixture.configure(|config| config.direct_forwarding = true);
            for _ in 0..20 {
                streams.iter_mut().for_each(|stream| assert!(is_echoed(stream), "after"));
            }
        }
    });
}

#[test]
fn a_full_flow_table_accepts_new_flows_and_keeps_active_flows() {
    serve(|_, fixture| {
        let max_flows = header("CNI_TC_MAX_FLOWS");
        let mut streams: Vec<_> = (0..FLOWS).map(|_| connect(fixture, OTHER[0])).collect();
        // Twice as many unused flows as the table holds. The active flows send packets in between.
        for part in 0..8 {
            fill(fixture, part * max_flows / 4, max_flows / 4);
            streams.iter_mut().for_each(|stream| assert!(is_echoed(stream), "active flow, part {part}"));
        }
        for address in OTHER {
            assert_eq!((0..FLOWS).filter(|_| stream(fixture, address, TIMEOUT)).count(), FLOWS, "TCP to {address}");
            assert_eq!((0..FLOWS).filter(|_| datagram(fixture, address, TIMEOUT)).count(), FLOWS, "UDP to {address}");
        }
    });
}

/// Adds entries to the flow table, numbered from `first`.
fn fill(fixture: &Fixture, first: usize, count: usize) {
    let pin = fixture.datapath.directory().join("flows");
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

/// A connection from the first pod.
fn connect(fixture: &Fixture, to: IpAddr) -> TcpStream {
    fixture.pods[0]
        .enter(|| TcpStream::connect_timeout(&(to, PORT).into(), TIMEOUT))
        .unwrap_or_else(|error| panic!("{to}: {error}"))
}

/// Whether a new connection from the first pod is echoed.
fn stream(fixture: &Fixture, to: IpAddr, timeout: Duration) -> bool {
    let connected = fixture.pods[0].enter(|| TcpStream::connect_timeout(&(to, PORT).into(), timeout));
    connected.is_ok_and(|mut stream| is_echoed(&mut stream))
}

fn is_echoed(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4];
    stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    stream.write_all(b"echo").is_ok() && stream.read_exact(&mut buffer).is_ok() && buffer == *b"echo"
}

/// Whether a datagram from a new port of the first pod is echoed by its destination.
fn datagram(fixture: &Fixture, to: IpAddr, timeout: Duration) -> bool {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = fixture.pods[0].enter(|| UdpSocket::bind((any, 0)).expect("bind"));
    socket.set_read_timeout(Some(timeout)).expect("a timeout");
    // A connected socket ignores answers from other addresses.
    socket.connect((to, PORT)).expect("a route");
    let mut buffer = [0; 4];
    socket.send(b"echo").is_ok() && socket.recv(&mut buffer).is_ok() && buffer == *b"echo"
}

fn echo_streams(listener: TcpListener, stop: &AtomicBool) {
    listener.set_nonblocking(true).expect("set");
    let mut streams: Vec<TcpStream> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
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

fn echo_datagrams(socket: UdpSocket, stop: &AtomicBool) {
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}
