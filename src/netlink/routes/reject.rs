//! Routes that reject packets.

use ipnetwork::IpNetwork;

use super::message::{Filter, RouteMessage};
use crate::netlink::{error::Result, operation::Operation, socket::Socket};

const RTN_BLACKHOLE: u8 = 6;
const RTN_UNREACHABLE: u8 = 7;
const RTN_PROHIBIT: u8 = 8;
const RTN_THROW: u8 = 9;

/// A route without next hop. Packets to its destination are rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RejectRoute {
    /// The destination; `0.0.0.0/0` and `::/0` are the default routes.
    pub dst: IpNetwork,
    /// The treatment of the packets.
    pub action: RejectAction,
    /// The table.
    pub table: u32,
    /// The metric: the lowest wins.
    pub priority: Option<u32>,
    /// The program or protocol that added the route. See
    /// [`Route::protocol`](crate::netlink::Route).
    pub protocol: u8,
}

/// The treatment of packets to the destination of a [`RejectRoute`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectAction {
    /// Drop without notification.
    #[doc(alias = "RTN_BLACKHOLE")]
    Blackhole,
    /// Drop. The sender receives an ICMP error "host unreachable".
    #[doc(alias = "RTN_UNREACHABLE")]
    Unreachable,
    /// Drop. The sender receives an ICMP error "administratively prohibited".
    #[doc(alias = "RTN_PROHIBIT")]
    Prohibit,
    /// End the lookup in this table and continue with the next routing rule.
    #[doc(alias = "RTN_THROW")]
    Throw,
}

impl Socket {
    /// The routes of all tables that reject packets, IPv4 first.
    ///
    /// [`Socket::raw_request`] adds and deletes such routes.
    ///
    /// ```no_run
    /// use cnikit::netlink::{Route, Socket};
    ///
    /// # fn main() -> cnikit::netlink::Result<()> {
    /// let routes = Socket::open()?.reject_routes()?;
    /// let in_main = routes.iter().filter(|route| route.table == Route::MAIN_TABLE);
    /// in_main.for_each(|route| println!("{:?} {}", route.action, route.dst));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`Socket::links`].
    #[doc(alias = "RTM_GETROUTE")]
    pub fn reject_routes(&self) -> Result<Vec<RejectRoute>> {
        let operation = Operation::new("list", "the reject routes of all tables");
        let found = self.dump_routes(&operation, Filter::default())?;
        Ok(found.iter().filter_map(|bytes| RejectRoute::of(&RouteMessage::parse(bytes.as_ref())?)).collect())
    }
}

impl RejectRoute {
    fn of(message: &RouteMessage<'_>) -> Option<Self> {
        let action = match message.kind {
            RTN_BLACKHOLE => RejectAction::Blackhole,
            RTN_UNREACHABLE => RejectAction::Unreachable,
            RTN_PROHIBIT => RejectAction::Prohibit,
            RTN_THROW => RejectAction::Throw,
            _ => return None,
        };
        let (table, priority, protocol) = (message.table(), message.priority(), message.protocol);
        Some(Self { dst: message.dst()?, action, table, priority, protocol })
    }
}
