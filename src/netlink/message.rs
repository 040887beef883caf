//! Link messages (`struct ifinfomsg`) that several modules build.

use neli::{
    consts::rtnl::{Ifla, RtAddrFamily},
    rtnl::{Ifinfomsg, IfinfomsgBuilder},
};

use super::{
    attrs::Attrs,
    error::{EncodeError, Result},
};
use crate::spec::IfIndex;

pub(super) const RTM_DELLINK: u16 = 17;
/// The notification that a link is deleted. With the family `AF_BRIDGE` it means that the link left
/// its bridge, which happens earlier.
pub(super) const AF_UNSPEC: u8 = 0;

/// A message for the link with this index. Without an index, the attributes name the link.
pub(super) fn message(ifindex: impl Into<Option<IfIndex>>, attrs: Attrs<Ifla>) -> Result<Ifinfomsg, EncodeError> {
    finish(header(ifindex).rtattrs(attrs.into_buffer()))
}

/// Whether a message is the notification that the link is gone.
pub(super) fn is_deletion(kind: u16, body: &[u8], ifindex: IfIndex) -> bool {
    // struct ifinfomsg: family, padding, type, index.
    kind == RTM_DELLINK && body.first() == Some(&AF_UNSPEC) && body.get(4..8) == Some(&ifindex.get().to_ne_bytes()[..])
}

pub(super) fn header(ifindex: impl Into<Option<IfIndex>>) -> IfinfomsgBuilder {
    let ifindex = ifindex.into().map_or(0, IfIndex::get);
    IfinfomsgBuilder::default().ifi_family(RtAddrFamily::Unspecified).ifi_index(ifindex.cast_signed())
}

pub(super) fn finish(builder: IfinfomsgBuilder) -> Result<Ifinfomsg, EncodeError> {
    Ok(builder.build()?)
}
