use serde::{Deserialize, Serialize};

use super::{Attachment, ContainerId, IfName};

/// What `GC` was told of the attachments that are still valid: `cni.dev/valid-attachments`.
///
/// Only a list says anything. Where the key is absent or `null`, the caller may not know better
/// (`cnitool gc` sends no key, an unset list in Go arrives as `null`): free nothing on the strength
/// of that.
///
/// ```
/// # use cnikit::spec::{RawConfig, ValidAttachments};
/// let gc = RawConfig::parse(br#"{"cniVersion": "1.1.0", "name": "dbnet", "type": "bridge"}"#)?;
/// assert_eq!(gc.valid_attachments()?, ValidAttachments::Absent);
/// assert_eq!(gc.valid_attachments()?.list(), None);
/// # Ok::<(), cnikit::spec::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ValidAttachments {
    /// The key is not there.
    #[default]
    Absent,
    /// The key is there, and `null`.
    Null,
    /// All that are valid. An empty list means that none is.
    List(Vec<AttachmentKey>),
}

/// An attachment within its network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentKey {
    /// The container's identifier.
    #[serde(rename = "containerID")]
    pub container_id: ContainerId,
    /// The name of the interface inside the container.
    pub ifname: IfName,
}

impl ValidAttachments {
    /// The list, where there is one.
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
