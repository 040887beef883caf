//! The plugin's own keys of the network configuration.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use cnikit::ipam::{self, Pool, Range};
use cnikit::spec::IfName;
use ipnetwork::IpNetwork;
use serde::Deserialize;

/// Leases lie below this directory unless the configuration names another.
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/cni/simple-ebpf-cni";

const DEFAULT_BRIDGE: &str = "cbr0";

const DEFAULT_MTU: u32 = 1500;

/// What IPv4 needs at the least and a veth device takes at the most, in bytes.
const MTUS: RangeInclusive<u32> = 68..=65_535;

/// The keys beside those that every plugin shares, checked and with their defaults.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Keys")]
pub(crate) struct Config {
    /// The bridge that the network's pods are ports of.
    pub(crate) bridge: IfName,
    /// The subnet and its gateway.
    pub(crate) range: Range,
    /// The addresses that pods are given.
    pub(crate) pool: Pool,
    /// MTU of the bridge and of both ends of each veth pair, in bytes.
    pub(crate) mtu: u32,
    /// Where each network keeps its leases, in a directory of its name.
    pub(crate) data_dir: PathBuf,
}

/// The keys as they stand in the configuration.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Keys {
    bridge: Option<IfName>,
    subnet: IpNetwork,
    gateway: Option<IpAddr>,
    mtu: Option<u32>,
    data_dir: Option<PathBuf>,
}

/// What is wrong with a key.
#[derive(Debug, thiserror::Error)]
enum KeyError {
    #[error("{0}")]
    Range(ipam::Error),

    #[error("subnet {0} is IPv6; this version hands out IPv4 addresses only")]
    Ipv6(IpNetwork),

    #[error("subnet {0} holds addresses that no pod can have, such as {1}; write a private one, such as 10.244.1.0/24")]
    Unusable(IpNetwork, &'static str),

    #[error("mtu {0} is out of range; choose one from {first} to {last} bytes", first = MTUS.start(), last = MTUS.end())]
    Mtu(u32),

    #[error("dataDir {} is relative; write an absolute path", .0.display())]
    RelativeDataDir(PathBuf),
}

impl TryFrom<Keys> for Config {
    type Error = KeyError;

    fn try_from(keys: Keys) -> Result<Self, KeyError> {
        if keys.subnet.is_ipv6() {
            return Err(KeyError::Ipv6(keys.subnet));
        }
        if let Some(reserved) = reserved(keys.subnet) {
            return Err(KeyError::Unusable(keys.subnet, reserved));
        }
        let range = Range::new(keys.subnet, keys.gateway).map_err(KeyError::Range)?;
        let mtu = keys.mtu.unwrap_or(DEFAULT_MTU);
        if !MTUS.contains(&mtu) {
            return Err(KeyError::Mtu(mtu));
        }
        let data_dir = keys.data_dir.unwrap_or_else(|| DEFAULT_DATA_DIR.into());
        if data_dir.is_relative() {
            return Err(KeyError::RelativeDataDir(data_dir));
        }
        let pool = range.clone().into();
        Ok(Self { bridge: keys.bridge.unwrap_or_else(default_bridge), range, pool, mtu, data_dir })
    }
}

/// What of a subnet the kernel takes for something else than hosts (RFC 6890).
fn reserved(subnet: IpNetwork) -> Option<&'static str> {
    const RESERVED: [&str; 4] = ["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4"];
    RESERVED.into_iter().find(|reserved| {
        let reserved: Result<IpNetwork, _> = reserved.parse();
        reserved.is_ok_and(|reserved| reserved.contains(subnet.network()) || subnet.contains(reserved.network()))
    })
}

fn default_bridge() -> IfName {
    DEFAULT_BRIDGE.parse().expect("a constant that is a valid name")
}
