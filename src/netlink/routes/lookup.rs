//! The way of the kernel to one address.

use std::net::IpAddr;

use neli::{
    consts::{nl::NlmF, rtnl::Rtm},
    types::Buffer,
};
use rustix::io::Errno;

use super::{
    encap::TunnelEncap,
    message::{RTN_LOCAL, RouteMessage, lookup_message},
};
use crate::netlink::{
    error::Result,
    operation::{EncodeError, Operation},
    socket::Socket,
};
use crate::spec::IfIndex;

/// The way that the kernel chooses for packets to one address, as
/// [`Socket::route_to`] returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResolvedRoute {
    /// The outgoing link. For an address of the host itself, this is loopback.
    pub oif: IfIndex,
    /// The next hop; `None` if the address is on the link itself.
    pub gateway: Option<IpAddr>,
    /// The source address of packets for which the sender chose none.
    pub src: Option<IpAddr>,
    /// The table with the route.
    pub table: u32,
    /// The MTU of the route, or the path MTU that the kernel has learned, in bytes. `None` if the
    /// MTU of the link applies.
    pub mtu: Option<u32>,
    /// The address belongs to the host itself.
    pub local: bool,
    /// The tunnel header that the link adds. Old kernels, such as Linux 5.10, do not report it.
    pub encap: Option<TunnelEncap>,
}

impl Socket {
    /// The way that the kernel chooses for packets to `destination`, as `ip route get` does.
    /// `None` if no route leads there, or an unreachable route.
    ///
    /// The kernel evaluates the routing rules (policy routing) and the tables for a packet of the
    /// host without mark and source address. Rules for marks, source addresses and ports do not
    /// match. Of several next hops, it chooses one. It includes path MTUs that it has learned from
    /// ICMP errors. It sends no packet and resolves no neighbor: the next hop may be absent.
    ///
    /// ```no_run
    /// use cnikit::netlink::Socket;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let host = Socket::open()?;
    /// let way = host.route_to("192.0.2.2".parse()?)?.ok_or("192.0.2.2 is unreachable")?;
    /// let is_on_link = way.gateway.is_none() && !way.local;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `EACCES` for a prohibited destination,
    /// `EINVAL` for a blackhole, `EAFNOSUPPORT` for IPv6 on a kernel without it. Also socket
    /// errors.
    #[doc(alias = "RTM_GETROUTE")]
    pub fn route_to(&self, destination: IpAddr) -> Result<Option<ResolvedRoute>> {
        let operation = Operation::new("look up the route to", destination);
        let request = lookup_message(destination);
        let found: Option<Buffer> = match self.request(&operation, Rtm::Getroute, NlmF::empty(), request) {
            Err(error) if error.is(Errno::NETUNREACH) || error.is(Errno::HOSTUNREACH) => return Ok(None),
            found => found?,
        };
        let found = found.ok_or_else(|| operation.no_answer())?;
        let way = RouteMessage::parse_any(found.as_ref()).and_then(|message| ResolvedRoute::of(&message));
        way.map(Some).ok_or_else(|| operation.malformed(EncodeError::new(NoLink)))
    }
}

impl ResolvedRoute {
    fn of(message: &RouteMessage<'_>) -> Option<Self> {
        let hop = message.hops().hops.into_iter().next()?;
        let route = message.route(hop)?;
        Some(Self {
            oif: route.oif,
            gateway: route.gateway,
            src: route.src,
            table: route.table_id(),
            mtu: route.mtu,
            local: message.kind == RTN_LOCAL,
            encap: route.encap,
        })
    }
}

/// An answer without outgoing link.
#[derive(Debug, thiserror::Error)]
#[error("the route has no outgoing link")]
struct NoLink;
