//! Real frames between pods.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use cnikit::datapath::{DropReason, PodCounters};
use cnikit_testbed::{Namespace, eventually, host};

use crate::bed::{Bed, addresses, index, mac};

const PORT: u16 = 5_000;
const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn a_datagram_is_delivered_directly_and_counted_at_both_ends() {
    host(|host| {
        let bed = Bed::new(host);
        for (from, to) in addresses(0).into_iter().zip(addresses(1)) {
            let receiver = bed.pods[1].enter(|| receiver(to));
            let sender = bed.pods[0].enter(|| UdpSocket::bind((from, 0)).unwrap());
            sender.send_to(b"directly", (to, PORT)).unwrap();
            let mut buffer = [0; 64];
            let (length, sent_by) = receiver.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], sent_by.ip()), (b"directly".as_slice(), from));

            // Ethernet, the network's header, UDP's, and the text.
            let bytes = 14 + if from.is_ipv4() { 20 } else { 40 } + 8 + 8;
            let (sent, received) = (bed.counters(from), bed.counters(to));
            assert_eq!((sent.tx_packets, sent.tx_direct, received.rx_packets, received.rx_direct), (1, 1, 1, 1));
            assert_eq!((sent.tx_bytes, received.rx_bytes), (bytes, bytes));
        }
        bed.end(host);
    });
}

#[test]
fn a_transfer_of_super_frames_is_whole_and_direct() {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    const BYTES: usize = 8 << 20;
    host(|host| {
        let bed = Bed::new(host);
        for (from, to) in addresses(0).into_iter().zip(addresses(1)) {
            let listener = bed.pods[1].enter(|| TcpListener::bind((to, PORT)).unwrap());
            let mut sender = bed.pods[0].enter(|| TcpStream::connect_timeout(&(to, PORT).into(), LIMIT).unwrap());
            let (mut receiver, _) = listener.accept().unwrap();
            receiver.set_read_timeout(Some(LIMIT)).unwrap();
            let sent: Vec<u8> = (0..BYTES).map(|number| (number % 251) as u8).collect();
            let mut received = Vec::with_capacity(BYTES);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    sender.write_all(&sent).unwrap();
                    drop(sender);
                });
                receiver.read_to_end(&mut received).unwrap();
            });
            assert!(sent == received, "{} bytes arrived otherwise than they were sent", received.len());
            let counters = bed.counters(from);
            assert_eq!(counters.tx_packets, counters.tx_direct, "all of it directly");
            assert!(counters.tx_bytes > BYTES as u64, "{counters:?}");
            let super_frames = counters.tx_bytes / counters.tx_packets;
            assert!(super_frames > 1_514, "segments are not merged: {super_frames} bytes each");
        }
        bed.end(host);
    });
}

/// A packet socket puts a frame of more than a page into fragments, and only the Ethernet header before them.
#[test]
fn headers_that_lie_in_pages_are_read() {
    const MTU: usize = 9_000;
    host(|host| {
        let bed = Bed::new(host);
        for number in [0, 1] {
            host.ip(&format!("link set veth{number} mtu {MTU}"));
            bed.pods[number].ip(&format!("link set eth0 mtu {MTU}"));
        }
        let payload = vec![7; MTU - 60];
        for (from, to) in addresses(0).into_iter().zip(addresses(1)) {
            let receiver = bed.pods[1].enter(|| receiver(to));
            bed.send(&frame(from, to, &payload));
            let mut buffer = vec![0; MTU];
            let (length, sent_by) = receiver.recv_from(&mut buffer).unwrap();
            assert!((&buffer[..length], sent_by.ip()) == (&payload[..], from), "{length} bytes from {sent_by}");
            let sent = bed.counters(from);
            assert_eq!((sent.tx_packets, sent.tx_direct), (1, 1));
        }
        bed.end(host);
    });
}

#[test]
fn a_truncated_frame_is_dropped_at_every_length_and_never_counted() {
    host(|host| {
        let bed = Bed::new(host);
        for (family, (from, to)) in addresses(0).into_iter().zip(addresses(1)).enumerate() {
            let whole = frame(from, to, b"");
            let header = [14 + 20, 14 + 40][family];
            let before = dropped(&bed, DropReason::Malformed);
            for length in 15..header {
                bed.send(&whole[..length]);
            }
            let all = before + (header as u64 - 15);
            eventually("the drops", LIMIT, || dropped(&bed, DropReason::Malformed) == all);
            assert_eq!(bed.counters(from), PodCounters::default());
            bed.send(&whole);
            eventually("the count", LIMIT, || bed.counters(from).tx_direct == 1);
        }
        let links = bed.datapath.links().unwrap();
        assert_eq!(links.drops(index(host, "veth0")).unwrap(), Some(bed.datapath.drops().unwrap()));
        assert_eq!(links.drops(index(host, "veth1")).unwrap().unwrap().total(), 0);
        bed.end(host);
    });
}

#[test]
fn nothing_arrives_in_anothers_name() {
    host(|host| {
        let bed = Bed::new(host);
        for (family, (third, to)) in addresses(2).into_iter().zip(addresses(1)).enumerate() {
            let receiver = bed.pods[1].enter(|| receiver(to));
            let spoofed = frame(third, to, b"in another's name");
            let own = frame(addresses(0)[family], to, b"in its own");
            let arrived = |sent: &[u8]| {
                let before = bed.datapath.drops().unwrap().total();
                (0..10).for_each(|_| bed.send(sent));
                let mut buffer = [0; 64];
                receiver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                let arrived = (0..10).map_while(|_| receiver.recv(&mut buffer).ok()).count();
                (arrived, bed.datapath.drops().unwrap().total() - before)
            };
            assert_eq!(arrived(&own), (10, 0));
            assert_eq!(arrived(&spoofed), (0, 10));
            let mut wrong_mac = own.clone();
            wrong_mac[11] = 0x77;
            assert_eq!(arrived(&wrong_mac), (0, 10));
            // In the frame the kernel moves the tag from there to the packet's metadata.
            let tagged = [&own[..12], &[0x81, 0, 0, 5], &own[12..]].concat();
            assert_eq!(arrived(&tagged), (0, 10));
            bed.configure(|config| config.guard = false);
            assert_eq!(arrived(&spoofed), (10, 0), "without the guard");
            bed.configure(|config| config.guard = true);
        }
        let drops = bed.datapath.drops().unwrap();
        for reason in [DropReason::IpSource, DropReason::MacSource, DropReason::Vlan] {
            assert_eq!(drops.of(reason), 20, "{reason}");
        }
        bed.end(host);
    });
}

#[test]
fn a_hairpin_port_does_not_hear_itself() {
    host(|host| {
        let bed = Bed::new(host);
        host.ip("link set veth0 type bridge_slave hairpin on");
        let ear = bed.pods[0].enter(|| cnikit_testbed::raw::Ear::open().unwrap());
        let mut broadcast = frame(addresses(0)[0], addresses(1)[0], b"to all");
        broadcast[..6].fill(0xff);
        let heard = || ear.frames().iter().filter(|frame| frame.ends_with(b"to all") && frame[0] == 0xff).count();
        heard();
        let own = |bed: &Bed| bed.datapath.links().unwrap().drops(index(host, "veth0")).unwrap().unwrap();
        let before = own(&bed).of(DropReason::Reflected);
        bed.send(&broadcast);
        eventually("the drop", LIMIT, || own(&bed).of(DropReason::Reflected) > before);
        assert_eq!(heard(), 0);
        let before = own(&bed).of(DropReason::Reflected);
        bed.configure(|config| config.guard = false);
        bed.send(&broadcast);
        eventually("the drop without the guard", LIMIT, || own(&bed).of(DropReason::Reflected) > before);
        assert_eq!(heard(), 0);
        bed.end(host);
    });
}

#[test]
fn a_pod_that_moves_its_address_is_cut_off_by_its_row_alone() {
    host(|host| {
        let bed = Bed::new(host);
        let [from, _] = addresses(0);
        let to = addresses(1)[0].to_string();
        assert!(bed.pods[0].ping(&to, 3).status.success());
        bed.datapath.ports().unwrap().remove(from).unwrap();
        assert!(!bed.pods[0].ping(&to, 1).status.success(), "an address of nobody's");
        bed.datapath.links().unwrap().remove(index(host, "veth0")).unwrap();
        assert!(bed.pods[0].ping(&to, 3).status.success(), "a port of nobody's: the bridge delivers");
        bed.end(host);
    });
}

/// What was dropped at the first pod's port.
fn dropped(bed: &Bed, reason: DropReason) -> u64 {
    bed.datapath.drops().expect("read").of(reason)
}

fn receiver(address: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((address, PORT)).expect("bind");
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
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
            // RFC 8200, section 8.1: UDP must have a checksum here.
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
        _ => panic!("{from} and {to} are of two families"),
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
