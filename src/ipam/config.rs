//! The `ipam` section of a network configuration, with the keys of the plugin [host-local].
//!
//! [host-local]: https://www.cni.dev/plugins/current/ipam/host-local/

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use serde::Deserialize;

use super::error::{Error, Result};
use super::lease::Lease;
use super::pool::{Pool, check_disjoint};
use super::range::{Range, RangeKeys};
use super::resolv_conf;
use crate::spec::lenient::{empty_as_none, null_as_default};
use crate::spec::{AddResult, Dns, IpConfig, Route};

/// The validated `ipam` key of a network configuration: pools, routes and directories.
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
/// assert_eq!(error.to_string(), "ranges 10.10.0.0/16 and 10.10.7.0/24 overlap; each address must be in one range only");
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

/// The keys of [`IpamConfig`] as received, before validation.
///
/// A plugin may take more ranges from another source, such as the runtime's `ipRanges`. It adds
/// them to these keys and converts the result to an [`IpamConfig`] with `try_into`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct IpamKeys {
    /// One pool for each inner list. An attachment gets one address of every pool.
    #[serde(deserialize_with = "null_as_default")]
    pub ranges: Vec<Vec<RangeKeys>>,
    /// The flat form of a single range. Its pool comes before the pools of `ranges`.
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
    /// Routes for every attachment.
    #[serde(deserialize_with = "null_as_default")]
    pub routes: Vec<Route>,
    /// Directory for leases, with one subdirectory for each network.
    #[serde(deserialize_with = "empty_as_none")]
    pub data_dir: Option<String>,
    /// A file in the format of
    /// [resolv.conf(5)](https://man7.org/linux/man-pages/man5/resolv.conf.5.html) with the name
    /// servers for attachments.
    #[serde(deserialize_with = "empty_as_none")]
    pub resolv_conf: Option<String>,
}

impl IpamConfig {
    /// The pools. An attachment gets one address of each pool. There is at least one pool, and
    /// pools do not share addresses.
    #[must_use]
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// Routes for every attachment. A route without a next hop uses the gateway of its address
    /// family.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Directory for leases, with one subdirectory for each network. The path is absolute.
    #[must_use]
    pub fn data_dir(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }

    /// The file with the name servers for attachments. The path is absolute.
    #[must_use]
    pub fn resolv_conf(&self) -> Option<&Path> {
        self.resolv_conf.as_deref()
    }

    /// The name servers in the file [`resolv_conf`](Self::resolv_conf), if one is configured.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file cannot be read.
    pub fn dns(&self) -> Result<Option<Dns>> {
        self.resolv_conf().map(resolv_conf::read).transpose()
    }

    /// The result of an `ADD` with this lease, as an IPAM plugin returns it.
    ///
    /// It has the addresses with the gateways of their ranges, the routes, and the name servers. It
    /// has no interfaces.
    ///
    /// ```
    /// use cnikit::ipam::{IpamConfig, MemoryStore};
    /// use cnikit::spec::{AttachmentKey, Version};
    ///
    /// let config: IpamConfig = serde_json::from_str(
    ///     r#"{"subnet": "10.0.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]}"#,
    /// )?;
    /// let owner = AttachmentKey::new("4fe2c9".parse()?, "eth0".parse()?);
    /// let lease = MemoryStore::new().allocate(&owner, config.pools(), &[])?;
    /// assert_eq!(
    ///     config.result(&lease)?.to_json(Version::V1_0_0)?,
    ///     r#"{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24","gateway":"10.0.0.1"}],"routes":[{"dst":"0.0.0.0/0"}]}"#
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file [`resolv_conf`](Self::resolv_conf) cannot be read.
    pub fn result(&self, lease: &Lease) -> Result<AddResult> {
        let mut result = AddResult::default().dns(self.dns()?.unwrap_or_default());
        result.ips = lease.addresses.iter().copied().map(IpConfig::new).collect();
        for ip in &mut result.ips {
            ip.gateway = self.gateway_of(ip.address.ip());
        }
        result.routes.clone_from(&self.routes);
        Ok(result)
    }

    /// The gateway of the range that contains `address`.
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
    check_disjoint(pools.iter().flat_map(Pool::ranges))?;
    Ok(pools)
}

fn absolute(key: &'static str, path: Option<String>) -> Result<Option<PathBuf>> {
    match path.map(PathBuf::from) {
        Some(path) if path.is_relative() => Err(Error::RelativePath { key, path }),
        path => Ok(path),
    }
}
