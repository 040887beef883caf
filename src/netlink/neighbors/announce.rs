//! Gratuitous ARP and unsolicited neighbor advertisements.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rustix::{
    io::Errno,
    net::{SendFlags, send},
};

use super::packet::{NEIGHBOR_ADVERTISEMENT, arp_request, neighbor_discovery, open};
use crate::netlink::{
    error::{Error, Result},
    netns::Netns,
    operation::Operation,
    socket::Socket,
};
use crate::spec::{IfName, MacAddr};

impl Netns {
    /// Announces that a link of the namespace has these addresses, with one frame for each.
    /// Machines on the link that already have a neighbor entry for an address replace its MAC.
    /// Otherwise they would send to the previous owner of the address for a minute.
    ///
    /// The frame for IPv4 is an ARP announcement ([RFC 5227], section 3). The frame for IPv6 is an
    /// unsolicited neighbor advertisement with the override flag ([RFC 4861], section 7.2.6). Both
    /// have the MAC of the link. Call the function after the link is
    /// [running](Socket::wait_running): a bridge drops all frames before.
    ///
    /// The kernel sends the same frames by itself whenever the link comes up or its MAC is set, if
    /// [`Ipv4Conf::ArpNotify`](crate::netlink::Ipv4Conf::ArpNotify) and
    /// [`Ipv6Conf::NdiscNotify`](crate::netlink::Ipv6Conf::NdiscNotify) are 1.
    ///
    /// ```no_run
    /// use cnikit::netlink::Netns;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// Netns::open("/run/netns/blue")?.announce(&"eth0".parse()?, &["10.22.0.5".parse()?])?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Announce`] with `EPERM` without `CAP_NET_RAW`, `ENETDOWN` if the link is down,
    /// `EADDRNOTAVAIL` if it has no Ethernet address. [`Error::Kernel`] with `ENODEV` if the
    /// namespace has no such link. [`Error::Netns`] if the namespace cannot be entered.
    ///
    /// # Kernel
    ///
    /// Needs `CAP_NET_RAW`, and `CAP_SYS_ADMIN` to enter the namespace.
    ///
    /// [RFC 5227]: https://www.rfc-editor.org/rfc/rfc5227#section-3
    /// [RFC 4861]: https://www.rfc-editor.org/rfc/rfc4861#section-7.2.6
    #[doc(alias = "GratuitousArpOverIface")]
    pub fn announce(&self, ifname: &IfName, addresses: &[IpAddr]) -> Result<()> {
        self.run(|| {
            let link = Socket::open()?.link_by_name(ifname)?;
            let link = link.ok_or_else(|| Operation::new("announce the addresses of", ifname).no_device())?;
            let failed = |source: io::Error| Error::Announce { link: ifname.clone(), source };
            let mac = link.mac.ok_or_else(|| failed(Errno::ADDRNOTAVAIL.into()))?;
            let socket = open(link.index).map_err(failed)?;
            for address in addresses {
                let frame = match address {
                    IpAddr::V4(address) => arp_announcement(mac, *address),
                    IpAddr::V6(address) => advertisement(mac, *address),
                };
                match send(&socket, &frame, SendFlags::empty()) {
                    // A filter or a full queue dropped the frame, as a wire may.
                    Ok(_) | Err(Errno::NOBUFS) => {}
                    Err(errno) => return Err(failed(errno.into())),
                }
            }
            Ok(())
        })?
    }
}

/// An ARP request for the own address.
fn arp_announcement(mac: MacAddr, address: Ipv4Addr) -> Vec<u8> {
    arp_request(mac, address, address)
}

/// To all nodes on the link, with the MAC in the option "target link-layer address".
fn advertisement(mac: MacAddr, address: Ipv6Addr) -> Vec<u8> {
    const OVERRIDE: u8 = 0x20;
    const TARGET_LINK_LAYER_ADDRESS: [u8; 2] = [2, 1];
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let header = [NEIGHBOR_ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    let message = [&header[..], &address.octets(), &TARGET_LINK_LAYER_ADDRESS, &mac.octets()].concat();
    neighbor_discovery(mac, address, ALL_NODES, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::neighbors::packet::checksum;

    const OWN: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);

    #[test]
    fn announcement_has_its_address_as_sender_and_as_target() {
        let frame = arp_announcement(OWN, [192, 0, 2, 1].into());
        let expected = [
            &[0xff; 6][..],
            &[2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &[2, 0, 0, 0, 0, 1, 192, 0, 2, 1],
            &[0, 0, 0, 0, 0, 0, 192, 0, 2, 1],
        ];
        assert_eq!(frame, expected.concat());
    }

    #[test]
    fn advertisement_has_a_valid_checksum() {
        let frame = advertisement(OWN, "2001:db8::1".parse().expect("an address"));
        let (header, message) = frame.split_at(14 + 40);
        assert_eq!((header[18], header[19], message.len()), (0, 32, 32), "the payload length");
        let pseudo = [&header[22..], &[0, 0, 0, 32, 0, 0, 0, 58], message].concat();
        assert_eq!(checksum(&pseudo), [0, 0], "the sum over a message with its checksum is zero (RFC 1071)");
    }
}
