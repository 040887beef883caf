use std::net::IpAddr;

use neli::{
    consts::{
        nl::NlmF,
        rtnl::{Nda, Ntf, Nud, Rtm, Rtn},
    },
    rtnl::{Ndmsg, NdmsgBuilder},
};
use rustix::io::Errno;

use super::{
    address::{family, octets},
    attrs::Attrs,
    error::{EncodeError, Operation, Result},
    socket::Socket,
};

impl Socket {
    /// Has the host forget the MAC of a neighbor: it asks before it sends to the address by this link again. Success if the
    /// host does not know it.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel): `ENODEV` where the link is gone, `EPERM` without `CAP_NET_ADMIN`.
    #[doc(alias = "RTM_DELNEIGH")]
    pub fn forget_neighbor(&self, index: u32, address: IpAddr) -> Result<()> {
        let operation = Operation::new("forget neighbor", format_args!("{address} at link {index}"));
        match self.change(&operation, Rtm::Delneigh, NlmF::empty(), entry(index, address)) {
            Err(error) if error.is(Errno::NOENT) => Ok(()),
            forgotten => forgotten,
        }
    }
}

fn entry(index: u32, address: IpAddr) -> Result<Ndmsg, EncodeError> {
    let attrs = Attrs::new().put(Nda::Dst, octets(address))?;
    let header = NdmsgBuilder::default()
        .ndm_family(family(address))
        .ndm_index(index.cast_signed())
        .ndm_state(Nud::empty())
        .ndm_flags(Ntf::empty())
        .ndm_type(Rtn::Unspec);
    Ok(header.rtattrs(attrs.into_buffer()).build()?)
}
