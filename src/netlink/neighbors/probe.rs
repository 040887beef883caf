//! Probes a link for machines that use an address.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};

use super::packet::{
    ETH_P_ARP, ETH_P_IPV6, ETHERNET, ICMP, ICMPV6, NEIGHBOR_ADVERTISEMENT, NEIGHBOR_SOLICITATION, arp_request,
    neighbor_discovery, open,
};
use crate::netlink::{
    error::{Error, Result},
    links::Link,
};
use crate::spec::{IfName, MacAddr};

/// The number of probes for each address, and the time between two of them.
const PROBES: u32 = 3;
const INTERVAL: Duration = Duration::from_millis(250);

/// The duration of the whole probe.
const PROBE_TIMEOUT: Duration = Duration::from_millis(900);

/// A search for machines that use certain addresses, on one link.
///
/// IPv4 addresses are probed with ARP ([RFC 5227], section 2.1): requests with the sender address
/// 0.0.0.0, which change no neighbor table. IPv6 addresses are probed with the neighbor
/// solicitations of duplicate address detection ([RFC 4862], section 5.4), sent from the
/// unspecified address. Each address gets three probes, 250 ms apart. The search ends after 900 ms.
/// The RFCs wait longer, for links with slow forwarding.
///
/// ```no_run
/// use cnikit::netlink::{AddressProbe, Socket};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let host = Socket::open()?;
/// let bridge = host.link_by_name(&"br0".parse()?)?.ok_or("no br0")?;
/// let mut probe = AddressProbe::start(&bridge, &["192.168.77.1".parse()?])?;
/// while let Some(answer) = probe.next_answer()? {
///     println!("{} has {}", answer.mac, answer.address);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Kernel
///
/// Needs `CAP_NET_RAW`, and runs in the network namespace of the thread that starts it.
///
/// [RFC 5227]: https://www.rfc-editor.org/rfc/rfc5227#section-2.1
/// [RFC 4862]: https://www.rfc-editor.org/rfc/rfc4862#section-5.4
#[derive(Debug)]
pub struct AddressProbe {
    socket: OwnedFd,
    link: IfName,
    /// The addresses without an answer so far, each with its probe.
    unanswered: Vec<(IpAddr, Vec<u8>)>,
    ignored: Vec<MacAddr>,
    start: Instant,
    rounds: u32,
}

/// A machine that uses an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddressAnswer {
    /// The address.
    pub address: IpAddr,
    /// The machine's Ethernet address.
    pub mac: MacAddr,
}

impl AddressProbe {
    /// Starts to listen on a link. The first [`next_answer`](Self::next_answer) sends the first
    /// probes.
    ///
    /// # Errors
    ///
    /// [`Error::Probe`] with `EPERM` without `CAP_NET_RAW`, `ENODEV` if the link is gone,
    /// `EADDRNOTAVAIL` if it has no Ethernet address.
    pub fn start(link: &Link, addresses: &[IpAddr]) -> Result<Self> {
        let failed = |source: io::Error| Error::Probe { link: link.name.clone(), source };
        let mac = link.mac.ok_or_else(|| failed(Errno::ADDRNOTAVAIL.into()))?;
        let socket = open(link.index).map_err(failed)?;
        let unanswered = addresses.iter().map(|address| (*address, frame(mac, *address))).collect();
        Ok(Self { socket, link: link.name.clone(), unanswered, ignored: vec![mac], start: Instant::now(), rounds: 0 })
    }

    /// Ignores answers from these MAC addresses, such as the MACs of the host's other links. The
    /// link's own MAC is always ignored.
    #[must_use]
    pub fn with_ignored(mut self, macs: impl IntoIterator<Item = MacAddr>) -> Self {
        self.ignored.extend(macs);
        self
    }

    /// Waits for the next machine that uses one of the addresses. Only the first answer for an
    /// address counts. `None` if each address has an answer or the time is over.
    ///
    /// # Errors
    ///
    /// [`Error::Probe`] with `ENETDOWN` if the link is down.
    pub fn next_answer(&mut self) -> Result<Option<AddressAnswer>> {
        let failed = |errno: Errno| Error::Probe { link: self.link.clone(), source: errno.into() };
        let mut buffer = [0; 128];
        while !self.unanswered.is_empty() {
            let elapsed = self.start.elapsed();
            if elapsed >= PROBE_TIMEOUT {
                return Ok(None);
            }
            let due = if self.rounds < PROBES { INTERVAL * self.rounds } else { PROBE_TIMEOUT };
            if elapsed >= due {
                for (_, frame) in &self.unanswered {
                    match send(&self.socket, frame, SendFlags::empty()) {
                        // A filter or a full queue dropped the frame, as a wire may.
                        Ok(_) | Err(Errno::NOBUFS) => {}
                        Err(errno) => return Err(failed(errno)),
                    }
                }
                self.rounds += 1;
                continue;
            }
            match recv(&self.socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    if let Some(answer) = claim(&buffer[..length]).filter(|answer| !self.ignored.contains(&answer.mac))
                        && let Some(at) = self.unanswered.iter().position(|(address, _)| *address == answer.address)
                    {
                        self.unanswered.swap_remove(at);
                        return Ok(Some(answer));
                    }
                }
                Err(Errno::AGAIN) => {
                    let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
                    match poll(&mut fds, Timespec::try_from(due - elapsed).ok().as_ref()) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(errno) => return Err(failed(errno)),
                    }
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(None)
    }
}

/// The frame that probes for an address.
fn frame(mac: MacAddr, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp_probe(mac, address),
        IpAddr::V6(address) => solicitation(mac, address),
    }
}

/// RFC 5227, section 2.1.1.
fn arp_probe(mac: MacAddr, address: Ipv4Addr) -> Vec<u8> {
    arp_request(mac, Ipv4Addr::UNSPECIFIED, address)
}

/// RFC 4862, section 5.4.2, with the groups of RFC 4291, section 2.7.1, and RFC 2464, section 7.
fn solicitation(mac: MacAddr, address: Ipv6Addr) -> Vec<u8> {
    let [.., x, y, z] = address.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, x, y, z]);
    let message = [&[NEIGHBOR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0][..], &address.octets()].concat();
    neighbor_discovery(mac, Ipv6Addr::UNSPECIFIED, group, message)
}

/// The address that the sender of a frame uses, or probes for: two machines may probe for one
/// address at the same time.
fn claim(frame: &[u8]) -> Option<AddressAnswer> {
    let protocol = u16::from_be_bytes(frame.get(12..ETHERNET)?.try_into().ok()?);
    match protocol {
        ETH_P_ARP => claim_by_arp(frame.get(ETHERNET..)?),
        ETH_P_IPV6 => claim_by_nd(frame),
        _ => None,
    }
}

fn claim_by_arp(arp: &[u8]) -> Option<AddressAnswer> {
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(arp.get(at..at + 4)?).ok()?));
    if arp.get(..6)? != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    let mac = MacAddr::new(arp.get(8..14)?.try_into().ok()?);
    let (sender, target) = (address(14)?, address(24)?);
    let claimed = if sender.is_unspecified() { target } else { sender };
    Some(AddressAnswer { address: claimed.into(), mac })
}

fn claim_by_nd(frame: &[u8]) -> Option<AddressAnswer> {
    let (ip, message) = (frame.get(ETHERNET..ICMP)?, frame.get(ICMP..)?);
    // No router has forwarded the message (RFC 4861, section 7.1).
    if (ip[6], ip[7]) != (ICMPV6, 255) {
        return None;
    }
    let kind = *message.first()?;
    let is_claim = match kind {
        NEIGHBOR_ADVERTISEMENT => true,
        NEIGHBOR_SOLICITATION => ip[8..24] == [0; 16],
        _ => false,
    };
    let target = Ipv6Addr::from(<[u8; 16]>::try_from(message.get(8..24)?).ok()?);
    let mac = MacAddr::new(frame.get(6..12)?.try_into().ok()?);
    is_claim.then_some(AddressAnswer { address: target.into(), mac })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::neighbors::packet::checksum;

    const OWN: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);

    #[test]
    fn arp_probe_matches_the_rfc() {
        let frame = arp_probe(OWN, [192, 0, 2, 1].into());
        let expected = "ffffffffffff020000000001080600010800060400010200000000010000000000000000 0000c0000201";
        assert_eq!(hex(&frame), expected.replace(' ', ""));
    }

    #[test]
    fn solicitation_has_a_valid_checksum() {
        let frame = solicitation(OWN, "2001:db8::1".parse().expect("an address"));
        assert_eq!(frame.len(), ICMP + 24);
        let message = &frame[ICMP..];
        let pseudo = [&frame[ETHERNET + 8..ICMP], &[0, 0, 0, 24, 0, 0, 0, ICMPV6], message].concat();
        assert_eq!(checksum(&pseudo), [0, 0], "the sum over a message with its checksum is zero (RFC 1071)");
    }

    #[test]
    fn truncated_frame_claims_nothing() {
        let whole =
            [&[0xff; 12][..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 9, 192, 0, 2, 1], &[0; 10]].concat();
        let answer = claim(&whole).expect("a reply");
        assert_eq!(answer.address, IpAddr::from([192, 0, 2, 1]));
        assert_eq!(answer.mac, MacAddr::new([2, 0, 0, 0, 0, 9]));
        for length in 0..whole.len() {
            assert_eq!(claim(&whole[..length]), None, "{length}");
        }
    }

    #[test]
    fn solicitation_claims_an_address_only_as_a_probe() {
        let mut frame = solicitation(OWN, "2001:db8::1".parse().expect("an address"));
        assert!(claim(&frame).is_some(), "another machine that probes for the address");
        frame[ETHERNET + 8] = 0xfe;
        assert_eq!(claim(&frame), None, "a machine that resolves a neighbor");
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
