//! Names of settings.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::spec::Error;

/// The name of any setting below `/proc/sys`, for [`Sysctl::Named`](crate::netlink::Sysctl::Named).
///
/// The name has one of the two forms of [sysctl(8)]. The first separator in the text decides: in
/// `net/ipv4/conf/eth0.5/rp_filter`, slashes separate the parts. In
/// `net.ipv4.conf.eth0/5.rp_filter`, dots separate the parts and a slash stands for a dot.
///
/// ```
/// use cnikit::netlink::SysctlName;
///
/// let dotted: SysctlName = "net.ipv4.conf.eth0/5.rp_filter".parse()?;
/// assert_eq!(dotted.as_str(), "net/ipv4/conf/eth0.5/rp_filter");
/// assert!(dotted.is_network());
/// assert!("net/../kernel/core_pattern".parse::<SysctlName>().is_err());
/// # Ok::<(), cnikit::spec::Error>(())
/// ```
///
/// A name cannot lead out of `/proc/sys`: an empty part, `.`, `..`, a leading `/` and a NUL are
/// refused.
///
/// [sysctl(8)]: https://man7.org/linux/man-pages/man8/sysctl.8.html
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SysctlName(String);

const ROOT: &str = "/proc/sys";

impl SysctlName {
    /// The path below `/proc/sys`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the setting is below `net`. All settings of network namespaces are there.
    ///
    /// A plugin that takes names from a configuration should refuse all others: settings such as
    /// `kernel/core_pattern` belong to the host.
    #[must_use]
    pub fn is_network(&self) -> bool {
        self.0.starts_with("net/")
    }

    pub(super) fn path(&self) -> PathBuf {
        Path::new(ROOT).join(&self.0)
    }
}

impl fmt::Display for SysctlName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for SysctlName {
    type Err = Error;

    /// # Errors
    ///
    /// [`Error::Name`] with the rule.
    fn from_str(text: &str) -> Result<Self, Error> {
        let is_dotted = text.find(['.', '/']).is_some_and(|at| text[at..].starts_with('.'));
        let swap = |separator| match separator {
            '.' => '/',
            '/' => '.',
            other => other,
        };
        let path: String = if is_dotted { text.chars().map(swap).collect() } else { text.to_owned() };
        let is_part = |part: &str| !["", ".", ".."].contains(&part) && !part.contains('\0');
        if path.split('/').all(is_part) {
            return Ok(Self(path));
        }
        let rule = "it must be a path below /proc/sys such as net/core/somaxconn, or net.core.somaxconn, without an \
                    empty part, '.', '..' or NUL";
        Err(Error::Name { kind: "sysctl name", value: text.to_owned(), rule })
    }
}

impl TryFrom<String> for SysctlName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<SysctlName> for String {
    fn from(name: SysctlName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_separator_decides() {
        for (text, path) in [
            ("net/core/somaxconn", "net/core/somaxconn"),
            ("net.core.somaxconn", "net/core/somaxconn"),
            ("net/ipv4/conf/eth0.5/rp_filter", "net/ipv4/conf/eth0.5/rp_filter"),
            ("net.ipv4.conf.eth0/5.rp_filter", "net/ipv4/conf/eth0.5/rp_filter"),
            ("net/ipv4/conf/.../rp_filter", "net/ipv4/conf/.../rp_filter"),
            ("net/ipv6/conf/a b/mtu", "net/ipv6/conf/a b/mtu"),
        ] {
            let name: SysctlName = text.parse().unwrap();
            assert_eq!(name.as_str(), path);
            assert_eq!(name.path(), Path::new("/proc/sys").join(path));
        }
    }

    #[test]
    fn name_cannot_leave_its_root() {
        for bad in [
            "",
            "/",
            ".",
            "..",
            "/etc/passwd",
            "/net/core/somaxconn",
            ".net.core",
            "net/",
            "net.",
            "net//core",
            "net..core",
            "net/./core",
            "net/../kernel/core_pattern",
            "net/..",
            "../kernel",
            "../../etc/passwd",
            // Dots and slashes change places.
            "net.//.kernel",
            "net././kernel",
            "net.ipv4.conf../..rp_filter",
            "a.//",
            "net/core/somaxconn\0",
            "net\0.core",
        ] {
            let error = bad.parse::<SysctlName>().unwrap_err();
            assert!(matches!(error, Error::Name { kind: "sysctl name", .. }), "{bad:?}: {error}");
            let json = serde_json::to_string(bad).unwrap();
            serde_json::from_str::<SysctlName>(&json).unwrap_err();
        }
    }

    #[test]
    fn settings_of_the_host_are_recognized() {
        for (text, expected) in [
            ("net/core/somaxconn", true),
            ("net.ipv4.ip_forward", true),
            ("kernel/core_pattern", false),
            ("network/core", false),
            ("net", false),
        ] {
            assert_eq!(text.parse::<SysctlName>().unwrap().is_network(), expected, "{text}");
        }
    }
}
