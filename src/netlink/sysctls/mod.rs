//! Settings below `/proc/sys`, which have no netlink message.

mod ipv6;
mod name;
mod sysctl;

pub use ipv6::{AddrGenMode, Ipv6Conf};
pub use name::SysctlName;
pub use sysctl::{Ipv4Conf, Sysctl};
