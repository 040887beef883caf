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

use crate::ipv6;
use crate::masquerade::LONGEST_NAME;

/// Leases lie below this directory unless the configuration names another.
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/cni/simple-ebpf-cni";

const DEFAULT_BRIDGE: &str = "cbr0";

/// What IPv4 needs at the least and a veth device takes at the most, in bytes.
const MTUS: RangeInclusive<u32> = 68..=65_535;

/// The keys beside those that every plugin shares, checked and with their defaults.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Keys")]
pub(crate) struct Config {
    /// The bridge that the network's pods are ports of.
    pub(crate) bridge: IfName,
    /// Who gives pods their addresses.
    pub(crate) addressing: Addressing,
    /// MTU of the bridge and of both ends of each veth pair, in bytes; none follows the bridge and, before there is one,
    /// the uplink.
    pub(crate) mtu: Option<u32>,
    /// Where each network keeps its leases, in a directory of its name.
    pub(crate) data_dir: PathBuf,
    /// Packets go straight into the target pod, past the bridge and the host's packet filter.
    pub(crate) direct_forwarding: bool,
    /// A pod can send from its own addresses and MAC only.
    pub(crate) spoof_check: bool,
    /// A pod reaches itself by way of the host, as by a service address of its own.
    pub(crate) hairpin_mode: bool,
    /// How the programs run on pods' ports.
    pub(crate) attach: Attach,
    /// `args.cni.directForwarding`: whether packets go straight into this pod, and from it into others.
    pub(crate) pod_direct_forwarding: Option<bool>,
    /// Whether the node takes the gateways' addresses. Without a word, it takes those that no other machine has.
    pub(crate) is_gateway: Option<bool>,
}

/// How the programs run on pods' ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Attach {
    /// As filters in the blocks that the bridge and all ports share.
    #[default]
    Clsact,
    /// By TCX links of each port, which leave the clsact slot to other tools.
    Tcx,
}

/// Who gives pods their addresses.
#[derive(Debug)]
pub(crate) enum Addressing {
    /// The network itself, out of these pools.
    Own(IpamConfig),
    /// The network itself, out of pools that the runtime names with each ADD (`ipRanges`) and has not named here.
    Untold,
    /// The plugin in `ipam.type`.
    Delegated,
}

impl Config {
    /// The ranges that the network gives addresses of; none where another plugin does.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = &Range> {
        self.pools().iter().flat_map(Pool::ranges)
    }

    /// The pools that the network gives addresses of; none where another plugin does.
    pub(crate) fn pools(&self) -> &[Pool] {
        match &self.addressing {
            Addressing::Own(ipam) => ipam.pools(),
            Addressing::Untold | Addressing::Delegated => &[],
        }
    }
}

/// Where the leases are, by a configuration that has gone bad since the ADD.
pub(crate) fn data_dir(config: &RawConfig) -> &Path {
    let beside = config.value("dataDir");
    let inside = config.value("ipam").and_then(|ipam| ipam.get("dataDir"));
    let dirs = [beside, inside].into_iter().flatten().filter_map(|dir| dir.as_str()).map(Path::new);
    { dirs }.find(|dir| dir.is_absolute()).unwrap_or(Path::new(DEFAULT_DATA_DIR))
}

/// The keys as they stand in the configuration.
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
    ipam: Ipam,
    mtu: Option<u32>,
    data_dir: Option<PathBuf>,
    direct_forwarding: Option<bool>,
    spoof_check: Option<bool>,
    hairpin_mode: Option<bool>,
    attach: Attach,
    is_gateway: Option<bool>,
    log_file: Option<PathBuf>,
    /// It is read to refuse what is no level: the log has begun by now.
    #[serde(rename = "logLevel")]
    _log_level: Option<LogLevel>,
    capabilities: Capabilities,
    runtime_config: RuntimeConfig,
    args: Option<Args>,
}

/// Of `args`, which runtimes write for one attachment, the key that the library does not read.
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

/// The key `ipam`: of another plugin's words nothing is read but its name.
enum Ipam {
    Own(Box<IpamKeys>),
    Delegated(PluginType),
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Capabilities {
    ip_ranges: bool,
}

/// What is wrong with a key.
#[derive(Debug, thiserror::Error)]
enum KeyError {
    #[error(transparent)]
    Ipam(#[from] ipam::Error),

    #[error("no subnet is configured; write one, such as \"subnet\": \"10.244.1.0/24\"")]
    NoSubnet,

    #[error("gateway {0} has no subnet; write the key \"subnet\" beside it")]
    NoSubnetFor(IpAddr),

    #[error(
        "{0:?} is for addresses that this plugin gives, and {1} in \"ipam\" gives them; remove the key, or \"type\" from \
         \"ipam\""
    )]
    NotDelegated(&'static str, PluginType),

    #[error("subnet {0} holds addresses that no pod can have, such as {1}; write a private one, such as {2}")]
    Unusable(IpNetwork, &'static str, &'static str),

    #[error("\"name\" has {0} bytes, of which \"ipMasq\" allows {LONGEST_NAME}; write a shorter one")]
    LongName(usize),

    #[error("mtu {0} is out of range; choose one from {first} to {last} bytes", first = MTUS.start(), last = MTUS.end())]
    Mtu(u32),

    #[error("mtu {0} is too small for IPv6 ({1}), which needs {least} bytes", least = ipv6::LEAST_MTU)]
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
        if keys.ip_masq == Some(true) && length > LONGEST_NAME {
            return Err(KeyError::LongName(length));
        }
        let data_dir = keys.data_dir.take();
        let (bridge, mtu) = (keys.bridge.take().unwrap_or_else(default_bridge), keys.mtu);
        let (direct_forwarding, spoof_check) =
            (keys.direct_forwarding.unwrap_or(true), keys.spoof_check.unwrap_or(true));
        let (hairpin_mode, attach, is_gateway) = (keys.hairpin_mode.unwrap_or(true), keys.attach, keys.is_gateway);
        let pod_direct_forwarding = keys.args.take().and_then(|args| args.cni?.direct_forwarding);
        let addressing = addressing(keys)?;
        let own = match &addressing {
            Addressing::Own(ipam) => ipam.data_dir(),
            Addressing::Untold | Addressing::Delegated => None,
        };
        let data_dir = data_dir.or_else(|| own.map(Path::to_owned)).unwrap_or_else(|| DEFAULT_DATA_DIR.into());
        let config = Self {
            bridge,
            addressing,
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
                let instead = if subnet.is_ipv4() { "10.244.1.0/24" } else { "fd00:10:244:1::/64" };
                return Err(KeyError::Unusable(subnet, reserved, instead));
            }
        }
        let ipv6 = self.ranges().map(Range::subnet).find(IpNetwork::is_ipv6);
        match (self.mtu, ipv6) {
            (Some(mtu), _) if !MTUS.contains(&mtu) => return Err(KeyError::Mtu(mtu)),
            (Some(mtu), Some(subnet)) if mtu < ipv6::LEAST_MTU => return Err(KeyError::MtuForIpv6(mtu, subnet)),
            _ => {}
        }
        if self.data_dir.is_relative() { Err(KeyError::Relative("dataDir", self.data_dir.clone())) } else { Ok(()) }
    }
}

/// One pool for each subnet, wherever it stands; those of the runtime come first, as with `host-local`.
fn addressing(keys: Keys) -> Result<Addressing, KeyError> {
    let mut ipam = match keys.ipam {
        Ipam::Own(ipam) => *ipam,
        Ipam::Delegated(plugin) => {
            let own = [
                ("subnet", keys.subnet.is_some()),
                ("gateway", keys.gateway.is_some()),
                ("subnets", !keys.subnets.is_empty()),
                ("exclude", !keys.exclude.is_empty()),
            ];
            return match own.into_iter().find(|(_, is_there)| *is_there) {
                Some((key, _)) => Err(KeyError::NotDelegated(key, plugin)),
                None => Ok(Addressing::Delegated),
            };
        }
    };
    let short = match (keys.subnet, keys.gateway) {
        (Some(subnet), gateway) => Some(RangeKeys { gateway, ..subnet.into() }),
        (None, Some(gateway)) => return Err(KeyError::NoSubnetFor(gateway)),
        (None, None) => None,
    };
    let subnets = keys.subnets.into_iter().map(|subnet| match subnet {
        Subnet::Short(subnet) => subnet.into(),
        Subnet::Long(keys) => keys,
    });
    let beside: Vec<Vec<RangeKeys>> = short.into_iter().chain(subnets).map(|range| vec![range]).collect();

    let asked = keys.runtime_config.ip_ranges.into_iter().map(|set| set.into_iter().map(RangeKeys::from).collect());
    ipam.ranges = asked.chain(beside).chain(ipam.ranges).collect();
    ipam.exclude.extend(keys.exclude);
    match IpamConfig::try_from(ipam) {
        Err(ipam::Error::NoRanges) if keys.capabilities.ip_ranges => Ok(Addressing::Untold),
        Err(ipam::Error::NoRanges) => Err(KeyError::NoSubnet),
        ipam => Ok(Addressing::Own(ipam?)),
    }
}

impl Default for Ipam {
    fn default() -> Self {
        Self::Own(Box::default())
    }
}

impl<'de> Deserialize<'de> for Ipam {
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
            None | Some("" | crate::NAME) => {
                IpamKeys::deserialize(value).map(|keys| Self::Own(keys.into())).map_err(D::Error::custom)
            }
            Some(name) => name.parse().map(Self::Delegated).map_err(D::Error::custom),
        }
    }
}

/// What of a subnet the kernel takes for something else than hosts (RFC 6890).
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

/// The bridge of a network that names none.
pub(crate) fn default_bridge() -> IfName {
    DEFAULT_BRIDGE.parse().expect("a constant that is a valid name")
}
