//! Routes of all tables.

mod encap;
mod identity;
mod list;
mod lookup;
mod message;
mod next_hop;
mod operations;
mod reject;
mod route;

pub use encap::TunnelEncap;
pub use lookup::ResolvedRoute;
#[cfg(any(test, fuzzing))]
pub(super) use message::RouteMessage;
pub use reject::{RejectAction, RejectRoute};
pub use route::Route;
pub(super) use route::{RT_SCOPE_UNIVERSE, RTPROT_STATIC};
