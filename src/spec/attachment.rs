use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{ContainerId, IfIndex, IfName, MacAddr, NetworkName};

/// One interface of one container in one network: the identity from which all other names derive.
///
/// The names and hardware addresses below derive from the SHA-256 digest of
/// `network/container id/ifname`. No part can contain a `/`, so two attachments never share a
/// digest input. `DEL`, `CHECK` and `GC` find the objects of `ADD` from these names alone. So does
/// an administrator:
///
/// ```text
/// $ printf 'dbnet/cnitool-77383ca0a0715733ca6f/eth0' | sha256sum
/// ```
///
/// ```
/// use cnikit::spec::Attachment;
///
/// let attachment = Attachment {
///     network: "dbnet".parse()?,
///     container_id: "cnitool-77383ca0a0715733ca6f".parse()?,
///     ifname: "eth0".parse()?,
/// };
/// assert_eq!(attachment.host_ifname().as_str(), "veth76c13cb9109");
/// # Ok::<(), cnikit::spec::Error>(())
/// ```
///
/// Closed: the specification identifies an attachment by these three values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// The network's name.
    pub network: NetworkName,
    /// The container's identifier.
    pub container_id: ContainerId,
    /// The name of the interface inside the container.
    pub ifname: IfName,
}

impl Attachment {
    /// Creates an attachment from its three names.
    #[must_use]
    pub fn new(network: NetworkName, container_id: ContainerId, ifname: IfName) -> Self {
        Self { network, container_id, ifname }
    }

    /// The name of the host interface of the veth pair: `veth` and the first 11 hexadecimal digits
    /// of the digest.
    #[must_use]
    pub fn host_ifname(&self) -> IfName {
        let mut name = String::from("veth");
        for byte in &self.digest()[..6] {
            // Writing to a String cannot fail.
            let _ = write!(name, "{byte:02x}");
        }
        name.truncate(IfName::MAX_LEN);
        IfName::known_good(name)
    }

    /// Whether a name has the form of [`host_ifname`](Self::host_ifname), for any attachment.
    #[must_use]
    pub fn is_host_ifname(name: &IfName) -> bool {
        let is_digit = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        let digits = name.as_str().strip_prefix("veth");
        digits.is_some_and(|digits| digits.len() == 11 && digits.bytes().all(is_digit))
    }

    /// The MAC address of the host interface: octets 8 to 13 of the digest, locally administered,
    /// unicast.
    #[must_use]
    pub fn host_mac(&self) -> MacAddr {
        let [_, _, _, _, _, _, _, _, a, b, c, d, e, f, ..] = self.digest();
        MacAddr::local_unicast([a, b, c, d, e, f])
    }

    /// The index of the host interface, for a plugin that sets it: octets 20 to 23 of the digest,
    /// between 2^30 and 2^31.
    ///
    /// The kernel numbers links from 1 on, and reuses an index after its link is deleted. An index
    /// of this range is not reused for another link, so a stale reference to it is harmless.
    #[must_use]
    pub fn host_ifindex(&self) -> IfIndex {
        let octets = std::array::from_fn(|index| self.digest()[20 + index]);
        let index = u32::from_be_bytes(octets) & 0x3fff_ffff | 0x4000_0000;
        IfIndex::known_good(index)
    }

    /// Whether an index is in the range of [`host_ifindex`](Self::host_ifindex), for any
    /// attachment.
    #[must_use]
    pub fn is_host_ifindex(index: IfIndex) -> bool {
        (0x4000_0000..0x8000_0000).contains(&index.get())
    }

    /// The MAC address inside the container: octets 14 to 19 of the digest, locally administered,
    /// unicast.
    #[must_use]
    pub fn container_mac(&self) -> MacAddr {
        let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, a, b, c, d, e, f, ..] = self.digest();
        MacAddr::local_unicast([a, b, c, d, e, f])
    }

    fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.to_string()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(network: &str, container_id: &str, ifname: &str) -> Attachment {
        Attachment::new(network.parse().unwrap(), container_id.parse().unwrap(), ifname.parse().unwrap())
    }

    // printf 'dbnet/cnitool-77383ca0a0715733ca6f/eth0' | sha256sum prints: 76c13cb9109abb58
    // 91a95024de0e 2344a746a413 1320c8876470707e893496cd. The index is 1320c887 with its highest
    // bit cleared and the next bit set.
    #[test]
    fn host_ifnames_are_recognized() {
        let known = |name: &str| Attachment::is_host_ifname(&name.parse().unwrap());
        assert!(known("veth76c13cb9109"));
        for other in ["veth76c13cb910", "veth76c13cb910g", "veth76C13CB9109", "tap-76c13cb9109", "eth0"] {
            assert!(!known(other), "{other}");
        }
    }

    #[test]
    fn derived_names_match_sha256sum() {
        let attachment = attachment("dbnet", "cnitool-77383ca0a0715733ca6f", "eth0");
        assert_eq!(attachment.host_ifname().as_str(), "veth76c13cb9109");
        assert_eq!(attachment.host_mac().to_string(), "92:a9:50:24:de:0e");
        assert_eq!(attachment.container_mac().to_string(), "22:44:a7:46:a4:13");
        assert_eq!(attachment.host_ifindex().get(), 0x5320_c887);
        assert!(Attachment::is_host_ifindex(attachment.host_ifindex()));
    }

    #[test]
    fn host_ifindexes_are_recognized() {
        let known = |index| Attachment::is_host_ifindex(IfIndex::new(index).unwrap());
        for (index, is_in_range) in [(1, false), (0x3fff_ffff, false), (0x4000_0000, true), (0x7fff_ffff, true)] {
            assert_eq!(known(index), is_in_range, "{index:#x}");
        }
        assert!(!known(0x8000_0000));
    }

    #[test]
    fn the_boundary_between_the_parts_matters() {
        let one = attachment("ab", "c", "eth0");
        let other = attachment("a", "bc", "eth0");
        assert_ne!(one.host_ifname(), other.host_ifname());
        assert_ne!(one.host_mac(), other.host_mac());
    }
}
