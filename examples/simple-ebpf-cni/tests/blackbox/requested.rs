//! Requests for one attachment: `runtimeConfig`, `args.cni`, `CNI_ARGS`.

use cnikit_testbed::{Invocation, Namespace};
use serde_json::{Value, json};

use crate::support::{Network, on_host};

const MAC: &str = "02:00:5e:00:53:05";

/// Attaches a pod with these keys in the configuration and expects the interface to have [`MAC`].
/// Pings and checks the pod.
#[track_caller]
fn has_the_mac(key: &str, value: Option<Value>, change: impl Fn(Invocation) -> Invocation + Sync) {
    on_host(|network| {
        let mut config = network.config.clone();
        if let Some(value) = &value {
            config[key] = value.clone();
        }
        let pod = network.host.pod();
        let result = change(network.plugin.on("ADD", &config, "one", &pod)).run().result();
        assert_eq!(result["interfaces"][2]["mac"], MAC);
        assert_eq!(pod.link("eth0").expect("the pod has an interface")["address"], MAC);

        let other = network.attach("other");
        let address = result["ips"][0]["address"].as_str().expect("the result has an address").replace("/24", "");
        assert!(other.pod.ping(&address, 5).status.success());
        assert_eq!(network.counters(other.address()).expect("an entry").tx_direct, 5, "the endpoint has the MAC");

        config["prevResult"] = result;
        change(network.plugin.on("CHECK", &config, "one", &pod)).run().silent();
        change(network.plugin.on("DEL", &config, "one", &pod)).run().silent();
        network.detach(&other);
    });
}

fn unchanged(invocation: Invocation) -> Invocation {
    invocation
}

#[test]
fn a_mac_by_the_runtime() {
    has_the_mac("runtimeConfig", Some(json!({ "mac": MAC })), unchanged);
}

#[test]
fn a_mac_by_args_in_the_configuration() {
    has_the_mac("args", Some(json!({ "cni": { "mac": MAC } })), unchanged);
}

#[test]
fn a_mac_by_the_variable() {
    has_the_mac("", None, |invocation| invocation.env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAME=x;MAC={MAC}")));
}

#[test]
fn the_runtime_has_priority() {
    let config = json!({ "mac": MAC });
    has_the_mac("runtimeConfig", Some(config), |invocation| invocation.env("CNI_ARGS", "MAC=02:00:5e:00:53:99"));
}

#[test]
fn invalid_requests_are_refused() {
    on_host(|network| {
        let refused = |code, change: &dyn Fn(&Network, Invocation) -> Invocation, words: &[&str]| {
            let pod = network.host.pod();
            let add = change(network, network.plugin.on("ADD", &network.config, "one", &pod));
            let message = add.run().error(code);
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
            assert!(pod.link("eth0").is_none());
        };
        let group = json!({ "mac": "01:00:5e:00:53:05" });
        refused(7, &|network, add| add.config(&network.with("runtimeConfig", group.clone())), &["01:00:5e:00:53:05"]);
        let no_mac = json!({ "mac": "five" });
        refused(7, &|network, add| add.config(&network.with("runtimeConfig", no_mac.clone())), &["runtimeConfig"]);
        refused(4, &|_, add| add.env("CNI_ARGS", "MAC=five"), &["five"]);
        refused(4, &|_, add| add.env("CNI_ARGS", "COLOUR=red"), &["COLOUR"]);
    });
}

#[test]
fn a_requested_address_is_assigned_once() {
    on_host(|network| {
        let runtime = |ips: Value| network.with("runtimeConfig", json!({ "ips": ips }));
        let add = |config: &Value, name: &str, pod| network.plugin.on("ADD", config, name, pod).run();
        let pods = [network.host.pod(), network.host.pod()];
        let request = runtime(json!(["10.99.0.77/24"]));
        let result = add(&request, "one", &pods[0]).result();
        assert_eq!(result["ips"][0]["address"], "10.99.0.77/24");

        let message = add(&request, "two", &pods[1]).error(103);
        assert!(message.contains("10.99.0.77") && message.contains("one"), "{message}");
        for outside in ["10.98.0.5", "10.99.0.1", "10.99.0.255", "fd00::5"] {
            let outcome = add(&runtime(json!([outside])), "two", &pods[1]);
            assert!(!outcome.status.success() && outcome.stdout.contains(outside), "{outside}: {outcome:?}");
        }
        let by_args = network.plugin.on("ADD", &network.config, "two", &pods[1]).env("CNI_ARGS", "IP=10.99.0.78");
        assert_eq!(by_args.run().result()["ips"][0]["address"], "10.99.0.78/24");
        network.call("DEL", "one", &pods[0]).silent();
        network.call("DEL", "two", &pods[1]).silent();
    });
}
