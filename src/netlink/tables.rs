//! Routes of every table, with every next hop.

use std::collections::HashMap;

use neli::{
    consts::rtnl::{RtAddrFamily, RtScope, RtTable, Rta, Rtm, Rtn, Rtprot},
    rtnl::{Rtmsg, RtmsgBuilder},
    types::Buffer,
};
use rustix::io::Errno;

use super::{
    address::ip_addr,
    attrs::{ifindex, nested, number},
    error::{EncodeError, Operation, Result},
    next_hop::{self, Hop, RTA_VIA},
    route::Route,
    socket::Socket,
};
use crate::spec::IfIndex;

const RTA_NH_ID: u16 = 30;
const RTM_GETNEXTHOP: u16 = 106;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;

impl Socket {
    /// The unicast routes of all tables, IPv4 first. A route with several next hops has one entry
    /// for each.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel) and socket errors.
    #[doc(alias = "RTM_GETROUTE")]
    pub fn routes_of_all_tables(&self) -> Result<Vec<Route>> {
        let operation = Operation::new("list", "the routes of all tables");
        let mut routes = Vec::new();
        let mut by_object = Vec::new();
        for family in [RtAddrFamily::Inet, RtAddrFamily::Inet6] {
            let found: Vec<Rtmsg> = match self.dump(&operation, Rtm::Getroute, || of_all_tables(family)) {
                // The namespace has no IPv6, or no table yet.
                Err(error) if error.is(Errno::NOENT) || error.is(Errno::AFNOSUPPORT) => Vec::new(),
                found => found?,
            };
            let is_unicast = |message: &&Rtmsg| *message.rtm_family() == family && *message.rtm_type() == Rtn::Unicast;
            for message in found.iter().filter(is_unicast) {
                // Each of the hops replaces the index.
                let Some(route) = Route::decode(message, Some(IfIndex::LOOPBACK)) else { continue };
                let Hops { hops, object } = Hops::of(message);
                match object.filter(|_| hops.is_empty()) {
                    Some(object) => by_object.push((route, object)),
                    None => routes.extend(hops.into_iter().map(|hop| with_hop(&route, hop))),
                }
            }
        }
        if !by_object.is_empty() {
            let objects = self.next_hop_objects(&operation)?;
            for (route, object) in by_object {
                let hops = objects.get(&object).into_iter().flatten();
                routes.extend(hops.map(|hop| with_hop(&route, *hop)));
            }
        }
        Ok(routes)
    }

    /// The hops of each next hop object. With `net.ipv4.nexthop_compat_mode=0` a route contains
    /// only the id of its object.
    fn next_hop_objects(&self, operation: &Operation) -> Result<HashMap<u32, Vec<Hop>>> {
        // struct nhmsg: family, scope, protocol, a reserved byte, flags.
        const HEADER: usize = 8;
        let found: Vec<Buffer> = self.dump(operation, RTM_GETNEXTHOP, || Ok(Buffer::from(vec![0; HEADER])))?;
        let mut hops: HashMap<u32, Vec<Hop>> = HashMap::new();
        let mut groups = Vec::new();
        for message in &found {
            let (mut id, mut oif, mut gateway, mut members) = (None, None, None, None);
            for (kind, bytes) in nested(message.as_ref().get(HEADER..).unwrap_or_default()) {
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
            match (id, oif, members) {
                (Some(id), _, Some(members)) => groups.push((id, members)),
                (Some(id), Some(oif), None) => hops.entry(id).or_default().push((oif, gateway)),
                _ => (),
            }
        }
        let members = |members: Vec<u32>| members.iter().filter_map(|id| hops.get(id)).flatten().copied().collect();
        let groups: Vec<(u32, Vec<Hop>)> = groups.into_iter().map(|(id, ids)| (id, members(ids))).collect();
        hops.extend(groups);
        Ok(hops)
    }
}

/// The next hops in a route message.
struct Hops {
    hops: Vec<Hop>,
    object: Option<u32>,
}

impl Hops {
    fn of(message: &Rtmsg) -> Self {
        let (mut oif, mut gateway, mut hops, mut object) = (None, None, Vec::new(), None);
        for attr in message.rtattrs().iter() {
            let bytes: &[u8] = attr.rta_payload().as_ref();
            match attr.rta_type() {
                Rta::Oif => oif = ifindex(bytes),
                Rta::Gateway => gateway = ip_addr(bytes),
                Rta::Multipath => hops = next_hop::multipath(bytes),
                other => match u16::from(*other) {
                    RTA_VIA => gateway = next_hop::via_addr(bytes),
                    RTA_NH_ID => object = number(bytes),
                    _ => (),
                },
            }
        }
        hops.extend(oif.map(|oif| (oif, gateway)));
        Self { hops, object }
    }
}

fn with_hop(route: &Route, (oif, gateway): Hop) -> Route {
    Route { oif, gateway, ..route.clone() }
}

fn of_all_tables(family: RtAddrFamily) -> Result<Rtmsg, EncodeError> {
    Ok(RtmsgBuilder::default()
        .rtm_family(family)
        .rtm_dst_len(0)
        .rtm_src_len(0)
        .rtm_tos(0)
        .rtm_table(RtTable::Unspec)
        .rtm_protocol(Rtprot::Unspec)
        .rtm_scope(RtScope::Universe)
        .rtm_type(Rtn::Unspec)
        .build()?)
}
