use std::path::Path;
use std::time::SystemTime;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::timestamp;
use crate::spec::{Attachment, AttachmentKey, ContainerId, IfName, KubernetesPod};

/// The owner of a lease and, if known, the Kubernetes pod of the attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tenant {
    /// The owner, which identifies the lease.
    pub owner: AttachmentKey,
    /// The pod, which the lease records for operators.
    pub pod: KubernetesPod,
}

/// Addresses that an attachment holds until their release or until the next boot.
///
/// The JSON form in the store:
///
/// ```json
/// {
///   "containerId": "4fe2c9",
///   "ifname": "eth0",
///   "addresses": ["10.244.1.2/24"],
///   "bootId": "0c6e3b6a-1f0e-4d0a-9c0b-3a3f5a1d7b52",
///   "created": "2025-03-01T12:00:00Z",
///   "podNamespace": "default",
///   "podName": "web-0",
///   "podUid": "6f2a7a1e-1d4b-4a52-9b0c-2f1c5f1f4c11"
/// }
/// ```
///
/// The keys of the pod are optional. A reader ignores unknown keys, so older builds can read and
/// release such a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Lease {
    /// The holder of the addresses.
    #[serde(flatten, with = "OwnerKeys")]
    pub owner: AttachmentKey,
    /// The addresses in the order of the pools, each with the prefix length of its subnet.
    pub addresses: Vec<IpNetwork>,
    /// The lease is valid during this boot.
    pub boot_id: BootId,
    /// The time of the allocation, to the second. For an [imported](Self::imported) lease, the time
    /// of the import.
    #[serde(with = "timestamp")]
    pub created: SystemTime,
    /// Whether [`StoreGuard::import`](super::StoreGuard::import) created the lease from another
    /// plugin's data. The JSON contains the key only if it is true.
    ///
    /// The other plugin created the attachment and uses other interface names. A missing interface
    /// therefore does not prove that the attachment is gone. The lease stays until its
    /// [release](super::StoreGuard::release).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub imported: bool,
    /// The Kubernetes pod of the attachment, if the caller passed one. The JSON omits unknown
    /// parts. Invalid parts are read as unknown.
    #[serde(flatten)]
    pub pod: KubernetesPod,
}

/// The keys of the owner in a lease file. The files keep `containerId`, whereas the protocol has
/// `containerID`.
#[derive(Serialize, Deserialize)]
#[serde(remote = "AttachmentKey", rename_all = "camelCase")]
struct OwnerKeys {
    container_id: ContainerId,
    ifname: IfName,
}

/// The id of one boot of the machine, from [`/proc/sys/kernel/random/boot_id`].
///
/// [`/proc/sys/kernel/random/boot_id`]: https://man7.org/linux/man-pages/man4/random.4.html
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(String);

impl Lease {
    /// The time of the allocation as [RFC 3339] text in UTC, as in the store.
    ///
    /// [RFC 3339]: https://www.rfc-editor.org/rfc/rfc3339
    #[must_use]
    pub fn created_rfc3339(&self) -> String {
        timestamp::text(self.created)
    }
}

impl BootId {
    /// The id of the running boot.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if /proc is not mounted.
    pub fn current() -> Result<Self> {
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        Ok(Self::new(text.trim_end()))
    }

    /// A boot with the given id, for tests and for callers that know the id from another source.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AttachmentKey {
    /// The file name of the owner's lease. A container id contains no `@`, so names are unique.
    pub(super) fn file_name(&self) -> String {
        format!("{}@{}.json", self.container_id, self.ifname)
    }

    /// The owner in a message: `eth0 of container 4fe2c9`.
    pub(super) fn described(&self) -> String {
        format!("{} of container {}", self.ifname, self.container_id)
    }

    /// Parses a file name of [`file_name`](Self::file_name).
    pub(super) fn from_file_name(name: &str) -> Option<Self> {
        let (container_id, ifname) = name.strip_suffix(".json")?.split_once('@')?;
        Some(Self { container_id: container_id.parse().ok()?, ifname: ifname.parse().ok()? })
    }
}

/// Without a pod.
impl Tenant {
    /// The owner with the pod of its attachment.
    #[must_use]
    pub const fn new(owner: AttachmentKey, pod: KubernetesPod) -> Self {
        Self { owner, pod }
    }
}

impl From<AttachmentKey> for Tenant {
    fn from(owner: AttachmentKey) -> Self {
        Self { owner, pod: KubernetesPod::default() }
    }
}

/// Without a pod.
impl From<&AttachmentKey> for Tenant {
    fn from(owner: &AttachmentKey) -> Self {
        owner.clone().into()
    }
}

/// The owner of the attachment's lease, without a pod.
impl From<&Attachment> for Tenant {
    fn from(attachment: &Attachment) -> Self {
        attachment.key().into()
    }
}
