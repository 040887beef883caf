//! A failed ADD undoes its own changes, and no others.

use std::fs;

use cnikit_testbed::{Footprint, Namespace};

use crate::support::{DATA_DIR, NAME, Network, code, on_host};

/// Creates the shared parts of the network first, so that they cannot hide leftovers of a failed
/// ADD.
fn create_network(network: &Network) {
    let first = network.attach("first");
    network.detach(&first);
}

#[test]
fn an_existing_ifname_is_an_error() {
    on_host(|network| {
        create_network(network);
        let pod = network.host.pod();
        pod.ip("link add eth0 type bridge");
        let before = (network.footprint(), Footprint::of_network(&pod));
        let message = network.call("ADD", "one", &pod).error(4);
        assert!(message.contains("eth0"), "{message}");
        network.footprint().assert_unchanged(&before.0, "the failed ADD");
        Footprint::of_network(&pod).assert_unchanged(&before.1, "the failed ADD");
    });
}

#[test]
fn a_duplicate_add_spares_the_live_attachment() {
    on_host(|network| {
        let (one, two) = (network.attach("one"), network.attach("two"));
        let before = network.footprint();
        let message = network.call("ADD", "one", &one.pod).error(4);
        assert!(message.contains("already"), "{message}");
        // In a new namespace, nothing shows the existing attachment.
        let elsewhere = network.host.pod();
        let _ = network.call("ADD", "one", &elsewhere).error(4);
        network.footprint().assert_unchanged(&before, "the duplicate ADD");
        network.check(&one).silent();
        assert!(two.pod.ping(one.address(), 3).status.success());
        network.detach(&one);
        network.detach(&two);
    });
}

#[test]
fn a_full_pool_is_an_error_until_an_address_is_free() {
    on_host(|network| {
        let network = Network {
            host: network.host,
            plugin: network.plugin.clone(),
            config: network.with("subnet", "10.99.0.0/29"),
        };
        network.host.keep("route 10.99.0.0/29 ");
        let mut pods: Vec<_> = (0..5).map(|number| network.attach(&format!("pod-{number}"))).collect();
        let pod = network.host.pod();
        let before = network.footprint();
        let message = network.call("ADD", "late", &pod).error(code::POOL_EXHAUSTED);
        assert!(message.contains("10.99.0.0/29"), "{message}");
        network.footprint().assert_unchanged(&before, "the failed ADD");

        let left = pods.swap_remove(2);
        network.detach(&left);
        let result = network.call("ADD", "late", &pod).result();
        assert_eq!(result["ips"][0]["address"], left.result["ips"][0]["address"]);
        network.call("DEL", "late", &pod).silent();
        pods.iter().for_each(|pod| network.detach(pod));
    });
}

#[test]
fn a_link_with_the_bridges_name_that_is_not_a_bridge_is_an_error() {
    on_host(|network| {
        network.host.command("ip").words("link add cbr0 type veth peer name other").run();
        let pod = network.host.pod();
        let before = network.footprint();
        let message = network.call("ADD", "one", &pod).error(7);
        assert!(message.contains("cbr0"), "{message}");
        network.footprint().assert_unchanged(&before, "the failed ADD");
        network.host.command("ip").words("link del cbr0").run();
    });
}

/// ADD cannot create the host end. The address is leased already.
#[test]
fn a_failure_after_the_lease_releases_it() {
    on_host(|network| {
        let one = network.attach("one");
        network.detach(&one);
        network.host.command("ip").args(["link", "add", one.host_veth(), "type", "bridge"]).run();
        let before = network.footprint();
        let outcome = network.call("ADD", "one", &one.pod);
        assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
        network.footprint().assert_unchanged(&before, "the failed ADD");
        assert!(network.taken().is_empty(), "{:?}", network.taken());
        assert!(one.pod.link("eth0").is_none());
        network.host.command("ip").args(["link", "del", one.host_veth()]).run();
    });
}

/// If the data directory cannot be created, ADD fails before it creates a link.
#[test]
fn a_data_dir_that_cannot_be_created_is_an_error() {
    on_host(|network| {
        create_network(network);
        let file = network.host.scratch().join("file");
        fs::write(&file, "").unwrap();
        let pod = network.host.pod();
        let before = network.footprint();
        let config = network.with("dataDir", file.join("below").display().to_string());
        let message = network.plugin.on("ADD", &config, "one", &pod).run().error(5);
        assert!(message.contains(&file.display().to_string()), "{message}");
        network.footprint().assert_unchanged(&before, "the failed ADD");
        assert!(pod.link("eth0").is_none());
    });
}

#[test]
fn a_corrupt_lease_of_the_attachment_is_an_error() {
    on_host(|network| {
        create_network(network);
        fs::write(network.lease("one"), "{ \"addr").unwrap();
        let pod = network.host.pod();
        let before = network.footprint();
        let message = network.call("ADD", "one", &pod).error(code::CORRUPT_LEASE);
        assert!(message.contains("one@eth0.json"), "{message}");
        network.footprint().assert_unchanged(&before, "the failed ADD");
        // DEL removes it, and the next ADD succeeds.
        network.call("DEL", "one", &pod).silent();
        network.call("ADD", "one", &pod).result();
        network.call("DEL", "one", &pod).silent();
    });
}

/// The invalid file of one attachment does not affect others.
#[test]
fn a_corrupt_lease_of_another_attachment_has_no_effect() {
    on_host(|network| {
        let one = network.attach("one");
        fs::write(network.lease("one"), "{ \"addr").unwrap();
        let two = network.attach("two");
        assert_ne!(one.address(), two.address(), "the address of the corrupt lease is in use");
        network.detach(&two);
        network.detach(&one);
    });
}

/// A crash between two steps of the store leaves an address without an owner. This is not a lease.
#[test]
fn an_address_without_an_owner_is_free() {
    on_host(|network| {
        let first = network.attach("first");
        assert_eq!(first.address(), "10.99.0.2");
        let address = format!("{DATA_DIR}/{NAME}/addresses/10.99.0.2");
        let garbage = format!("{DATA_DIR}/garbage");
        fs::hard_link(&address, &garbage).unwrap();
        network.detach(&first);
        fs::rename(&garbage, &address).unwrap();
        let network = Network {
            host: network.host,
            plugin: network.plugin.clone(),
            config: network.with("subnet", "10.99.0.0/30"),
        };
        network.host.keep("route 10.99.0.0/30 ");
        let one = network.attach("one");
        assert_eq!(one.address(), "10.99.0.2");
        network.detach(&one);
    });
}
