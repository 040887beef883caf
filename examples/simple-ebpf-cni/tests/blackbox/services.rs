//! Service addresses: the host translates them to a pod of the same node, as kube-proxy does. With
//! direct forwarding on, replies must pass the reverse translation.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::Duration;

use cnikit_testbed::{Namespace, Pod, patience, tool};
use serde_json::{Value, json};

use crate::support::{Network, on_host};

/// The number of flows for each combination.
const FLOWS: usize = 200;

/// The port of the service, and the port of the pod behind it.
const SERVICE_PORT: u16 = 80;
const POD_PORT: u16 = 8080;

/// Time limit of a reply. A reply without reverse translation never arrives.
const PATIENCE: Duration = Duration::from_secs(2);

/// The addresses of one family: the service, the client and the server.
struct Family {
    table: &'static str,
    service: &'static str,
    client: &'static str,
    server: &'static str,
}

const IPV4: Family = Family { table: "ip", service: "10.96.0.10", client: "10.99.0.2", server: "10.99.0.3" };
const IPV6: Family = Family { table: "ip6", service: "fd00:96::10", client: "fd00:99::2", server: "fd00:99::3" };

/// A network of both families with a client and a server, on a host that translates the service's
/// addresses.
#[track_caller]
fn with_service(bridge_netfilter: bool, masquerade: bool, test: impl FnOnce(&Network, [&Pod; 2]) + Send) {
    if !tool("nft") {
        return;
    }
    on_host(|network| {
        network.host.keep("route fd00:99::/64");
        let on = if bridge_netfilter { "1" } else { "0" };
        let bridge = Path::new("/proc/sys/net/bridge");
        for (setting, value) in [
            ("/proc/sys/net/ipv4/ip_forward", "1"),
            ("/proc/sys/net/ipv6/conf/all/forwarding", "1"),
            ("/proc/sys/net/bridge/bridge-nf-call-iptables", on),
            ("/proc/sys/net/bridge/bridge-nf-call-ip6tables", on),
        ] {
            // A kernel without br_netfilter behaves as if it were off.
            if bridge.exists() || !setting.starts_with("/proc/sys/net/bridge") {
                fs::write(setting, value).unwrap_or_else(|error| panic!("{setting}: {error}"));
            }
        }
        for Family { table, service, server, .. } in [&IPV4, &IPV6] {
            let target = SocketAddr::new(server.parse().expect("an address"), POD_PORT);
            // A pod that reaches itself through its service gets another source, because it rejects
            // replies from its own address.
            let rules = format!(
                "table {table} services {{
                    chain prerouting {{
                        type nat hook prerouting priority dstnat;
                        {table} daddr {service} tcp dport {SERVICE_PORT} dnat to {target}
                        {table} daddr {service} udp dport {SERVICE_PORT} dnat to {target}
                    }}
                    chain postrouting {{
                        type nat hook postrouting priority srcnat;
                        {table} saddr {server} {table} daddr {server} masquerade
                    }}
                }}"
            );
            network.host.command("nft").args(["-f", "-"]).stdin(rules).run();
        }
        let mut config = dual_stack(network);
        config["ipMasq"] = masquerade.into();
        let pods = [network.host.pod(), network.host.pod()];
        for (container, pod) in [("client", &pods[0]), ("server", &pods[1])] {
            network.plugin.on("ADD", &config, container, pod).run().result();
        }
        test(network, [&pods[0], &pods[1]]);
        for (container, pod) in [("client", &pods[0]), ("server", &pods[1])] {
            network.plugin.on("DEL", &config, container, pod).run().silent();
        }
    });
}

fn dual_stack(network: &Network) -> Value {
    network.with_keys(json!({ "subnets": ["10.99.0.0/24", "fd00:99::/64"] }))
}

/// Echoes all data in a pod, over both protocols, until the test ends.
fn serve(pod: &Pod, address: &str) {
    let at = SocketAddr::new(address.parse().expect("an address"), POD_PORT);
    let (tcp, udp) = pod
        .enter(|| (TcpListener::bind(at).expect("the port is free"), UdpSocket::bind(at).expect("the port is free")));
    thread::spawn(move || {
        for mut connection in tcp.incoming().map_while(Result::ok) {
            let mut word = [0; 4];
            let _ = connection.read_exact(&mut word).and_then(|()| connection.write_all(&word));
        }
    });
    thread::spawn(move || {
        let mut word = [0; 4];
        while let Ok((length, from)) = udp.recv_from(&mut word) {
            let _ = udp.send_to(&word[..length], from);
        }
    });
}

/// The number of answered connections out of `count`.
fn tcp_answers(client: &Pod, target: SocketAddr) -> usize {
    let talk = || {
        let mut connection = TcpStream::connect_timeout(&target, patience(PATIENCE))?;
        connection.set_read_timeout(Some(patience(PATIENCE)))?;
        connection.write_all(b"word")?;
        let mut word = [0; 4];
        connection.read_exact(&mut word)
    };
    client.enter(|| (0..FLOWS).filter(|_| talk().is_ok()).count())
}

/// The number of sockets with an answer from the requested address.
fn udp_answers(client: &Pod, own: &str, target: SocketAddr) -> usize {
    let own: IpAddr = own.parse().expect("an address");
    let talk = || {
        let socket = UdpSocket::bind((own, 0))?;
        socket.connect(target)?;
        socket.set_read_timeout(Some(patience(PATIENCE)))?;
        socket.send(b"word")?;
        socket.recv(&mut [0; 4])
    };
    client.enter(|| (0..FLOWS).filter(|_| talk().is_ok()).count())
}

#[track_caller]
fn assert_reached(network: &Network, [client, server]: [&Pod; 2]) {
    for Family { service, client: own, server: address, .. } in [&IPV4, &IPV6] {
        serve(server, address);
        let service = SocketAddr::new(service.parse().expect("an address"), SERVICE_PORT);
        let direct = SocketAddr::new(address.parse().expect("an address"), POD_PORT);
        client.use_ports(20_000..=29_999);
        assert_eq!(tcp_answers(client, service), FLOWS, "TCP by {service}");
        assert_eq!(udp_answers(client, own, service), FLOWS, "UDP by {service}");
        // The programs count the end of the last connections late.
        thread::sleep(Duration::from_millis(500));
        // Packets with the same ports as a flow of the stack stay with the stack.
        client.use_ports(30_000..=39_999);
        let before = network.counters(own).expect("an entry");
        assert_eq!(tcp_answers(client, direct), FLOWS, "TCP to {direct}");
        assert_eq!(udp_answers(client, own, direct), FLOWS, "UDP to {direct}");
        let after = network.counters(own).expect("an entry");
        let (sent, direct) = (after.tx_packets - before.tx_packets, after.tx_direct - before.tx_direct);
        assert_eq!(sent, direct, "packets to the pod's own address are direct");
        // The serving pod reaches itself through its service.
        assert_eq!(tcp_answers(server, service), FLOWS, "hairpin by {service}");
    }
}

#[test]
fn a_service_of_the_same_node_is_reachable() {
    with_service(false, false, assert_reached);
}

#[test]
fn a_service_of_the_same_node_is_reachable_with_bridge_netfilter() {
    with_service(true, false, assert_reached);
}

#[test]
fn a_service_of_the_same_node_is_reachable_with_masquerading() {
    with_service(true, true, assert_reached);
}

/// The replies reach the host through the bridge's MAC, which may change.
#[test]
fn a_service_is_reachable_after_the_bridge_got_another_mac() {
    with_service(false, false, |network, [client, server]| {
        serve(server, IPV4.server);
        let service = SocketAddr::new(IPV4.service.parse().expect("an address"), SERVICE_PORT);
        assert_eq!(tcp_answers(client, service), FLOWS);
        network.host.ip("link set cbr0 address 02:00:00:00:11:22");
        client.ip("neighbour flush all");
        assert_eq!(tcp_answers(client, service), FLOWS, "with the new MAC");
    });
}

/// Ports of a client that were used for the service, and then for the pod itself.
#[test]
fn ports_may_change_from_service_to_pod_and_back() {
    with_service(true, false, |_, [client, server]| {
        serve(server, IPV4.server);
        let talk = |socket: &UdpSocket, target: &str| {
            socket.connect(target)?;
            socket.send(b"word")?;
            socket.recv(&mut [0; 4])
        };
        client.enter(|| {
            let socket = UdpSocket::bind((IPV4.client, 4711)).expect("the port is free");
            socket.set_read_timeout(Some(patience(PATIENCE))).expect("a socket has a time limit");
            for _ in 0..3 {
                for target in ["10.99.0.3:8080", "10.96.0.10:80"] {
                    talk(&socket, target).unwrap_or_else(|error| panic!("{target}: {error}"));
                }
            }
        });
    });
}
