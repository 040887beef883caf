//! Link messages: `struct ifinfomsg`.

use neli::{
    consts::rtnl::{Ifla, RtAddrFamily},
    rtnl::{Ifinfomsg, IfinfomsgBuilder},
};

use crate::netlink::{error::Result, operation::EncodeError, wire::Attrs};
use crate::spec::IfIndex;

/// A message for the link with this index. Without an index, the attributes name the link.
pub(in crate::netlink) fn message(
    ifindex: impl Into<Option<IfIndex>>,
    attrs: Attrs<Ifla>,
) -> Result<Ifinfomsg, EncodeError> {
    finish(header(ifindex).rtattrs(attrs.into_buffer()))
}

/// The header of such a message.
pub(in crate::netlink) fn header(ifindex: impl Into<Option<IfIndex>>) -> IfinfomsgBuilder {
    let ifindex = ifindex.into().map_or(0, IfIndex::get);
    IfinfomsgBuilder::default().ifi_family(RtAddrFamily::Unspecified).ifi_index(ifindex.cast_signed())
}

pub(in crate::netlink) fn finish(builder: IfinfomsgBuilder) -> Result<Ifinfomsg, EncodeError> {
    Ok(builder.build()?)
}
