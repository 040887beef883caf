//! Rules at work: packets between a client, a host with a bridge, and two pods.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use cnikit::netlink::{
    Error, Netns, conntrack,
    nftables::{
        Action, Batch, Chain, ChainType, CtState, CtStatus, DataType, Element, Family, Hook, Match, PacketField,
        Policy, PortRandomization, Priority, Protocol, Rule, Set, Table, Value, Verdict,
    },
};
use cnikit_testbed::skipped;

use crate::{
    nftables::{nat, socket, table, with_chain},
    support::{Fixture, name, pair, peer_mac, run},
};

/// The addresses of the host at its links, of the client and of the two pods.
const HOST_OUTSIDE: &str = "10.8.0.1";
const HOST_INSIDE: &str = "10.9.0.1";
const CLIENT: &str = "10.8.0.2";
const POD: &str = "10.9.0.2";
const OTHER_POD: &str = "10.9.0.3";
const POD_V6: &str = "fd00:9::2";
const HOST_OUTSIDE_V6: &str = "fd00:8::1";

/// Long enough for a packet that arrives.
const PATIENCE: Duration = Duration::from_secs(3);
/// Long enough for a packet on a busy machine, to see that it does not arrive.
const DROPPED: Duration = Duration::from_secs(1);

struct Network {
    fixture: Fixture,
    other_pod: Netns,
    client: Netns,
}

impl Network {
    fn new() -> Option<Self> {
        let fixture = Fixture::new()?;
        let (other_pod, client) = (Netns::create().expect("a namespace"), Netns::create().expect("a namespace"));
        let bridge = fixture.bridge();
        fixture.veth(1, Some(bridge));
        for (number, netns, master) in [(2, &other_pod, Some(bridge)), (3, &client, None)] {
            let mut pair = pair(number, netns).host_up();
            pair.master = master;
            fixture.on_host.create_veth(&pair).expect("create a pair");
        }
        for (netns, link, v4, v6) in [
            (&fixture.host, "cbr0", HOST_INSIDE, "fd00:9::1"),
            (&fixture.host, "veth3", HOST_OUTSIDE, HOST_OUTSIDE_V6),
            (&fixture.pod, "eth1", POD, POD_V6),
            (&other_pod, "eth2", OTHER_POD, "fd00:9::3"),
            (&client, "eth3", CLIENT, "fd00:8::2"),
        ] {
            run(netns, "ip link set lo up");
            run(netns, &format!("ip link set {link} up"));
            run(netns, &format!("ip addr add {v4}/24 dev {link}"));
            run(netns, &format!("ip addr add {v6}/64 dev {link} nodad"));
        }
        for (netns, v4, v6) in [
            (&fixture.pod, HOST_INSIDE, "fd00:9::1"),
            (&other_pod, HOST_INSIDE, "fd00:9::1"),
            (&client, HOST_OUTSIDE, HOST_OUTSIDE_V6),
        ] {
            run(netns, &format!("ip route add default via {v4}"));
            run(netns, &format!("ip -6 route add default via {v6}"));
        }
        run(&fixture.host, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        run(&fixture.host, "bridge link set dev veth1 hairpin on");
        Some(Self { fixture, other_pod, client })
    }

    fn commit(&self, batch: &Batch) {
        socket(&self.fixture.host).commit(batch).expect("commit");
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

fn listen(netns: &Netns, address: &str, port: u16) -> TcpListener {
    let listener = netns.run(|| TcpListener::bind(at(address, port))).expect("enter the namespace").expect("listen");
    listener.set_nonblocking(true).expect("a listener that does not wait");
    listener
}

fn connect(netns: &Netns, to: SocketAddr, patience: Duration) -> Result<TcpStream, ErrorKind> {
    let stream = netns.run(|| TcpStream::connect_timeout(&to, patience)).expect("enter the namespace");
    stream.map_err(|error| error.kind())
}

/// The address of the next connection, as the server sees it; `None` if there is none.
fn accepted(listener: &TcpListener) -> Option<IpAddr> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match listener.accept() {
            Ok((_, peer)) => return Some(peer.ip()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Connects, and returns the client's address as the server sees it.
#[track_caller]
fn reaches(from: &Netns, to: SocketAddr, listener: &TcpListener) -> IpAddr {
    connect(from, to, PATIENCE).unwrap_or_else(|error| panic!("{to}: {error}"));
    accepted(listener).expect("a connection to this listener")
}

fn udp(netns: &Netns, address: &str, port: u16) -> UdpSocket {
    let socket = netns.run(|| UdpSocket::bind(at(address, port))).expect("enter the namespace").expect("bind");
    socket.set_read_timeout(Some(DROPPED)).expect("a timeout");
    socket
}

/// Sends a datagram; returns the sender as the server sees it. `None` if the datagram does not
/// arrive.
fn arrives(client: &UdpSocket, to: SocketAddr, server: &UdpSocket) -> Option<SocketAddr> {
    client.send_to(b"ping", to).expect("send");
    let mut bytes = [0; 8];
    match server.recv_from(&mut bytes) {
        Ok((4, from)) => Some(from),
        Ok(other) => panic!("{other:?}"),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            None
        }
    }
}

fn hostports(table: &Table, kind: DataType) -> Set {
    table.map(format!("{kind:?}"), [DataType::Protocol, DataType::Port], [kind, DataType::Port])
}

fn mapping(protocol: Protocol, port: u16, pod: &str, pod_port: u16) -> Element {
    Element::new([Value::Protocol(protocol), Value::Port(port)]).data([Value::Address(ip(pod)), Value::Port(pod_port)])
}

/// The rules of a plugin that maps ports: one map for each family, and masquerading for pods that
/// connect to themselves.
fn portmap(table: &Table) -> Batch {
    let by_port = [PacketField::Protocol, PacketField::DestinationPort];
    let chains = [("pre", Hook::Prerouting), ("out", Hook::Output)];
    let chains = chains.map(|(name, hook)| table.chain(name).hook(ChainType::Nat, hook, Priority::DSTNAT));
    let masquerade = nat(table);
    let mut batch = with_chain(&masquerade);
    for kind in [DataType::Ipv4, DataType::Ipv6] {
        let map = hostports(table, kind);
        batch = batch.ensure_set(&map);
        for chain in &chains {
            let dnat = Rule::new(Action::DnatMap(map.lookup(by_port))).with_match(Match::destination_is_local());
            batch = batch.ensure_chain(chain).append_rule(chain, dnat);
        }
    }
    let pods = || "10.9.0.0/24".parse().expect("a prefix");
    let hairpin = Rule::new(Action::Masquerade(PortRandomization::FullyRandom))
        .with_match(Match::source(pods()))
        .with_match(Match::destination(pods()))
        .with_match(Match::ct_status(CtStatus::DNAT));
    batch.append_rule(&masquerade, hairpin)
}

#[test]
fn a_map_translates_to_pods() {
    let Some(network) = Network::new() else { return };
    let (host, pod) = (&network.fixture.host, &network.fixture.pod);
    let table = table(Family::Inet);
    let (v4, v6) = (hostports(&table, DataType::Ipv4), hostports(&table, DataType::Ipv6));
    let tcp = [mapping(Protocol::TCP, 8080, POD, 80)];
    network.commit(
        &portmap(&table)
            .add_elements(&v4, tcp.clone())
            .add_elements(&v4, [mapping(Protocol::UDP, 5353, POD, 53)])
            .add_elements(&v6, [mapping(Protocol::TCP, 8080, POD_V6, 80)]),
    );
    let (server, server_v6) = (listen(pod, POD, 80), listen(pod, POD_V6, 80));
    assert_eq!(reaches(&network.client, at(HOST_OUTSIDE, 8080), &server), ip(CLIENT), "the source is kept");
    assert_eq!(reaches(&network.client, at(HOST_OUTSIDE_V6, 8080), &server_v6), ip("fd00:8::2"));
    assert_eq!(reaches(host, at(HOST_OUTSIDE, 8080), &server), ip(HOST_OUTSIDE), "from the host itself");
    assert_eq!(reaches(pod, at(HOST_OUTSIDE, 8080), &server), ip(HOST_INSIDE), "from the pod to itself");
    assert_eq!(reaches(&network.other_pod, at(HOST_OUTSIDE, 8080), &server), ip(HOST_INSIDE), "from another pod");

    let (dns, client) = (udp(pod, POD, 53), udp(&network.client, CLIENT, 4000));
    assert_eq!(arrives(&client, at(HOST_OUTSIDE, 5353), &dns), Some(at(CLIENT, 4000)));

    // Only the mapping with this key disappears.
    socket(host).delete_elements(&v4, &tcp).expect("delete");
    assert_eq!(connect(&network.client, at(HOST_OUTSIDE, 8080), PATIENCE).err(), Some(ErrorKind::ConnectionRefused));
    assert_eq!(reaches(&network.client, at(HOST_OUTSIDE_V6, 8080), &server_v6), ip("fd00:8::2"));
    let other = udp(&network.client, CLIENT, 4001);
    assert_eq!(arrives(&other, at(HOST_OUTSIDE, 5353), &dns), Some(at(CLIENT, 4001)));
}

#[test]
fn translation_of_one_port_leaves_others() {
    let Some(network) = Network::new() else { return };
    let (host, pod) = (&network.fixture.host, &network.fixture.pod);
    let mine = table(Family::Inet);
    let pre = mine.chain("pre").hook(ChainType::Nat, Hook::Prerouting, Priority::DSTNAT);
    let tcp = |action, port| Rule::new(action).with_match(Match::destination_port(Protocol::TCP, port));
    let dnat = |to: &str, port| Action::Dnat { to: ip(to), port };
    let batch = with_chain(&pre)
        .append_rule(&pre, tcp(dnat(POD, Some(80)), 8080).comment("pod"))
        .append_rule(&pre, tcp(dnat(OTHER_POD, None), 81).comment("other pod"))
        .append_rule(&pre, tcp(dnat(POD_V6, Some(80)), 8080))
        .append_rule(&pre, tcp(Action::Redirect { port: Some(90) }, 8090));
    let post = nat(&mine);
    let snat = tcp(Action::Snat { to: ip("10.9.0.77"), port: None }, 81);
    network.commit(&batch.ensure_chain(&post).append_rule(&post, snat));
    run(host, "ip addr add 10.9.0.77/32 dev cbr0");

    let (server, server_v6) = (listen(pod, POD, 80), listen(pod, POD_V6, 80));
    let (other, on_host) = (listen(&network.other_pod, OTHER_POD, 81), listen(host, HOST_OUTSIDE, 90));
    assert_eq!(reaches(&network.client, at(HOST_OUTSIDE, 8080), &server), ip(CLIENT));
    assert_eq!(reaches(&network.client, at(HOST_OUTSIDE_V6, 8080), &server_v6), ip("fd00:8::2"));
    assert_eq!(reaches(&network.client, at(HOST_OUTSIDE, 81), &other), ip("10.9.0.77"), "the source is translated");
    assert_eq!(reaches(&network.client, at(HOST_OUTSIDE, 8090), &on_host), ip(CLIENT));

    socket(host).delete_rules_with(&pre, "pod").expect("delete one rule");
    assert_eq!(connect(&network.client, at(HOST_OUTSIDE, 8080), PATIENCE).err(), Some(ErrorKind::ConnectionRefused));
    assert_eq!(reaches(&network.client, at(HOST_OUTSIDE, 81), &other), ip("10.9.0.77"));
    assert_eq!(reaches(&network.client, at(HOST_OUTSIDE_V6, 8080), &server_v6), ip("fd00:8::2"));
}

fn forward(table: &Table) -> Chain {
    table.chain("forward").hook(ChainType::Filter, Hook::Forward, Priority::FILTER).policy(Policy::Drop)
}

/// The rules of a firewall: pods may connect, and clients only answer.
#[test]
fn replies_pass_a_chain_that_drops_new_connections() {
    let Some(network) = Network::new() else { return };
    let forward = forward(&table(Family::Inet));
    let replies = Rule::new(Action::Accept).with_match(Match::ct_state(CtState::ESTABLISHED | CtState::RELATED));
    let invalid = Rule::new(Action::Drop).with_match(Match::ct_state(CtState::INVALID));
    let from_pods =
        Rule::new(Action::Accept).with_match(Match::input_link(name("cbr0"))).with_match(Match::ct_state(CtState::NEW));
    let batch = with_chain(&forward).append_rule(&forward, invalid).append_rule(&forward, replies);
    network.commit(&batch.append_rule(&forward, from_pods));
    let (server, in_pod) = (listen(&network.client, CLIENT, 80), listen(&network.fixture.pod, POD, 80));
    assert_eq!(reaches(&network.fixture.pod, at(CLIENT, 80), &server), ip(POD));
    assert_eq!(connect(&network.client, at(POD, 80), DROPPED).err(), Some(ErrorKind::TimedOut));

    // The policy alone decides: without it, the same connection arrives.
    network.commit(&with_chain(&forward.policy(Policy::Accept)));
    assert_eq!(reaches(&network.client, at(POD, 80), &in_pod), ip(CLIENT));
}

#[test]
fn sets_and_ranges_of_ports_decide() {
    let Some(network) = Network::new() else { return };
    let mine = table(Family::Inet);
    let (forward, ports) = (forward(&mine), mine.set("ports", [DataType::Port]).intervals());
    let open = [Value::Port(80), Value::Ports(8000..=8002)].map(|port| Element::new([port]));
    let allowed = Rule::new(Action::Accept)
        .with_match(Match::protocol(Protocol::TCP))
        .with_match(Match::in_set(ports.lookup([PacketField::DestinationPort])));
    let refused = Rule::new(Action::Reject).with_match(Match::destination_ports(Protocol::TCP, 82..=83));
    let replies = Rule::new(Action::Accept).with_match(!Match::ct_state(CtState::NEW));
    let batch = with_chain(&forward).ensure_set(&ports).add_elements(&ports, open);
    network.commit(&batch.append_rule(&forward, replies).append_rule(&forward, allowed).append_rule(&forward, refused));
    let outcome = |port| {
        let _server = listen(&network.fixture.pod, POD, port);
        connect(&network.client, at(POD, port), DROPPED).map(drop)
    };
    let ports = [79, 80, 81, 82, 83, 84, 7999, 8000, 8002, 8003];
    let outcomes = ports.map(outcome);
    let (dropped, refused) = (Err(ErrorKind::TimedOut), Err(ErrorKind::ConnectionRefused));
    let expected = [dropped, Ok(()), dropped, refused, refused, dropped, dropped, Ok(()), Ok(()), dropped];
    assert_eq!(outcomes, expected, "{ports:?}");
}

#[test]
fn a_verdict_map_dispatches_and_marks_are_matched() {
    const BIT: u32 = 0x2000;
    let Some(network) = Network::new() else { return };
    let mine = table(Family::Inet);
    let pre = mine.chain("pre").hook(ChainType::Filter, Hook::Prerouting, Priority::MANGLE);
    let forward = mine.chain("forward").hook(ChainType::Filter, Hook::Forward, Priority::FILTER);
    let (links, from_client) = (mine.verdict_map("links", [DataType::Link]), mine.chain("from-client"));
    let jump = Element::new([Value::Link(name("veth3"))]).verdict(Verdict::Jump(from_client.clone()));
    let set = |value, mask| Rule::new(Action::SetMark { value, mask });
    let port_81 = Match::destination_port(Protocol::TCP, 81);
    let batch = with_chain(&pre)
        .ensure_chain(&forward)
        .ensure_chain(&from_client)
        .ensure_set(&links)
        .add_elements(&links, [jump])
        .append_rule(&pre, set(7, u32::MAX))
        .append_rule(&pre, Rule::new(Action::VerdictMap(links.lookup([PacketField::InputLink]))))
        .append_rule(&from_client, set(u32::MAX, BIT).with_match(port_81))
        .append_rule(&forward, Rule::new(Action::Drop).with_match(!Match::mark(7, !BIT)))
        .append_rule(&forward, Rule::new(Action::Drop).with_match(Match::mark(BIT, BIT)));
    network.commit(&batch);
    let servers = [80, 81].map(|port| listen(&network.fixture.pod, POD, port));
    assert_eq!(reaches(&network.client, at(POD, 80), &servers[0]), ip(CLIENT), "the other bits are kept");
    assert_eq!(connect(&network.client, at(POD, 81), DROPPED).err(), Some(ErrorKind::TimedOut));

    network.commit(&Batch::new().flush_set(&links));
    assert_eq!(reaches(&network.client, at(POD, 81), &servers[1]), ip(CLIENT), "no jump, no mark");
}

/// The rules of the bridge plugin with `macspoofchk`.
#[test]
fn a_bridge_drops_frames_with_another_source_address() {
    let Some(network) = Network::new() else { return };
    let mine = table(Family::Bridge);
    let pre = mine.chain("pre").hook(ChainType::Filter, Hook::Prerouting, Priority::BRIDGE_DSTNAT);
    let check = mine.chain("veth1");
    if let Err(error @ Error::Unsupported { .. }) = socket(&network.fixture.host).check(&with_chain(&pre)) {
        return skipped(&error.to_string());
    }
    let batch = with_chain(&pre)
        .ensure_chain(&check)
        .append_rule(&pre, Rule::new(Action::Jump(check.clone())).with_match(Match::input_link(name("veth1"))))
        .append_rule(&check, Rule::new(Action::Return).with_match(Match::source_mac(peer_mac(1))))
        .append_rule(&check, Rule::new(Action::Drop));
    network.commit(&batch);
    let pod = &network.fixture.pod;
    let server = udp(&network.fixture.host, HOST_INSIDE, 1000);
    let arrives = || arrives(&udp(pod, POD, 1000), at(HOST_INSIDE, 1000), &server).is_some();
    assert!(arrives());
    run(pod, "ip link set eth1 address 02:00:00:00:02:99");
    run(pod, "ip neigh replace 10.9.0.1 lladdr 02:00:00:00:00:b0 dev eth1");
    assert!(!arrives(), "a foreign address");
    let others = udp(&network.other_pod, OTHER_POD, 1000);
    assert!(self::arrives(&others, at(HOST_INSIDE, 1000), &server).is_some(), "only the port of the pod is checked");

    socket(&network.fixture.host).commit(&Batch::new().flush_chain(&check)).expect("flush");
    assert!(arrives(), "without the check");
}

#[test]
fn deleted_connections_are_translated_again() {
    let Some(network) = Network::new() else { return };
    let table = table(Family::Inet);
    let v4 = hostports(&table, DataType::Ipv4);
    network.commit(&portmap(&table));
    let (on_host, in_pod) = (udp(&network.fixture.host, HOST_OUTSIDE, 5353), udp(&network.fixture.pod, POD, 53));
    let clients = [4000, 4001].map(|port| udp(&network.client, CLIENT, port));
    for client in &clients {
        assert!(arrives(client, at(HOST_OUTSIDE, 5353), &on_host).is_some());
    }
    network.commit(&Batch::new().add_elements(&v4, [mapping(Protocol::UDP, 5353, POD, 53)]));
    for client in &clients {
        assert!(arrives(client, at(HOST_OUTSIDE, 5353), &on_host).is_some(), "the old connection");
    }

    let tracked = network.fixture.host.run(conntrack::Socket::open).expect("enter the namespace").expect("open");
    if let Err(error @ Error::Unsupported { .. }) = tracked.entries() {
        return skipped(&error.to_string());
    }
    let all = conntrack::Filter::new().protocol(Protocol::UDP).original_destination_port(5353);
    assert_eq!(tracked.delete(&all.original_destination(ip(POD))).expect("delete"), 0);
    assert_eq!(tracked.delete(&all.reply_source(ip(POD))).expect("delete"), 0);
    assert_eq!(tracked.delete(&conntrack::Filter::new().protocol(Protocol::TCP)).expect("delete"), 0);
    assert_eq!(tracked.delete(&all).expect("delete"), 2);
    assert_eq!(tracked.delete(&all).expect("delete"), 0);
    for (port, client) in [4000, 4001].into_iter().zip(&clients) {
        assert_eq!(arrives(client, at(HOST_OUTSIDE, 5353), &in_pod), Some(at(CLIENT, port)));
    }

    let entries = tracked.entries().expect("entries");
    let mine: Vec<_> = entries.iter().filter(|entry| entry.original.source_port == Some(4000)).collect();
    let [entry] = mine[..] else { panic!("{entries:?}") };
    assert_eq!((entry.original.source, entry.original.destination), (ip(CLIENT), ip(HOST_OUTSIDE)));
    assert_eq!((entry.reply.source, entry.reply.source_port), (ip(POD), Some(53)));
    assert_eq!((entry.reply.destination, entry.reply.protocol), (ip(CLIENT), Protocol::UDP));
    let to_pod = conntrack::Filter::new().reply_source(ip(POD)).reply_source_port(53).original_source(ip(CLIENT));
    assert_eq!(tracked.delete(&to_pod).expect("delete"), 2);
}
