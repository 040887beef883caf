use super::uapi::{NFTA_EXPR_DATA, NFTA_EXPR_NAME, NLA_F_NESTED};
use crate::netlink::{error::Result, operation::EncodeError, wire::Attrs};

/// A kernel expression by its name and attributes, for features that this module lacks.
///
/// [nf_tables.h] has the numbers of the attributes. Numbers in attributes are in network byte
/// order.
///
/// ```
/// use cnikit::netlink::nftables::{Action, Expression, Rule};
///
/// // NFTA_LIMIT_RATE = 1 and NFTA_LIMIT_UNIT = 2: ten packets a second.
/// let limit = Expression::new("limit")
///     .with_attribute(1, &10_u64.to_be_bytes())
///     .with_attribute(2, &1_u64.to_be_bytes());
/// let rule = Rule::new(Action::Accept).with_expression(limit);
/// assert_ne!(rule.digest()?, Rule::new(Action::Accept).digest()?);
/// # Ok::<(), cnikit::netlink::Error>(())
/// ```
///
/// [nf_tables.h]: https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/include/uapi/linux/netfilter/nf_tables.h
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression {
    name: String,
    attributes: Vec<u8>,
    is_too_long: bool,
}

/// An attribute that exceeds the length field of its header.
#[derive(Debug, thiserror::Error)]
#[error("an attribute of the expression {0} exceeds 65531 bytes")]
struct TooLong(String);

impl Expression {
    /// The expression with this name, without attributes.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self::raw(name, Vec::new())
    }

    /// The expression with this name and encoded attributes.
    #[must_use]
    pub fn raw(name: impl Into<String>, attributes: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), attributes: attributes.into(), is_too_long: false }
    }

    /// Appends an attribute.
    #[must_use]
    pub fn with_attribute(mut self, kind: u16, payload: &[u8]) -> Self {
        const HEADER: usize = 4;
        let Ok(length) = u16::try_from(HEADER + payload.len()) else {
            self.is_too_long = true;
            return self;
        };
        self.attributes.extend([length.to_ne_bytes(), kind.to_ne_bytes()].concat());
        self.attributes.extend(payload);
        self.attributes.resize(self.attributes.len().next_multiple_of(HEADER), 0);
        self
    }

    /// Appends a number of 32 bits in network byte order.
    #[must_use]
    pub fn with_number(self, kind: u16, number: u32) -> Self {
        self.with_attribute(kind, &number.to_be_bytes())
    }

    /// Appends an attribute that contains the attributes of `inner`. The name of `inner` has no
    /// effect.
    #[must_use]
    pub fn with_nested(mut self, kind: u16, inner: &Self) -> Self {
        self.is_too_long |= inner.is_too_long;
        self.with_attribute(kind | NLA_F_NESTED, &inner.attributes)
    }

    pub(super) fn attrs(&self) -> Result<Attrs<u16>, EncodeError> {
        if self.is_too_long {
            return Err(EncodeError::new(TooLong(self.name.clone())));
        }
        let name = Attrs::new().put(NFTA_EXPR_NAME, self.name.as_str())?;
        name.put(NFTA_EXPR_DATA | NLA_F_NESTED, &self.attributes[..])
    }
}
