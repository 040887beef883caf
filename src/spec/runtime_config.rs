use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::MacAddr;
use super::lenient::{empty_as_none, null_as_default};

/// The `runtimeConfig` key: the runtime's values for the capabilities that a configuration
/// declares.
///
/// See
/// [the conventions](https://www.cni.dev/docs/conventions/#dynamic-plugin-specific-fields-capabilities--runtime-configuration).
/// A capability that was not requested is absent. Capabilities outside the conventions are in
/// `other`.
///
/// ```
/// use cnikit::spec::RawConfig;
///
/// let config = RawConfig::parse(br#"{
///     "cniVersion": "1.0.0", "name": "dbnet", "type": "bridge",
///     "runtimeConfig": {"mac": "02:00:00:00:00:05", "ips": ["10.1.0.5/16"]}
/// }"#)?;
/// let asked = config.net_conf()?.runtime_config;
/// assert_eq!(asked.mac.unwrap().to_string(), "02:00:00:00:00:05");
/// assert_eq!(asked.ips[0].ip().to_string(), "10.1.0.5");
/// # Ok::<(), cnikit::spec::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct RuntimeConfig {
    /// `portMappings`: ports of the host that are forwarded to the container.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
    /// `ipRanges`: for each address of the container, a list of the ranges to allocate it from.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub ip_ranges: Vec<Vec<IpRange>>,
    /// `bandwidth`: traffic limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// `dns`: the DNS configuration of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<RuntimeDns>,
    /// `ips`: the requested addresses of the container. An address without a prefix length has the
    /// length of a single host.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpNetwork>,
    /// `mac`: the hardware address of the interface in the container.
    #[serde(deserialize_with = "empty_as_none", skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// `infinibandGUID`
    #[serde(rename = "infinibandGUID", skip_serializing_if = "Option::is_none")]
    pub infiniband_guid: Option<String>,
    /// `deviceID`: the device to assign to the container, such as a PCI address.
    #[serde(rename = "deviceID", skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// `aliases`: additional names of the container for lookups on the network. Podman sends an
    /// object with one list per network; the lists are merged into the form of the conventions.
    #[serde(deserialize_with = "names_of_all", skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// `cgroupPath`: the container's cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_path: Option<PathBuf>,
    /// Other capabilities, unchanged.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A port of the host that is forwarded to a port of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PortMapping {
    /// The port on the host.
    pub host_port: u16,
    /// The port in the container.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`; `None` leaves the choice to the plugin.
    #[serde(default, deserialize_with = "empty_as_none", skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The address of the host that the mapping applies to; `None` means all.
    #[serde(rename = "hostIP", default, deserialize_with = "empty_as_none", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// A range of addresses, with the keys of the `host-local` plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct IpRange {
    /// The subnet of the addresses.
    pub subnet: IpNetwork,
    /// The first address to allocate; `None` means the subnet's first.
    #[serde(default, deserialize_with = "empty_as_none", skip_serializing_if = "Option::is_none")]
    pub range_start: Option<IpAddr>,
    /// The last address to allocate; `None` means the subnet's last.
    #[serde(default, deserialize_with = "empty_as_none", skip_serializing_if = "Option::is_none")]
    pub range_end: Option<IpAddr>,
    /// The gateway; `None` means the subnet's first address.
    #[serde(default, deserialize_with = "empty_as_none", skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// Limits on the traffic of a container. 0 means no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct Bandwidth {
    /// Rate to the container, in bits per second.
    pub ingress_rate: u64,
    /// Burst to the container, in bits.
    pub ingress_burst: u64,
    /// Rate from the container, in bits per second.
    pub egress_rate: u64,
    /// Burst from the container, in bits.
    pub egress_burst: u64,
}

/// The runtime's DNS configuration, with other keys than [`Dns`](super::Dns).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct RuntimeDns {
    /// The search domains.
    #[serde(deserialize_with = "null_as_default")]
    pub searches: Vec<String>,
    /// The addresses of the servers.
    #[serde(deserialize_with = "null_as_default")]
    pub servers: Vec<String>,
}

impl PortMapping {
    /// Creates a mapping of a port on all addresses of the host.
    ///
    /// ```
    /// use cnikit::spec::{PortMapping, RuntimeConfig};
    ///
    /// let mut runtime_config = RuntimeConfig::default();
    /// runtime_config.port_mappings.push(PortMapping::new(8080, 80).protocol("tcp"));
    /// assert_eq!(runtime_config.port_mappings[0].host_ip, None);
    /// ```
    #[must_use]
    pub const fn new(host_port: u16, container_port: u16) -> Self {
        Self { host_port, container_port, protocol: None, host_ip: None }
    }

    /// Sets the protocol: `tcp`, `udp` or `sctp`.
    #[must_use]
    pub fn protocol(mut self, protocol: impl Into<String>) -> Self {
        self.protocol = Some(protocol.into());
        self
    }

    /// Sets the address of the host.
    #[must_use]
    pub const fn host_ip(mut self, host_ip: IpAddr) -> Self {
        self.host_ip = Some(host_ip);
        self
    }
}

impl IpRange {
    /// Creates a range with all addresses of a subnet.
    ///
    /// ```
    /// use cnikit::spec::IpRange;
    ///
    /// let range = IpRange::new("10.1.0.0/16".parse()?).range_start("10.1.0.100".parse()?);
    /// assert_eq!((range.range_end, range.gateway), (None, None));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn new(subnet: IpNetwork) -> Self {
        Self { subnet, range_start: None, range_end: None, gateway: None }
    }

    /// Sets the first address to allocate.
    #[must_use]
    pub const fn range_start(mut self, address: IpAddr) -> Self {
        self.range_start = Some(address);
        self
    }

    /// Sets the last address to allocate.
    #[must_use]
    pub const fn range_end(mut self, address: IpAddr) -> Self {
        self.range_end = Some(address);
        self
    }

    /// Sets the gateway.
    #[must_use]
    pub const fn gateway(mut self, address: IpAddr) -> Self {
        self.gateway = Some(address);
        self
    }
}

/// Reads a list of names, or an object of such lists, which are concatenated.
fn names_of_all<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a list of names, or an object of such lists")]
    enum Names {
        List(Vec<String>),
        ByNetwork(BTreeMap<String, Vec<String>>),
    }
    Ok(match Option::deserialize(deserializer)? {
        Some(Names::List(names)) => names,
        Some(Names::ByNetwork(lists)) => lists.into_values().flatten().collect(),
        None => Vec::new(),
    })
}
