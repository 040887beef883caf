//! Routes of every table, with every next hop.

use std::collections::{HashMap, HashSet};

use neli::{consts::rtnl::Rtm, types::Buffer};
use rustix::io::Errno;

use super::{
    message::{FAMILIES, Filter, Hops, RTN_UNICAST, RouteMessage},
    next_hop::Hop,
    route::Route,
};
use crate::netlink::{
    error::Result,
    operation::Operation,
    socket::Socket,
    wire::{attributes, ifindex, ip_addr, number},
};

const RTM_GETNEXTHOP: u16 = 106;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;

impl Socket {
    /// The unicast routes of one table, IPv4 first. A route with several next hops has one entry
    /// for each. The list is empty if the table has no routes.
    ///
    /// ```no_run
    /// use cnikit::netlink::{Route, Socket};
    ///
    /// # fn main() -> cnikit::netlink::Result<()> {
    /// for route in Socket::open()?.routes_of(Route::MAIN_TABLE)? {
    ///     println!("{route}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`Socket::links`].
    ///
    /// # Kernel
    ///
    /// Linux 4.20 and later send only this table. On older kernels the list is filtered here.
    ///
    /// The kernel does not list an IPv6 route without a gateway that lies between two gateways of
    /// the same destination and priority.
    #[doc(alias = "RTM_GETROUTE")]
    pub fn routes_of(&self, table: u32) -> Result<Vec<Route>> {
        let operation = Operation::new("list the routes of", format_args!("table {table}"));
        Ok(self.unicast_routes(&operation, Filter { table: Some(table), oif: None })?.concat())
    }

    /// The unicast routes of all tables, IPv4 first. A route with several next hops has one entry
    /// for each.
    ///
    /// # Errors
    ///
    /// As for [`Socket::links`].
    #[doc(alias = "RTM_GETROUTE")]
    pub fn routes_of_all_tables(&self) -> Result<Vec<Route>> {
        let operation = Operation::new("list", "the routes of all tables");
        Ok(self.unicast_routes(&operation, Filter::default())?.concat())
    }

    /// The unicast routes, each as a list with one entry for each next hop.
    pub(super) fn unicast_routes(&self, operation: &Operation, filter: Filter) -> Result<Vec<Vec<Route>>> {
        let found = self.dump_routes(operation, filter)?;
        let mut objects = None;
        let mut routes = Vec::new();
        for message in found.iter().filter_map(|bytes| RouteMessage::parse(bytes.as_ref())) {
            if message.kind != RTN_UNICAST || filter.table.is_some_and(|table| table != message.table()) {
                continue;
            }
            let Hops { mut hops, object } = message.hops();
            if let Some(object) = object.filter(|_| hops.is_empty()) {
                let objects = match &mut objects {
                    Some(objects) => objects,
                    None => objects.insert(self.next_hop_objects(operation)?),
                };
                hops = objects.get(&object).cloned().unwrap_or_default();
            }
            let of_route: Vec<_> = hops.into_iter().filter_map(|hop| message.route(hop)).collect();
            routes.extend(Some(of_route).filter(|hops| !hops.is_empty()));
        }
        Ok(routes)
    }

    /// The tables that contain a route of any type and family.
    pub(in crate::netlink) fn used_tables(&self, operation: &Operation) -> Result<HashSet<u32>> {
        let found = self.dump_routes(operation, Filter::default())?;
        Ok(found.iter().filter_map(|bytes| Some(RouteMessage::parse(bytes.as_ref())?.table())).collect())
    }

    /// The route messages of all types, IPv4 first.
    pub(super) fn dump_routes(&self, operation: &Operation, filter: Filter) -> Result<Vec<Buffer>> {
        let mut messages: Vec<Buffer> = Vec::new();
        for family in FAMILIES {
            let found: Vec<Buffer> = match self.dump(operation, Rtm::Getroute, || filter.message(family)) {
                // The namespace has no IPv6, or the table has no route yet.
                Err(error) if error.is(Errno::NOENT) || error.is(Errno::AFNOSUPPORT) => continue,
                found => found?,
            };
            // A kernel without IPv6 lists the routes of all other families.
            let is_of = |bytes: &Buffer| RouteMessage::parse(bytes.as_ref()).is_some_and(|route| route.is_of(family));
            messages.extend(found.into_iter().filter(is_of));
        }
        Ok(messages)
    }

    /// The hops of each next hop object.
    fn next_hop_objects(&self, operation: &Operation) -> Result<HashMap<u32, Vec<Hop>>> {
        // struct nhmsg: family, scope, protocol, a reserved byte, flags.
        const HEADER: usize = 8;
        let found: Vec<Buffer> = self.dump(operation, RTM_GETNEXTHOP, || Ok(Buffer::from(vec![0; HEADER])))?;
        let mut hops: HashMap<u32, Vec<Hop>> = HashMap::new();
        let mut groups = Vec::new();
        for message in &found {
            let Some((header, attrs)) = message.as_ref().split_at_checked(HEADER) else { continue };
            let (mut id, mut oif, mut gateway, mut members) = (None, None, None, None);
            for (kind, bytes) in attributes(attrs) {
                match kind {
                    NHA_ID => id = number(bytes),
                    NHA_OIF => oif = ifindex(bytes),
                    NHA_GATEWAY => gateway = ip_addr(bytes),
                    // struct nexthop_grp: the id of the object, then a weight in four bytes.
                    NHA_GROUP => {
                        members = Some(bytes.chunks_exact(8).filter_map(|member| number(&member[..4])).collect())
                    }
                    _ => (),
                }
            }
            let flags = number(&header[4..]).unwrap_or_default();
            match (id, oif, members) {
                (Some(id), _, Some(members)) => groups.push((id, members)),
                (Some(id), Some(oif), None) => hops.entry(id).or_default().push(Hop::new(oif, gateway, flags)),
                _ => (),
            }
        }
        let members = |members: Vec<u32>| members.iter().filter_map(|id| hops.get(id)).flatten().copied().collect();
        let groups: Vec<(u32, Vec<Hop>)> = groups.into_iter().map(|(id, ids)| (id, members(ids))).collect();
        hops.extend(groups);
        Ok(hops)
    }
}
