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
use crate::spec::IfIndex;

impl Socket {
    /// Deletes the MAC of a neighbor from the host's neighbor table. The host then resolves the
    /// address again before it sends to it through this link. Succeeds if there is no such entry.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel): `ENODEV` if the link is gone, `EPERM` without
    /// `CAP_NET_ADMIN`.
    #[doc(alias = "RTM_DELNEIGH")]
    pub fn forget_neighbor(&self, ifindex: IfIndex, address: IpAddr) -> Result<()> {
        let operation = Operation::new("forget neighbor", format_args!("{address} at link {ifindex}"));
        match self.change(&operation, Rtm::Delneigh, NlmF::empty(), entry(ifindex, address)) {
            Err(error) if error.is(Errno::NOENT) => Ok(()),
            forgotten => forgotten,
        }
    }
}

fn entry(ifindex: IfIndex, address: IpAddr) -> Result<Ndmsg, EncodeError> {
    let attrs = Attrs::new().put(Nda::Dst, octets(address))?;
    let header = NdmsgBuilder::default()
        .ndm_family(family(address))
        .ndm_index(ifindex.get().cast_signed())
        .ndm_state(Nud::empty())
        .ndm_flags(Ntf::empty())
        .ndm_type(Rtn::Unspec);
    Ok(header.rtattrs(attrs.into_buffer()).build()?)
}
