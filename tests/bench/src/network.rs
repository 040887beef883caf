//! A network of a contestant, and its pods.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cnikit_testbed::{Host, Invocation, Namespace as _, Plugin, Pod};
use serde_json::{Value, json};

use crate::call::timed;
use crate::interrupt;
use crate::options::Common;

/// The kernel works for some 20 ms after a pair is deleted. The next measurement must not include
/// that work.
const SETTLE: Duration = Duration::from_millis(40);

/// The number of parallel calls that attach the remaining pods.
const POPULATE_WIDTH: NonZeroUsize = NonZeroUsize::new(4).expect("it is not zero");

/// The timeout for attaching the remaining pods.
const TOO_LONG: Duration = Duration::from_secs(240);

/// The features of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    Ipv4,
    Disk,
    DualStack,
    Masquerade,
    /// With nftables, if a peer has that option. This plugin always uses nftables.
    MasqueradeNft,
}

/// A plugin in the comparison.
#[derive(Debug, Clone)]
pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    binary: PathBuf,
}

/// A network with pods, on the host of the calling thread.
pub(crate) struct Network {
    plugin: Plugin,
    pub(crate) config: Value,
    addresses: usize,
    pods: Vec<Pod>,
    /// Pods of finished calls. They are deleted together later, because the deletion disturbs the
    /// measurement.
    spent: Vec<Pod>,
}

/// The times of the commands for one pod.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallTimes {
    pub(crate) add: Duration,
    pub(crate) check: Duration,
    pub(crate) del: Duration,
}

impl Case {
    pub(crate) const ALL: [Self; 5] = [Self::Ipv4, Self::Disk, Self::DualStack, Self::Masquerade, Self::MasqueradeNft];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Disk => "IPv4, disk",
            Self::DualStack => "dual stack",
            Self::Masquerade => "IPv4, masquerade",
            Self::MasqueradeNft => "IPv4, masquerade, nftables",
        }
    }
}

/// The contestants of a case.
pub(crate) fn peers_of(case: Case, contestants: &[Contestant]) -> impl Iterator<Item = &Contestant> {
    // Here `ptp` would add no information over `bridge`.
    let tells =
        move |contestant: &&Contestant| !matches!(case, Case::Disk | Case::MasqueradeNft) || contestant.name != "ptp";
    contestants.iter().filter(tells)
}

impl Contestant {
    /// This plugin, and the installed reference plugins.
    pub(crate) fn find(options: &Common) -> Vec<Self> {
        let whole = |path: &Path| path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut found = vec![Self { name: "cnikit", binary: whole(&options.plugin) }];
        let has = |name: &str| options.peers.join(name).exists();
        for name in ["bridge", "ptp"] {
            if has(name) && has("host-local") {
                found.push(Self { name, binary: whole(&options.peers.join(name)) });
            } else {
                eprintln!("NOT MEASURED: {name}: the plugin or host-local is missing in {}", options.peers.display());
            }
        }
        found
    }

    /// A network without pods. Its state is below `/var/lib/cni`, on a tmpfs of the host, except in
    /// the disk case.
    pub(crate) fn network(&self, case: Case, disk: &Path) -> Network {
        let (v4, v6) = ("10.50.0.0/16", "fd00:50::/64");
        let dual = case == Case::DualStack;
        let ranges: Vec<Value> = [v4, v6][..1 + usize::from(dual)].iter().map(|net| json!({ "subnet": net })).collect();
        let masquerade = matches!(case, Case::Masquerade | Case::MasqueradeNft);
        let mut config = json!({ "cniVersion": "1.0.0", "name": "bench", "ipMasq": masquerade });
        match self.name {
            "cnikit" => {
                config["type"] = "simple-ebpf-cni".into();
                config["subnets"] = ranges.into();
            }
            name => {
                config["type"] = name.into();
                let ranges: Vec<Value> = ranges.into_iter().map(|range| json!([range])).collect();
                config["ipam"] = json!({ "type": "host-local", "ranges": ranges, "routes": [{ "dst": "0.0.0.0/0" }] });
                if name == "bridge" {
                    config["isGateway"] = true.into();
                }
                if dual {
                    config["ipam"]["routes"] = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
                }
            }
        }
        if case == Case::MasqueradeNft && self.name != "cnikit" {
            config["ipMasqBackend"] = "nftables".into();
        }
        if case == Case::Disk {
            let folder = disk.join(self.name).display().to_string();
            match self.name {
                "cnikit" => config["dataDir"] = folder.into(),
                _ => config["ipam"]["dataDir"] = folder.into(),
            }
        }
        let addresses = 1 + usize::from(dual);
        Network { plugin: Plugin::new(&self.binary), config, addresses, pods: Vec::new(), spent: Vec::new() }
    }
}

impl Network {
    /// A call of a command for a pod.
    pub(crate) fn call(&self, verb: &str, container: &str, pod: &Pod) -> Invocation {
        self.plugin.on(verb, &self.config, container, pod)
    }

    /// Attaches, checks and detaches a new pod.
    pub(crate) fn call_times(&mut self, host: &Host) -> CallTimes {
        let (pod, container) = (host.pod(), "c".repeat(64));
        let (add, result) = timed(&self.call("ADD", &container, &pod));
        self.addresses_of(&result);
        let mut config = self.config.clone();
        config["prevResult"] = result;
        let (check, _) = timed(&self.plugin.on("CHECK", &config, &container, &pod));
        let (del, _) = timed(&self.call("DEL", &container, &pod));
        assert!(pod.link("eth0").is_none(), "DEL did not delete the pod's interface");
        self.spent.push(pod);
        thread::sleep(SETTLE);
        CallTimes { add, check, del }
    }

    /// [Populates](Self::populate) and checks the network, unless that would take too long. Returns
    /// whether it did.
    pub(crate) fn populate_in_time(&mut self, host: &Host, count: usize) -> bool {
        let missing = count.saturating_sub(self.pods.len());
        let one = self.call_times(host).add;
        let expected = one * u32::try_from(missing.div_ceil(POPULATE_WIDTH.get())).unwrap_or(u32::MAX);
        if expected > TOO_LONG {
            return false;
        }
        self.populate(host, count);
        self.assert_connected();
        true
    }

    /// Whether the plugin applied the configuration: old versions ignore unknown keys.
    pub(crate) fn supported(&self, host: &Host) -> bool {
        self.config["ipMasqBackend"] != "nftables"
            || host.command("nft").words("list tables").run().contains("cni_plugins_masquerade")
    }

    /// Attaches pods that stay, until there are this many.
    pub(crate) fn populate(&mut self, host: &Host, count: usize) {
        let new: Vec<Pod> = (self.pods.len()..count).map(|_| host.pod()).collect();
        let first = self.pods.len();
        self.run_parallel("ADD", POPULATE_WIDTH, first, &new);
        self.pods.extend(new);
    }

    /// Checks that the remaining pods reach each other, which proves that the measured calls
    /// worked. There are at least two pods.
    pub(crate) fn assert_connected(&self) {
        let [.., one, other] = self.pods.as_slice() else { return };
        let addresses = other.addresses("eth0");
        let address = addresses[0].split('/').next().expect("a first part");
        let pinged = one.ping(address, 3);
        assert!(pinged.status.success(), "no answer from {address}: {}", pinged.stdout);
    }

    /// Takes the last two remaining pods.
    pub(crate) fn take_last_two(&mut self) -> (Pod, Pod) {
        (self.take_last(), self.take_last())
    }

    /// Takes the last remaining pod.
    pub(crate) fn take_last(&mut self) -> Pod {
        self.pods.pop().expect("there is a pod")
    }

    /// Attaches and detaches this number of pods with `width` parallel calls. Returns the times of
    /// all ADDs and of all DELs.
    pub(crate) fn burst(&mut self, host: &Host, count: usize, width: NonZeroUsize) -> [Duration; 2] {
        let new: Vec<Pod> = (0..count).map(|_| host.pod()).collect();
        let times = ["ADD", "DEL"].map(|verb| {
            let taken = self.run_parallel(verb, width, self.pods.len(), &new);
            thread::sleep(3 * SETTLE);
            taken
        });
        self.spent.extend(new);
        times
    }

    /// Deletes the pods of finished calls, and waits until the kernel has probably done the rest.
    pub(crate) fn settle(&mut self) {
        let ended = !self.spent.is_empty();
        self.spent.clear();
        if ended {
            thread::sleep(5 * SETTLE);
        }
    }

    /// Calls a command for pods numbered from `first`. `width` threads process them.
    fn run_parallel(&self, verb: &str, width: NonZeroUsize, first: usize, pods: &[Pod]) -> Duration {
        let numbered: Vec<(usize, &Pod)> = (first..).zip(pods).collect();
        let calls: Vec<_> =
            numbered.iter().map(|(number, pod)| self.call(verb, &format!("{number:064x}"), pod)).collect();
        let (next, addresses) = (AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
        let work = || {
            while !interrupt::is_wanted()
                && let Some(call) = calls.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let (_, result) = timed(call);
                if verb == "ADD" {
                    addresses.lock().expect("no thread panicked").extend(self.addresses_of(&result));
                }
            }
        };
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 0..width.get() {
                scope.spawn(work);
            }
        });
        let taken = start.elapsed();
        // Not on the threads above, because their panics would be printed.
        interrupt::check();
        let distinct = addresses.into_inner().expect("no thread panicked").len();
        let expected = if verb == "ADD" { calls.len() * self.addresses } else { 0 };
        assert_eq!(distinct, expected, "two pods have the same address");
        taken
    }

    /// The addresses in the result of an ADD. There must be one for each family.
    fn addresses_of(&self, result: &Value) -> Vec<String> {
        let ips = result["ips"].as_array().map_or(&[][..], Vec::as_slice);
        assert_eq!(ips.len(), self.addresses, "addresses in {result}");
        ips.iter().map(|ip| ip["address"].as_str().expect("an address").to_owned()).collect()
    }
}
