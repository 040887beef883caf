//! IPv6 where the node has switched it off, or its kernel has none.

use std::fmt::Display;

use cnikit::netlink::{self, Ipv6Conf, Link, Sysctl};
use cnikit::plugin::PluginError;
use cnikit::spec::{ErrorCode, IfName, NetworkName};
use ipnetwork::IpNetwork;
use serde_json::Value;

use crate::bridge;
use crate::config::{Addressing, Config};

/// The least MTU of a link with IPv6, in bytes (RFC 8200, section 5).
pub(crate) const LEAST_MTU: u32 = 1280;

const OFF: &str = "IPv6 is off";

/// Why a pod cannot have an IPv6 address.
#[derive(Debug)]
pub(crate) struct Unavailable {
    pub(crate) found: String,
    pub(crate) remedy: String,
}

impl From<Unavailable> for PluginError {
    fn from(Unavailable { found, remedy }: Unavailable) -> Self {
        unavailable(format_args!("{found}: {remedy}"))
    }
}

/// Refuses a network with IPv6 addresses if the bridge has no IPv6 and an ADD cannot enable it. Changes nothing.
pub(crate) fn refuse_unavailable(
    network: &NetworkName,
    name: &IfName,
    bridge: Option<&Link>,
) -> Result<(), PluginError> {
    Ok(find_unavailable_on(network, name, bridge)?)
}

fn find_unavailable_on(network: &NetworkName, name: &IfName, bridge: Option<&Link>) -> Result<(), Unavailable> {
    match bridge {
        None => find_unwritable(),
        Some(bridge) => match bridge.ipv6_conf(Ipv6Conf::DisableIpv6) {
            Some(0) => Ok(()),
            Some(_) if bridge::is_made_for(network, bridge) => find_unwritable(),
            // Its owner may have reasons: a node with IPv6 on a bridge to the LAN can be reached from there.
            Some(_) => Err(Unavailable {
                found: format!("{OFF} on {name}, and the plugin did not create that bridge"),
                remedy: format!(
                    "sysctl -w net.ipv6.conf.{name}.disable_ipv6=0, or remove the IPv6 addresses from the configuration"
                ),
            }),
            None if bridge.mtu < LEAST_MTU => Err(Unavailable {
                found: format!("{OFF} on {name}, because its MTU is {}", bridge.mtu),
                remedy: format!("set it to {LEAST_MTU} or more"),
            }),
            None => Err(no_kernel()),
        },
    }
}

/// What makes an ADD of the network fail for its IPv6 addresses, if it has any. Of another plugin's configuration, which is
/// `ipam`, only the usual keys for addresses are known.
pub(crate) fn probe(
    network: &NetworkName,
    config: &Config,
    ipam: Option<&Value>,
    bridge: Option<&Link>,
) -> Result<(), PluginError> {
    Ok(find_unavailable(network, config, ipam, bridge)?)
}

/// The same as [`probe`], with the remedy apart.
pub(crate) fn find_unavailable(
    network: &NetworkName,
    config: &Config,
    ipam: Option<&Value>,
    bridge: Option<&Link>,
) -> Result<(), Unavailable> {
    let is_wanted = match config.addressing {
        Addressing::Delegated => ipam.is_some_and(names_addresses),
        Addressing::Own(_) | Addressing::Untold => config.ranges().any(|range| range.subnet().is_ipv6()),
    };
    if !is_wanted {
        return Ok(());
    }
    find_unavailable_on(network, &config.bridge, bridge)?;
    find_unwritable()
}

/// Whether the configuration of `host-local`, `static` or a plugin with the same keys names IPv6 addresses for pods.
fn names_addresses(ipam: &Value) -> bool {
    const KEYS: [&str; 3] = ["subnet", "address", "range"];
    let is_ipv6 = |text: &str| text.parse::<IpNetwork>().is_ok_and(|address| address.is_ipv6());
    match ipam {
        Value::Object(keys) => keys.iter().any(|(key, value)| match value.as_str() {
            Some(text) => KEYS.contains(&key.as_str()) && is_ipv6(text),
            None => names_addresses(value),
        }),
        Value::Array(values) => values.iter().any(names_addresses),
        _ => false,
    }
}

/// Refuses a node on which the settings of pods and of a new bridge cannot be written.
fn find_unwritable() -> Result<(), Unavailable> {
    const REMEDY: &str = "mount -o remount,rw /proc/sys, or run the plugin where it is writable";
    let setting = Sysctl::Ipv6Default(Ipv6Conf::DisableIpv6);
    match setting.read() {
        Err(netlink::Error::SysctlMissing { .. }) => Err(no_kernel()),
        Err(error) => Err(Unavailable { found: error.to_string(), remedy: REMEDY.into() }),
        Ok(_) if !setting.is_writable() => Err(Unavailable {
            found: "/proc/sys/net/ipv6 cannot be written, and pods with IPv6 addresses need settings there".into(),
            remedy: REMEDY.into(),
        }),
        Ok(_) => Ok(()),
    }
}

/// Enables IPv6 on a bridge that the plugin has created, for a pod whose pair has this MTU.
pub(crate) fn ensure(network: &NetworkName, bridge: &Link, mtu: u32) -> Result<(), PluginError> {
    // The bridge follows the least MTU of its ports, and loses IPv6 with it.
    if mtu < LEAST_MTU {
        return Err(unavailable(format_args!(
            "MTU {mtu} is too small for the IPv6 address of the pod, which needs {LEAST_MTU}: raise \"mtu\", or that of {}",
            bridge.name
        )));
    }
    if bridge.ipv6_conf(Ipv6Conf::DisableIpv6) == Some(0) {
        return Ok(());
    }
    refuse_unavailable(network, &bridge.name, Some(bridge))?;
    let setting = Sysctl::Ipv6Conf(&bridge.name, Ipv6Conf::DisableIpv6);
    setting.write(0).map_err(|error| of_setting(&error))
}

/// The failure to write an IPv6 setting.
pub(crate) fn of_setting(error: &netlink::Error) -> PluginError {
    match error {
        netlink::Error::SysctlMissing { .. } => no_kernel().into(),
        error => {
            let failure = unavailable(format_args!("{error}: make /proc/sys writable for the plugin"));
            failure.with_details(std::error::Error::source(error).map(ToString::to_string).unwrap_or_default())
        }
    }
}

fn no_kernel() -> Unavailable {
    Unavailable {
        found: "the kernel has no IPv6 (/proc/sys/net/ipv6 is missing), and the network has IPv6 addresses".into(),
        remedy: "boot without ipv6.disable=1, or remove the IPv6 addresses from the configuration".into(),
    }
}

fn unavailable(msg: impl Display) -> PluginError {
    PluginError::new(ErrorCode::PLUGIN_NOT_AVAILABLE, msg.to_string())
}
