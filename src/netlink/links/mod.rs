//! Links: looking them up, creating, changing and deleting them.

mod background;
mod change;
mod delete;
mod ipv6;
mod kinds;
mod link;
pub(super) mod message;
mod pci;
mod port;
mod spec;
mod tap;
mod tun;
mod veth;

pub use background::OrphanRecord;
pub use kinds::{
    Ipvlan, IpvlanFlag, IpvlanMode, LinkKind, Macvlan, MacvlanMode, OtherKind, Tap, Vlan, VlanProtocol, Vrf, Vxlan,
};
pub use link::Link;
pub use pci::link_names_of_pci;
pub use port::BridgePort;
pub use spec::LinkSpec;
pub use veth::{VethEnd, VethIndexes, VethPair};
