//! The bytes of netlink messages: attributes, addresses and received messages.

mod attributes;
mod ip;
pub(super) mod nfnetlink;
mod reply;

pub use attributes::{Attributes, attributes};
pub(super) use attributes::{Attrs, attribute, ifindex, mac_addr, number, number_at, short, text, wide};
pub(super) use ip::{family, ip_addr, octets};
pub(super) use reply::{Body, Reply, replies};
