//! The forwarding databases of bridges and VXLAN links.

use std::net::IpAddr;

use neli::{
    consts::{
        nl::NlmF,
        rtnl::{Nda, Ntf, Nud, Rtm},
    },
    rtnl::Ndmsg,
};
use rustix::io::Errno;

use super::AF_BRIDGE;
use crate::netlink::{
    error::Result,
    neighbors::header,
    operation::{EncodeError, Operation},
    socket::Socket,
    wire::{Attrs, ip_addr, mac_addr, octets, short},
};
use crate::spec::{IfIndex, MacAddr, VlanId};

/// An entry of a forwarding database. For a bridge, frames to this address leave through this port.
/// For a VXLAN link, they leave to this remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FdbEntry {
    /// The Ethernet address.
    pub mac: MacAddr,
    /// How long the entry stays.
    pub state: FdbState,
    /// The VLAN, if the bridge filters by VLAN.
    pub vlan: Option<VlanId>,
    /// The address of the remote VXLAN endpoint; `None` for an entry of a bridge.
    pub remote: Option<IpAddr>,
}

/// How long an entry stays, with the names of
/// [bridge(8)](https://man7.org/linux/man-pages/man8/bridge.8.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FdbState {
    /// The port's own address: frames to it go to the host.
    Permanent,
    /// A static entry, as [`Socket::set_fdb`] sets it. It stays until it is deleted or the port
    /// leaves the bridge.
    Static,
    /// An entry learned from a frame, or set with aging. The bridge removes it after its aging
    /// time.
    Dynamic,
}

impl Socket {
    /// Sets a static, sticky entry: the bridge forwards frames to `mac` through the port with this
    /// index. The entry does not age, and does not move to another port that sends from the
    /// address. It replaces any existing entry of the address, static or learned, at any port.
    ///
    /// With the entry a port needs neither learning nor flooding; see
    /// [`BridgePort`](crate::netlink::BridgePort). The entry disappears with the port.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `ENODEV` if the link is gone, `EOPNOTSUPP`
    /// if it is not a bridge port, `EPERM` without `CAP_NET_ADMIN`.
    ///
    /// # Kernel
    ///
    /// Linux 4.20.
    #[doc(alias = "RTM_NEWNEIGH")]
    pub fn set_fdb(&self, ifindex: IfIndex, mac: MacAddr) -> Result<()> {
        let operation = Operation::new("set FDB entry", format_args!("{mac} at link {ifindex}"));
        self.change(&operation, Rtm::Newneigh, NlmF::CREATE | NlmF::REPLACE, entry(ifindex, mac))
    }

    /// Deletes an entry, even one that another program set. Succeeds if the entry or the link is
    /// absent, or if the link is not a bridge port.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `EPERM` without `CAP_NET_ADMIN`.
    #[doc(alias = "RTM_DELNEIGH")]
    pub fn delete_fdb(&self, ifindex: IfIndex, mac: MacAddr) -> Result<()> {
        let operation = Operation::new("delete FDB entry", format_args!("{mac} at link {ifindex}"));
        self.delete(&operation, Rtm::Delneigh, entry(ifindex, mac), &[Errno::NOENT, Errno::NODEV, Errno::OPNOTSUPP])
    }

    /// Adds a remote VXLAN endpoint to the entry of a MAC on a VXLAN link. Frames to the MAC then
    /// leave as UDP packets to the remote.
    ///
    /// The entries of the all-zero MAC receive the frames to unknown, multicast and broadcast
    /// addresses. This MAC and a multicast MAC can have several remotes: the link sends each frame
    /// to all of them. A unicast MAC has one remote, which the call replaces. An existing entry
    /// with this remote is success. The entry stays until it is deleted.
    ///
    /// ```no_run
    /// use cnikit::{netlink::Socket, spec::MacAddr};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let vxlan0 = cnikit::spec::IfIndex::LOOPBACK;
    /// Socket::open()?.append_fdb_remote(vxlan0, MacAddr::new([0; 6]), "192.0.2.1".parse()?)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `ENODEV` if the link is gone, `EPERM`
    /// without `CAP_NET_ADMIN`. `EAFNOSUPPORT` if the remote has another family than the link's own
    /// addresses.
    ///
    /// # Kernel
    ///
    /// Linux 3.10, with `CONFIG_VXLAN`. A link of another kind ignores the remote, and adds the MAC
    /// to its receive filter: check [`Link::kind`](crate::netlink::Link::kind) if the link is not
    /// your own.
    #[doc(alias = "NDA_DST")]
    pub fn append_fdb_remote(&self, ifindex: IfIndex, mac: MacAddr, remote: IpAddr) -> Result<()> {
        let operation = on_remote("append FDB entry", ifindex, mac, remote);
        let [first, ..] = mac.octets();
        let is_unicast = first & 1 == 0 && mac.octets() != [0; 6];
        // The kernel ignores the flag of the other kind, instead of an error.
        let flags = if is_unicast { NlmF::REPLACE } else { NlmF::APPEND };
        self.change(&operation, Rtm::Newneigh, NlmF::CREATE | flags, remote_entry(ifindex, mac, remote))
    }

    /// Deletes a remote from the entry of a MAC on a VXLAN link. Succeeds if the remote, the entry
    /// or the link is absent.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `EPERM` without `CAP_NET_ADMIN`.
    pub fn delete_fdb_remote(&self, ifindex: IfIndex, mac: MacAddr, remote: IpAddr) -> Result<()> {
        let operation = on_remote("delete FDB entry", ifindex, mac, remote);
        self.delete(&operation, Rtm::Delneigh, remote_entry(ifindex, mac, remote), &[Errno::NOENT, Errno::NODEV])
    }

    /// The entries of a bridge for one of its ports, including the port's own address. For a
    /// bridge, the entries of its own addresses. For a VXLAN link, also the entries of its remotes:
    /// a MAC with several remotes has several entries. Empty for any other link.
    ///
    /// # Errors
    ///
    /// As for [`Socket::links`].
    pub fn fdb(&self, ifindex: IfIndex) -> Result<Vec<FdbEntry>> {
        let operation = Operation::on_link("list the FDB entries of", ifindex);
        let request = || header(AF_BRIDGE.into(), Some(ifindex)).build().map_err(EncodeError::from);
        let found: Vec<Ndmsg> = self.dump(&operation, Rtm::Getneigh, request)?;
        let of_port = found.iter().filter(|message| message.ndm_index().cast_unsigned() == ifindex.get());
        Ok(of_port.filter_map(FdbEntry::decode).collect())
    }
}

impl FdbEntry {
    /// `None` for an entry of the link itself (`self`) without a remote, such as a multicast group
    /// that the link joined.
    pub(in crate::netlink) fn decode(message: &Ndmsg) -> Option<Self> {
        const NDA_MASTER: u16 = 9;
        let mut mac = None;
        let mut vlan = None;
        let mut remote = None;
        let mut is_of_bridge = false;
        for attr in message.rtattrs().iter() {
            let bytes: &[u8] = attr.rta_payload().as_ref();
            match attr.rta_type() {
                Nda::Lladdr => mac = mac_addr(bytes),
                Nda::Vlan => vlan = short(bytes).and_then(VlanId::new),
                Nda::Dst => remote = ip_addr(bytes),
                // neli defines this name for glibc only.
                other => is_of_bridge |= u16::from(*other) == NDA_MASTER,
            }
        }
        let state = match message.ndm_state() {
            state if state.contains(Nud::PERMANENT) => FdbState::Permanent,
            state if state.contains(Nud::NOARP) => FdbState::Static,
            _ => FdbState::Dynamic,
        };
        mac.filter(|_| is_of_bridge || remote.is_some()).map(|mac| Self { mac, state, vlan, remote })
    }
}

/// A static entry of the port's bridge.
fn entry(ifindex: IfIndex, mac: MacAddr) -> Result<Ndmsg, EncodeError> {
    /// Without this flag even a static entry moves to a port that learns the address.
    const NTF_STICKY: Ntf = Ntf::from_bits_retain(1 << 6);
    let attrs = Attrs::new().put(Nda::Lladdr, mac.octets())?;
    let header = header(AF_BRIDGE.into(), Some(ifindex)).ndm_state(Nud::NOARP).ndm_flags(Ntf::MASTER | NTF_STICKY);
    Ok(header.rtattrs(attrs.into_buffer()).build()?)
}

/// An entry of a VXLAN link.
fn remote_entry(ifindex: IfIndex, mac: MacAddr, remote: IpAddr) -> Result<Ndmsg, EncodeError> {
    let attrs = Attrs::new().put(Nda::Lladdr, mac.octets())?.put(Nda::Dst, octets(remote))?;
    let header = header(AF_BRIDGE.into(), Some(ifindex)).ndm_state(Nud::PERMANENT).ndm_flags(Ntf::SELF);
    Ok(header.rtattrs(attrs.into_buffer()).build()?)
}

fn on_remote(name: &'static str, ifindex: IfIndex, mac: MacAddr, remote: IpAddr) -> Operation {
    Operation::new(name, format_args!("{mac} by {remote} at link {ifindex}"))
}
