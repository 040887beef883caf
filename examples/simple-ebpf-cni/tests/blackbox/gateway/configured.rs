//! The key `isGateway`, own pools, and the reports of a configuration that differs from the bridge.

use cnikit_testbed::raw::Ear;
use cnikit_testbed::{Namespace, tool};
use serde_json::json;

use crate::cli::command;
use crate::doctor::{doctor, found};
use crate::gateway::{GATEWAY_V6, INVALID_CONFIG, NODE, UNAVAILABLE, by_pools, by_static, configured, on_lan};
use crate::support::{GATEWAY, code, on_host};

#[test]
fn own_pools_with_the_gateway_of_another_machine_are_refused() {
    on_lan(|lan| {
        let (config, host) = (by_pools(lan.network), lan.network.host);
        let mut config_1_1 = config.clone();
        config_1_1["cniVersion"] = "1.1.0".into();
        let dir = configured(host, &config);
        let assert_refused = |words: &str, shows_without_a_probe: bool| {
            let before = lan.network.footprint();
            let pod = host.pod();
            let (_, checks) = doctor(&dir);
            let status = lan.network.plugin.invocation("STATUS").config(&config_1_1).run();
            let mut messages = vec![lan.call("ADD", &config, &pod).error(INVALID_CONFIG)];
            if shows_without_a_probe {
                let finding = found(&checks, "gateway", "fail");
                assert!(finding.contains(dir.to_str().expect("a text")), "{finding}");
                messages.extend([status.error(UNAVAILABLE), finding]);
            } else {
                status.silent();
                assert_eq!(found(&checks, "gateway", "fail"), "");
            }
            for message in messages {
                assert!(message.contains("isGateway"), "{message}");
                assert_eq!(message.matches("if that machine").count(), 1, "{message}");
                assert!(message.contains(words), "{words} in {message}");
            }
            assert!(pod.link("eth0").is_none());
            lan.call("DEL", &config, &pod).silent();
            lan.network.footprint().assert_unchanged(&before, "a refused ADD");
            assert!(lan.network.taken().is_empty(), "{:?}", lan.network.taken());
        };
        lan.route();
        assert_refused("10.99.0.1: it is the next hop of the node's route to 0.0.0.0/0 by cbr0", true);
        host.ip("route flush default");
        host.ip("-6 route flush default");
        lan.start_router();
        let mac = lan.router.link("eth0").expect("the router's link")["address"].as_str().expect("a MAC").to_owned();
        assert_refused(&format!("the machine with the MAC {mac} has it"), false);
        for (address, gateway) in [("10.99.0.1/24", GATEWAY), ("fd00:99::1/64", GATEWAY_V6)] {
            lan.start_router_with_only(address);
            assert_refused(&format!("the gateway's address {gateway}: the machine with the MAC {mac} has it"), false);
        }
    });
}

#[test]
fn own_pools_with_is_gateway_false_leave_the_gateway_to_another_machine() {
    if !tool("nft") {
        return;
    }
    on_lan(|lan| {
        lan.start_router();
        lan.route();
        let mut config = by_pools(lan.network);
        (config["isGateway"], config["ipMasq"]) = (false.into(), true.into());
        lan.assert_no_fault(&config);
        let pod = lan.network.host.pod();
        let result = lan.call("ADD", &config, &pod).result();
        assert_eq!(result["ips"][0]["gateway"], GATEWAY);
        assert_eq!(result["routes"][0], json!({ "dst": "0.0.0.0/0", "gw": GATEWAY }));
        let ear = lan.router.enter(Ear::open).expect("open");
        for target in [GATEWAY, GATEWAY_V6] {
            assert!(pod.ping(target, 3).status.success(), "{target}");
        }
        let sources: Vec<[u8; 4]> = { ear.frames() }
            .iter()
            // Echo requests.
            .filter(|frame| frame[12..14] == [8, 0] && frame[23] == 1 && frame[34] == 8)
            .map(|frame| frame[26..30].try_into().expect("4 octets"))
            .collect();
        assert!(!sources.is_empty() && sources.iter().all(|source| *source == [10, 99, 0, 100]), "{sources:?}");
        lan.assert_unaffected();
        lan.check(&config, &result, &pod).silent();
        lan.assert_no_fault(&config);
        lan.call("DEL", &config, &pod).silent();
        lan.assert_unaffected();
        lan.network.host.command("nft").words("delete table inet simple-ebpf-cni").run();
    });
}

#[test]
fn a_requested_gateway_is_assigned_or_refused() {
    on_lan(|lan| {
        let host = lan.network.host;
        for mut config in [by_pools(lan.network), by_static(lan.network, true), by_static(lan.network, false)] {
            config["isGateway"] = true.into();
            lan.start_router();
            let pod = host.pod();
            let error = lan.call("ADD", &config, &pod).error(INVALID_CONFIG);
            assert!(error.contains("\"isGateway\" is true") && error.contains("has it"), "{error}");
            assert_eq!(host.addresses("cbr0"), NODE);
            assert!(pod.link("eth0").is_none());

            lan.router.ip("address flush dev eth0");
            let result = lan.call("ADD", &config, &pod).result();
            assert_eq!(result["ips"][0]["gateway"], GATEWAY, "the first address of the subnet by default");
            assert!(pod.ping(GATEWAY, 2).status.success() && pod.ping(GATEWAY_V6, 2).status.success());
            lan.check(&config, &result, &pod).silent();
            for address in [format!("{GATEWAY}/24"), format!("{GATEWAY_V6}/64")] {
                host.ip(&format!("address del {address} dev cbr0"));
                let error = lan.check(&config, &result, &pod).error(code::DIFFERS);
                assert!(error.contains(&format!("lacks the gateway's address {address}")), "{error}");
            }
            lan.call("DEL", &config, &pod).silent();
        }
    });
}

#[test]
fn a_gateway_address_kept_against_the_configuration_is_reported() {
    on_host(|network| {
        let pod = network.attach("one");
        let mut config = network.config.clone();
        config["isGateway"] = false.into();
        let (status, checks) = doctor(&configured(network.host, &config));
        assert_eq!(status, Some(0), "{checks:#?}");
        let finding = found(&checks, "gateway", "warn");
        assert!(finding.contains("cbr0 has 10.99.0.1/24") && finding.contains("ip address delete"), "{finding}");
        network.detach(&pod);
    });
}

/// An older version or an operator's mistake can cause this state.
#[test]
fn a_next_hop_that_is_the_nodes_own_address_is_reported() {
    on_lan(|lan| {
        let (host, config) = (lan.network.host, by_static(lan.network, true));
        lan.route();
        host.ip("address add 10.99.0.1/24 dev cbr0");
        let dir = configured(host, &config);
        let (_, checks) = doctor(&dir);
        let finding = found(&checks, "gateway", "fail");
        assert!(finding.contains("cbr0 has 10.99.0.1/24") && finding.contains("route to 0.0.0.0/0"), "{finding}");
        assert!(finding.contains("ip address delete 10.99.0.1/24 dev cbr0"), "{finding}");
        let output = command(&format!("status --conf-dir {}", dir.display()));
        assert!(!output.status.success() && output.stdout.contains("cbr0 has 10.99.0.1/24"), "{output:#?}");

        // A setting that the configuration already has is no advice, and one address is one
        // finding.
        let mut left = by_pools(lan.network);
        left["isGateway"] = false.into();
        let (_, checks) = doctor(&configured(host, &left));
        let finding = found(&checks, "gateway", "fail");
        assert!(
            finding.contains("ip address delete 10.99.0.1/24 dev cbr0") && !finding.contains("isGateway"),
            "{finding}"
        );
        assert_eq!(found(&checks, "gateway", "warn"), "");
        host.ip("address del 10.99.0.1/24 dev cbr0");
        lan.assert_no_fault(&config);
    });
}

#[test]
fn an_invalid_value_is_refused() {
    on_host(|network| {
        let error =
            network.by(network.with("isGateway", "no")).call("ADD", "one", &network.host.pod()).error(INVALID_CONFIG);
        assert!(error.contains("isGateway"), "{error}");
    });
}
