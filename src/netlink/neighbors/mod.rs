//! The neighbor table, and the machines that use an address: probes and announcements.

mod announce;
mod message;
mod neighbor;
mod packet;
mod probe;

pub(super) use message::header;
pub use neighbor::{Neighbor, NeighborState};
pub use probe::{AddressAnswer, AddressProbe};
