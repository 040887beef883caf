//! Entries of the neighbor table.

use std::net::IpAddr;

use neli::{
    consts::{
        nl::NlmF,
        rtnl::{Nda, Ntf, Nud, RtAddrFamily, Rtm},
    },
    rtnl::Ndmsg,
};
use rustix::io::Errno;

use super::message::header;
use crate::netlink::{
    error::Result,
    operation::{EncodeError, Operation},
    socket::Socket,
    wire::{Attrs, family, ip_addr, mac_addr, octets},
};
use crate::spec::{IfIndex, MacAddr};

/// An entry of the neighbor table, which ARP (IPv4) and neighbor discovery (IPv6) fill. Packets to
/// the address leave through the link as frames to the MAC.
///
/// See [ip-neighbour(8)](https://man7.org/linux/man-pages/man8/ip-neighbour.8.html).
///
/// ```no_run
/// use cnikit::{
///     netlink::{Neighbor, Netns},
///     spec::MacAddr,
/// };
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let eth0 = cnikit::spec::IfIndex::LOOPBACK;
/// let pod = Netns::open("/run/netns/blue")?.socket()?;
/// let gateway = "169.254.1.1".parse()?;
/// pod.set_neighbor(&Neighbor::new(eth0, gateway, MacAddr::new([0xee; 6])))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Neighbor {
    /// The link.
    pub ifindex: IfIndex,
    /// The address of the neighbor.
    pub address: IpAddr,
    /// The Ethernet address of the neighbor; `None` if the kernel has no answer from it yet.
    pub mac: Option<MacAddr>,
    /// How far the kernel trusts the entry.
    pub state: NeighborState,
}

/// The state of a neighbor entry (`NUD_*` of `linux/neighbour.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NeighborState {
    /// The kernel resolves the address.
    Incomplete,
    /// The neighbor answered a short time ago.
    Reachable,
    /// The kernel uses the entry, and confirms it at the next packet.
    Stale,
    /// The kernel has sent a packet, and waits for a confirmation.
    Delay,
    /// The kernel asks the neighbor for a confirmation.
    Probe,
    /// The neighbor does not answer.
    Failed,
    /// The link needs no resolution, such as loopback.
    NoArp,
    /// The entry stays until it is deleted, and no answer changes it.
    Permanent,
}

impl Neighbor {
    /// A permanent entry.
    #[must_use]
    pub const fn new(ifindex: IfIndex, address: IpAddr, mac: MacAddr) -> Self {
        Self { ifindex, address, mac: Some(mac), state: NeighborState::Permanent }
    }

    /// Sets the state, for example [`NeighborState::Reachable`] for an entry that ages.
    #[must_use]
    pub const fn state(mut self, state: NeighborState) -> Self {
        self.state = state;
        self
    }

    fn message(&self) -> Result<Ndmsg, EncodeError> {
        let attrs = destination(self.address)?.put_some(Nda::Lladdr, self.mac.map(MacAddr::octets))?;
        let header = header(family(self.address), Some(self.ifindex)).ndm_state(self.state.bits());
        Ok(header.rtattrs(attrs.into_buffer()).build()?)
    }

    /// `None` for an entry without an IP address, such as an FDB entry.
    pub(in crate::netlink) fn decode(message: &Ndmsg) -> Option<Self> {
        let (mut address, mut mac) = (None, None);
        for attr in message.rtattrs().iter() {
            let bytes: &[u8] = attr.rta_payload().as_ref();
            match attr.rta_type() {
                Nda::Dst => address = ip_addr(bytes),
                Nda::Lladdr => mac = mac_addr(bytes),
                _ => (),
            }
        }
        Some(Self {
            ifindex: IfIndex::new(message.ndm_index().cast_unsigned())?,
            address: address?,
            mac,
            state: NeighborState::from_bits(*message.ndm_state()),
        })
    }
}

impl NeighborState {
    const ALL: [(Self, Nud); 8] = [
        (Self::Incomplete, Nud::INCOMPLETE),
        (Self::Reachable, Nud::REACHABLE),
        (Self::Stale, Nud::STALE),
        (Self::Delay, Nud::DELAY),
        (Self::Probe, Nud::PROBE),
        (Self::Failed, Nud::FAILED),
        (Self::NoArp, Nud::NOARP),
        (Self::Permanent, Nud::PERMANENT),
    ];

    fn bits(self) -> Nud {
        Self::ALL.iter().find(|(state, _)| *state == self).map_or(Nud::empty(), |(_, bits)| *bits)
    }

    /// An entry has one state. An entry that the kernel has just created has none.
    fn from_bits(bits: Nud) -> Self {
        Self::ALL.iter().find(|(_, state)| bits.contains(*state)).map_or(Self::Incomplete, |(state, _)| *state)
    }
}

impl Socket {
    /// Creates or replaces the entry of an address. With a permanent entry, the kernel sends to the
    /// address without ARP or neighbor discovery.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `ENODEV` if the link is gone, `EPERM`
    /// without `CAP_NET_ADMIN`.
    ///
    /// # Kernel
    ///
    /// Without a MAC, the kernel fills in the broadcast address of the link.
    #[doc(alias = "RTM_NEWNEIGH")]
    pub fn set_neighbor(&self, neighbor: &Neighbor) -> Result<()> {
        let operation = on_link("set neighbor", neighbor.address, neighbor.ifindex);
        self.change(&operation, Rtm::Newneigh, NlmF::CREATE | NlmF::REPLACE, neighbor.message())
    }

    /// Deletes the entry of an address, even a permanent one or one that another program set. The
    /// host then resolves the address again before it sends to it through this link. Succeeds if
    /// the entry or the link is absent.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `EPERM` without `CAP_NET_ADMIN`.
    ///
    /// # Kernel
    ///
    /// The kernel may keep the entry for a moment in the state [`NeighborState::Failed`].
    #[doc(alias = "RTM_DELNEIGH")]
    pub fn delete_neighbor(&self, ifindex: IfIndex, address: IpAddr) -> Result<()> {
        let operation = on_link("delete neighbor", address, ifindex);
        self.delete_entry(&operation, entry(ifindex, address, Ntf::empty()))
    }

    /// The neighbor entries of a link, without proxy entries.
    ///
    /// # Errors
    ///
    /// As for [`Socket::links`].
    #[doc(alias = "RTM_GETNEIGH")]
    pub fn neighbors(&self, ifindex: IfIndex) -> Result<Vec<Neighbor>> {
        let operation = Operation::on_link("list the neighbors at", ifindex);
        self.entries(&operation, ifindex, Ntf::empty())
    }

    /// Creates a proxy entry, unless it exists: the host answers ARP requests or neighbor
    /// solicitations for this address on the link, and forwards the packets.
    ///
    /// The kernel also needs forwarding on the link, a route to the address through another link,
    /// and for IPv6 [`Ipv6Conf::ProxyNdp`](crate::netlink::Ipv6Conf::ProxyNdp).
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `ENODEV` if the link is gone, `EPERM`
    /// without `CAP_NET_ADMIN`.
    #[doc(alias = "NTF_PROXY")]
    pub fn ensure_proxy_neighbor(&self, ifindex: IfIndex, address: IpAddr) -> Result<()> {
        let operation = on_link("set proxy neighbor", address, ifindex);
        self.change(&operation, Rtm::Newneigh, NlmF::CREATE | NlmF::REPLACE, entry(ifindex, address, Ntf::PROXY))
    }

    /// Deletes a proxy entry. Succeeds if the entry or the link is absent.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `EPERM` without `CAP_NET_ADMIN`.
    pub fn delete_proxy_neighbor(&self, ifindex: IfIndex, address: IpAddr) -> Result<()> {
        let operation = on_link("delete proxy neighbor", address, ifindex);
        self.delete_entry(&operation, entry(ifindex, address, Ntf::PROXY))
    }

    /// The addresses of the proxy entries of a link.
    ///
    /// # Errors
    ///
    /// As for [`Socket::links`].
    pub fn proxy_neighbors(&self, ifindex: IfIndex) -> Result<Vec<IpAddr>> {
        let operation = Operation::on_link("list the proxy neighbors at", ifindex);
        let found = self.entries(&operation, ifindex, Ntf::PROXY)?;
        Ok(found.into_iter().map(|neighbor| neighbor.address).collect())
    }

    fn entries(&self, operation: &Operation, ifindex: IfIndex, flags: Ntf) -> Result<Vec<Neighbor>> {
        // A strict kernel (4.20) rejects an index in the header, and filters by the attribute.
        let request = || {
            let attrs = Attrs::new().put(Nda::Ifindex, ifindex.get())?;
            let header = header(RtAddrFamily::Unspecified, None).ndm_flags(flags);
            Ok(header.rtattrs(attrs.into_buffer()).build()?)
        };
        let found: Vec<Ndmsg> = self.dump(operation, Rtm::Getneigh, request)?;
        let of_kind = found.iter().filter(|message| message.ndm_flags().contains(Ntf::PROXY) == (flags == Ntf::PROXY));
        Ok(of_kind.filter_map(Neighbor::decode).filter(|neighbor| neighbor.ifindex == ifindex).collect())
    }

    fn delete_entry(&self, operation: &Operation, request: Result<Ndmsg, EncodeError>) -> Result<()> {
        self.delete(operation, Rtm::Delneigh, request, &[Errno::NOENT, Errno::NODEV])
    }
}

fn on_link(name: &'static str, address: IpAddr, ifindex: IfIndex) -> Operation {
    Operation::new(name, format_args!("{address} at link {ifindex}"))
}

/// An entry that only its key names.
fn entry(ifindex: IfIndex, address: IpAddr, flags: Ntf) -> Result<Ndmsg, EncodeError> {
    let header = header(family(address), Some(ifindex)).ndm_flags(flags);
    Ok(header.rtattrs(destination(address)?.into_buffer()).build()?)
}

fn destination(address: IpAddr) -> Result<Attrs<Nda>, EncodeError> {
    Attrs::new().put(Nda::Dst, octets(address))
}
