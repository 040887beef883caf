//! The plugin's own keys of the network configuration.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use cnikit::ipam::{self, IpamConfig, IpamKeys, Pool, Range, RangeKeys};
use cnikit::plugin::LogLevel;
use cnikit::spec::{IfName, PluginType, RawConfig, RuntimeConfig};
use ipnetwork::IpNetwork;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::naming::{MAX_MASQUERADED_NAME, NAME};

/// The directory of the leases, if the configuration names no other.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/cni/simple-ebpf-cni";

const DEFAULT_BRIDGE: &str = "cbr0";

/// The minimum MTU of a link with IPv6, in bytes (RFC 8200, section 5).
pub(crate) const IPV6_MIN_MTU: u32 = 1280;

/// From the minimum of IPv4 to the maximum of a veth device, in bytes.
const MTUS: RangeInclusive<u32> = 68..=65_535;

/// The plugin's own keys, checked and with their defaults.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Keys")]
pub struct Config {
    /// The bridge of the network.
    pub bridge: IfName,
    /// The source of the pods' addresses.
    pub ipam: Ipam,
    /// The MTU of the bridge and of both ends of each veth pair, in bytes. `None` follows the
    /// bridge, or the uplink if there is no bridge yet.
    pub mtu: Option<u32>,
    /// The directory of the leases, with one subdirectory for each network.
    pub data_dir: PathBuf,
    /// Whether the programs redirect packets into the target pod, past the bridge and the host's
    /// packet filter.
    pub direct_forwarding: bool,
    /// Whether a pod can send only from its own addresses and MAC.
    pub spoof_check: bool,
    /// Whether a pod reaches itself through the host, as with its own service address.
    pub hairpin_mode: bool,
    /// The hook of the programs on pods' ports.
    pub attach: AttachMode,
    /// `args.cni.directForwarding`: whether direct forwarding applies to this pod.
    pub pod_direct_forwarding: Option<bool>,
    /// Whether the node takes the gateways' addresses. `None` takes the addresses that no other
    /// machine has.
    pub is_gateway: Option<bool>,
}

/// The hook of the programs on pods' ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// Filters in the blocks that the bridge and all ports share.
    #[default]
    Clsact,
    /// TCX links of each port, which leave the clsact slot to other tools.
    Tcx,
}

/// The source of the pods' addresses.
#[derive(Debug)]
pub enum Ipam {
    /// The network's own pools.
    Local(IpamConfig),
    /// The network's own pools, which the runtime passes with each ADD (`ipRanges`). This
    /// configuration has none.
    RuntimeRanges,
    /// The plugin in `ipam.type`.
    Delegated,
}

impl Config {
    /// The ranges of the network's own pools. Empty with a delegate.
    pub fn ranges(&self) -> impl Iterator<Item = &Range> {
        self.pools().iter().flat_map(Pool::ranges)
    }

    /// The network's own pools. Empty with a delegate.
    #[must_use]
    pub fn pools(&self) -> &[Pool] {
        match &self.ipam {
            Ipam::Local(ipam) => ipam.pools(),
            Ipam::RuntimeRanges | Ipam::Delegated => &[],
        }
    }

    /// Whether one of the network's own pools has IPv6 addresses.
    #[must_use]
    pub fn has_ipv6_ranges(&self) -> bool {
        self.ranges().any(|range| range.subnet().is_ipv6())
    }

    /// The bridge's addresses in the network's own pools, with the prefix lengths of their subnets.
    /// Empty if another machine is the gateway.
    pub fn gateways(&self) -> impl Iterator<Item = IpNetwork> {
        let ranges = self.ranges().filter(|_| self.is_gateway != Some(false));
        ranges.map(|range| range.with_prefix(range.gateway()))
    }
}

/// The directory of the leases in a configuration that may have become invalid after the ADD.
#[must_use]
pub fn data_dir(config: &RawConfig) -> &Path {
    let top_level = config.value("dataDir");
    let in_ipam = config.value("ipam").and_then(|ipam| ipam.get("dataDir"));
    let mut dirs = [top_level, in_ipam].into_iter().flatten().filter_map(|dir| dir.as_str()).map(Path::new);
    dirs.find(|dir| dir.is_absolute()).unwrap_or(Path::new(DEFAULT_DATA_DIR))
}

/// The keys as received.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Keys {
    name: Option<String>,
    ip_masq: Option<bool>,
    bridge: Option<IfName>,
    subnet: Option<IpNetwork>,
    gateway: Option<IpAddr>,
    subnets: Vec<Subnet>,
    exclude: Vec<IpNetwork>,
    ipam: IpamKey,
    mtu: Option<u32>,
    data_dir: Option<PathBuf>,
    direct_forwarding: Option<bool>,
    spoof_check: Option<bool>,
    hairpin_mode: Option<bool>,
    attach: AttachMode,
    is_gateway: Option<bool>,
    log_file: Option<PathBuf>,
    /// Parsed only to refuse an invalid level: the log has already started.
    #[serde(rename = "logLevel")]
    _log_level: Option<LogLevel>,
    capabilities: Capabilities,
    runtime_config: RuntimeConfig,
    args: Option<Args>,
}

/// The key in `args` that the library does not read. Runtimes write `args` for one attachment.
#[derive(Deserialize)]
struct Args {
    cni: Option<CniArgs>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CniArgs {
    direct_forwarding: Option<bool>,
}

/// An element of `subnets`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a subnet, such as \"10.244.1.0/24\", or an object with the key \"subnet\"")]
enum Subnet {
    Short(IpNetwork),
    Long(RangeKeys),
}

/// The key `ipam`. Only the name of a delegate is read.
enum IpamKey {
    Local(Box<IpamKeys>),
    Delegated(PluginType),
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Capabilities {
    ip_ranges: bool,
}

/// An invalid key.
#[derive(Debug, thiserror::Error)]
enum KeyError {
    #[error(transparent)]
    Ipam(#[from] ipam::Error),

    #[error("no subnet is configured; write one, such as \"subnet\": \"10.244.1.0/24\"")]
    NoSubnet,

    #[error("gateway {0} has no subnet; write the key \"subnet\" beside it")]
    NoSubnetFor(IpAddr),

    #[error(
        "{0:?} is for addresses that this plugin assigns, and {1} in \"ipam\" assigns them; remove the key, or \"type\" \
         from \"ipam\""
    )]
    NotDelegated(&'static str, PluginType),

    #[error("subnet {0} holds addresses that no pod can have, such as {1}; write a private one, such as {2}")]
    Unusable(IpNetwork, &'static str, &'static str),

    #[error("\"name\" has {0} bytes, and \"ipMasq\" allows {MAX_MASQUERADED_NAME}; write a shorter one")]
    LongName(usize),

    #[error("mtu {0} is out of range; choose one from {first} to {last} bytes", first = MTUS.start(), last = MTUS.end())]
    Mtu(u32),

    #[error("mtu {0} is too small for IPv6 ({1}), which needs {least} bytes", least = IPV6_MIN_MTU)]
    MtuForIpv6(u32, IpNetwork),

    #[error("{0} {path} is relative; write an absolute path", path = .1.display())]
    Relative(&'static str, PathBuf),
}

impl TryFrom<Keys> for Config {
    type Error = KeyError;

    fn try_from(mut keys: Keys) -> Result<Self, KeyError> {
        if let Some(log_file) = keys.log_file.take().filter(|path| path.is_relative()) {
            return Err(KeyError::Relative("logFile", log_file));
        }
        let length = keys.name.as_ref().map_or(0, String::len);
        if keys.ip_masq == Some(true) && length > MAX_MASQUERADED_NAME {
            return Err(KeyError::LongName(length));
        }
        let data_dir = keys.data_dir.take();
        let (bridge, mtu) = (keys.bridge.take().unwrap_or_else(default_bridge), keys.mtu);
        let (direct_forwarding, spoof_check) =
            (keys.direct_forwarding.unwrap_or(true), keys.spoof_check.unwrap_or(true));
        let (hairpin_mode, attach, is_gateway) = (keys.hairpin_mode.unwrap_or(true), keys.attach, keys.is_gateway);
        let pod_direct_forwarding = keys.args.take().and_then(|args| args.cni?.direct_forwarding);
        let ipam = ipam(keys)?;
        let in_ipam = match &ipam {
            Ipam::Local(ipam) => ipam.data_dir(),
            Ipam::RuntimeRanges | Ipam::Delegated => None,
        };
        let data_dir = data_dir.or_else(|| in_ipam.map(Path::to_owned)).unwrap_or_else(|| DEFAULT_DATA_DIR.into());
        let config = Self {
            bridge,
            ipam,
            mtu,
            data_dir,
            direct_forwarding,
            spoof_check,
            hairpin_mode,
            attach,
            pod_direct_forwarding,
            is_gateway,
        };
        config.validate().map(|()| config)
    }
}

impl Config {
    fn validate(&self) -> Result<(), KeyError> {
        for subnet in self.ranges().map(Range::subnet) {
            if let Some(reserved) = reserved(subnet) {
                let suggestion = if subnet.is_ipv4() { "10.244.1.0/24" } else { "fd00:10:244:1::/64" };
                return Err(KeyError::Unusable(subnet, reserved, suggestion));
            }
        }
        let ipv6 = self.ranges().map(Range::subnet).find(IpNetwork::is_ipv6);
        match (self.mtu, ipv6) {
            (Some(mtu), _) if !MTUS.contains(&mtu) => return Err(KeyError::Mtu(mtu)),
            (Some(mtu), Some(subnet)) if mtu < IPV6_MIN_MTU => return Err(KeyError::MtuForIpv6(mtu, subnet)),
            _ => {}
        }
        if self.data_dir.is_relative() { Err(KeyError::Relative("dataDir", self.data_dir.clone())) } else { Ok(()) }
    }
}

/// Builds one pool for each subnet of all keys. The subnets of the runtime come first, as with
/// `host-local`.
fn ipam(keys: Keys) -> Result<Ipam, KeyError> {
    let mut ipam = match keys.ipam {
        IpamKey::Local(ipam) => *ipam,
        IpamKey::Delegated(plugin) => {
            let local = [
                ("subnet", keys.subnet.is_some()),
                ("gateway", keys.gateway.is_some()),
                ("subnets", !keys.subnets.is_empty()),
                ("exclude", !keys.exclude.is_empty()),
            ];
            return match local.into_iter().find(|(_, is_present)| *is_present) {
                Some((key, _)) => Err(KeyError::NotDelegated(key, plugin)),
                None => Ok(Ipam::Delegated),
            };
        }
    };
    let short = match (keys.subnet, keys.gateway) {
        (Some(subnet), gateway) => {
            let mut keys = RangeKeys::from(subnet);
            keys.gateway = gateway;
            Some(keys)
        }
        (None, Some(gateway)) => return Err(KeyError::NoSubnetFor(gateway)),
        (None, None) => None,
    };
    let subnets = keys.subnets.into_iter().map(|subnet| match subnet {
        Subnet::Short(subnet) => subnet.into(),
        Subnet::Long(keys) => keys,
    });
    let top_level: Vec<Vec<RangeKeys>> = short.into_iter().chain(subnets).map(|range| vec![range]).collect();

    let requested = keys.runtime_config.ip_ranges.into_iter().map(|set| set.into_iter().map(RangeKeys::from).collect());
    ipam.ranges = requested.chain(top_level).chain(ipam.ranges).collect();
    ipam.exclude.extend(keys.exclude);
    match IpamConfig::try_from(ipam) {
        Err(ipam::Error::NoRanges) if keys.capabilities.ip_ranges => Ok(Ipam::RuntimeRanges),
        Err(ipam::Error::NoRanges) => Err(KeyError::NoSubnet),
        ipam => Ok(Ipam::Local(ipam?)),
    }
}

impl Default for IpamKey {
    fn default() -> Self {
        Self::Local(Box::default())
    }
}

impl<'de> Deserialize<'de> for IpamKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        struct Named {
            #[serde(rename = "type", default)]
            plugin_type: Option<String>,
        }
        let Some(value) = Option::<serde_json::Value>::deserialize(deserializer)? else {
            return Ok(Self::default());
        };
        let named = Named::deserialize(&value).map_err(D::Error::custom)?;
        match named.plugin_type.as_deref() {
            None | Some("" | NAME) => {
                IpamKeys::deserialize(value).map(|keys| Self::Local(keys.into())).map_err(D::Error::custom)
            }
            Some(name) => name.parse().map(Self::Delegated).map_err(D::Error::custom),
        }
    }
}

/// A range that overlaps with the subnet and is reserved for other uses than hosts (RFC 6890).
fn reserved(subnet: IpNetwork) -> Option<&'static str> {
    const RESERVED: [&str; 7] =
        ["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "::/8", "fe80::/10", "ff00::/8"];
    RESERVED.into_iter().find(|reserved| {
        let reserved: Result<IpNetwork, _> = reserved.parse();
        reserved.is_ok_and(|reserved| {
            reserved.is_ipv4() == subnet.is_ipv4()
                && (reserved.contains(subnet.network()) || subnet.contains(reserved.network()))
        })
    })
}

/// The name of the bridge, if the configuration names none.
///
/// # Panics
///
/// Never: the name is a valid constant.
#[must_use]
pub fn default_bridge() -> IfName {
    DEFAULT_BRIDGE.parse().expect("a constant that is a valid name")
}
