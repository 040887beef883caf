//! Bridges, the VLANs of their ports, and their forwarding databases.

mod bridge;
mod fdb;
mod vlan;

pub use bridge::BridgeSpec;
pub use fdb::{FdbEntry, FdbState};
pub use vlan::BridgeVlan;

/// The family of the messages for bridges.
const AF_BRIDGE: u8 = 7;
