//! The plugin's own addresses: several subnets, `host-local`'s keys, ranges from the runtime, full
//! pools.

use std::fs;

use cnikit_testbed::{Namespace, Pod};
use serde_json::{Value, json};

use crate::support::{Network, code, on_host};

impl Network<'_> {
    /// The addresses of one pod with this configuration. The pod is detached again.
    #[track_caller]
    fn addresses(&self, config: &Value) -> Vec<String> {
        let pod = self.host.pod();
        let result = self.plugin.on("ADD", config, "one", &pod).run().result();
        self.plugin.on("DEL", config, "one", &pod).run().silent();
        let addresses = result["ips"].as_array().expect("there are addresses").iter();
        addresses.map(|ip| ip["address"].as_str().expect("an address").to_owned()).collect()
    }

    /// The message of an ADD that fails because of its configuration, before any change.
    #[track_caller]
    fn refusal(&self, keys: Value) -> String {
        let pod = self.host.pod();
        let error = self.plugin.on("ADD", &self.with_keys(keys), "one", &pod).run().error(7);
        assert!(self.host.link("cbr0").is_none(), "nothing was created");
        error
    }
}

#[test]
fn a_host_local_configuration_works_with_another_type() {
    on_host(|network| {
        let resolv_conf = network.host.scratch().join("resolv.conf");
        fs::write(&resolv_conf, "nameserver 10.99.0.53\nsearch pods.example\n").expect("a writable folder");
        let config = network.with_keys(json!({ "ipam": {
            "type": "simple-ebpf-cni",
            "ranges": [[{ "subnet": "10.99.0.0/24", "rangeStart": "10.99.0.20", "rangeEnd": "10.99.0.50", "gateway": "10.99.0.254" }]],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "10.96.0.0/12", "gw": "10.99.0.253" }],
            "resolvConf": resolv_conf,
            "dataDir": "/var/lib/cni/moved",
        }}));
        network.host.keep("file /var/lib/cni/moved/blackbox/");
        let pod = network.host.pod();
        let result = network.plugin.on("ADD", &config, "one", &pod).run().result();
        assert_eq!(result["ips"], json!([{ "address": "10.99.0.20/24", "gateway": "10.99.0.254", "interface": 2 }]));
        let routes = json!([
            { "dst": "0.0.0.0/0", "gw": "10.99.0.254" },
            { "dst": "10.96.0.0/12", "gw": "10.99.0.253" },
        ]);
        assert_eq!(result["routes"], routes);
        assert_eq!(result["dns"], json!({ "nameservers": ["10.99.0.53"], "search": ["pods.example"] }));
        assert!(fs::exists("/var/lib/cni/moved/blackbox/addresses/10.99.0.20").expect("readable"));
        assert!(pod.ping("10.99.0.254", 1).status.success());
        let routes = pod.routes();
        assert!(routes.iter().any(|route| route["dst"] == "10.96.0.0/12"), "{routes:?}");

        let mut with_result = config.clone();
        with_result["prevResult"] = result;
        network.plugin.on("CHECK", &with_result, "one", &pod).run().silent();
        network.plugin.on("DEL", &config, "one", &pod).run().silent();
        assert!(!fs::exists("/var/lib/cni/moved/blackbox/addresses/10.99.0.20").expect("readable"));
    });
}

#[test]
fn a_pod_gets_an_address_of_each_subnet() {
    on_host(|network| {
        let config = network.with_keys(json!({
            "subnets": ["10.99.0.0/25", { "subnet": "10.99.0.128/25", "gateway": "10.99.0.254", "rangeStart": "10.99.0.200" }],
            "exclude": ["10.99.0.0/29", "10.99.0.200"],
        }));
        assert_eq!(network.addresses(&config), ["10.99.0.8/25", "10.99.0.201/25"]);
    });
}

#[test]
fn the_runtime_names_ranges() {
    on_host(|network| {
        let mut config = network.with_keys(json!({ "capabilities": { "ipRanges": true }, "cniVersion": "1.1.0" }));
        let pod = network.host.pod();
        let error = network.plugin.on("ADD", &config, "one", &pod).run().error(7);
        assert!(error.contains("ipRanges") && error.contains("\"subnet\""), "{error}");
        network.plugin.invocation("STATUS").config(&config).run().silent();

        config["runtimeConfig"] = json!({ "ipRanges": [[{ "subnet": "10.99.0.0/24", "rangeStart": "10.99.0.9" }]] });
        assert_eq!(network.addresses(&config), ["10.99.0.9/24"]);
    });
}

#[test]
fn errors_name_the_invalid_range() {
    on_host(|network| {
        let overlap = network.refusal(json!({ "subnets": ["10.99.0.0/16", "10.99.7.0/24"] }));
        assert!(overlap.contains("10.99.0.0/16") && overlap.contains("10.99.7.0/24"), "{overlap}");
        let bits = network.refusal(json!({ "subnets": ["10.99.0.7/24"] }));
        assert!(bits.contains("10.99.0.7/24") && bits.contains("10.99.0.0/24"), "{bits}");
        let range = json!({ "subnet": "10.99.0.0/24", "rangeStart": "10.99.0.9", "rangeEnd": "10.99.0.3" });
        let reversed = network.refusal(json!({ "ipam": { "ranges": [[range]] } }));
        assert!(reversed.contains("10.99.0.9") && reversed.contains("10.99.0.3"), "{reversed}");
        let nothing = network.refusal(json!({}));
        assert!(nothing.contains("\"subnet\": \""), "{nothing}");
        let gateway = network.refusal(json!({ "gateway": "10.99.0.1" }));
        assert!(gateway.contains("10.99.0.1") && gateway.contains("\"subnet\""), "{gateway}");
        let word = network.refusal(json!({ "ipam": { "ranges": [[{ "subnet": "ten" }]] } }));
        assert!(word.contains("ipam") && word.contains("ten"), "{word}");
    });
}

#[test]
fn a_full_pool_takes_back_addresses_of_deleted_pods() {
    on_host(|network| {
        // Eight addresses: network, broadcast, gateway and five for pods.
        let config = network.with("subnet", "10.99.0.0/29");
        let pods: Vec<Pod> = (0..6).map(|_| network.host.pod()).collect();
        let add = |container: &str, pod: &Pod| network.plugin.on("ADD", &config, container, pod).run();
        for (index, pod) in pods[..5].iter().enumerate() {
            add(&format!("pod{index}"), pod).result();
        }
        let full_pool = add("late", &pods[5]).error(code::POOL_EXHAUSTED);
        assert!(full_pool.contains("10.99.0.0/29"), "{full_pool}");

        // A restarted node container deletes the namespaces of its pods, in the same boot.
        let gone = network
            .host
            .links()
            .into_iter()
            .find_map(|link| link["ifname"].as_str().filter(|name| name.starts_with("veth")).map(String::from));
        let status =
            |network: &Network| network.plugin.invocation("STATUS").config(&with_version(&config, "1.1.0")).run();
        let full = status(network).error(50);
        assert!(full.contains("10.99.0.0/29"), "{full}");
        network.host.ip(&format!("link delete {}", gone.expect("there are pods")));
        status(network).silent();
        let late = add("late", &pods[5]).result();
        let held = late["ips"][0]["address"].as_str().expect("an address").replace("/29", "");
        assert_eq!(network.taken().len(), 5);
        assert!(network.taken().contains(&held));
        // A late DEL of the former pod does not remove the address of the new one.
        for (index, pod) in pods[..5].iter().enumerate() {
            network.plugin.on("DEL", &config, &format!("pod{index}"), pod).run().silent();
        }
        assert_eq!(network.taken(), [held].into());
        assert!(pods[5].ping("10.99.0.1", 1).status.success());
        network.plugin.on("DEL", &config, "late", &pods[5]).run().silent();
    });
}

fn with_version(config: &Value, version: &str) -> Value {
    let mut config = config.clone();
    config["cniVersion"] = version.into();
    config
}

/// An ADD takes over the lease of a killed ADD, unless the runtime requests another address.
#[test]
fn a_lease_of_a_killed_add_is_taken_over_if_it_fits() {
    on_host(|network| {
        let pods = [network.host.pod(), network.host.pod()];
        let add = |address: &str, pod: &Pod| {
            network
                .plugin
                .on("ADD", &network.config, "one", pod)
                .env("CNI_ARGS", format!("IP={address}"))
                .run()
                .result()
        };
        let killed = add("10.99.0.5", &pods[0]);
        let host_end = killed["interfaces"][1]["name"].as_str().expect("a name");
        network.host.ip(&format!("link delete {host_end}"));
        assert_eq!(add("10.99.0.77", &pods[1])["ips"][0]["address"], "10.99.0.77/24");
        assert_eq!(network.taken(), ["10.99.0.77".to_owned()].into());
        network.call("DEL", "one", &pods[1]).silent();
    });
}
