//! Frames between pods.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use cnikit::datapath::{DropReason, PodCounters};
use cnikit_testbed::{Namespace, eventually, host};

use crate::fixture::{Fixture, addresses, index, mac};

const PORT: u16 = 5_000;
const TIMEOUT: Duration = Duration::from_secs(5);

#[test]
fn datagrams_are_forwarded_directly_and_counted_for_both_pods() {
    host(|host| {
        let fixture = Fixture::new(host);
        for (from, to) in addresses(0).into_iter().zip(addresses(1)) {
            let receiver = fixture.pods[1].enter(|| receiver(to));
            let sender = fixture.pods[0].enter(|| UdpSocket::bind((from, 0)).unwrap());
            sender.send_to(b"directly", (to, PORT)).unwrap();
            let mut buffer = [0; 64];
            let (length, sent_by) = receiver.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], sent_by.ip()), (b"directly".as_slice(), from));

            // The headers of Ethernet, IP and UDP, and the payload.
            let bytes = 14 + if from.is_ipv4() { 20 } else { 40 } + 8 + 8;
            let (sent, received) = (fixture.counters(from), fixture.counters(to));
            assert_eq!((sent.tx_packets, sent.tx_direct, received.rx_packets, received.rx_direct), (1, 1, 1, 1));
            assert_eq!((sent.tx_bytes, received.rx_bytes), (bytes, bytes));
        }
        fixture.end(host);
    });
}

#[test]
fn super_frames_arrive_complete_and_directly() {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    const BYTES: usize = 8 << 20;
    host(|host| {
        let fixture = Fixture::new(host);
        for (from, to) in addresses(0).into_iter().zip(addresses(1)) {
            let listener = fixture.pods[1].enter(|| TcpListener::bind((to, PORT)).unwrap());
            let mut sender = fixture.pods[0].enter(|| TcpStream::connect_timeout(&(to, PORT).into(), TIMEOUT).unwrap());
            let (mut receiver, _) = listener.accept().unwrap();
            receiver.set_read_timeout(Some(TIMEOUT)).unwrap();
            let sent: Vec<u8> = (0..BYTES).map(|number| (number % 251) as u8).collect();
            let mut received = Vec::with_capacity(BYTES);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    sender.write_all(&sent).unwrap();
                    drop(sender);
                });
                receiver.read_to_end(&mut received).unwrap();
            });
            assert!(sent == received, "{} bytes received, with other content than sent", received.len());
            let counters = fixture.counters(from);
            assert_eq!(counters.tx_packets, counters.tx_direct, "all packets directly");
            assert!(counters.tx_bytes > BYTES as u64, "{counters:?}");
            let super_frames = counters.tx_bytes / counters.tx_packets;
            assert!(super_frames > 1_514, "segments are not merged: {super_frames} bytes each");
        }
        fixture.end(host);
    });
}

/// A packet socket puts a frame of more than a page into fragments, and only the Ethernet header
/// before them.
#[test]
fn headers_that_lie_in_pages_are_read() {
    const MTU: usize = 9_000;
    host(|host| {
        let fixture = Fixture::new(host);
        for number in [0, 1] {
            host.ip(&format!("link set veth{number} mtu {MTU}"));
            fixture.pods[number].ip(&format!("link set eth0 mtu {MTU}"));
        }
        let payload = vec![7; MTU - 60];
        for (from, to) in addresses(0).into_iter().zip(addresses(1)) {
            let receiver = fixture.pods[1].enter(|| receiver(to));
            fixture.send(&frame(from, to, &payload));
            let mut buffer = vec![0; MTU];
            let (length, sent_by) = receiver.recv_from(&mut buffer).unwrap();
            assert!((&buffer[..length], sent_by.ip()) == (&payload[..], from), "{length} bytes from {sent_by}");
            let sent = fixture.counters(from);
            assert_eq!((sent.tx_packets, sent.tx_direct), (1, 1));
        }
        fixture.end(host);
    });
}

#[test]
fn truncated_frames_of_every_length_are_dropped_and_not_counted() {
    host(|host| {
        let fixture = Fixture::new(host);
        for (family, (from, to)) in addresses(0).into_iter().zip(addresses(1)).enumerate() {
            let whole = frame(from, to, b"");
            let header = [14 + 20, 14 + 40][family];
            let before = dropped(&fixture, DropReason::Malformed);
            for length in 15..header {
                fixture.send(&whole[..length]);
            }
            let all = before + (header as u64 - 15);
            eventually("the drops", TIMEOUT, || dropped(&fixture, DropReason::Malformed) == all);
            assert_eq!(fixture.counters(from), PodCounters::default());
            fixture.send(&whole);
            eventually("the count", TIMEOUT, || fixture.counters(from).tx_direct == 1);
        }
        let ports = fixture.datapath.open_port_configs().unwrap();
        assert_eq!(ports.drops(index(host, "veth0")).unwrap(), Some(fixture.datapath.drops().unwrap()));
        assert_eq!(ports.drops(index(host, "veth1")).unwrap().unwrap().total(), 0);
        fixture.end(host);
    });
}

#[test]
fn packets_with_the_source_of_another_pod_do_not_arrive() {
    host(|host| {
        let fixture = Fixture::new(host);
        for (family, (third, to)) in addresses(2).into_iter().zip(addresses(1)).enumerate() {
            let receiver = fixture.pods[1].enter(|| receiver(to));
            let spoofed = frame(third, to, b"spoofed");
            let own = frame(addresses(0)[family], to, b"own");
            let arrived = |sent: &[u8]| {
                let before = fixture.datapath.drops().unwrap().total();
                (0..10).for_each(|_| fixture.send(sent));
                let mut buffer = [0; 64];
                receiver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                let arrived = (0..10).map_while(|_| receiver.recv(&mut buffer).ok()).count();
                (arrived, fixture.datapath.drops().unwrap().total() - before)
            };
            assert_eq!(arrived(&own), (10, 0));
            assert_eq!(arrived(&spoofed), (0, 10));
            let mut wrong_mac = own.clone();
            wrong_mac[11] = 0x77;
            assert_eq!(arrived(&wrong_mac), (0, 10));
            // The kernel moves the VLAN tag from the frame to the metadata of the packet.
            let tagged = [&own[..12], &[0x81, 0, 0, 5], &own[12..]].concat();
            assert_eq!(arrived(&tagged), (0, 10));
            fixture.configure(|config| config.spoof_check = false);
            assert_eq!(arrived(&spoofed), (10, 0), "without spoof check");
            fixture.configure(|config| config.spoof_check = true);
        }
        let drops = fixture.datapath.drops().unwrap();
        for reason in [DropReason::IpSource, DropReason::MacSource, DropReason::Vlan] {
            assert_eq!(drops.of(reason), 20, "{reason}");
        }
        fixture.end(host);
    });
}

#[test]
fn hairpin_ports_do_not_receive_their_own_broadcasts() {
    host(|host| {
        let fixture = Fixture::new(host);
        host.ip("link set veth0 type bridge_slave hairpin on");
        let ear = fixture.pods[0].enter(|| cnikit_testbed::raw::Ear::open().unwrap());
        let mut broadcast = frame(addresses(0)[0], addresses(1)[0], b"to all");
        broadcast[..6].fill(0xff);
        let received = || ear.frames().iter().filter(|frame| frame.ends_with(b"to all") && frame[0] == 0xff).count();
        received();
        let own = |fixture: &Fixture| {
            fixture.datapath.open_port_configs().unwrap().drops(index(host, "veth0")).unwrap().unwrap()
        };
        let before = own(&fixture).of(DropReason::Reflected);
        fixture.send(&broadcast);
        eventually("the drop", TIMEOUT, || own(&fixture).of(DropReason::Reflected) > before);
        assert_eq!(received(), 0);
        let before = own(&fixture).of(DropReason::Reflected);
        fixture.configure(|config| config.spoof_check = false);
        fixture.send(&broadcast);
        eventually("the drop without spoof check", TIMEOUT, || own(&fixture).of(DropReason::Reflected) > before);
        assert_eq!(received(), 0);
        fixture.end(host);
    });
}

#[test]
fn pods_without_an_endpoint_are_cut_off_only_with_a_port_entry() {
    host(|host| {
        let fixture = Fixture::new(host);
        let [from, _] = addresses(0);
        let to = addresses(1)[0].to_string();
        assert!(fixture.pods[0].ping(&to, 3).status.success());
        fixture.datapath.open_endpoints().unwrap().remove(from).unwrap();
        assert!(!fixture.pods[0].ping(&to, 1).status.success(), "an address without an entry");
        fixture.datapath.open_port_configs().unwrap().remove(index(host, "veth0")).unwrap();
        assert!(fixture.pods[0].ping(&to, 3).status.success(), "a port without an entry: the bridge delivers");
        fixture.end(host);
    });
}

/// The number of dropped packets with a reason.
fn dropped(fixture: &Fixture, reason: DropReason) -> u64 {
    fixture.datapath.drops().expect("read").of(reason)
}

fn receiver(address: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((address, PORT)).expect("bind");
    socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    socket
}

/// A UDP datagram from the first pod to the second.
fn frame(from: IpAddr, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let udp = u16::try_from(8 + payload.len()).expect("a small payload");
    let mut datagram: Vec<u8> = [PORT, PORT, udp, 0].iter().flat_map(|word| word.to_be_bytes()).collect();
    datagram.extend(payload);
    let mut frame = [mac(1).octets(), mac(0).octets()].concat();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = [0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            header[2..4].copy_from_slice(&(20 + udp).to_be_bytes());
            header[12..16].copy_from_slice(&from.octets());
            header[16..20].copy_from_slice(&to.octets());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(0x0800_u16.to_be_bytes());
            frame.extend(header);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            // RFC 8200, section 8.1: UDP over IPv6 needs a checksum.
            let pseudo = [&from.octets()[..], &to.octets(), &[0, 0], &udp.to_be_bytes(), &[0, 0, 0, 17], &datagram];
            let sum = checksum(&pseudo.concat());
            datagram[6..8].copy_from_slice(&sum.to_be_bytes());
            frame.extend(0x86dd_u16.to_be_bytes());
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(udp.to_be_bytes());
            frame.extend([17, 64]);
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
        _ => panic!("{from} and {to} have different families"),
    }
    frame.extend(datagram);
    frame
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    let sum: u32 = bytes.chunks(2).map(word).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
