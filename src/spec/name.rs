use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Error;

/// The name of a network, which the specification requires to be unique on a host.
///
/// It starts with a letter or a digit, and continues with letters, digits, `_`, `.` or `-`. It is
/// therefore also a valid file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkName(String);

/// A container's identifier, chosen by the runtime. It follows the pattern of [`NetworkName`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

/// The name of a network interface, by the kernel's rule: 1 to 15 bytes, not `.` or `..`, without
/// `/`, `:`, `%` or white space.
///
/// `all` and `default` are rejected too. Below `/proc/sys/net/ipv4/conf` they stand for the
/// settings of all links and of new links, so the kernel creates no link of either name.
///
/// ```
/// use cnikit::spec::IfName;
///
/// let ifname: IfName = "eth0".parse()?;
/// assert_eq!(ifname.as_str(), "eth0");
/// assert!("a-name-too-long-for-it".parse::<IfName>().is_err());
/// # Ok::<(), cnikit::spec::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

/// The namespace of a Kubernetes pod: an [RFC 1123] label. It consists of 1 to 63 lower-case
/// letters, digits and `-`, and begins and ends with a letter or a digit.
///
/// [RFC 1123]: https://www.rfc-editor.org/rfc/rfc1123#section-2
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodNamespace(String);

/// The name of a pod: 1 to 253 letters, digits, `-`, `.` and `_`. The first character is a letter
/// or a digit.
///
/// Every name of a Kubernetes pod, an RFC 1123 subdomain, has this form. Podman passes the names of
/// its containers in the same key of `CNI_ARGS`. Upper-case letters, `_` and a last character of
/// `-`, `.` or `_` are therefore allowed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodName(String);

/// The UID of a Kubernetes pod: 1 to 63 letters, digits, `-`, `.` and `_`. The first and the last
/// character are letters or digits.
///
/// Most UIDs are UUIDs. The UID of a static pod is a digest, or any text in its manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodUid(String);

/// The `type` of a plugin: the name of its executable. The runtime searches the directories of
/// `CNI_PATH` for it, so it must not lead out of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PluginType(String);

impl IfName {
    /// The maximum length in bytes: the kernel's `IFNAMSIZ` without the terminating NUL.
    pub const MAX_LEN: usize = 15;

    /// Wraps a name that is valid by construction.
    pub(super) fn known_good(name: String) -> Self {
        debug_assert!(is_ifname(&name), "{name:?}");
        Self(name)
    }
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_pod_namespace(text: &str) -> bool {
    is_pod_uid(text) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_pod_name(text: &str) -> bool {
    text.len() <= 253 && is_identifier(text)
}

fn is_pod_uid(text: &str) -> bool {
    text.len() <= 63 && is_identifier(text) && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

fn is_ifname(text: &str) -> bool {
    // The kernel checks bytes, and counts 0xa0, the Latin-1 no-break space, as white space
    // everywhere. In UTF-8 it is also the last byte of letters such as "à". The kernel expands a
    // `%` as a pattern and creates a link of another name.
    let refused = |b: u8| matches!(b, b'/' | b':' | b'%' | b'\0' | 0x0b | 0xa0) || b.is_ascii_whitespace();
    (1..=IfName::MAX_LEN).contains(&text.len())
        && ![".", ".."].contains(&text)
        // Below /proc/sys/net these are the settings of all links: the kernel creates no such link.
        && !["all", "default"].contains(&text)
        && !text.bytes().any(refused)
        && !text.contains(char::is_whitespace)
}

fn is_file_name(text: &str) -> bool {
    !text.is_empty() && text != "." && text != ".." && !text.contains(['/', '\\', '\0'])
}

macro_rules! name {
    ($name:ident, $kind:literal, $holds:path, $rule:literal) => {
        impl $name {
            /// The name as a string.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            /// # Errors
            ///
            /// [`Error::Name`] with the rule.
            fn from_str(text: &str) -> Result<Self, Error> {
                text.to_owned().try_into()
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(value: String) -> Result<Self, Error> {
                if $holds(&value) { Ok(Self(value)) } else { Err(Error::Name { kind: $kind, value, rule: $rule }) }
            }
        }

        impl From<&$name> for String {
            fn from(name: &$name) -> Self {
                name.0.clone()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

name!(
    NetworkName,
    "network name",
    is_identifier,
    "it must start with a letter or a digit and contain only letters, digits, '_', '.' and '-'"
);
name!(
    ContainerId,
    "container id",
    is_identifier,
    "it must start with a letter or a digit and contain only letters, digits, '_', '.' and '-'"
);
name!(
    IfName,
    "interface name",
    is_ifname,
    "it must have 1 to 15 bytes, not be '.', '..', 'all' or 'default', and contain no '/', ':', '%' or white space"
);
name!(
    PodNamespace,
    "pod namespace",
    is_pod_namespace,
    "it must have 1 to 63 lower-case letters, digits and '-', and begin and end with a letter or a digit"
);
name!(
    PodName,
    "pod name",
    is_pod_name,
    "it must have 1 to 253 letters, digits, '-', '.' and '_', and begin with a letter or a digit"
);
name!(
    PodUid,
    "pod UID",
    is_pod_uid,
    "it must have 1 to 63 letters, digits, '-', '.' and '_', and begin and end with a letter or a digit"
);
name!(PluginType, "plugin type", is_file_name, "it must be the name of an executable, without '/' or '\\'");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_follow_the_pattern_of_the_specification() {
        for good in ["a", "0", "dbnet", "k8s-pod.network_1", "0a1b2c", "a..b"] {
            good.parse::<NetworkName>().unwrap();
            good.parse::<ContainerId>().unwrap();
        }
        for bad in ["", "-a", ".a", "_a", "a/b", "a b", "a\n", "é", "../a", "a:b", "a\0"] {
            bad.parse::<NetworkName>().unwrap_err();
            bad.parse::<ContainerId>().unwrap_err();
        }
    }

    #[test]
    fn interface_names_follow_the_kernel() {
        for good in ["e", "eth0", "123456789012345", "...", "a.b", "a@b", "-", "all0"] {
            good.parse::<IfName>().unwrap();
        }
        let bad = [
            "",
            ".",
            "..",
            "all",
            "default",
            "net%d",
            "%",
            "1234567890123456",
            "a/b",
            "a:b",
            "a b",
            "a\tb",
            "a\n",
            "a\u{b}",
            "a\0",
            "à",
            "é\u{2003}",
        ];
        for bad in bad {
            bad.parse::<IfName>().unwrap_err();
        }
    }

    #[test]
    fn plugin_types_stay_in_their_directory() {
        "bridge".parse::<PluginType>().unwrap();
        for bad in ["", ".", "..", "../bridge", "/bin/sh", "a\\b"] {
            bad.parse::<PluginType>().unwrap_err();
        }
    }

    #[test]
    fn the_error_of_an_invalid_name_states_the_rule() {
        let error = serde_json::from_str::<NetworkName>(r#""my net""#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "network name \"my net\" is not valid: it must start with a letter or a digit and contain only \
             letters, digits, '_', '.' and '-'"
        );
    }
}
