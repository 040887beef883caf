//! Checks for IPv6, which may be off on the node or missing in its kernel.

use std::fmt::Display;

use cnikit::netlink::{self, Ipv6Conf, Link, Sysctl};
use cnikit::plugin::PluginError;
use cnikit::spec::{ErrorCode, IfName, NetworkName};
use ipnetwork::IpNetwork;
use serde_json::Value;

use crate::bridge;
use crate::config::{Config, IPV6_MIN_MTU, Ipam};

const OFF: &str = "IPv6 is off";

/// The reason why a pod cannot have an IPv6 address.
#[derive(Debug)]
pub struct Unavailable {
    /// The state of the node.
    pub found: String,
    /// An action of the administrator.
    pub remedy: String,
    /// Whether the only reason is a `/proc/sys` that this process cannot write. The
    /// node's may be writable if this process runs in a container.
    pub is_read_only: bool,
}

impl From<Unavailable> for PluginError {
    fn from(Unavailable { found, remedy, .. }: Unavailable) -> Self {
        unavailable(format_args!("{found}: {remedy}"))
    }
}

/// Refuses a network with IPv6 addresses if the bridge has no IPv6 and an ADD cannot enable it.
/// Changes nothing.
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
            // The setting may be intentional: a node with IPv6 on a bridge to the LAN is reachable
            // from there.
            Some(_) => Err(Unavailable {
                found: format!("{OFF} on {name}, and the plugin did not create that bridge"),
                remedy: format!(
                    "sysctl -w net.ipv6.conf.{name}.disable_ipv6=0, or remove the IPv6 addresses from the configuration"
                ),
                is_read_only: false,
            }),
            None if bridge.mtu < IPV6_MIN_MTU => Err(Unavailable {
                found: format!("{OFF} on {name}, because its MTU is {}", bridge.mtu),
                remedy: format!("set it to {IPV6_MIN_MTU} or more"),
                is_read_only: false,
            }),
            None => Err(kernel_without_ipv6()),
        },
    }
}

/// Fails if the IPv6 addresses of the network make an ADD fail. See [`find_unavailable`].
///
/// # Errors
///
/// The reason, as an error of the plugin.
pub fn probe(
    network: &NetworkName,
    config: &Config,
    ipam: Option<&Value>,
    bridge: Option<&Link>,
) -> Result<(), PluginError> {
    Ok(find_unavailable(network, config, ipam, bridge)?)
}

/// Checks whether pods of the network can have their IPv6 addresses. `ipam` is the configuration of
/// a delegate: the function reads the common keys for addresses from it. Changes nothing.
///
/// # Errors
///
/// The reason, if the network has IPv6 addresses and an ADD would fail because of them.
pub fn find_unavailable(
    network: &NetworkName,
    config: &Config,
    ipam: Option<&Value>,
    bridge: Option<&Link>,
) -> Result<(), Unavailable> {
    let is_wanted = match config.ipam {
        Ipam::Delegated => ipam.is_some_and(names_ipv6),
        Ipam::Local(_) | Ipam::RuntimeRanges => config.has_ipv6_ranges(),
    };
    if !is_wanted {
        return Ok(());
    }
    find_unavailable_on(network, &config.bridge, bridge)?;
    find_unwritable()
}

/// Whether the configuration of `host-local`, `static` or a plugin with the same keys names IPv6
/// addresses for pods.
fn names_ipv6(ipam: &Value) -> bool {
    const KEYS: [&str; 3] = ["subnet", "address", "range"];
    let is_ipv6 = |text: &str| text.parse::<IpNetwork>().is_ok_and(|address| address.is_ipv6());
    match ipam {
        Value::Object(keys) => keys.iter().any(|(key, value)| match value.as_str() {
            Some(text) => KEYS.contains(&key.as_str()) && is_ipv6(text),
            None => names_ipv6(value),
        }),
        Value::Array(values) => values.iter().any(names_ipv6),
        _ => false,
    }
}

/// Refuses a node with a read-only `/proc/sys`: pods and a new bridge need settings there.
fn find_unwritable() -> Result<(), Unavailable> {
    const REMEDY: &str = "mount -o remount,rw /proc/sys, or run the plugin where it is writable";
    let setting = Sysctl::Ipv6Default(Ipv6Conf::DisableIpv6);
    match setting.read() {
        Err(netlink::Error::SysctlMissing { .. }) => Err(kernel_without_ipv6()),
        Err(error) => Err(Unavailable { found: error.to_string(), remedy: REMEDY.into(), is_read_only: false }),
        Ok(_) if !setting.is_writable() => Err(Unavailable {
            found: "/proc/sys/net/ipv6 cannot be written, and pods with IPv6 addresses need settings there".into(),
            remedy: REMEDY.into(),
            is_read_only: true,
        }),
        Ok(_) => Ok(()),
    }
}

/// Enables IPv6 on a bridge that the plugin created. `mtu` is the MTU of the pod's pair.
///
/// # Errors
///
/// Fails if the MTU is too small, or if the plugin must not or cannot enable IPv6.
pub fn ensure(network: &NetworkName, bridge: &Link, mtu: u32) -> Result<(), PluginError> {
    // The bridge follows the smallest MTU of its ports, and a smaller one switches IPv6 off.
    if mtu < IPV6_MIN_MTU {
        return Err(unavailable(format_args!(
            "MTU {mtu} is too small for the IPv6 address of the pod, which needs {IPV6_MIN_MTU}: raise \"mtu\", or \
             the MTU of {}",
            bridge.name
        )));
    }
    if bridge.ipv6_conf(Ipv6Conf::DisableIpv6) == Some(0) {
        return Ok(());
    }
    refuse_unavailable(network, &bridge.name, Some(bridge))?;
    let setting = Sysctl::Ipv6Conf(&bridge.name, Ipv6Conf::DisableIpv6);
    setting.write(0).map_err(|error| setting_error(&error))
}

/// The error for an IPv6 setting that cannot be written.
#[must_use]
pub fn setting_error(error: &netlink::Error) -> PluginError {
    match error {
        netlink::Error::SysctlMissing { .. } => kernel_without_ipv6().into(),
        error => unavailable(format_args!("{error}; make /proc/sys writable for the plugin")),
    }
}

fn kernel_without_ipv6() -> Unavailable {
    Unavailable {
        found: "the kernel has no IPv6 (/proc/sys/net/ipv6 is missing), and the network has IPv6 addresses".into(),
        remedy: "boot without ipv6.disable=1, or remove the IPv6 addresses from the configuration".into(),
        is_read_only: false,
    }
}

fn unavailable(msg: impl Display) -> PluginError {
    PluginError::new(ErrorCode::PLUGIN_NOT_AVAILABLE, msg.to_string())
}
