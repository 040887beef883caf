use std::fmt;
use std::path::Path;
use std::time::SystemTime;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::timestamp;
use crate::spec::{ContainerId, IfName, KubernetesPod};

/// Who holds a lease: one interface of one container, on the network that the store is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// The container.
    pub container_id: ContainerId,
    /// The interface inside the container.
    pub ifname: IfName,
}

/// The owner of a lease and, if known, the Kubernetes pod of the attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// The owner, which identifies the lease.
    pub owner: Owner,
    /// The pod, which the lease records for people.
    pub pod: KubernetesPod,
}

/// Addresses that an attachment holds until it gives them back or the machine restarts.
///
/// Its JSON is what stands in the store:
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
/// The keys of the pod are optional. A reader ignores keys that it does not know, so builds from before
/// these keys read such a lease, and free it, as any other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Lease {
    /// Who holds the addresses.
    #[serde(flatten)]
    pub owner: Owner,
    /// The addresses, each with its subnet's prefix length, in the order of the pools.
    pub addresses: Vec<IpNetwork>,
    /// The boot that the lease is good for.
    pub boot_id: BootId,
    /// When the addresses were handed out, to the second; of an [imported](Self::imported) lease, when that was made.
    #[serde(with = "timestamp")]
    pub created: SystemTime,
    /// Whether another plugin handed the addresses out and [`StoreGuard::import`](super::StoreGuard::import) took them over; in
    /// the JSON only where it is so.
    ///
    /// The attachment was made by that plugin, with links of other names: that none of the names expected is there does not
    /// prove it gone. It holds its addresses until they are [released](super::StoreGuard::release).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub imported: bool,
    /// The Kubernetes pod of the attachment, if the caller named one. In the JSON, a part that is unknown is absent, and
    /// an invalid part reads as unknown.
    #[serde(flatten)]
    pub pod: KubernetesPod,
}

/// Which boot of the machine something belongs to, as told by [`/proc/sys/kernel/random/boot_id`].
///
/// [`/proc/sys/kernel/random/boot_id`]: https://man7.org/linux/man-pages/man4/random.4.html
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(String);

impl Lease {
    /// When the addresses were handed out, as [RFC 3339] text in UTC: what stands in the store.
    ///
    /// [RFC 3339]: https://www.rfc-editor.org/rfc/rfc3339
    pub fn created_rfc3339(&self) -> String {
        timestamp::text(self.created)
    }
}

impl BootId {
    /// The boot that is running.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when /proc is not mounted.
    pub fn current() -> Result<Self> {
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        Ok(Self::new(text.trim_end()))
    }

    /// A boot of this name: for tests, and for a caller that knows the boot from elsewhere.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The boot's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Owner {
    /// The name of the file of the owner's lease. An id holds no `@`, so no two owners share one.
    pub(super) fn file_name(&self) -> String {
        format!("{}@{}.json", self.container_id, self.ifname)
    }

    /// The owner whose lease has this file name.
    pub(super) fn of_file_name(name: &str) -> Option<Self> {
        let (container_id, ifname) = name.strip_suffix(".json")?.split_once('@')?;
        Some(Self { container_id: container_id.parse().ok()?, ifname: ifname.parse().ok()? })
    }
}

/// Without a pod.
impl From<Owner> for Tenant {
    fn from(owner: Owner) -> Self {
        Self { owner, pod: KubernetesPod::default() }
    }
}

/// Without a pod.
impl From<&Owner> for Tenant {
    fn from(owner: &Owner) -> Self {
        owner.clone().into()
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of container {}", self.ifname, self.container_id)
    }
}
