//! Links of a kind without a type of its own.

use crate::spec::IfIndex;

/// A link of a kind that [`LinkKind`](crate::netlink::LinkKind) has no variant for.
///
/// The data are the attributes of the kind, as the kernel expects them in `IFLA_INFO_DATA`: see
/// [if_link.h].
///
/// ```
/// use cnikit::netlink::OtherKind;
///
/// // IFLA_GENEVE_ID (1): an attribute of 8 bytes, with the VNI 7.
/// let id = [&8_u16.to_ne_bytes()[..], &1_u16.to_ne_bytes(), &7_u32.to_ne_bytes()].concat();
/// let geneve = OtherKind::new("geneve").data(id);
/// assert_eq!(geneve.kind, "geneve");
/// ```
///
/// [if_link.h]: https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/include/uapi/linux/if_link.h
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct OtherKind {
    /// The kernel's name of the kind.
    #[doc(alias = "IFLA_INFO_KIND")]
    pub kind: String,
    /// The parent.
    #[doc(alias = "IFLA_LINK")]
    pub parent: Option<IfIndex>,
    /// The encoded attributes. An empty list is not sent.
    #[doc(alias = "IFLA_INFO_DATA")]
    pub data: Vec<u8>,
}

impl OtherKind {
    /// A kind without parent and attributes.
    #[must_use]
    pub fn new(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), parent: None, data: Vec::new() }
    }

    /// Sets the parent.
    #[must_use]
    pub fn parent(mut self, parent: IfIndex) -> Self {
        self.parent = Some(parent);
        self
    }

    /// Sets the encoded attributes.
    #[must_use]
    pub fn data(mut self, data: impl Into<Vec<u8>>) -> Self {
        self.data = data.into();
        self
    }
}
