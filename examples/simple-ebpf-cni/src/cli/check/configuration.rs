//! What an ADD of a network needs beside the node: its configuration, its directory, the bridge, the packet filter.

use std::fs;
use std::path::Path;

use cnikit::ipam::{Range, Store};
use cnikit::netlink::{self, Link, Socket, Sysctl};
use cnikit::plugin::{Log, LogLevel, Plugin as _};
use cnikit::runtime::{self, NetworkConfigList, PluginConfig};
use cnikit::spec::{NetworkName, PluginType};
use rustix::fs::{Access, access};
use serde_json::Value;
use simple_ebpf_cni::config::DEFAULT_DATA_DIR;
use simple_ebpf_cni::{bridge, ip, masquerade};

use super::addresses::addresses;
use super::attached::has_ports;
use super::{Check, Verdict};
use crate::cli::doctor::BIN_DIR;
use crate::cli::install::{ORDERS, numbered};
use crate::cli::manifest::{Found, Manifest};
use crate::cli::network::Network;
use crate::cli::node::{CONF_DIR, Scope};
use crate::cli::{Error, chain, remedy};
use crate::{NAME, SimpleEbpfCni};

/// What runtimes find in the directory of configurations.
pub(crate) fn configurations(
    scope: &Scope,
    bin_dir: &Path,
    host: &Socket,
    links: &[Link],
) -> Result<Vec<Check>, Error> {
    const CHECK: &str = "config";
    let dir = scope.conf_dir.display();
    let manifest = manifest(scope);
    let files = match NetworkConfigList::files(&scope.conf_dir) {
        Ok(files) => files,
        Err(error) => return Ok(vec![Check::fail(CHECK, chain(&error), format!("make {dir} a directory of files"))]),
    };
    let mut checks = Vec::new();
    let mut first = None;
    let mut has_unusable = false;
    let mut known: Vec<(&Path, Network)> = Vec::new();
    for file in &files {
        let shown = file.display();
        let list = match NetworkConfigList::load_file(file) {
            Ok(list) => list,
            Err(error) => {
                let check = unusable(file, &error.into(), manifest.as_ref(), scope);
                has_unusable |= check.verdict == Verdict::Fail;
                checks.push(check);
                continue;
            }
        };
        let is_ours = list.plugins.iter().any(|plugin| plugin.plugin_type.as_str() == NAME);
        first.get_or_insert((file, is_ours));
        if !is_ours {
            continue;
        }
        let network = match Network::of(&list, file) {
            Ok(network) => network,
            Err(error) => {
                checks.push(unusable(file, &error, manifest.as_ref(), scope));
                has_unusable = true;
                continue;
            }
        };
        let is_asked = |network: &Network| scope.network.as_ref().is_none_or(|asked| *asked == network.name);
        let of_both = known.iter().filter(|(_, other)| is_asked(other) || is_asked(&network));
        let rivals: Vec<Check> = of_both.filter_map(|(_, other)| rivals(other, &network)).collect();
        if let Some((before, _)) = known.iter().find(|(_, other)| other.name == network.name) {
            let found = format!("{shown} configures {} too, and runtimes take {}", network.name, before.display());
            checks.push(Check::warn(CHECK, found, "remove one of the two"));
            continue;
        }
        if is_asked(&network) {
            checks.push(Check::ok(CHECK, format!("{shown} configures {}", network.name)));
            let store = network.store(&network.data_dir(scope.data_dir.as_deref()))?;
            let mut found = wished(&network, &list, bin_dir, host, links)?;
            found.extend(state(&network.name, &store));
            found.extend(forwarding(&network, links));
            found.extend(log(&network));
            for check in found {
                // Of what several networks need, one line is enough.
                if !checks.contains(&check) {
                    checks.push(check);
                }
            }
        }
        checks.extend(rivals);
        known.push((file, network));
    }
    match first {
        _ if known.is_empty() && has_unusable => {}
        _ if known.is_empty() => {
            let none = if scope.conf_dir.exists() {
                format!("no file in {dir} names {NAME}")
            } else {
                format!("there is no {dir}")
            };
            checks.push(Check::warn(CHECK, none, format!("{NAME} install --subnet PREFIX")));
        }
        Some((first, false)) => checks.push(Check::warn(
            CHECK,
            format!("{} sorts first, so a runtime that takes one network takes that", first.display()),
            known.iter().find_map(|ours| moved(first, ours, manifest.as_ref()?, scope, bin_dir)).map_or_else(
                || "remove it, or rename one of the two".to_owned(),
                |command| format!("remove it, or have ours sort before it: {command}"),
            ),
        )),
        _ => {}
    }
    Ok(checks)
}

/// What `install` has written, where that can be read.
fn manifest(scope: &Scope) -> Option<Manifest> {
    Manifest::read(scope.data_dir.as_deref().unwrap_or(Path::new(DEFAULT_DATA_DIR))).ok()
}

/// The configurations of ours that no runtime can take.
pub(crate) fn unusable_ones(scope: &Scope) -> Result<Vec<Check>, Error> {
    let manifest = manifest(scope);
    let files = NetworkConfigList::files(&scope.conf_dir)?;
    let checks = files.iter().filter_map(|file| match Network::read(file) {
        Ok(_) | Err(Error::NotOurs { .. }) => None,
        Err(error) => Some(unusable(file, &error, manifest.as_ref(), scope)),
    });
    Ok(checks.filter(|check| check.verdict == Verdict::Fail).collect())
}

/// A file that cannot be used: whose it is shows by what `install` remembers or, else, by its text.
fn unusable(file: &Path, error: &Error, manifest: Option<&Manifest>, scope: &Scope) -> Check {
    const CHECK: &str = "config";
    let written = manifest.and_then(|manifest| manifest.files().find(|(path, _)| *path == file)?.1);
    if let Some(network) = written {
        let command = format!("{NAME} install --network {network} --subnet PREFIX --force{}", elsewhere(scope, None));
        return Check::fail(CHECK, chain(error), format!("correct the file, or write it anew: {command}"));
    }
    if names_us(file) {
        Check::fail(CHECK, chain(error), "correct the file")
    } else {
        Check::warn(CHECK, chain(error), "correct or remove the file")
    }
}

/// Whether the text of a file has the plugin's name in quotes, be it JSON or not.
fn names_us(file: &Path) -> bool {
    fs::read(file).is_ok_and(|text| String::from_utf8_lossy(&text).contains(&format!("\"{NAME}\"")))
}

/// The command that has a configuration sort before another file, where `install` wrote it and nobody has changed it.
fn moved(
    before: &Path,
    (file, network): &(&Path, Network),
    manifest: &Manifest,
    scope: &Scope,
    bin_dir: &Path,
) -> Option<String> {
    let is_written = manifest.files().any(|(path, _)| path == *file) && manifest.look(file).ok()? == Found::Ours;
    let sorts_before = |order: &u8| numbered(&scope.conf_dir, *order, &network.name).as_path() < before;
    let order = ORDERS.rev().find(sorts_before).filter(|_| is_written)?;
    let elsewhere = elsewhere(scope, Some(bin_dir));
    Some(format!("{NAME} install --order {order} --config {}{elsewhere}", file.display()))
}

/// The options of `install` for directories that are not the usual ones.
fn elsewhere(scope: &Scope, bin_dir: Option<&Path>) -> String {
    let dirs = [
        ("conf-dir", Some(scope.conf_dir.as_path()), CONF_DIR),
        ("data-dir", scope.data_dir.as_deref(), DEFAULT_DATA_DIR),
        ("bin-dir", bin_dir, BIN_DIR),
    ];
    let unusual =
        dirs.into_iter().filter_map(|(option, dir, usual)| Some((option, dir.filter(|dir| *dir != Path::new(usual))?)));
    unusual.map(|(option, dir)| format!(" --{option} {}", dir.display())).collect()
}

/// Whether a network can be had on this node as it is configured.
pub(crate) fn wished(
    network: &Network,
    list: &NetworkConfigList,
    bin_dir: &Path,
    host: &Socket,
    links: &[Link],
) -> Result<Vec<Check>, Error> {
    let mut checks = subnets(network, host, links)?;
    checks.extend(addresses(network, host, links)?);
    checks.extend(self::list(network, list, bin_dir));
    if network.masquerades()
        && let Err(error) = masquerade::probe_rules(&network.name)
    {
        let found = format!("the host cannot masquerade, as \"ipMasq\" of {} wants: {}", network.name, chain(&error));
        checks.push(Check::fail("masquerade", found, remedy::of_netlink(&error)));
    }
    Ok(checks)
}

/// What keeps the leases of a network from being written, if anything does.
pub(crate) fn state(network: &NetworkName, store: &Store) -> Option<Check> {
    let error = store.probe().err()?;
    let found = format!("no pod of {network} can be attached: {}", chain(&error));
    Some(Check::fail("state", found, remedy::of_ipam(&error)))
}

/// Whether the host routes what pods send to the world, or will.
pub(crate) fn forwarding(network: &Network, links: &[Link]) -> impl Iterator<Item = Check> {
    let has_pods = has_ports(network, links);
    masquerade::forwarding(network.config()).map(move |setting| forwards(network, setting, has_pods))
}

fn forwards(network: &Network, setting: Sysctl, has_pods: bool) -> Check {
    const CHECK: &str = "ip_forward";
    let (family, name) = match setting {
        Sysctl::Ipv4Forward => ("IPv4", "net.ipv4.ip_forward"),
        _ => ("IPv6", "net.ipv6.conf.all.forwarding"),
    };
    let by_hand = format!("sysctl -w {name}=1, and in /etc/sysctl.d");
    match setting.read() {
        Ok(0) if network.masquerades() && setting.is_writable() && has_pods => Check::fail(
            CHECK,
            format!("off for {family}, and {} has pods: they do not reach the world", network.name),
            by_hand + ", or attach a pod, as the next ADD turns it on; look for what has turned it off",
        ),
        Ok(0) if network.masquerades() && setting.is_writable() => {
            Check::ok(CHECK, format!("off for {family}: the first ADD of {} turns it on, by \"ipMasq\"", network.name))
        }
        Ok(0) if network.masquerades() => Check::fail(
            CHECK,
            format!("off for {family}, and {setting} cannot be written here: pods do not reach the world"),
            by_hand + "; where /proc/sys is read-only, as in a container, from outside of it",
        ),
        Ok(0) => {
            let found = format!("off for {family}: pods reach each other and this node, and nothing beyond");
            Check::warn(CHECK, found, by_hand)
        }
        Ok(_) => Check::ok(CHECK, format!("on for {family}")),
        Err(netlink::Error::SysctlMissing { .. }) if family == "IPv6" => Check::fail(
            CHECK,
            format!("the kernel has no IPv6, of which {} gives addresses", network.name),
            "boot without ipv6.disable=1, or take the IPv6 subnets out of the configuration",
        ),
        Err(error) => Check::warn(CHECK, chain(&error), "mount -t proc proc /proc"),
    }
}

/// What keeps the log from being written. No call fails for it.
fn log(network: &Network) -> Option<Check> {
    let log = Log::to_stderr(NAME).with_file(network.log_file()?, LogLevel::default());
    let error = log.probe().err()?;
    Some(Check::warn(
        "log",
        error.to_string(),
        format!("name another file as \"logFile\" of {}, or make this one's directory", network.name),
    ))
}

/// Whether the bridge and the subnets that are configured can be had.
fn subnets(network: &Network, host: &Socket, links: &[Link]) -> Result<Vec<Check>, Error> {
    let (name, config) = (&network.name, network.config());
    if let Err(failure) = bridge::look(host, name, config) {
        return Ok(vec![Check::fail("bridge", failure.to_string(), format!("change the configuration of {name}"))]);
    }
    let own = links.iter().find(|link| link.name == config.bridge).map(|link| link.index);
    let routes = host.all_routes()?;
    let others = routes.iter().filter(|route| route.dst.prefix() > 0 && Some(route.oif) != own);
    let mut checks = Vec::new();
    for route in others {
        if let Some(range) = config.ranges().find(|range| ip::overlap(range.subnet(), route.dst)) {
            let by = links.iter().find(|link| link.index == route.oif).map_or("?", |link| link.name.as_str());
            let found = format!("{} of {name} overlaps with the route to {} by {by}", range.subnet(), route.dst);
            checks.push(Check::warn("routes", found, "choose another subnet, unless that route is meant to give way"));
        }
    }
    Ok(checks)
}

/// Whether a list of plugins can do what it says.
fn list(network: &Network, list: &NetworkConfigList, bin_dir: &Path) -> Vec<Check> {
    let mut checks = chained(list, bin_dir);
    checks.extend(bypassed(network, list));
    let versions = SimpleEbpfCni.versions();
    if !versions.contains(&list.cni_version) {
        let found = format!("{} is of CNI {}, which {NAME} does not speak", network.name, list.cni_version);
        let versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
        checks.push(Check::fail("config", found, format!("set \"cniVersion\" to one of {}", versions.join(", "))));
    }
    checks
}

/// Whether two networks want the same bridge, or the same addresses.
fn rivals(one: &Network, other: &Network) -> Option<Check> {
    let (ours, theirs) = (one.config(), other.config());
    let common = |range: &Range| theirs.ranges().find(|other| ip::overlap(range.subnet(), other.subnet()));
    let found = if ours.bridge == theirs.bridge {
        format!("{} and {} both have the bridge {}, which serves one network", one.name, other.name, ours.bridge)
    } else {
        let (mine, others) = ours.ranges().find_map(|range| Some((range, common(range)?)))?;
        format!("{} of {} overlaps with {} of {}", mine.subnet(), one.name, others.subnet(), other.name)
    };
    Some(Check::fail("config", found, "change one of the two configurations"))
}

/// Whether packets that are delivered directly pass a limit by that stands in the list, of which our part is not told.
fn bypassed(network: &Network, list: &NetworkConfigList) -> Option<Check> {
    let has_rates = |plugin: &PluginConfig| {
        let keys: Value = plugin.decode().unwrap_or_default();
        ["ingressRate", "egressRate"].iter().any(|rate| keys[rate].as_u64().is_some_and(|rate| rate > 0))
    };
    let mut shapers = list.plugins.iter().filter(|plugin| plugin.plugin_type.as_str() == "bandwidth");
    if !network.config().direct_forwarding || !shapers.any(has_rates) {
        return None;
    }
    Some(Check::warn(
        "bandwidth",
        format!("packets between pods of {} are delivered directly, past the limits of bandwidth", network.name),
        "set \"directForwarding\": false and \"attach\": \"tcx\", or have the runtime ask for limits",
    ))
}

/// Whether the other plugins that a configuration names can be run.
fn chained(list: &NetworkConfigList, bin_dir: &Path) -> Vec<Check> {
    let of_ipam = list.plugins.iter().filter_map(|plugin| {
        let keys: Value = plugin.decode().ok()?;
        keys["ipam"]["type"].as_str()?.parse::<PluginType>().ok()
    });
    let named = list.plugins.iter().map(|plugin| plugin.plugin_type.clone()).chain(of_ipam);
    let others = named.filter(|plugin| plugin.as_str() != NAME);
    let missing = others.filter_map(|plugin| runtime::find(&plugin, &[bin_dir.to_owned()]).err());
    missing.map(|error| Check::fail("plugins", error.to_string(), format!("{} needs it", list.name))).collect()
}

/// Whether the binary lies where runtimes look, and is this one. Before there is a configuration, nobody needs it.
pub(crate) fn binary(bin_dir: &Path, scope: &Scope) -> Check {
    const CHECK: &str = "binary";
    let path = bin_dir.join(NAME);
    let install = || format!("{NAME} install");
    let Ok(plugin) = NAME.parse() else {
        unreachable!("the plugin's own name is a type");
    };
    match runtime::find(&plugin, &[bin_dir.to_owned()]) {
        Err(_) if path.is_file() => {
            let found = format!("{} is not executable", path.display());
            return Check::fail(CHECK, found, format!("chmod +x {}", path.display()));
        }
        Err(_) => {
            let files = NetworkConfigList::files(&scope.conf_dir).unwrap_or_default();
            let is_named = files.iter().any(|file| names_us(file));
            let found = format!("there is no {}", path.display());
            return if is_named {
                Check::fail(CHECK, format!("{found}, which every call of a runtime needs"), install())
            } else {
                Check::warn(CHECK, format!("{found}: it is not installed yet"), install())
            };
        }
        Ok(_) => {}
    }
    // The kernel answers for the mount as well.
    if let Err(errno) = access(&path, Access::EXEC_OK) {
        let found = format!("{} cannot be executed: {errno}", path.display());
        return Check::fail(
            CHECK,
            found,
            "look for noexec among the options of its mount: findmnt -T, and remount it without",
        );
    }
    let this = fs::read("/proc/self/exe").ok();
    if this.is_some() && this == fs::read(&path).ok() {
        Check::ok(CHECK, format!("{} is this one", path.display()))
    } else {
        Check::warn(CHECK, format!("{} is of another build than this one", path.display()), install())
    }
}
