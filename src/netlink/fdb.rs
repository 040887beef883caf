use neli::{
    consts::{
        nl::NlmF,
        rtnl::{Nda, Ntf, Nud, RtAddrFamily, Rtm, Rtn},
    },
    rtnl::{Ndmsg, NdmsgBuilder},
};
use rustix::io::Errno;

use super::{
    attrs::Attrs,
    error::{EncodeError, Operation, Result},
    socket::Socket,
};
use crate::spec::MacAddr;

const AF_BRIDGE: u8 = 7;

/// An entry of a bridge's forwarding database: frames to this address leave by this port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FdbEntry {
    /// The Ethernet address.
    pub mac: MacAddr,
    /// How long it stays.
    pub state: FdbState,
    /// The VLAN, where the bridge filters by them.
    pub vlan: Option<u16>,
}

/// How long an entry stays, in the words of
/// [bridge(8)](https://man7.org/linux/man-pages/man8/bridge.8.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FdbState {
    /// The port's own address: frames to it go up to the host.
    Permanent,
    /// Put there, as [`Socket::set_fdb`] does; it stays until it is deleted or the port leaves the bridge.
    Static,
    /// Learnt from a frame, or put there to be forgotten after the bridge's ageing time.
    Dynamic,
}

impl Socket {
    /// Has a bridge forward frames to `mac` by the port of this index: a static, sticky entry, which neither ages nor moves
    /// to another port that sends from the address. It takes the place of an entry that is there, learnt or not, at whichever
    /// port.
    ///
    /// With it a port needs neither learning nor flooding; see [`BridgePort`](super::BridgePort). The entry goes with
    /// the port.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel): `ENODEV` where the link is gone, `EOPNOTSUPP` where it is no port, `EPERM`
    /// without `CAP_NET_ADMIN`.
    ///
    /// # Kernel
    ///
    /// Linux 4.20.
    #[doc(alias = "RTM_NEWNEIGH")]
    pub fn set_fdb(&self, port: u32, mac: MacAddr) -> Result<()> {
        let operation = Operation::new("set FDB entry", format_args!("{mac} at link {port}"));
        self.change(&operation, Rtm::Newneigh, NlmF::CREATE | NlmF::REPLACE, entry(port, mac))
    }

    /// Takes an entry away, whoever has put it there. An absent one is success, and so is a link that is absent or no port.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel): `EPERM` without `CAP_NET_ADMIN`.
    #[doc(alias = "RTM_DELNEIGH")]
    pub fn delete_fdb(&self, port: u32, mac: MacAddr) -> Result<()> {
        let operation = Operation::new("delete FDB entry", format_args!("{mac} at link {port}"));
        match self.change(&operation, Rtm::Delneigh, NlmF::empty(), entry(port, mac)) {
            Err(error) if [Errno::NOENT, Errno::NODEV, Errno::OPNOTSUPP].iter().any(|errno| error.is(*errno)) => Ok(()),
            deleted => deleted,
        }
    }

    /// The entries of a bridge for one of its ports, the port's own address among them; none for a link that is no
    /// port.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel) and those of the socket.
    pub fn fdb(&self, port: u32) -> Result<Vec<FdbEntry>> {
        let operation = Operation::on_link("list the FDB entries of", port);
        let request = || header(port).build().map_err(EncodeError::from);
        let found: Vec<Ndmsg> = self.dump(&operation, Rtm::Getneigh, request)?;
        let of_port = found.iter().filter(|message| message.ndm_index().cast_unsigned() == port);
        Ok(of_port.filter_map(FdbEntry::decode).collect())
    }
}

impl FdbEntry {
    /// None for an entry of the link itself (`self`), such as a multicast group that it listens to.
    pub(super) fn decode(message: &Ndmsg) -> Option<Self> {
        const NDA_MASTER: u16 = 9;
        let mut mac = None;
        let mut vlan = None;
        let mut is_of_bridge = false;
        for attr in message.rtattrs().iter() {
            let bytes: &[u8] = attr.rta_payload().as_ref();
            match attr.rta_type() {
                Nda::Lladdr => mac = bytes.try_into().map(MacAddr::new).ok(),
                Nda::Vlan => vlan = bytes.try_into().map(u16::from_ne_bytes).ok(),
                // neli has the name for glibc alone.
                other => is_of_bridge |= u16::from(*other) == NDA_MASTER,
            }
        }
        let state = match message.ndm_state() {
            state if state.contains(Nud::PERMANENT) => FdbState::Permanent,
            state if state.contains(Nud::NOARP) => FdbState::Static,
            _ => FdbState::Dynamic,
        };
        mac.filter(|_| is_of_bridge).map(|mac| Self { mac, state, vlan })
    }
}

/// A static entry of the port's bridge.
fn entry(port: u32, mac: MacAddr) -> Result<Ndmsg, EncodeError> {
    /// Without it even a static entry moves to a port that learns the address.
    const NTF_STICKY: Ntf = Ntf::from_bits_retain(1 << 6);
    let attrs = Attrs::new().put(Nda::Lladdr, mac.octets())?;
    let header = header(port).ndm_state(Nud::NOARP).ndm_flags(Ntf::MASTER | NTF_STICKY);
    Ok(header.rtattrs(attrs.into_buffer()).build()?)
}

fn header(port: u32) -> NdmsgBuilder {
    NdmsgBuilder::default()
        .ndm_family(RtAddrFamily::from(AF_BRIDGE))
        .ndm_index(port.cast_signed())
        .ndm_state(Nud::empty())
        .ndm_type(Rtn::Unspec)
}
