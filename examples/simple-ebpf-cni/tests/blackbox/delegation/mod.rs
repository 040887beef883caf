//! Addresses from another plugin: Debian's `host-local` and `static`.

mod order;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cnikit_testbed::{Invocation, Namespace, Pod};
use serde_json::{Value, json};

use crate::support::{NAME, Network, on_host};

/// Debian's directory of plugins.
const PEERS: &str = "/usr/lib/cni";

/// A network with addresses of `host-local`.
struct HostLocal<'n> {
    network: &'n Network<'n>,
    config: Value,
    dir: PathBuf,
}

impl<'n> HostLocal<'n> {
    fn new(network: &'n Network<'n>) -> Self {
        let dir = network.host.scratch();
        let config =
            network.with_keys(json!({ "ipam": { "type": "host-local", "subnet": "10.99.0.0/24", "dataDir": dir } }));
        Self { network, config, dir }
    }

    fn call(&self, verb: &str, container: &str, pod: &Pod) -> Invocation {
        self.network.plugin.on(verb, &self.config, container, pod).env("CNI_PATH", PEERS)
    }

    /// The addresses that `host-local` holds. It has one file per address, with the address as its
    /// name.
    fn held(&self) -> BTreeSet<String> {
        let files = fs::read_dir(self.dir.join(NAME));
        let names = files.into_iter().flatten().filter_map(|file| file.ok()?.file_name().into_string().ok());
        names.filter(|name| name.starts_with("10.")).collect()
    }

    #[track_caller]
    fn check(&self, result: &Value, pod: &Pod) {
        let mut config = self.config.clone();
        config["prevResult"] = result.clone();
        self.network.plugin.on("CHECK", &config, "one", pod).env("CNI_PATH", PEERS).run().silent();
    }
}

#[test]
fn host_local_assigns_and_releases_addresses() {
    on_host(|network| {
        let network = HostLocal::new(network);
        let (one, two) = (network.network.host.pod(), network.network.host.pod());
        let result = network.call("ADD", "one", &one).run().result();
        network.call("ADD", "two", &two).run().result();
        assert_eq!(network.held(), ["10.99.0.2", "10.99.0.3"].map(String::from).into());
        assert!(network.network.taken().is_empty(), "the plugin's own leases hold nothing");
        assert_eq!(result["ips"][0]["address"], "10.99.0.2/24");
        assert_eq!(result["ips"][0]["gateway"], "10.99.0.1");
        assert_eq!(result["ips"][0]["interface"], 2);
        assert_eq!(result["routes"], json!([{ "dst": "0.0.0.0/0", "gw": "10.99.0.1" }]));
        assert!(one.ping("10.99.0.1", 1).status.success(), "the bridge has the gateway's address");
        assert!(one.ping("10.99.0.3", 5).status.success());
        assert_eq!(network.network.counters("10.99.0.2").expect("an entry").tx_direct, 5, "packets are direct");
        network.check(&result, &one);

        for (container, pod) in [("one", &one), ("one", &one), ("two", &two)] {
            network.call("DEL", container, pod).run().silent();
        }
        assert_eq!(network.held(), BTreeSet::new());
    });
}

#[test]
fn a_second_add_keeps_the_address_of_the_pod() {
    on_host(|network| {
        let network = HostLocal::new(network);
        let pod = network.network.host.pod();
        let result = network.call("ADD", "one", &pod).run().result();
        let error = network.call("ADD", "one", &pod).run().error(4);
        assert!(error.contains("exists already"), "{error}");
        assert_eq!(network.held(), ["10.99.0.2".to_owned()].into());
        network.check(&result, &pod);
        network.call("DEL", "one", &pod).run().silent();
    });
}

#[test]
fn a_failed_add_releases_the_address() {
    on_host(|network| {
        let mut network = HostLocal::new(network);
        let pod = network.network.host.pod();
        // The pod's end accepts the first route. The next hop of the second one is unreachable.
        network.config["ipam"]["routes"] =
            json!([{ "dst": "10.1.0.0/16" }, { "dst": "10.2.0.0/16", "gw": "192.0.2.1" }]);
        let error = network.call("ADD", "one", &pod).run().error(5);
        assert!(error.starts_with("configure the pod: "), "{error}");
        assert_eq!(network.held(), BTreeSet::new());
        assert!(pod.link("eth0").is_none());

        network.config["ipam"]["routes"] = json!([{ "dst": "10.1.0.0/16" }]);
        let result = network.call("ADD", "one", &pod).run().result();
        assert_eq!(result["routes"], json!([{ "dst": "10.1.0.0/16", "gw": "10.99.0.1" }]), "and no way out");
        network.call("DEL", "one", &pod).run().silent();
    });
}

#[test]
fn a_subnet_of_another_link_is_refused_and_released() {
    on_host(|network| {
        network.host.ip("link add dummy0 type bridge");
        network.host.ip("address add 10.99.0.200/25 dev dummy0");
        let network = HostLocal::new(network);
        let pod = network.network.host.pod();
        let error = network.call("ADD", "one", &pod).run().error(7);
        assert!(error.contains("overlaps with the address 10.99.0.200/25 of dummy0"), "{error}");
        assert_eq!(network.held(), BTreeSet::new());
        assert!(pod.link("eth0").is_none());
        network.network.host.ip("link delete dummy0");
    });
}

/// `static` returns the same address to each pod, even the gateway's.
#[test]
fn an_address_in_use_is_refused_and_its_pod_unaffected() {
    on_host(|network| {
        let mut config = network.config.clone();
        config.as_object_mut().expect("an object").remove("subnet");
        let with = |address: &str| {
            let mut config = config.clone();
            let addresses = json!([{ "address": address, "gateway": "10.99.0.1" }]);
            config["ipam"] = json!({ "type": "static", "addresses": addresses });
            config
        };
        let pods = [network.host.pod(), network.host.pod()];
        let call = |verb: &str, address: &str, container: &str, pod: &Pod| {
            network.plugin.on(verb, &with(address), container, pod).env("CNI_PATH", PEERS).run()
        };
        call("ADD", "10.99.0.5/24", "one", &pods[0]).result();
        for taken in ["10.99.0.5/24", "10.99.0.1/24"] {
            let before = network.footprint();
            let error = call("ADD", taken, "two", &pods[1]).error(103);
            assert!(error.contains(taken.trim_end_matches("/24")) && error.contains("in use"), "{error}");
            call("DEL", taken, "two", &pods[1]).silent();
            assert_eq!(network.footprint(), before);
            assert!(pods[0].ping("10.99.0.1", 2).status.success(), "the first pod is unaffected");
        }
        call("DEL", "10.99.0.5/24", "one", &pods[0]).silent();
    });
}

/// The MAC cannot derive from an address that is not known yet. The plugin therefore announces it
/// to the neighbors.
#[test]
fn the_next_pod_with_an_address_is_reachable_at_once() {
    on_host(|network| {
        let mut config = network.config.clone();
        config.as_object_mut().expect("an object").remove("subnet");
        let with = |address: &str| {
            let mut config = config.clone();
            let addresses = json!([{ "address": address, "gateway": "10.99.0.1" }]);
            config["ipam"] = json!({ "type": "static", "addresses": addresses });
            config
        };
        let call = |verb: &str, address: &str, container: &str, pod: &Pod| {
            network.plugin.on(verb, &with(address), container, pod).env("CNI_PATH", PEERS).run()
        };
        let pods = [network.host.pod(), network.host.pod(), network.host.pod()];
        call("ADD", "10.99.0.5/24", "first", &pods[0]).result();
        call("ADD", "10.99.0.6/24", "other", &pods[1]).result();
        assert!(pods[1].ping("10.99.0.5", 2).status.success() && network.host.ping("10.99.0.5", 2).status.success());
        call("DEL", "10.99.0.5/24", "first", &pods[0]).silent();
        call("ADD", "10.99.0.5/24", "second", &pods[2]).result();
        assert!(pods[1].ping("10.99.0.5", 2).status.success(), "from a pod");
        assert!(network.host.ping("10.99.0.5", 2).status.success(), "from the host");
        call("DEL", "10.99.0.5/24", "second", &pods[2]).silent();
        call("DEL", "10.99.0.6/24", "other", &pods[1]).silent();
    });
}

/// A restarted runtime may send ADD while a DEL that it does not know still runs.
#[test]
fn an_add_waits_for_a_del_that_waits_for_its_delegate() {
    on_host(|network| {
        let bin = network.host.scratch();
        let holder = bin.join("holder");
        let script = format!(
            "#!/bin/sh\ncase $CNI_COMMAND in\nADD) echo >>{0}; echo '{1}' ;;\nDEL) sleep 1; rm -f {0} ;;\nesac\n",
            holder.display(),
            json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.99.0.5/24" }] })
        );
        write_executable(&bin.join("slow-ipam"), &script);
        let config = network.with_keys(json!({ "ipam": { "type": "slow-ipam" } }));
        let pod = network.host.pod();
        let call = |verb: &str| network.plugin.on(verb, &config, "one", &pod).env("CNI_PATH", &bin).run();
        call("ADD").result();
        std::thread::scope(|scope| {
            let del = scope.spawn(|| call("DEL"));
            std::thread::sleep(std::time::Duration::from_millis(300));
            call("ADD").result();
            del.join().expect("the thread ends").silent();
        });
        assert!(holder.exists(), "the address is leased");
        call("DEL").silent();
    });
}

#[test]
fn gc_spares_an_add_that_waits_for_its_delegate() {
    on_host(|network| {
        let bin = network.host.scratch();
        let ips = json!([{ "address": "10.99.0.5/24", "gateway": "10.99.0.1" }]);
        let answer = json!({ "cniVersion": "1.1.0", "ips": ips });
        let script = format!("#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\nsleep 1\necho '{answer}'\n");
        write_executable(&bin.join("slow-ipam"), &script);
        let config = network.with_keys(json!({ "cniVersion": "1.1.0", "ipam": { "type": "slow-ipam" } }));
        let pod = network.host.pod();
        let call = |verb: &str| network.plugin.on(verb, &config, "one", &pod).env("CNI_PATH", &bin).run();
        std::thread::scope(|scope| {
            let add = scope.spawn(|| call("ADD"));
            std::thread::sleep(std::time::Duration::from_millis(500));
            let mut config = config.clone();
            config["cni.dev/valid-attachments"] = json!([]);
            network.plugin.invocation("GC").env("CNI_PATH", &bin).config(&config).run().silent();
            add.join().expect("the thread ends").result();
        });
        assert!(pod.ping("10.99.0.1", 1).status.success());
        call("DEL").silent();
    });
}

/// From the moment that the pod can send, possibly long before it has an address.
#[test]
fn the_spoof_check_applies_while_the_delegate_runs() {
    on_host(|network| {
        let (bin, seen) = (network.host.scratch(), network.host.scratch().join("seen"));
        let script = format!(
            "#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\nbpftool map dump pinned {} >{}\necho '{}'\n",
            "/sys/fs/bpf/simple-ebpf-cni/blackbox/v2/port_config",
            seen.display(),
            json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.99.0.5/24" }] })
        );
        write_executable(&bin.join("dumping-ipam"), &script);
        let config = network.with_keys(json!({ "ipam": { "type": "dumping-ipam" } }));
        let pod = network.host.pod();
        let call = |verb: &str| network.plugin.on(verb, &config, "one", &pod).env("CNI_PATH", &bin).run();
        call("ADD").result();
        call("DEL").silent();
        let seen = fs::read_to_string(seen).expect("the delegate ran");
        assert!(seen.contains("\"mac\""), "{seen}");
    });
}

/// This test and the next one take one minute: the time limit of the delegate. The limit ends
/// before the runtime's, so the runtime gets an error that names the delegate.
#[test]
fn a_delegate_that_hangs_in_del_is_ended_and_named() {
    on_host(|network| assert_killed_and_named(network, "DEL"));
}

#[test]
fn a_delegate_that_hangs_in_gc_is_ended_and_named() {
    on_host(|network| assert_killed_and_named(network, "GC"));
}

#[track_caller]
fn assert_killed_and_named(network: &Network, verb: &str) {
    let bin = network.host.scratch();
    let answer = json!({ "cniVersion": "1.1.0", "ips": [{ "address": "10.99.0.5/24", "gateway": "10.99.0.1" }] });
    let script = format!("#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exec sleep 600\necho '{answer}'\n");
    write_executable(&bin.join("hanging-ipam"), &script);
    let mut config = network.with_keys(json!({ "cniVersion": "1.1.0", "ipam": { "type": "hanging-ipam" } }));
    let pod = network.host.pod();
    network.plugin.on("ADD", &config, "one", &pod).env("CNI_PATH", &bin).run().result();
    config["cni.dev/valid-attachments"] = json!([]);
    let call = match verb {
        "DEL" => network.plugin.on(verb, &config, "one", &pod),
        _ => network.plugin.invocation(verb).config(&config),
    };
    let error = call.env("CNI_PATH", &bin).limit(std::time::Duration::from_secs(150)).run().error(11);
    assert!(error.contains(&format!("hanging-ipam was killed: {verb} took longer")), "{error}");
    assert!(pod.link("eth0").is_none(), "{verb} kept the pair");
}

#[test]
fn a_missing_delegate_is_reported_before_any_change() {
    on_host(|network| {
        let mut network = HostLocal::new(network);
        network.config["ipam"] = json!({ "type": "no-such-ipam" });
        let pod = network.network.host.pod();
        let error = network.call("ADD", "one", &pod).run().error(7);
        assert!(error.contains("no-such-ipam") && error.contains(PEERS), "{error}");
        assert!(network.network.host.link("cbr0").is_none(), "a bridge was created");
    });
}

#[test]
fn a_delegate_beside_own_pools_is_refused() {
    on_host(|network| {
        let config = network.with("ipam", json!({ "type": "host-local", "subnet": "10.98.0.0/24" }));
        let pod = network.host.pod();
        let error = network.plugin.on("ADD", &config, "one", &pod).env("CNI_PATH", PEERS).run().error(7);
        assert!(error.contains("host-local") && error.contains("\"subnet\""), "{error}");
    });
}

#[test]
fn gc_runs_the_gc_of_the_delegate() {
    on_host(|network| {
        // A delegate that records its verbs.
        let (bin, records) = (network.host.scratch(), network.host.scratch().join("records"));
        let script = format!("#!/bin/sh\necho $CNI_COMMAND >>{}\n", records.display());
        write_executable(&bin.join("recording-ipam"), &script);
        let mut config = network.with_keys(json!({ "cniVersion": "1.1.0", "ipam": { "type": "recording-ipam" } }));
        config["cni.dev/valid-attachments"] = json!([]);
        for verb in ["GC", "STATUS"] {
            let call = network.plugin.invocation(verb).env("CNI_PATH", &bin).config(&config);
            call.run().silent();
        }
        assert_eq!(fs::read_to_string(records).expect("the delegate ran"), "GC\nSTATUS\n");
    });
}

fn write_executable(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text).expect("a writable folder");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("root owns the file");
}
