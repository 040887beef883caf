//! The header of messages for neighbors and entries of forwarding databases: `struct ndmsg`.

use neli::{
    consts::rtnl::{Ntf, Nud, RtAddrFamily, Rtn},
    rtnl::NdmsgBuilder,
};

use crate::spec::IfIndex;

/// The header of a message for an entry at this link; without an index, at any link.
pub(in crate::netlink) fn header(family: RtAddrFamily, ifindex: Option<IfIndex>) -> NdmsgBuilder {
    NdmsgBuilder::default()
        .ndm_family(family)
        .ndm_index(ifindex.map_or(0, IfIndex::get).cast_signed())
        .ndm_state(Nud::empty())
        .ndm_flags(Ntf::empty())
        .ndm_type(Rtn::Unspec)
}
