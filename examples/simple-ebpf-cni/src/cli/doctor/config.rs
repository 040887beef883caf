//! The requirements of a network's configuration: bridge, subnets, plugins, masquerading, logging.

use std::path::Path;
use std::time::Duration;

use cnikit::ipam::Store;
use cnikit::netlink::{self, Link, Socket, Sysctl};
use cnikit::plugin::{Log, LogLevel};
use cnikit::runtime::{self, Invocation, NetworkConfigList, PluginConfig};
use cnikit::spec::{Command, NetworkName, PluginType, Version};
use serde_json::Value;

use super::addresses::{Place, addresses};
use super::diagnostic::Diagnostic;
use crate::NAME;
use crate::cli::advice;
use crate::cli::error::Error;
use crate::cli::inventory::ConfiguredNetwork;
use crate::cli::paths::PORTMAP;
use simple_ebpf_cni::{agent, bridge, ip, masquerade};

/// The node's state for checks of configurations.
pub(crate) struct Environment<'a> {
    pub(crate) host: &'a Socket,
    pub(crate) links: &'a [Link],
    pub(crate) bin_dir: &'a Path,
    /// The CNI versions that the plugin supports.
    pub(crate) versions: &'a [Version],
    pub(crate) place: Place,
}

/// Checks whether the node allows a network with this configuration.
pub(crate) fn requirements(
    network: &ConfiguredNetwork,
    list: &NetworkConfigList,
    environment: &Environment,
) -> Result<Vec<Diagnostic>, Error> {
    let Environment { host, links, versions, place, .. } = environment;
    let mut checks = subnets(network, host, links)?;
    checks.extend(addresses(network, host, links, *place)?);
    checks.extend(other_plugins(list).filter_map(|plugin| other_plugin(&plugin, list, environment)));
    checks.extend(bypassed_limits(network, list));
    checks.extend(unsupported_version(network, list, versions));
    if network.masquerades()
        && let Err(error) = masquerade::probe_rules(&network.name)
    {
        let found = format!("the host cannot masquerade, but {} has \"ipMasq\": {error}", network.name);
        checks.push(Diagnostic::fail("masquerade", found, advice::for_netlink(&error)));
    }
    Ok(checks)
}

/// Checks whether leases of the network can be written.
pub(crate) fn state(network: &NetworkName, store: &Store) -> Option<Diagnostic> {
    let error = store.probe().err()?;
    let found = format!("no pod of {network} can be attached: {error}");
    Some(Diagnostic::fail("state", found, advice::for_ipam(&error)))
}

/// Whether a network has pods, according to the ports of its bridge.
pub(super) fn has_ports(network: &ConfiguredNetwork, links: &[Link]) -> bool {
    let bridge = links.iter().find(|link| link.name == *network.bridge());
    bridge.is_some_and(|bridge| bridge::pod_ports(bridge, links).next().is_some())
}

/// Checks whether the host forwards packets to other networks, for each address family.
pub(crate) fn forwarding(network: &ConfiguredNetwork, links: &[Link]) -> impl Iterator<Item = Diagnostic> {
    let has_pods = has_ports(network, links);
    masquerade::forwarding(network.config()).map(move |setting| forwarding_by(network, setting, has_pods))
}

fn forwarding_by(network: &ConfiguredNetwork, setting: Sysctl, has_pods: bool) -> Diagnostic {
    const CHECK: &str = "ip_forward";
    let (family, name) = match setting {
        Sysctl::Ipv4Forward => ("IPv4", "net.ipv4.ip_forward"),
        _ => ("IPv6", "net.ipv6.conf.all.forwarding"),
    };
    let by_hand = format!("sysctl -w {name}=1, and add it to /etc/sysctl.d");
    match setting.read() {
        Ok(0) if network.masquerades() && setting.is_writable() && has_pods => Diagnostic::fail(
            CHECK,
            format!("off for {family}, and {} has pods: pods cannot reach other networks", network.name),
            by_hand + ", or attach a pod, because the next ADD turns it on; find the program that turned it off",
        ),
        Ok(0) if network.masquerades() && setting.is_writable() => Diagnostic::ok(
            CHECK,
            format!("off for {family}: the first ADD of {} turns it on, because of \"ipMasq\"", network.name),
        ),
        Ok(0) if network.masquerades() => Diagnostic::fail(
            CHECK,
            format!("off for {family}, and {setting} cannot be written here: pods cannot reach other networks"),
            by_hand + "; if a container has /proc/sys read-only, from outside of it",
        ),
        Ok(0) => {
            let found = format!("off for {family}: pods reach only each other and this node");
            Diagnostic::warn(CHECK, found, by_hand)
        }
        Ok(_) => Diagnostic::ok(CHECK, format!("on for {family}")),
        Err(netlink::Error::SysctlMissing { .. }) if family == "IPv6" => Diagnostic::fail(
            CHECK,
            format!("the kernel has no IPv6, and {} has IPv6 subnets", network.name),
            "boot without ipv6.disable=1, or remove the IPv6 subnets from the configuration",
        ),
        Err(error) => Diagnostic::warn(CHECK, error.to_string(), "mount -t proc proc /proc"),
    }
}

/// Checks whether the log can be written. Calls succeed without a log.
pub(super) fn log(network: &ConfiguredNetwork) -> Option<Diagnostic> {
    let log = Log::to_stderr(NAME).file(network.log_file()?, LogLevel::default());
    let error = log.probe().err()?;
    Some(Diagnostic::warn(
        "log",
        error.to_string(),
        format!("set another file as \"logFile\" of {}, or create the directory of this file", network.name),
    ))
}

/// Checks the configured bridge, and the subnets against the routes of the node.
fn subnets(network: &ConfiguredNetwork, host: &Socket, links: &[Link]) -> Result<Vec<Diagnostic>, Error> {
    let (name, config) = (&network.name, network.config());
    if let Err(error) = bridge::look(host, name, config) {
        let remedy = format!("change the configuration of {name}");
        return Ok(vec![Diagnostic::fail("bridge", error.to_string(), remedy)]);
    }
    let own = links.iter().find(|link| link.name == config.bridge).map(|link| link.index);
    let routes = host.all_routes()?;
    let others = routes.iter().filter(|route| route.dst.prefix() > 0 && Some(route.oif) != own);
    let mut checks = Vec::new();
    for route in others {
        let link = links.iter().find(|link| link.index == route.oif);
        if link.is_some_and(|link| agent::has_gateway(link, route.dst)) {
            continue;
        }
        if let Some(range) = config.ranges().find(|range| ip::overlap(range.subnet(), route.dst)) {
            let link = link.map_or("?", |link| link.name.as_str());
            let found = format!("{} of {name} overlaps with the route to {} through {link}", range.subnet(), route.dst);
            checks.push(Diagnostic::warn("routes", found, "choose another subnet, or remove the route"));
        }
    }
    Ok(checks)
}

/// Checks whether the plugin supports the version of the configuration.
fn unsupported_version(
    network: &ConfiguredNetwork,
    list: &NetworkConfigList,
    versions: &[Version],
) -> Option<Diagnostic> {
    if versions.contains(&list.cni_version) {
        return None;
    }
    let found = format!("{} has CNI version {}, which {NAME} does not support", network.name, list.cni_version);
    let versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
    Some(Diagnostic::fail("config", found, format!("set \"cniVersion\" to one of {}", versions.join(", "))))
}

/// Reports rate limits of the plugin `bandwidth` that direct packets bypass. An ADD does not see
/// the limits, because they are in the configuration of `bandwidth`.
fn bypassed_limits(network: &ConfiguredNetwork, list: &NetworkConfigList) -> Option<Diagnostic> {
    let has_rates = |plugin: &PluginConfig| {
        let keys: Value = plugin.decode().unwrap_or_default();
        ["ingressRate", "egressRate"].iter().any(|rate| keys[rate].as_u64().is_some_and(|rate| rate > 0))
    };
    let mut shapers = list.plugins.iter().filter(|plugin| plugin.plugin_type.as_str() == "bandwidth");
    if !network.config().direct_forwarding || !shapers.any(has_rates) {
        return None;
    }
    Some(Diagnostic::warn(
        "bandwidth",
        format!("packets between pods of {} are forwarded directly and bypass the limits of bandwidth", network.name),
        "set \"directForwarding\": false and \"attach\": \"tcx\", or let the runtime request limits",
    ))
}

/// Reports a list without `portmap`: runtimes then ignore ports to publish, without an error. A
/// list of another program may publish them by other means, so the check names no failure.
///
/// `uninstall` treats a file that an operator has changed as foreign, so a file of `install` must
/// not be edited.
pub(super) fn published_ports(
    list: &NetworkConfigList,
    file: &Path,
    bin_dir: &Path,
    is_installed: bool,
) -> Option<Diagnostic> {
    if list.plugins.iter().any(|plugin| plugin.plugin_type.as_str() == PORTMAP) {
        return None;
    }
    let plugin = format!("{{ \"type\": \"{PORTMAP}\", \"capabilities\": {{ \"portMappings\": true }} }}");
    let add = if is_installed {
        format!(
            "run the same {NAME} install again (DaemonSet: restart its pod); a file in --config must have {plugin} in \
             its plugins"
        )
    } else {
        format!("add {plugin} to the plugins of {}", file.display())
    };
    let found = format!("hostPort of pods has no effect in {}", list.name);
    let is_present = PORTMAP.parse().is_ok_and(|portmap| runtime::find(&portmap, &[bin_dir.to_owned()]).is_ok());
    Some(if is_present {
        Diagnostic::warn(PORTMAP, format!("{found}: its list does not have {PORTMAP}, and the node has it"), add)
    } else {
        let found = format!("{found}: {} does not have {PORTMAP}", bin_dir.display());
        // Many nodes need no such ports.
        Diagnostic {
            remedy: Some(format!("to use it, install {PORTMAP} there, and {add}")),
            ..Diagnostic::ok(PORTMAP, found)
        }
    })
}

/// The other plugins of the list, and the plugins of `ipam.type`.
fn other_plugins(list: &NetworkConfigList) -> impl Iterator<Item = PluginType> {
    let of_ipam = list.plugins.iter().filter_map(|plugin| {
        let keys: Value = plugin.decode().ok()?;
        keys["ipam"]["type"].as_str()?.parse::<PluginType>().ok()
    });
    let named = list.plugins.iter().map(|plugin| plugin.plugin_type.clone()).chain(of_ipam);
    named.filter(|plugin| plugin.as_str() != NAME)
}

/// Reports a plugin that the runtime cannot find, or that does not support the version of the list.
fn other_plugin(plugin: &PluginType, list: &NetworkConfigList, environment: &Environment) -> Option<Diagnostic> {
    /// A plugin that hangs must not stop `doctor` and `install`.
    const TIMEOUT: Duration = Duration::from_secs(5);

    let bin_dir = environment.bin_dir;
    let path = match runtime::find(plugin, &[bin_dir.to_owned()]) {
        Ok(path) => path,
        // A container does not have the target of a link of the node.
        Err(_) if environment.place == Place::MaybeContainer && bin_dir.join(plugin.as_str()).is_symlink() => {
            let found = format!("the link {} leads to no file here", bin_dir.join(plugin.as_str()).display());
            let remedy = format!("{} needs it: check with {NAME} doctor on the node, outside of containers", list.name);
            return Some(Diagnostic::warn("plugins", found, remedy));
        }
        Err(error) => return Some(Diagnostic::fail("plugins", error.to_string(), format!("{} needs it", list.name))),
    };
    let version = list.cni_version;
    // The installer's container lacks the libraries of some plugins, which then cannot be asked.
    let versions = Invocation::new(&path, Command::Version).timeout(TIMEOUT).versions().ok()?;
    if versions.contains(&version) {
        return None;
    }
    let found = format!("{} does not support CNI version {version} of {}: each ADD fails", path.display(), list.name);
    let common = versions.iter().rev().find(|version| environment.versions.contains(version));
    let instead = common.map(|common| format!(", or set \"cniVersion\" to \"{common}\"")).unwrap_or_default();
    Some(Diagnostic::fail("plugins", found, format!("install a newer {plugin}{instead}")))
}
