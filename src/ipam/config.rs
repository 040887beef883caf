//! The `ipam` part of a network configuration, in the words of the plugin [host-local].
//!
//! [host-local]: https://www.cni.dev/plugins/current/ipam/host-local/

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use serde::Deserialize;

use super::error::{Error, Result};
use super::pool::{Pool, keep_apart};
use super::range::Range;
use super::resolv_conf;
use crate::spec::lenient::{empty_as_none, null_as_default};
use crate::spec::{Dns, IpRange, Route};

/// How a network gives out addresses, checked: the `ipam` key of a configuration.
///
/// ```
/// use cnikit::ipam::IpamConfig;
///
/// let config: IpamConfig = serde_json::from_str(r#"{
///     "type": "host-local",
///     "ranges": [
///         [{"subnet": "10.10.0.0/24", "rangeStart": "10.10.0.20", "rangeEnd": "10.10.0.50"},
///          {"subnet": "10.11.0.0/24", "gateway": "10.11.0.254"}],
///         [{"subnet": "fd00:10::/64"}]
///     ],
///     "exclude": ["10.10.0.32/28", "fd00:10::53"],
///     "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
/// }"#)?;
/// assert_eq!(config.pools().len(), 2);
/// assert_eq!(config.pools()[0].capacity(), 31 - 16 + 253);
/// assert_eq!(config.gateway_of("10.11.0.7".parse()?), Some("10.11.0.254".parse()?));
///
/// let overlap = r#"{"ranges": [[{"subnet": "10.10.0.0/16"}], [{"subnet": "10.10.7.0/24"}]]}"#;
/// let error = serde_json::from_str::<IpamConfig>(overlap).unwrap_err();
/// assert_eq!(error.to_string(), "ranges 10.10.0.0/16 and 10.10.7.0/24 overlap; give each address to one of them");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "IpamKeys")]
pub struct IpamConfig {
    pools: Vec<Pool>,
    routes: Vec<Route>,
    data_dir: Option<PathBuf>,
    resolv_conf: Option<PathBuf>,
}

/// The keys of [`IpamConfig`] as they are written, not checked yet.
///
/// A plugin that takes ranges from elsewhere too, such as the runtime's `ipRanges`, puts them beside these and makes an
/// [`IpamConfig`] of all with `try_into`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IpamKeys {
    /// A pool for each: an attachment gets an address of every one.
    #[serde(deserialize_with = "null_as_default")]
    pub ranges: Vec<Vec<RangeKeys>>,
    /// The flat form of a single range; its pool comes before those of `ranges`.
    #[serde(deserialize_with = "empty_as_none")]
    pub subnet: Option<IpNetwork>,
    /// The flat form of [`RangeKeys::range_start`].
    #[serde(deserialize_with = "empty_as_none")]
    pub range_start: Option<IpAddr>,
    /// The flat form of [`RangeKeys::range_end`].
    #[serde(deserialize_with = "empty_as_none")]
    pub range_end: Option<IpAddr>,
    /// The flat form of [`RangeKeys::gateway`].
    #[serde(deserialize_with = "empty_as_none")]
    pub gateway: Option<IpAddr>,
    /// Addresses and prefixes that no range hands out.
    #[serde(deserialize_with = "null_as_default")]
    pub exclude: Vec<IpNetwork>,
    /// Routes that attachments get.
    #[serde(deserialize_with = "null_as_default")]
    pub routes: Vec<Route>,
    /// Where leases are kept, in a directory for each network.
    #[serde(deserialize_with = "empty_as_none")]
    pub data_dir: Option<String>,
    /// A file in the form of [resolv.conf(5)](https://man7.org/linux/man-pages/man5/resolv.conf.5.html) that tells
    /// attachments their name servers.
    #[serde(deserialize_with = "empty_as_none")]
    pub resolv_conf: Option<String>,
}

/// The keys of a [`Range`] as they are written, not checked yet.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RangeKeys {
    /// The subnet.
    pub subnet: IpNetwork,
    /// The lowest address to hand out, instead of the subnet's first.
    #[serde(default, deserialize_with = "empty_as_none")]
    pub range_start: Option<IpAddr>,
    /// The highest address to hand out, instead of the subnet's last.
    #[serde(default, deserialize_with = "empty_as_none")]
    pub range_end: Option<IpAddr>,
    /// The gateway, instead of the subnet's first address.
    #[serde(default, deserialize_with = "empty_as_none")]
    pub gateway: Option<IpAddr>,
    /// Addresses and prefixes that are not handed out.
    #[serde(default, deserialize_with = "null_as_default")]
    pub exclude: Vec<IpNetwork>,
}

impl IpamConfig {
    /// The pools: an attachment gets an address of each. There is at least one, and no address is in two.
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// Routes that attachments get; those without a next hop go by the gateway of their family.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Where leases are kept, in a directory for each network: an absolute path.
    pub fn data_dir(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }

    /// The file that tells attachments their name servers: an absolute path.
    pub fn resolv_conf(&self) -> Option<&Path> {
        self.resolv_conf.as_deref()
    }

    /// The name servers that [`resolv_conf`](Self::resolv_conf) tells, if it is configured.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the file cannot be read.
    pub fn dns(&self) -> Result<Option<Dns>> {
        self.resolv_conf().map(resolv_conf::read).transpose()
    }

    /// The gateway that belongs to an address, by the range that it is of.
    pub fn gateway_of(&self, address: IpAddr) -> Option<IpAddr> {
        self.pools.iter().find_map(|pool| pool.range_of(address)).map(Range::gateway)
    }
}

impl TryFrom<IpamKeys> for IpamConfig {
    type Error = Error;

    fn try_from(keys: IpamKeys) -> Result<Self> {
        let mut sets = keys.ranges;
        match keys.subnet {
            Some(subnet) => {
                let IpamKeys { range_start, range_end, gateway, .. } = keys;
                sets.insert(0, vec![RangeKeys { range_start, range_end, gateway, ..subnet.into() }]);
            }
            None => {
                let flat = [("rangeStart", keys.range_start), ("rangeEnd", keys.range_end), ("gateway", keys.gateway)];
                if let Some((key, Some(address))) = flat.into_iter().find(|(_, address)| address.is_some()) {
                    return Err(Error::NoSubnet { key, address });
                }
            }
        }
        let pools = pools(sets, &keys.exclude)?;
        let (data_dir, resolv_conf) = (absolute("dataDir", keys.data_dir)?, absolute("resolvConf", keys.resolv_conf)?);
        Ok(Self { pools, routes: keys.routes, data_dir, resolv_conf })
    }
}

impl TryFrom<RangeKeys> for Range {
    type Error = Error;

    fn try_from(keys: RangeKeys) -> Result<Self> {
        Self::new(keys.subnet, keys.gateway)?.with_bounds(keys.range_start, keys.range_end)?.exclude(&keys.exclude)
    }
}

impl From<IpRange> for RangeKeys {
    fn from(range: IpRange) -> Self {
        let IpRange { subnet, range_start, range_end, gateway } = range;
        Self { subnet, range_start, range_end, gateway, exclude: Vec::new() }
    }
}

impl From<IpNetwork> for RangeKeys {
    fn from(subnet: IpNetwork) -> Self {
        Self { subnet, range_start: None, range_end: None, gateway: None, exclude: Vec::new() }
    }
}

fn pools(sets: Vec<Vec<RangeKeys>>, exclude: &[IpNetwork]) -> Result<Vec<Pool>> {
    if sets.is_empty() {
        return Err(Error::NoRanges);
    }
    let mut sets: Vec<Vec<Range>> =
        sets.into_iter().map(|set| set.into_iter().map(Range::try_from).collect()).collect::<Result<_>>()?;
    if let Some(exclude) =
        exclude.iter().find(|exclude| !sets.iter().flatten().any(|range| range.intersects(**exclude)))
    {
        let ranges: Vec<String> = sets.iter().flatten().map(Range::to_string).collect();
        return Err(Error::ExcludeOutside { exclude: *exclude, ranges: ranges.join(", ") });
    }
    for range in sets.iter_mut().flatten() {
        let own: Vec<IpNetwork> = exclude.iter().copied().filter(|exclude| range.intersects(*exclude)).collect();
        *range = range.clone().exclude(&own)?;
    }
    let pools: Vec<Pool> = sets.into_iter().map(Pool::new).collect::<Result<_>>()?;
    keep_apart(pools.iter().flat_map(Pool::ranges))?;
    Ok(pools)
}

fn absolute(key: &'static str, path: Option<String>) -> Result<Option<PathBuf>> {
    match path.map(PathBuf::from) {
        Some(path) if path.is_relative() => Err(Error::RelativePath { key, path }),
        path => Ok(path),
    }
}
