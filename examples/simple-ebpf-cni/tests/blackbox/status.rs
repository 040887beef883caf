//! STATUS fails if an ADD would fail. It changes nothing.

use cnikit_testbed::{Footprint, Namespace, Outcome};
use serde_json::Value;

use crate::support::{GATEWAY, Network, on_host};

/// "The plugin is not available" and "... and existing containers have limited connectivity".
const UNAVAILABLE: u64 = 50;
const LIMITED: u64 = 51;

#[track_caller]
fn status(network: &Network, config: &Value) -> Outcome {
    let mut config = config.clone();
    config["cniVersion"] = "1.1.0".into();
    network.plugin.invocation("STATUS").config(&config).run()
}

#[test]
fn status_succeeds_before_the_first_pod_and_with_pods() {
    on_host(|network| {
        status(network, &network.config).silent();
        network.footprint().assert_unchanged(&Footprint::default(), "STATUS");
        let pod = network.attach("one");
        let before = network.footprint();
        status(network, &network.config).silent();
        network.footprint().assert_unchanged(&before, "STATUS");
        network.detach(&pod);
        status(network, &network.config).silent();
    });
}

#[test]
fn status_reports_a_full_pool() {
    on_host(|network| {
        network.host.keep("route 10.99.0.0/30 ");
        let network = &Network {
            host: network.host,
            plugin: network.plugin.clone(),
            config: network.with("subnet", "10.99.0.0/30"),
        };
        let only = network.attach("only");
        let message = status(network, &network.config).error(UNAVAILABLE);
        assert!(message.contains("10.99.0.0/30"), "{message}");
        network.detach(&only);
        status(network, &network.config).silent();
    });
}

#[test]
fn status_reports_a_link_or_foreign_bridge_with_the_name() {
    on_host(|network| {
        network.host.ip("link add cbr0 type veth peer name far");
        let message = status(network, &network.config).error(UNAVAILABLE);
        assert!(message.contains("cbr0") && message.contains("veth"), "{message}");
        network.host.ip("link del cbr0");

        let pod = network.attach("one");
        let message = status(network, &network.with("name", "another")).error(UNAVAILABLE);
        assert!(message.contains("cbr0") && message.contains("another network"), "{message}");
        network.detach(&pod);
    });
}

#[test]
fn status_reports_pods_without_connectivity() {
    on_host(|network| {
        let pod = network.attach("one");
        network.host.ip("link del cbr0");
        network.host.ip("link add cbr0 type veth peer name far");
        let message = status(network, &network.config).error(LIMITED);
        assert!(message.contains("cbr0"), "{message}");
        network.host.ip("link del cbr0");
        network.detach(&pod);
    });
}

#[test]
fn status_succeeds_if_an_add_repairs_the_network() {
    on_host(|network| {
        let [one, two] = ["one", "two"].map(|name| network.attach(name));
        network.host.ip("link set cbr0 down");
        status(network, &network.config).silent();
        network.host.ip("link del cbr0");
        status(network, &network.config).silent();

        let third = network.attach("third");
        for (from, to) in [(&one, &two), (&two, &third), (&third, &one)] {
            assert!(from.pod.ping(to.address(), 3).status.success(), "{} -> {}", from.container, to.container);
            assert!(from.pod.ping(GATEWAY, 1).status.success(), "{} -> host", from.container);
        }
        for attached in [&one, &two, &third] {
            network.check(attached).silent();
            network.detach(attached);
        }
    });
}
