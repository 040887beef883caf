//! Link messages (`struct ifinfomsg`) that several modules build.

use neli::{
    consts::rtnl::{Ifla, RtAddrFamily},
    rtnl::{Ifinfomsg, IfinfomsgBuilder},
};

use super::{
    attrs::Attrs,
    error::{EncodeError, Result},
};

/// A message for the link with this index. If the index is 0, the attributes name the link.
pub(super) fn message(ifindex: u32, attrs: Attrs<Ifla>) -> Result<Ifinfomsg, EncodeError> {
    finish(header(ifindex).rtattrs(attrs.into_buffer()))
}

pub(super) fn header(ifindex: u32) -> IfinfomsgBuilder {
    IfinfomsgBuilder::default().ifi_family(RtAddrFamily::Unspecified).ifi_index(ifindex.cast_signed())
}

pub(super) fn finish(builder: IfinfomsgBuilder) -> Result<Ifinfomsg, EncodeError> {
    Ok(builder.build()?)
}
