//! The sockets of probes: one for each gateway address and link.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};

use cnikit::spec::IfIndex;
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover};
use socket2::{Domain, Socket, Type};
use tracing::debug;

use super::Config;
use super::message::{Message, Probe, decode};
use super::schedule::Line;

/// The largest UDP payload.
const BUFFER: usize = 65_536;

/// The packets that are read from one socket at once. Others wait for the next turn.
const BURST: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Sockets {
    port: u16,
    tunnel: Option<IfIndex>,
    open: BTreeMap<(IfIndex, IpAddr), UdpSocket>,
    /// The sockets that could not be opened, for example because the bridge has no address yet.
    missing: usize,
}

impl Sockets {
    /// Opens the missing sockets, and closes others.
    pub(super) fn configure(&mut self, config: &Config) {
        if self.port != config.port {
            self.open.clear();
        }
        (self.port, self.tunnel, self.missing) = (config.port, config.tunnel, 0);
        self.open.retain(|(link, gateway), _| config.links.contains_key(link) && config.gateways.contains(gateway));
        for (link, name) in &config.links {
            for gateway in &config.gateways {
                if self.open.contains_key(&(*link, *gateway)) {
                    continue;
                }
                match open(name.as_str(), SocketAddr::new(*gateway, config.port)) {
                    Ok(socket) => {
                        self.open.insert((*link, *gateway), socket);
                    }
                    Err(error) => {
                        debug!("cannot open a socket for probes on {gateway} at {name}: {error}");
                        self.missing += 1;
                    }
                }
            }
        }
    }

    pub(super) fn are_missing(&self) -> bool {
        self.missing > 0
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.open.values().map(|socket| socket.as_fd())
    }

    /// Sends a request by a link.
    pub(super) fn send(&self, link: IfIndex, to: IpAddr, bytes: &[u8]) -> io::Result<()> {
        let found = self.open.iter().find(|((open, gateway), _)| *open == link && gateway.is_ipv4() == to.is_ipv4());
        let (_, socket) = found.ok_or(io::ErrorKind::NotConnected)?;
        socket.send_to(bytes, (to, self.port)).map(drop)
    }

    /// Answers the received requests, and passes on the received answers.
    pub(super) fn receive(&self, mut answered: impl FnMut(Line, IpAddr, Probe)) {
        let mut buffer = vec![0; BUFFER];
        for ((link, _), socket) in &self.open {
            for _ in 0..BURST {
                // Errors are of earlier packets: the other node has no agent, or no route.
                let (length, from) = match socket.recv_from(&mut buffer) {
                    Ok(received) => received,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => continue,
                };
                match decode(&buffer[..length]) {
                    Some(Message::Request(probe)) => {
                        // A lost answer is a lost probe.
                        let _ = socket.send_to(&probe.answer(), from);
                    }
                    Some(Message::Answer(probe)) => {
                        let line = if Some(*link) == self.tunnel { Line::Tunnel } else { Line::Direct };
                        answered(line, from.ip(), probe);
                    }
                    None => {}
                }
            }
        }
    }
}

/// A socket that sends and receives by one link only. It never fragments, and does not use path
/// MTUs that the kernel has learned.
fn open(link: &str, address: SocketAddr) -> io::Result<UdpSocket> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), None)?;
    if address.is_ipv4() {
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?;
    } else {
        socket.set_only_v6(true)?;
        set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE)?;
    }
    socket.bind_device(Some(link.as_bytes()))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
