use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

/// The index of a link in its network namespace. The kernel has no link 0.
///
/// An index is valid in one namespace only: in another namespace, the same number names another
/// link or none.
///
/// ```
/// use cnikit::spec::IfIndex;
///
/// let index = IfIndex::new(7).expect("not zero");
/// assert_eq!((index.get(), index.to_string().as_str()), (7, "7"));
/// assert_eq!(IfIndex::new(0), None);
/// assert_eq!(IfIndex::try_from(1)?, IfIndex::LOOPBACK);
/// # Ok::<(), std::num::TryFromIntError>(())
/// ```
#[doc(alias = "ifindex")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IfIndex(NonZeroU32);

impl IfIndex {
    /// The index of the loopback link: the kernel creates it as the first link of every namespace.
    pub const LOOPBACK: Self = Self(NonZeroU32::MIN);

    /// The link with this index; `None` for 0.
    #[must_use]
    pub const fn new(index: u32) -> Option<Self> {
        match NonZeroU32::new(index) {
            Some(index) => Some(Self(index)),
            None => None,
        }
    }

    /// The index of a number that is not 0 by construction.
    pub(super) const fn known_good(index: u32) -> Self {
        match Self::new(index) {
            Some(index) => index,
            None => Self::LOOPBACK,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for IfIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<IfIndex> for u32 {
    fn from(index: IfIndex) -> Self {
        index.get()
    }
}

/// Fails for 0.
impl TryFrom<u32> for IfIndex {
    type Error = std::num::TryFromIntError;

    fn try_from(index: u32) -> Result<Self, Self::Error> {
        NonZeroU32::try_from(index).map(Self)
    }
}
