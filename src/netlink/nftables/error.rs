use crate::netlink::operation::EncodeError;

/// A rule or element that the kernel would refuse or misread. It is the source of
/// [`Error::Message`](crate::netlink::Error::Message).
#[derive(Debug, thiserror::Error)]
pub(super) enum Invalid {
    #[error("{found} is given for a part of type {wanted}")]
    Type { found: String, wanted: String },
    #[error("{found} parts are given for a concatenation of {wanted}")]
    Count { wanted: usize, found: usize },
    #[error("a range needs a set with intervals; add .intervals() to the set")]
    Interval,
    #[error("the start of a range exceeds its end")]
    Reversed,
    #[error("a set of {0} cannot have intervals")]
    Unordered(String),
    #[error("an element of a {0} has {1}")]
    Data(&'static str, &'static str),
    #[error("a map of addresses, or of addresses and ports, is needed; {0} has other values")]
    NotAddresses(String),
    #[error("a verdict map is needed; {0} has no verdicts")]
    NotVerdicts(String),
    #[error("the key has a port; add Match::protocol to the rule before it, or PacketField::Protocol to the key")]
    NoProtocol,
    #[error("the {0} belongs to another table than the chain of the rule")]
    OtherTable(&'static str),
}

impl Invalid {
    /// The value or field does not have the type that a set has at its place.
    pub(super) fn of_type(found: impl std::fmt::Debug, wanted: impl std::fmt::Debug) -> Self {
        Self::Type { found: format!("{found:?}"), wanted: format!("{wanted:?}") }
    }
}

impl From<Invalid> for EncodeError {
    fn from(invalid: Invalid) -> Self {
        Self::new(invalid)
    }
}
