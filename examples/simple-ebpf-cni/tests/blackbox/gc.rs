//! GC: removes unlisted attachments, keeps listed ones, and removes nothing without a list.

use std::fs;

use cnikit_testbed::{Namespace, Outcome, Ruling, supervision};
use serde_json::{Value, json};

use crate::support::{DATA_DIR, NAME, Network, code, on_host};

/// GC with this value of `cni.dev/valid-attachments`, or without the key.
#[track_caller]
fn gc(network: &Network, valid: Option<Value>) -> Outcome {
    let mut config = network.with("cniVersion", "1.1.0");
    if let Some(valid) = valid {
        config["cni.dev/valid-attachments"] = valid;
    }
    network.plugin.invocation("GC").config(&config).run()
}

fn valid(containers: &[&str]) -> Value {
    containers.iter().map(|container| json!({ "containerID": container, "ifname": "eth0" })).collect()
}

#[test]
fn gc_detaches_unlisted_attachments_and_spares_the_rest() {
    on_host(|network| {
        let stays = network.attach("stays");
        let before = network.footprint();
        let _goes = network.attach("goes");
        let second = network.plugin.on("ADD", &network.config, "stays", &stays.pod).env("CNI_IFNAME", "net1");
        second.run().result();

        gc(network, Some(valid(&["stays", "was-never-here"]))).silent();

        network.footprint().assert_unchanged(&before, "ADD of two more and GC of both");
        network.check(&stays).silent();
        gc(network, Some(json!([]))).silent();
        assert!(stays.pod.link("eth0").is_none(), "an empty list means that nothing is valid");
    });
}

/// Between two deletions of one name, an ADD may create the pair again.
#[test]
fn gc_deletes_each_pair_once() {
    if !supervision() {
        return;
    }
    on_host(|network| {
        let pods = ["one", "two", "three"].map(|name| network.attach(name));
        fs::remove_file(network.lease("three")).expect("the lease");
        let mut config = network.with("cniVersion", "1.1.0");
        config["cni.dev/valid-attachments"] = json!([]);
        let mut deletions = 0;
        // RTM_DELLINK, sent by the plugin or by its background process.
        let outcome = network.plugin.invocation("GC").config(&config).supervised(|call| {
            deletions += usize::from(call.to_string() == "sendto type 17");
            Ruling::Continue
        });
        outcome.silent();
        assert!(pods.iter().all(|pod| pod.pod.link("eth0").is_none()));
        assert_eq!(deletions, pods.len());
    });
}

#[test]
fn gc_without_a_list_removes_nothing() {
    on_host(|network| {
        let pod = network.attach("one");
        let before = network.footprint();
        gc(network, None).silent();
        gc(network, Some(Value::Null)).silent();
        network.footprint().assert_unchanged(&before, "GC without a list");
        network.detach(&pod);
    });
}

#[test]
fn gc_finds_links_and_entries_without_a_lease() {
    on_host(|network| {
        let pod = network.attach("stays");
        let before = network.footprint();
        network.attach("lost");
        fs::remove_file(network.lease("lost")).unwrap();

        gc(network, Some(valid(&["stays"]))).silent();

        assert_eq!(network.footprint(), before);
        network.detach(&pod);
    });
}

#[test]
fn gc_knows_the_owner_of_an_unreadable_lease() {
    on_host(|network| {
        network.host.keep(&format!("file {DATA_DIR}/{NAME}/damaged/"));
        let [stays, goes] = ["stays", "goes"].map(|name| network.attach(name));
        fs::write(network.lease("goes"), "{").expect("the lease can be overwritten");

        gc(network, Some(valid(&["stays"]))).silent();
        assert!(goes.pod.link("eth0").is_none(), "the unlisted attachment remains");
        assert_eq!(network.taken(), [stays.address().to_owned()].into());

        fs::write(network.lease("stays"), "{").expect("the lease can be overwritten");
        let message = gc(network, Some(valid(&["stays"]))).error(code::CORRUPT_LEASE);
        assert!(message.contains("stays@eth0.json"), "{message}");
        assert!(stays.pod.link("eth0").is_some(), "the listed attachment was removed");
        network.detach(&stays);
    });
}

#[test]
fn gc_keeps_foreign_ports() {
    on_host(|network| {
        let pod = network.attach("one");
        let names = ["veth0a1b2c3", "vethabcdefghijk", "tap-0123456789a"];
        for (number, name) in names.iter().enumerate() {
            network.host.ip(&format!("link add {name} type veth peer name far{number}"));
            network.host.ip(&format!("link set {name} master cbr0"));
        }
        gc(network, Some(json!([]))).silent();
        for name in names {
            assert!(network.host.link(name).is_some(), "{name} is gone");
            network.host.ip(&format!("link del {name}"));
        }
        network.detach(&pod);
    });
}

#[test]
fn gc_of_another_network_with_the_same_bridge_spares_its_pods() {
    on_host(|network| {
        let pod = network.attach("one");
        let before = network.footprint();
        let other =
            Network { host: network.host, plugin: network.plugin.clone(), config: network.with("name", "other") };
        gc(&other, Some(json!([]))).silent();
        network.footprint().assert_unchanged(&before, "GC of another network");
        network.check(&pod).silent();
        network.detach(&pod);
    });
}

#[test]
fn gc_keeps_the_entries_of_valid_pods_without_their_bridge() {
    on_host(|network| {
        let pod = network.attach("one");
        let entries = network.map_entries();
        network.host.ip(&format!("link set {} nomaster", pod.host_veth()));
        gc(network, Some(valid(&["one"]))).silent();
        network.map_entries().assert_unchanged(&entries, "GC with a port off the bridge");
        network.host.ip("link del cbr0");
        gc(network, Some(valid(&["one"]))).silent();
        network.map_entries().assert_unchanged(&entries, "GC without the bridge");
        network.detach(&pod);
    });
}
