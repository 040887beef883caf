//! A network of the plugin on a private host, and functions that read its state from outside.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use cnikit_testbed::{Footprint, Host, Namespace, Outcome, Plugin, Pod, host};
use serde_json::{Value, json};

/// The network's name.
pub(crate) const NAME: &str = "blackbox";

/// The first address of the subnet: the gateway, unless the configuration names another.
pub(crate) const GATEWAY: &str = "10.99.0.1";

/// The default directory of leases.
pub(crate) const DATA_DIR: &str = "/var/lib/cni/simple-ebpf-cni";

/// The directory of state that is valid until the next boot.
pub(crate) const STATE_DIR: &str = "/run/simple-ebpf-cni";

/// The record of the background processes of DEL and GC. It only makes DEL faster, and stays after
/// any DEL.
pub(crate) const ORPHANS: &str = "/run/simple-ebpf-cni/orphans";

/// Error codes of the plugin.
pub(crate) mod code {
    pub(crate) const POOL_EXHAUSTED: u64 = 100;
    pub(crate) const CORRUPT_LEASE: u64 = 102;
    pub(crate) const ADDRESS_TAKEN: u64 = 103;
    pub(crate) const DIFFERS: u64 = 110;
}

/// The binary under test.
pub(crate) fn plugin() -> Plugin {
    Plugin::new(env!("CARGO_BIN_EXE_simple-ebpf-cni"))
}

/// The directory of the binary.
pub(crate) fn bin() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_simple-ebpf-cni")).parent().expect("a path of two parts")
}

/// A minimal configuration: all optional keys are absent.
pub(crate) fn config() -> Value {
    json!({ "cniVersion": "1.0.0", "name": NAME, "type": "simple-ebpf-cni", "subnet": "10.99.0.0/24" })
}

/// Runs a test on a private host. Only the shared parts of the network may remain.
#[track_caller]
pub(crate) fn on_host(test: impl FnOnce(&Network) + Send) {
    host(|host| {
        let network = Network { host, plugin: plugin(), config: config() };
        for line in ["link cbr0 ", "address cbr0 ", "route 10.99.0.", "pin /sys/fs/bpf/simple-ebpf-cni/"] {
            host.keep(line);
        }
        bookkeeping().iter().for_each(|line| host.keep(line));
        test(&network);
        assert_eq!(network.map_entries().lines().collect::<Vec<_>>(), [""; 0], "the test left entries in the maps");
        let state = Footprint::of_files(STATE_DIR).beyond(&Footprint::default(), &[format!("file {ORPHANS} ")]);
        assert!(state.is_empty(), "the test left behind:\n{state}");
    });
}

/// A network of the plugin.
pub(crate) struct Network<'h> {
    pub(crate) host: &'h Host,
    pub(crate) plugin: Plugin,
    pub(crate) config: Value,
}

/// An attached pod, and the result of its ADD.
pub(crate) struct Attached {
    pub(crate) container: String,
    pub(crate) pod: Pod,
    pub(crate) result: Value,
}

/// An entry of `pkt_count`, summed over the CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) tx_packets: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) tx_direct: u64,
    pub(crate) rx_packets: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) rx_direct: u64,
}

impl Network<'_> {
    /// Calls a verb on an attachment with the network's configuration.
    #[track_caller]
    pub(crate) fn call(&self, verb: &str, container: &str, pod: &Pod) -> Outcome {
        self.plugin.on(verb, &self.config, container, pod).run()
    }

    /// Attaches a new pod.
    #[track_caller]
    pub(crate) fn attach(&self, container: &str) -> Attached {
        self.attach_pod(container, self.host.pod())
    }

    /// Attaches a pod.
    #[track_caller]
    pub(crate) fn attach_pod(&self, container: &str, pod: Pod) -> Attached {
        let result = self.call("ADD", container, &pod).result();
        Attached { container: container.to_owned(), pod, result }
    }

    /// Detaches a pod.
    #[track_caller]
    pub(crate) fn detach(&self, attached: &Attached) {
        self.call("DEL", &attached.container, &attached.pod).silent();
    }

    /// Calls CHECK with the result of the attachment's ADD.
    #[track_caller]
    pub(crate) fn check(&self, attached: &Attached) -> Outcome {
        let config = self.with("prevResult", attached.result.clone());
        self.plugin.on("CHECK", &config, &attached.container, &attached.pod).run()
    }

    /// The same network with another configuration.
    pub(crate) fn by(&self, config: Value) -> Network<'_> {
        Network { host: self.host, plugin: self.plugin.clone(), config }
    }

    /// The configuration with one key set.
    pub(crate) fn with(&self, key: &str, value: impl Into<Value>) -> Value {
        let mut config = self.config.clone();
        config[key] = value.into();
        config
    }

    /// The configuration without its subnet, and with these keys.
    #[track_caller]
    pub(crate) fn with_keys(&self, keys: Value) -> Value {
        let mut config = self.config.clone();
        let object = config.as_object_mut().expect("an object");
        object.remove("subnet");
        object.extend(keys.as_object().expect("an object").clone());
        config
    }

    /// A pinned map or program of the network.
    #[track_caller]
    pub(crate) fn pin(&self, name: &str) -> PathBuf {
        let pins = Path::new("/sys/fs/bpf/simple-ebpf-cni").join(NAME);
        let layouts = std::fs::read_dir(&pins).unwrap_or_else(|error| panic!("{}: {error}", pins.display()));
        let layouts = layouts.filter_map(|entry| Some(entry.ok()?.path()));
        let layouts: Vec<PathBuf> = layouts.filter(|path| !path.ends_with("links") && !path.ends_with("xdp")).collect();
        assert_eq!(layouts.len(), 1, "one layout is pinned: {layouts:?}");
        layouts[0].join(name)
    }

    /// Marks the pinned programs as a different build for the plugin.
    #[track_caller]
    pub(crate) fn make_foreign(&self) {
        let directory = self.pin("");
        let entries = std::fs::read_dir(&directory).expect("the pins").filter_map(Result::ok);
        let is_mark = |entry: &std::fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b"build-");
        let marks: Vec<_> = entries.filter(is_mark).collect();
        assert_eq!(marks.len(), 1, "{marks:?}");
        std::fs::rename(marks[0].path(), directory.join("build-of-another")).expect("bpffs allows a rename");
    }

    /// The kernel's id of a pinned program.
    #[track_caller]
    pub(crate) fn program_id(&self, name: &str) -> u64 {
        let pin = self.pin(name);
        let shown = self.host.command("bpftool").args(["-j", "prog", "show", "pinned"]).arg(pin).json();
        shown["id"].as_u64().unwrap_or_else(|| panic!("no program id in {shown}"))
    }

    /// The entries of a pinned map, with keys and values named by its BTF.
    #[track_caller]
    pub(crate) fn map(&self, name: &str) -> Vec<Value> {
        let pin = self.pin(name);
        let dump = self.host.command("bpftool").args(["-j", "map", "dump", "pinned"]).arg(pin).json();
        let entries = dump.as_array().unwrap_or_else(|| panic!("the dump of {name} is no list: {dump}"));
        entries.iter().map(|entry| entry["formatted"].clone()).collect()
    }

    /// Removes the entry of an address from a pinned map.
    #[track_caller]
    pub(crate) fn remove_entry(&self, map: &str, address: &str) {
        let octets = address.split('.');
        let command = self.host.command("bpftool").args(["map", "delete", "pinned"]).arg(self.pin(map));
        command.arg("key").args(octets).run();
    }

    /// The counters of an address, if it has an entry.
    #[track_caller]
    pub(crate) fn counters(&self, address: &str) -> Option<Counters> {
        let address: IpAddr = address.parse().expect("an address");
        let map = if address.is_ipv4() { "pkt_count" } else { "pkt_count_v6" };
        let entry = self.map(map).into_iter().find(|entry| key(&entry["key"]) == address.to_string())?;
        let sum = |field: &str| {
            let values = entry["values"].as_array().expect("a per-CPU map has a value for each CPU");
            values.iter().map(|value| value["value"][field].as_u64().expect("a counter")).sum()
        };
        let [tx_packets, tx_bytes, tx_direct] = ["tx_packets", "tx_bytes", "tx_direct"].map(sum);
        let [rx_packets, rx_bytes, rx_direct] = ["rx_packets", "rx_bytes", "rx_direct"].map(sum);
        Some(Counters { tx_packets, tx_bytes, tx_direct, rx_packets, rx_bytes, rx_direct })
    }

    /// The leased addresses, by the files below `dataDir`.
    pub(crate) fn taken(&self) -> BTreeSet<String> {
        let folder = Path::new(DATA_DIR).join(NAME).join("addresses");
        let Ok(entries) = std::fs::read_dir(folder) else {
            return BTreeSet::new();
        };
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
    }

    /// The lease file of an attachment.
    pub(crate) fn lease(&self, container: &str) -> PathBuf {
        Path::new(DATA_DIR).join(NAME).join("leases").join(format!("{container}@eth0.json"))
    }

    /// A line for each map entry that belongs to a pod, without the counters.
    #[track_caller]
    pub(crate) fn map_entries(&self) -> Footprint {
        if !Path::new("/sys/fs/bpf/simple-ebpf-cni").join(NAME).exists() {
            return Footprint::default();
        }
        // The gateway's entries name the bridge. Its ifindex comes from the kernel and counts up
        // from 1. If the kernel refused the types of a map, libbpf creates it without, and its
        // entries have no fields.
        let is_pods =
            |entry: &Value| !entry.is_null() && entry["value"]["ifindex"].as_u64().is_none_or(|index| index >= 1 << 30);
        [
            "pkt_count",
            "pkt_count_v6",
            "pod_ifindex",
            "pod_ifindex_v6",
            "port_config",
            "port_drops",
            "port_addresses",
            "port_xdp",
        ]
        .into_iter()
        .flat_map(|map| self.map(map).into_iter().map(move |entry| (map, entry)))
        .filter(|(_, entry)| is_pods(entry))
        .map(|(map, entry)| format!("entry {map} {}", key(&entry["key"])))
        .collect()
    }

    /// The whole state of the network: on the host, in the maps, and attached to its links.
    #[track_caller]
    pub(crate) fn footprint(&self) -> Footprint {
        let mut attached = Vec::new();
        for qdisc in
            self.host.tc("qdisc show").as_array().into_iter().flatten().filter(|qdisc| qdisc["kind"] == "clsact")
        {
            let [device, ingress, egress] = ["dev", "ingress_block", "egress_block"].map(|key| &qdisc[key]);
            attached.push(format!("clsact {device} blocks {ingress} {egress}"));
        }
        for block in self.blocks() {
            let filters = self.host.tc(&format!("filter show block {block}"));
            // The list also contains the chain of a filter, without options.
            for filter in filters.as_array().into_iter().flatten().filter(|filter| !filter["options"].is_null()) {
                attached.push(format!("filter block {block} {} {}", filter["pref"], filter["options"]));
            }
        }
        attached.extend(self.rules());
        let host = self.host.footprint().and(self.map_entries()).and(attached.into_iter().collect());
        host.beyond(&Footprint::default(), &bookkeeping())
    }

    /// The tables, chains and rules of nftables in their order, if the network masquerades.
    #[track_caller]
    fn rules(&self) -> Vec<String> {
        if self.config["ipMasq"] != true {
            return Vec::new();
        }
        let listed = self.host.command("nft").words("-j list ruleset").json();
        let objects = listed["nftables"].as_array().into_iter().flatten();
        let mut rules = Vec::new();
        for object in objects.filter(|object| object.get("metainfo").is_none()) {
            let mut object = object.clone();
            // The kernel assigns a new number to each new object.
            for kind in ["table", "chain", "rule"] {
                if let Some(fields) = object[kind].as_object_mut() {
                    fields.remove("handle");
                }
            }
            rules.push(format!("nftables {} {object}", rules.len()));
        }
        rules
    }

    /// The filter blocks that the bridge anchors.
    #[track_caller]
    pub(crate) fn blocks(&self) -> BTreeSet<u64> {
        if self.host.link("cbr0").is_none() {
            return BTreeSet::new();
        }
        let qdiscs = self.host.tc("qdisc show dev cbr0");
        let qdiscs = qdiscs.as_array().into_iter().flatten();
        qdiscs.flat_map(|qdisc| ["ingress_block", "egress_block"].map(|key| qdisc[key].as_u64())).flatten().collect()
    }

    /// Removes the programs under all pods.
    #[track_caller]
    pub(crate) fn detach_programs(&self) {
        let blocks = self.blocks();
        assert!(!blocks.is_empty(), "the bridge anchors no block: {}", self.host.tc("qdisc show"));
        for block in blocks {
            self.host.command("tc").words(&format!("filter del block {block}")).run();
        }
    }
}

impl Attached {
    /// The pod's address, without its prefix length.
    #[track_caller]
    pub(crate) fn address(&self) -> &str {
        let address = self.result["ips"][0]["address"].as_str().expect("the result has an address");
        address.split_once('/').expect("an address with a prefix length").0
    }

    /// The host end of the pair.
    #[track_caller]
    pub(crate) fn host_veth(&self) -> &str {
        self.result["interfaces"][1]["name"].as_str().expect("the result names the host's end")
    }

    /// The MAC of the pod's end.
    #[track_caller]
    pub(crate) fn mac(&self) -> &str {
        self.result["interfaces"][2]["mac"].as_str().expect("the result has the pod's MAC")
    }
}

/// Makes a host filter bridged packets and drop invalid ones, as kube-proxy configures a node.
/// Returns false, and prints a `SKIP` line, if the kernel has no br_netfilter.
#[track_caller]
pub(crate) fn drop_invalid(host: &Host) -> bool {
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a writable /proc");
    if std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "1").is_err() {
        cnikit_testbed::skipped("the kernel has no br_netfilter");
        return false;
    }
    let rules = "table ip test {
        chain forward {
            type filter hook forward priority filter
            ct state invalid drop
        }
    }";
    host.command("nft").args(["-f", "-"]).stdin(rules).run();
    true
}

/// Suppresses the IPv6 multicasts of links that come up in the namespace of the calling thread.
pub(crate) fn silence() {
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("a kernel with IPv6");
}

/// The number of frames of any kind that a pod has received.
#[track_caller]
pub(crate) fn heard(pod: &Pod) -> u64 {
    let links = pod.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev")).expect("/proc is mounted");
    let counters = links.lines().find_map(|line| line.trim().strip_prefix("eth0:"));
    let frames = counters.and_then(|counters| counters.split_whitespace().nth(1)?.parse().ok());
    frames.unwrap_or_else(|| panic!("nothing is counted for eth0: {links}"))
}

/// The files for the leases of a network as a whole, as lines of a footprint begin.
fn bookkeeping() -> [String; 2] {
    ["lock", "damaged/"].map(|file| format!("file {DATA_DIR}/{NAME}/{file}"))
}

/// The key of a map entry as text: `{"octet": [10, 99, 0, 2]}` becomes `10.99.0.2`, and an index
/// stays.
fn key(key: &Value) -> String {
    let octets: Option<Vec<u8>> = serde_json::from_value(key["octet"].clone()).ok();
    match octets.as_deref() {
        Some(&[a, b, c, d]) => Ipv4Addr::new(a, b, c, d).to_string(),
        Some(octets) => Ipv6Addr::from(<[u8; 16]>::try_from(octets).expect("4 or 16 octets")).to_string(),
        None => key.to_string(),
    }
}
