use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Error;

/// A published version of the CNI specification, ordered by age.
///
/// ```
/// use cnikit::spec::Version;
///
/// let version: Version = "0.4.0".parse()?;
/// assert!(version < Version::V1_0_0);
/// assert_eq!(version.to_string(), "0.4.0");
/// # Ok::<(), cnikit::spec::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
#[non_exhaustive]
pub enum Version {
    /// 0.1.0: the version of a configuration without `cniVersion`.
    V0_1_0,
    /// 0.2.0: adds `VERSION` and `args`.
    V0_2_0,
    /// 0.3.0: results list interfaces, and any number of addresses.
    V0_3_0,
    /// 0.3.1: as 0.3.0, and distinguishes plugins in chains from IPAM plugins.
    V0_3_1,
    /// 0.4.0: adds `CHECK`, and `prevResult` for `DEL`.
    V0_4_0,
    /// 1.0.0: drops `version` from `ips`.
    V1_0_0,
    /// 1.1.0: adds `GC` and `STATUS`, and more attributes of interfaces and routes.
    V1_1_0,
}

impl Version {
    /// All versions that this library supports, oldest first.
    pub const ALL: [Version; 7] = [
        Version::V0_1_0,
        Version::V0_2_0,
        Version::V0_3_0,
        Version::V0_3_1,
        Version::V0_4_0,
        Version::V1_0_0,
        Version::V1_1_0,
    ];

    /// The newest version that this library supports.
    pub const LATEST: Version = Version::V1_1_0;

    /// The version of a configuration without `cniVersion`.
    pub const IMPLICIT: Version = Version::V0_1_0;

    /// The version's value of `cniVersion`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Version::V0_1_0 => "0.1.0",
            Version::V0_2_0 => "0.2.0",
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// Formats versions as a list for a message: `0.4.0, 1.0.0`.
    #[must_use]
    pub fn list(versions: &[Version]) -> String {
        let words: Vec<&str> = versions.iter().map(|version| version.as_str()).collect();
        words.join(", ")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Version {
    type Err = Error;

    /// # Errors
    ///
    /// [`Error::UnknownVersion`] for any text except the exact text of a published version.
    fn from_str(text: &str) -> Result<Self, Error> {
        Version::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
            .ok_or_else(|| Error::UnknownVersion { value: text.to_owned(), usable: Self::ALL.to_vec() })
    }
}

impl TryFrom<String> for Version {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Version> for &'static str {
    fn from(version: Version) -> Self {
        version.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_versions_are_ordered_and_parse() {
        assert!(Version::ALL.is_sorted());
        assert_eq!(Version::ALL.last(), Some(&Version::LATEST));
        for version in Version::ALL {
            assert_eq!(version.to_string().parse::<Version>().unwrap(), version);
        }
    }

    #[test]
    fn the_error_of_an_unknown_version_lists_the_known_versions() {
        let error = "1.0".parse::<Version>().unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"cniVersion "1.0" is not known: use one of 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"#
        );
    }
}
