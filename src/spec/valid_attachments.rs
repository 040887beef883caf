use serde::{Deserialize, Serialize};

use super::{Attachment, ContainerId, IfName};

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

/// The identity of an attachment within its network.
///
/// Closed: the specification identifies an attachment in a network by these two values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentKey {
    /// The container's identifier.
    #[serde(rename = "containerID")]
    pub container_id: ContainerId,
    /// The name of the interface inside the container.
    pub ifname: IfName,
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

impl From<&Attachment> for AttachmentKey {
    fn from(attachment: &Attachment) -> Self {
        Self { container_id: attachment.container_id.clone(), ifname: attachment.ifname.clone() }
    }
}
