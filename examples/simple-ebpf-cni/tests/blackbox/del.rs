//! DEL: succeeds with incomplete input, and repeatedly.

use std::fs;

use cnikit_testbed::{Invocation, Namespace};

use crate::support::{Network, on_host};

/// Attaches a pod, changes the DEL, and expects a complete removal. A second DEL finds nothing.
#[track_caller]
fn del_with(change: impl Fn(&Network, Invocation) -> Invocation + Sync) {
    on_host(|network| {
        let one = network.attach("one");
        let two = network.attach("two");
        network.detach(&two);
        let clean = {
            network.detach(&one);
            network.footprint()
        };
        let one = network.attach("one");
        let del = change(network, network.plugin.on("DEL", &network.config, "one", &one.pod));
        del.run().silent();
        network.footprint().assert_unchanged(&clean, "ADD and DEL");
        del.run().silent();
        network.footprint().assert_unchanged(&clean, "the second DEL");
    });
}

#[test]
fn del_leaves_nothing_of_the_attachment() {
    del_with(|_, del| del);
}

#[test]
fn del_needs_no_namespace() {
    del_with(|_, del| del.without("CNI_NETNS"));
}

#[test]
fn del_accepts_an_empty_namespace() {
    del_with(|_, del| del.env("CNI_NETNS", ""));
}

#[test]
fn del_accepts_a_deleted_namespace() {
    del_with(|_, del| del.env("CNI_NETNS", "/run/netns/gone"));
}

#[test]
fn del_accepts_a_path_that_is_not_a_namespace() {
    del_with(|network, del| {
        let file = network.host.scratch().join("file");
        fs::write(&file, "no namespace").unwrap();
        del.env("CNI_NETNS", file)
    });
}

/// After a reboot, the old path may belong to another pod.
#[test]
fn del_spares_a_namespace_that_now_belongs_to_another_pod() {
    on_host(|network| {
        let (one, two) = (network.attach("one"), network.attach("two"));
        let del = network.plugin.on("DEL", &network.config, "one", &two.pod);
        del.run().silent();
        network.check(&two).silent();
        network.detach(&two);
        drop(one);
    });
}

#[test]
fn del_accepts_a_prev_result() {
    on_host(|network| {
        let one = network.attach("one");
        let config = network.with("prevResult", one.result.clone());
        network.plugin.on("DEL", &config, "one", &one.pod).run().silent();
        assert!(network.taken().is_empty());
    });
}

#[test]
fn del_of_an_unknown_attachment_succeeds() {
    on_host(|network| {
        let pod = network.host.pod();
        let before = network.footprint();
        network.call("DEL", "stranger", &pod).silent();
        network.footprint().assert_unchanged(&before, "the DEL of a stranger");
    });
}

#[test]
fn del_after_the_end_of_the_pod_removes_the_rest() {
    on_host(|network| {
        let one = network.attach("one");
        let address = one.address().to_owned();
        assert!(network.taken().contains(&address));
        drop(one.pod);
        let del = network.plugin.invocation("DEL").env("CNI_CONTAINERID", "one").env("CNI_IFNAME", "eth0");
        del.config(&network.config).run().silent();
        assert!(network.taken().is_empty());
        assert_eq!(network.counters(&address), None);
    });
}

#[test]
fn del_works_with_an_invalid_pool() {
    on_host(|network| {
        let one = network.attach("one");
        let config = network.with("subnet", "10.99.0.7/24");
        network.plugin.on("DEL", &config, "one", &one.pod).run().silent();
        assert!(network.taken().is_empty());
    });
}

#[test]
fn del_works_with_a_corrupt_lease() {
    on_host(|network| {
        let one = network.attach("one");
        fs::write(network.lease("one"), "{ \"addr").unwrap();
        network.detach(&one);
        assert!(network.taken().is_empty(), "{:?}", network.taken());
    });
}

#[test]
fn del_works_without_the_bridge() {
    on_host(|network| {
        let one = network.attach("one");
        network.host.command("ip").words("link del cbr0").run();
        network.detach(&one);
        assert!(network.taken().is_empty());
        let two = network.attach("two");
        network.check(&two).silent();
        network.detach(&two);
    });
}

#[test]
fn del_of_a_container_id_too_long_for_a_lease() {
    on_host(|network| {
        let pod = network.attach("one");
        let long = "c".repeat(260);
        let refused = network.call("ADD", &long, &network.host.pod());
        let message = refused.error(4);
        assert!(message.contains("shorten it by 15"), "{message}");
        network.call("DEL", &long, &network.host.pod()).silent();
        network.detach(&pod);
    });
}
