use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::MacAddr;
use super::lenient::{empty_as_none, null_as_default};

/// What the runtime passes for the capabilities that a configuration declares: the `runtimeConfig` key.
///
/// See [the conventions](https://www.cni.dev/docs/conventions/#dynamic-plugin-specific-fields-capabilities--runtime-configuration).
/// What is absent was not asked for. Capabilities that the conventions do not know are in `other`.
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
    /// `portMappings`: ports of the host that lead to the container.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
    /// `ipRanges`: one list for each address that the container is to have, of the ranges that it may come from.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub ip_ranges: Vec<Vec<IpRange>>,
    /// `bandwidth`: limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// `dns`: the name service for the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<RuntimeDns>,
    /// `ips`: the addresses that the container is to have. One without a prefix length has that of a single host.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpNetwork>,
    /// `mac`: the hardware address of the interface in the container.
    #[serde(deserialize_with = "empty_as_none", skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// `infinibandGUID`
    #[serde(rename = "infinibandGUID", skip_serializing_if = "Option::is_none")]
    pub infiniband_guid: Option<String>,
    /// `deviceID`: the device that the container is to have, such as a PCI address.
    #[serde(rename = "deviceID", skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// `aliases`: further names by which others on the network may look for the container. Podman sends them by network,
    /// that is as an object with one list; they are here as the conventions have them.
    #[serde(deserialize_with = "names_of_all", skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// `cgroupPath`: the container's control group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_path: Option<PathBuf>,
    /// Capabilities of other names, as they came.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A port of the host that leads to one of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PortMapping {
    /// The port on the host.
    pub host_port: u16,
    /// The port in the container.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`; none where the runtime leaves it to the plugin.
    #[serde(default, deserialize_with = "empty_as_none", skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The address of the host that it is for; none means all.
    #[serde(rename = "hostIP", default, deserialize_with = "empty_as_none", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// A range of addresses, in the words of the `host-local` plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct IpRange {
    /// The subnet that the addresses are of.
    pub subnet: IpNetwork,
    /// The first address to hand out; none means the subnet's first.
    #[serde(default, deserialize_with = "empty_as_none", skip_serializing_if = "Option::is_none")]
    pub range_start: Option<IpAddr>,
    /// The last address to hand out; none means the subnet's last.
    #[serde(default, deserialize_with = "empty_as_none", skip_serializing_if = "Option::is_none")]
    pub range_end: Option<IpAddr>,
    /// The gateway; none means the subnet's first address.
    #[serde(default, deserialize_with = "empty_as_none", skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// Limits on what a container sends and receives. 0 is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct Bandwidth {
    /// To the container, in bits a second.
    pub ingress_rate: u64,
    /// To the container, in bits.
    pub ingress_burst: u64,
    /// From the container, in bits a second.
    pub egress_rate: u64,
    /// From the container, in bits.
    pub egress_burst: u64,
}

/// A name service as the runtime has it: other words than those of [`Dns`](super::Dns).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct RuntimeDns {
    /// Domains to search in.
    #[serde(deserialize_with = "null_as_default")]
    pub searches: Vec<String>,
    /// Addresses of servers.
    #[serde(deserialize_with = "null_as_default")]
    pub servers: Vec<String>,
}

/// A list of names, or an object of such lists, which are taken together.
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
