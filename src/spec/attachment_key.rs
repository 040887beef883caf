use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Attachment, ContainerId, IfName, NetworkName};

/// The identity of an attachment within its network.
///
/// `GC` lists the valid attachments by their keys, and a lease of the module `ipam` names its owner
/// by the key. Text is `<container id>/<ifname>`.
///
/// ```
/// use cnikit::spec::{Attachment, AttachmentKey};
///
/// let key = AttachmentKey::new("4fe2c9".parse()?, "eth0".parse()?);
/// assert_eq!(key.to_string(), "4fe2c9/eth0");
/// let attachment: Attachment = key.clone().in_network(&"dbnet".parse()?);
/// assert_eq!(attachment.to_string(), "dbnet/4fe2c9/eth0");
/// assert_eq!(attachment.key(), key);
/// # Ok::<(), cnikit::spec::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentKey {
    /// The container's identifier.
    #[serde(rename = "containerID")]
    pub container_id: ContainerId,
    /// The name of the interface inside the container.
    pub ifname: IfName,
}

impl AttachmentKey {
    /// Creates a key from its two names.
    #[must_use]
    pub const fn new(container_id: ContainerId, ifname: IfName) -> Self {
        Self { container_id, ifname }
    }

    /// The attachment with this key in a network.
    #[must_use]
    pub fn in_network(self, network: &NetworkName) -> Attachment {
        Attachment::new(network.clone(), self.container_id, self.ifname)
    }
}

impl Attachment {
    /// The identity of the attachment within its network.
    #[must_use]
    pub fn key(&self) -> AttachmentKey {
        AttachmentKey::new(self.container_id.clone(), self.ifname.clone())
    }
}

impl From<&Attachment> for AttachmentKey {
    fn from(attachment: &Attachment) -> Self {
        attachment.key()
    }
}

/// `<container id>/<ifname>`
impl fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container_id, self.ifname)
    }
}

/// `<network>/<container id>/<ifname>`
impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.container_id, self.ifname)
    }
}
