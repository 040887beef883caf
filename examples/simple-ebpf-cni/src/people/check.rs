//! What a node, its configurations and its networks are checked for.

use std::fs;
use std::path::Path;

use cnikit::ipam::Range;
use cnikit::netlink::{Link, Socket, Sysctl};
use cnikit::plugin::Plugin as _;
use cnikit::runtime::{self, NetworkList, PluginConf};
use cnikit::spec::PluginType;
use serde::Serialize;
use serde_json::Value;

use super::attached::pods;
use super::network::Network;
use super::node::{Known, Scope};
use super::text::count;
use super::{Error, chain, trial};
use crate::rows::Rows;
use crate::{NAME, SimpleEbpfCni, bridge};

/// What was looked at, and what came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    pub(crate) check: &'static str,
    pub(crate) verdict: Verdict,
    pub(crate) found: String,
    /// What to do about it.
    pub(crate) remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    /// Pods work, but not all that somebody may expect.
    Warn,
    /// Pods cannot be attached, or do not work.
    Fail,
}

/// The oldest kernel that the programs were tried on.
const LEAST_KERNEL: (u32, u32) = (5, 10);

/// What the kernel calls a capability in `/proc/self/status`: the number of its bit.
const CAPABILITIES: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21), ("CAP_BPF", 39)];

impl Check {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), remedy: None }
    }

    fn warn(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warn, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn fail(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fail, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// What an ADD of any network needs of the node.
pub(crate) fn node() -> Vec<Check> {
    let mut checks = vec![kernel(), capabilities(), bpffs()];
    // It would complain of the same, or mount the file system.
    if checks.iter().all(|check| check.verdict == Verdict::Ok) {
        checks.push(match trial::run() {
            Ok(()) => Check::ok("trial", "a bridge, a pair and the eBPF programs work, in a namespace of their own"),
            Err(error) => Check::fail("trial", error.to_string(), "use a kernel with what README.md lists"),
        });
    } else {
        checks.push(Check::warn("trial", "not made, for what stands above", "run it again when that is done"));
    }
    checks.extend([btf(), ip_forward(), bridge_netfilter()]);
    checks
}

fn kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    if version >= LEAST_KERNEL {
        Check::ok("kernel", release)
    } else {
        let (major, minor) = LEAST_KERNEL;
        Check::fail("kernel", format!("{release:?} is too old"), format!("boot Linux {major}.{minor} or newer"))
    }
}

fn capabilities() -> Check {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    let effective = effective.unwrap_or_default();
    let missing = CAPABILITIES.iter().filter(|(_, bit)| effective >> bit & 1 == 0);
    let missing: Vec<&str> = missing.map(|(name, _)| *name).collect();
    if missing.is_empty() {
        Check::ok("capabilities", "all that are needed")
    } else {
        Check::fail("capabilities", format!("this process lacks {}", missing.join(", ")), "run it as root")
    }
}

fn bpffs() -> Check {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let is_there = { fields }.any(|fields| fields.get(1..3) == Some(&["/sys/fs/bpf", "bpf"]));
    if is_there {
        return Check::ok("bpffs", "mounted on /sys/fs/bpf");
    }
    // An ADD may run in a mount namespace of its runtime's, where what it mounts is nobody else's.
    Check::warn(
        "bpffs",
        "not mounted: the first ADD does it",
        "mount -t bpf bpf /sys/fs/bpf, and by /etc/fstab at boot",
    )
}

fn btf() -> Check {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        Check::ok("BTF", "the kernel has its types")
    } else {
        Check::warn(
            "BTF",
            "none of the kernel's own: the plugin does without",
            "bpftool shows more with CONFIG_DEBUG_INFO_BTF",
        )
    }
}

fn ip_forward() -> Check {
    match Sysctl::Ipv4Forward.read() {
        Ok(0) => Check::warn(
            "ip_forward",
            "off: pods reach each other and this node, and nothing beyond",
            "sysctl -w net.ipv4.ip_forward=1, and in /etc/sysctl.d",
        ),
        Ok(_) => Check::ok("ip_forward", "on"),
        Err(error) => Check::warn("ip_forward", chain(&error), "mount /proc"),
    }
}

fn bridge_netfilter() -> Check {
    const CHECK: &str = "br_netfilter";
    match Sysctl::BridgeNfCallIptables.read() {
        Ok(1..) => Check::ok(CHECK, "on: Services lead to pods of the same node"),
        // Only where something translates service addresses does it matter.
        _ if !Path::new("/var/lib/kubelet").exists() => Check::ok(CHECK, "off, and no kubelet here that would need it"),
        Ok(_) => Check::warn(
            CHECK,
            "off: a Service does not lead to a pod of the node that asks",
            "sysctl -w net.bridge.bridge-nf-call-iptables=1",
        ),
        Err(_) => Check::warn(
            CHECK,
            "not loaded: a Service does not lead to a pod of the node that asks",
            "modprobe br_netfilter, and name it in /etc/modules-load.d",
        ),
    }
}

/// What runtimes find in the directory of configurations.
pub(crate) fn configurations(
    scope: &Scope,
    bin_dir: &Path,
    host: &Socket,
    links: &[Link],
) -> Result<Vec<Check>, Error> {
    const CHECK: &str = "config";
    let dir = scope.conf_dir.display();
    let mut checks = Vec::new();
    let mut first = None;
    let mut ours = 0;
    let mut known: Vec<Network> = Vec::new();
    for file in NetworkList::files(&scope.conf_dir)? {
        let shown = file.display();
        let list = match NetworkList::load_file(&file) {
            Ok(list) => list,
            Err(error) => {
                checks.push(Check::warn(CHECK, chain(&error), "correct or remove the file"));
                continue;
            }
        };
        let is_ours = list.plugins.iter().any(|plugin| plugin.plugin_type.as_str() == NAME);
        first.get_or_insert_with(|| (file.clone(), is_ours));
        if !is_ours {
            continue;
        }
        ours += 1;
        match Network::of(&list, &file) {
            Ok(network) => {
                checks.push(Check::ok(CHECK, format!("{shown} configures {}", network.name)));
                checks.extend(subnets(&network, host, links)?);
                checks.extend(self::list(&network, &list, bin_dir));
                checks.extend(known.iter().filter_map(|other| rivals(other, &network)));
                known.push(network);
            }
            Err(error) => checks.push(Check::fail(CHECK, chain(&error), "correct the file")),
        }
    }
    match first {
        _ if ours == 0 => {
            checks.push(Check::warn(
                CHECK,
                format!("no file in {dir} names {NAME}"),
                format!("{NAME} install --subnet PREFIX"),
            ));
        }
        Some((first, false)) => checks.push(Check::warn(
            CHECK,
            format!("{} sorts first, so a runtime that takes one network takes that", first.display()),
            "remove it, or rename one of the two",
        )),
        _ => {}
    }
    Ok(checks)
}

/// Whether the bridge and the subnets that are configured can be had.
pub(crate) fn subnets(network: &Network, host: &Socket, links: &[Link]) -> Result<Vec<Check>, Error> {
    let (name, config) = (&network.name, network.config());
    if let Err(failure) = bridge::look(host, name, config) {
        return Ok(vec![Check::fail("bridge", failure.to_string(), format!("change the configuration of {name}"))]);
    }
    let own = links.iter().find(|link| link.name == config.bridge).map(|link| link.index);
    let routes = host.all_routes()?;
    let others = routes.iter().filter(|route| route.dst.prefix() > 0 && Some(route.oif) != own);
    let mut checks = Vec::new();
    for route in others {
        if let Some(range) = config.ranges().find(|range| bridge::overlap(range.subnet(), route.dst)) {
            let by = links.iter().find(|link| link.index == route.oif).map_or("?", |link| link.name.as_str());
            let found = format!("{} of {name} overlaps with the route to {} by {by}", range.subnet(), route.dst);
            checks.push(Check::warn("routes", found, "choose another subnet, unless that route is meant to give way"));
        }
    }
    let forwards_ipv6 = Sysctl::Ipv6Forward.read().is_ok_and(|value| value > 0);
    if !forwards_ipv6 && config.ranges().any(|range| range.subnet().is_ipv6()) {
        checks.push(Check::warn(
            "ip_forward",
            "off for IPv6: pods reach each other and this node, and nothing beyond",
            "sysctl -w net.ipv6.conf.all.forwarding=1, and in /etc/sysctl.d",
        ));
    }
    Ok(checks)
}

/// Whether a list of plugins can do what it says.
pub(crate) fn list(network: &Network, list: &NetworkList, bin_dir: &Path) -> Vec<Check> {
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
    let common = |range: &Range| theirs.ranges().find(|other| bridge::overlap(range.subnet(), other.subnet()));
    let found = if ours.bridge == theirs.bridge {
        format!("{} and {} both have the bridge {}, which serves one network", one.name, other.name, ours.bridge)
    } else {
        let (mine, others) = ours.ranges().find_map(|range| Some((range, common(range)?)))?;
        format!("{} of {} overlaps with {} of {}", mine.subnet(), one.name, others.subnet(), other.name)
    };
    Some(Check::fail("config", found, "change one of the two configurations"))
}

/// Whether packets that are delivered directly pass a limit by that stands in the list, of which our part is not told.
fn bypassed(network: &Network, list: &NetworkList) -> Option<Check> {
    let has_rates = |plugin: &PluginConf| {
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
fn chained(list: &NetworkList, bin_dir: &Path) -> Vec<Check> {
    let of_ipam = list.plugins.iter().filter_map(|plugin| {
        let keys: Value = plugin.decode().ok()?;
        keys["ipam"]["type"].as_str()?.parse::<PluginType>().ok()
    });
    let named = list.plugins.iter().map(|plugin| plugin.plugin_type.clone()).chain(of_ipam);
    let others = named.filter(|plugin| plugin.as_str() != NAME);
    let missing = others.filter_map(|plugin| runtime::find(&plugin, &[bin_dir.to_owned()]).err());
    missing.map(|error| Check::fail("plugins", error.to_string(), format!("{} needs it", list.name))).collect()
}

/// Whether the binary lies where runtimes look, and is this one.
pub(crate) fn binary(bin_dir: &Path) -> Check {
    const CHECK: &str = "binary";
    let path = bin_dir.join(NAME);
    let install = || format!("{NAME} install");
    let Ok(plugin) = NAME.parse() else {
        unreachable!("the plugin's own name is a type");
    };
    if let Err(error) = runtime::find(&plugin, &[bin_dir.to_owned()]) {
        return Check::fail(CHECK, error.to_string(), install());
    }
    let this = fs::read("/proc/self/exe").ok();
    if this.is_some() && this == fs::read(&path).ok() {
        Check::ok(CHECK, format!("{} is this one", path.display()))
    } else {
        Check::warn(CHECK, format!("{} is of another build than this one", path.display()), install())
    }
}

/// What of a network is left over, or not whole.
pub(crate) fn network(known: &Known, links: &[Link]) -> Result<Vec<Check>, Error> {
    let Known { name, configured, store, datapath } = known;
    let mut checks = Vec::new();
    for error in store.leases()?.filter_map(Result::err) {
        checks.push(Check::warn("leases", chain(&error), "the next DEL or GC puts the file out of the way"));
    }
    let pods = pods(known, links)?;
    let gone = pods.iter().filter(|pod| pod.host_interface.is_none()).count();
    if gone > 0 {
        let found = format!("{} of {name} have no interface any more", count(gone, "lease"));
        checks.push(Check::warn("leases", found, "the runtime's GC frees them, or an ADD that finds the pool dry"));
    }
    if datapath.is_complete()? {
        let rows = Rows::open(datapath)?.indexes()?;
        let lost = rows.iter().filter(|row| links.iter().all(|link| link.index != **row)).count();
        if lost > 0 {
            let found = format!("{} in the maps of {name} lead to no interface", count(lost, "row"));
            checks.push(Check::warn("rows", found, "the runtime's GC removes them"));
        }
    } else if !pods.is_empty() {
        let found = format!("the pins of {name} are not whole: {}", datapath.directory().display());
        checks.push(Check::warn("pins", found, "the next ADD loads the programs again"));
    }
    if configured.is_none() && pods.is_empty() && datapath.is_complete()? {
        let found = format!("{name} has no pods and no configuration, and its programs are pinned");
        checks.push(Check::warn("pins", found, format!("{NAME} uninstall --purge --network {name}")));
    }
    if checks.is_empty() {
        checks.push(Check::ok("network", format!("{name} is whole, with {}", count(pods.len(), "pod"))));
    }
    Ok(checks)
}
