use cnikit::netlink::Socket;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink, sendto, socket_with};

use crate::support::Fixture;

/// Any process with CAP_NET_ADMIN in a namespace can send to its sockets: a pod can send to the
/// sockets that the plugin opens there.
#[test]
fn forged_messages_are_ignored() {
    let Some(fixture) = Fixture::new() else { return };
    let forge = |port: u32, words: &[u32]| {
        // Without a protocol the socket is NETLINK_ROUTE.
        let forger = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap();
        let mut message: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        message[12..16].copy_from_slice(&port.to_ne_bytes());
        sendto(&forger, &message, SendFlags::empty(), &SocketAddrNetlink::new(port, 0)).unwrap();
    };
    // NLMSG_ERROR with EPERM and NLMSG_DONE as answers to the first exchange, and a message shorter
    // than its header.
    let refusal = [36, 2, 1, 0, (-1_i32).cast_unsigned(), 0, 0, 0, 0];
    let end = [20, 3, 1, 0, 0];
    let short = [3, 2, 1, 0];
    for forged in [&refusal[..], &end, &short] {
        let socket = fixture.pod.socket().unwrap();
        let port = port(&socket);
        fixture.pod.run(|| forge(port, forged)).unwrap();
        assert_eq!(socket.links().unwrap().len(), 1, "lo: {forged:?}");
    }
}

fn port(socket: &Socket) -> u32 {
    let debug = format!("{socket:?}");
    debug.chars().filter(char::is_ascii_digit).collect::<String>().parse().expect("Socket { port: 7, .. }")
}
