use std::fmt;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use super::{ErrorCode, HasErrorCode};

/// The number of a VLAN, from 1 to 4094 (IEEE 802.1Q).
///
/// ```
/// use cnikit::spec::VlanId;
///
/// assert_eq!(VlanId::new(100).map(VlanId::get), Some(100));
/// assert_eq!(VlanId::new(0), None);
/// assert_eq!(VlanId::new(4095), None);
/// let error = serde_json::from_str::<VlanId>("4095").unwrap_err();
/// assert_eq!(error.to_string(), "VLAN 4095 is not between 1 and 4094");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct VlanId(NonZeroU16);

/// A number that is not a [`VlanId`]. Its code is [`ErrorCode::INVALID_CONFIG`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("VLAN {0} is not between 1 and 4094")]
pub struct InvalidVlanId(u16);

impl VlanId {
    /// The least id, which a bridge uses for untagged frames by default.
    pub const MIN: Self = Self(NonZeroU16::MIN);

    /// The greatest id, 4094.
    pub const MAX: Self = match Self::new(4_094) {
        Some(id) => id,
        None => Self::MIN,
    };

    /// The VLAN with this number; `None` unless it is between 1 and 4094.
    #[must_use]
    pub const fn new(id: u16) -> Option<Self> {
        match NonZeroU16::new(id) {
            Some(id) if id.get() < 0xfff => Some(Self(id)),
            _ => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<VlanId> for u16 {
    fn from(id: VlanId) -> Self {
        id.get()
    }
}

impl TryFrom<u16> for VlanId {
    type Error = InvalidVlanId;

    fn try_from(id: u16) -> Result<Self, Self::Error> {
        Self::new(id).ok_or(InvalidVlanId(id))
    }
}

impl HasErrorCode for InvalidVlanId {
    fn code(&self) -> ErrorCode {
        ErrorCode::INVALID_CONFIG
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_802_1q() {
        assert_eq!((VlanId::MIN.get(), VlanId::MAX.get()), (1, 4_094));
        for id in [0, 4_095, u16::MAX] {
            assert_eq!(VlanId::try_from(id), Err(InvalidVlanId(id)));
        }
        assert_eq!(InvalidVlanId(0).code(), ErrorCode::INVALID_CONFIG);
    }
}
