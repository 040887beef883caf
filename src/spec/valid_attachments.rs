use super::AttachmentKey;

/// The attachments that the caller of `GC` declares valid: `cni.dev/valid-attachments`.
///
/// Only a list is a statement. If the key is absent or `null`, the caller may not know the
/// attachments, so `GC` must free nothing. `cnitool gc` sends no key, and an unset list in Go
/// arrives as `null`.
///
/// ```
/// # use cnikit::spec::{RawConfig, ValidAttachments};
/// let gc = RawConfig::parse(br#"{"cniVersion": "1.1.0", "name": "dbnet", "type": "bridge"}"#)?;
/// assert_eq!(gc.valid_attachments()?, ValidAttachments::Absent);
/// assert_eq!(gc.valid_attachments()?.list(), None);
/// # Ok::<(), cnikit::spec::Error>(())
/// ```
///
/// Closed: a JSON key is absent, is `null`, or has a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ValidAttachments {
    /// The key is absent.
    #[default]
    Absent,
    /// The key is `null`.
    Null,
    /// All valid attachments. An empty list means that none is valid.
    List(Vec<AttachmentKey>),
}

impl ValidAttachments {
    /// The list, if the caller sent one.
    #[must_use]
    pub fn list(&self) -> Option<&[AttachmentKey]> {
        match self {
            ValidAttachments::List(list) => Some(list),
            ValidAttachments::Absent | ValidAttachments::Null => None,
        }
    }
}
