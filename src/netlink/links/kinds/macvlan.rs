//! Links of kind macvlan.

use serde::{Deserialize, Serialize};

use crate::netlink::{
    error::Result,
    operation::EncodeError,
    wire::{Attrs, attributes, mac_addr, number},
};
use crate::spec::{IfIndex, MacAddr};

pub(super) const KIND: &str = "macvlan";
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_MACVLAN_MACADDR_MODE: u16 = 3;
const IFLA_MACVLAN_MACADDR: u16 = 4;
const IFLA_MACVLAN_MACADDR_DATA: u16 = 5;
const IFLA_MACVLAN_BC_QUEUE_LEN: u16 = 7;
/// `MACVLAN_MACADDR_SET`: the list replaces the list of the link.
const MACADDR_SET: u32 = 3;

/// A link with its own MAC on a parent.
///
/// ```
/// use cnikit::netlink::{LinkSpec, Macvlan, MacvlanMode};
/// use cnikit::spec::IfIndex;
///
/// # fn main() -> Result<(), cnikit::spec::Error> {
/// # let parent = IfIndex::LOOPBACK;
/// let eth0 = LinkSpec::new("eth0".parse()?, Macvlan::new(parent, MacvlanMode::Bridge));
/// # Ok(())
/// # }
/// ```
///
/// The kernel refuses a parent that is a bridge port or the parent of an ipvlan (`EBUSY`). A
/// loopback parent is refused with `EINVAL`. If the parent is a macvlan, the kernel uses its
/// parent.
///
/// # Kernel
///
/// Linux 2.6.33, the module `macvlan` (`CONFIG_MACVLAN`). [`MacvlanMode::Source`] needs Linux 3.18.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Macvlan {
    /// The parent.
    pub parent: IfIndex,
    /// The traffic between the links of one parent.
    pub mode: MacvlanMode,
    /// The length of the queue of received broadcasts, in packets. The kernel's default is 1,000.
    /// The parent has one queue with the greatest value of its links (Linux 5.11).
    #[doc(alias = "IFLA_MACVLAN_BC_QUEUE_LEN")]
    pub bc_queue_len: Option<u32>,
    /// In mode [`Source`](MacvlanMode::Source), the source addresses of received frames. The
    /// kernel refuses a list in other modes.
    #[doc(alias = "IFLA_MACVLAN_MACADDR")]
    pub sources: Vec<MacAddr>,
}

/// The traffic between the macvlan links of one parent.
///
/// In a configuration, the mode has the name of the kernel in lower case:
///
/// ```
/// use cnikit::netlink::MacvlanMode;
///
/// let mode: MacvlanMode = serde_json::from_str(r#""bridge""#)?;
/// assert_eq!(mode, MacvlanMode::Bridge);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum MacvlanMode {
    /// The links never reach each other.
    Private,
    /// All frames leave through the parent. A switch outside must reflect them (802.1Qbg).
    Vepa,
    /// The links reach each other directly. This is the default of the CNI plugin `macvlan`.
    #[default]
    Bridge,
    /// The parent has this link alone, which also takes the MAC of the parent.
    Passthru,
    /// The link receives the frames of its [sources](Macvlan::sources) only. Without sources, it
    /// receives nothing.
    Source,
}

impl Macvlan {
    /// A link on this parent. The kernel chooses all other values.
    #[must_use]
    pub const fn new(parent: IfIndex, mode: MacvlanMode) -> Self {
        Self { parent, mode, bc_queue_len: None, sources: Vec::new() }
    }

    /// Sets the length of the queue of received broadcasts, in packets.
    #[must_use]
    pub const fn bc_queue_len(mut self, packets: u32) -> Self {
        self.bc_queue_len = Some(packets);
        self
    }

    /// Adds a source address of received frames, for [`MacvlanMode::Source`].
    #[must_use]
    pub fn with_source(mut self, mac: MacAddr) -> Self {
        self.sources.push(mac);
        self
    }

    pub(super) fn encode(&self) -> Result<Attrs<u16>, EncodeError> {
        let data = Attrs::new()
            .put(IFLA_MACVLAN_MODE, self.mode.number())?
            .put_some(IFLA_MACVLAN_BC_QUEUE_LEN, self.bc_queue_len)?;
        if self.sources.is_empty() {
            return Ok(data);
        }
        let mut sources = Attrs::new();
        for mac in &self.sources {
            sources = sources.put(IFLA_MACVLAN_MACADDR, mac.octets())?;
        }
        data.put(IFLA_MACVLAN_MACADDR_MODE, MACADDR_SET)?.nest(IFLA_MACVLAN_MACADDR_DATA, sources)
    }

    pub(super) fn decode(parent: IfIndex, data: &[u8]) -> Option<Self> {
        let mut mode = None;
        let mut bc_queue_len = None;
        let mut sources = Vec::new();
        for (kind, bytes) in attributes(data) {
            match kind {
                IFLA_MACVLAN_MODE => mode = number(bytes).and_then(MacvlanMode::from_number),
                IFLA_MACVLAN_BC_QUEUE_LEN => bc_queue_len = number(bytes),
                IFLA_MACVLAN_MACADDR_DATA => {
                    sources = attributes(bytes).filter_map(|(_, mac)| mac_addr(mac)).collect();
                }
                _ => (),
            }
        }
        Some(Self { parent, mode: mode?, bc_queue_len, sources })
    }
}

impl MacvlanMode {
    const ALL: [Self; 5] = [Self::Private, Self::Vepa, Self::Bridge, Self::Passthru, Self::Source];

    /// `MACVLAN_MODE_*`.
    const fn number(self) -> u32 {
        match self {
            Self::Private => 1,
            Self::Vepa => 2,
            Self::Bridge => 4,
            Self::Passthru => 8,
            Self::Source => 16,
        }
    }

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.number() == number)
    }
}
