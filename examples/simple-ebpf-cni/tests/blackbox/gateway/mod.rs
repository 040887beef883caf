//! Bridges that lead to other machines, one of them the gateway: the owner of the gateway's
//! address.

mod configured;
mod owner;
mod probe;

use std::fs;

use cnikit_testbed::{Host, Namespace, Outcome, Pod};
use serde_json::{Value, json};

use crate::cli::command;
use crate::doctor::{doctor, found};
use crate::support::{GATEWAY, Network, on_host};

const UNAVAILABLE: u64 = 50;

const INVALID_CONFIG: u64 = 7;

/// The gateway of the other family.
const GATEWAY_V6: &str = "fd00:99::1";

/// The node's addresses on the LAN.
const NODE: [&str; 2] = ["10.99.0.10/24", "fd00:99::10/64"];

/// A LAN: the bridge with the node's addresses, and two machines on it.
struct Lan<'n> {
    network: &'n Network<'n>,
    router: Pod,
    other: Pod,
}

impl Lan<'_> {
    /// The node's default routes through the router.
    fn route(&self) {
        self.network.host.ip(&format!("route add default via {GATEWAY}"));
        self.network.host.ip(&format!("-6 route add default via {GATEWAY_V6}"));
    }

    /// Adds the router's addresses, so that the router answers requests for them.
    fn start_router(&self) {
        for address in [format!("{GATEWAY}/24"), format!("{GATEWAY_V6}/64 nodad")] {
            self.router.ip(&format!("address add {address} dev eth0"));
        }
    }

    /// Adds one address to the router.
    fn start_router_with_only(&self, address: &str) {
        self.router.ip("address flush dev eth0");
        let nodad = if address.contains(':') { "nodad" } else { "" };
        self.router.ip(&format!("address add {address} dev eth0 {nodad}"));
    }

    /// Removes the link between the bridge and the machines.
    fn unplug(&self) {
        for port in ["lan0", "lan1"] {
            self.network.host.ip(&format!("link set {port} nomaster"));
        }
    }

    fn call(&self, verb: &str, config: &Value, pod: &Pod) -> Outcome {
        self.call_for(verb, config, "one", pod)
    }

    fn call_for(&self, verb: &str, config: &Value, container: &str, pod: &Pod) -> Outcome {
        self.network.plugin.clone().beside("/usr/lib/cni").on(verb, config, container, pod).run()
    }

    #[track_caller]
    fn check(&self, config: &Value, result: &Value, pod: &Pod) -> Outcome {
        let mut config = config.clone();
        config["prevResult"] = result.clone();
        self.call("CHECK", &config, pod)
    }

    /// The node has only its own addresses, and no pod sends to the node as its gateway.
    #[track_caller]
    fn assert_unaffected(&self) {
        assert_eq!(self.network.host.addresses("cbr0"), NODE);
        for map in ["pod_ifindex", "pod_ifindex_v6"] {
            let entries = self.network.map(map);
            assert!(
                entries.iter().all(|entry| ![GATEWAY, GATEWAY_V6].contains(&key_text(&entry["key"]).as_str())),
                "{entries:?}"
            );
        }
    }

    /// CHECK, STATUS, `status` and `doctor` report no fault.
    #[track_caller]
    fn assert_no_fault(&self, config: &Value) {
        let dir = configured(self.network.host, config);
        let (_, checks) = doctor(&dir);
        // The directory of the binary under test contains no other plugin.
        let mut failed = checks.iter().filter(|check| check["verdict"] == "fail" && check["check"] != "plugins");
        assert!(failed.next().is_none() && found(&checks, "gateway", "warn").is_empty(), "{checks:#?}");
        let output = command(&format!("status --conf-dir {}", dir.display()));
        assert!(output.status.success(), "{output:#?}");
        let mut config_1_1 = config.clone();
        config_1_1["cniVersion"] = "1.1.0".into();
        if config.get("subnet").is_some() {
            self.network.plugin.invocation("STATUS").config(&config_1_1).run().silent();
        }
    }
}

/// The key of a map entry as text.
fn key_text(key: &Value) -> String {
    let octets: Vec<u8> = serde_json::from_value(key["octet"].clone()).expect("octets");
    match <[u8; 4]>::try_from(octets.as_slice()) {
        Ok(octets) => std::net::Ipv4Addr::from(octets).to_string(),
        Err(_) => std::net::Ipv6Addr::from(<[u8; 16]>::try_from(octets).expect("16 octets")).to_string(),
    }
}

fn configured(host: &Host, config: &Value) -> std::path::PathBuf {
    let dir = host.scratch();
    fs::write(dir.join("10-blackbox.conf"), config.to_string()).expect("room");
    dir
}

/// Runs a test beside a LAN. Its router has no addresses yet.
#[track_caller]
fn on_lan(test: impl FnOnce(&Lan) + Send) {
    on_host(|network| {
        let (host, router, other) = (network.host, network.host.pod(), network.host.pod());
        host.ip("link add cbr0 type bridge");
        host.ip("link set cbr0 up");
        for address in NODE {
            host.ip(&format!("address add {address} dev cbr0 {}", if address.contains(':') { "nodad" } else { "" }));
        }
        for (port, machine, address) in [("lan0", &router, None), ("lan1", &other, Some("10.99.0.50/24"))] {
            host.ip(&format!("link add {port} type veth peer name eth0 netns {}", machine.netns().display()));
            host.ip(&format!("link set {port} master cbr0 up"));
            machine.ip("link set eth0 up");
            if let Some(address) = address {
                machine.ip(&format!("address add {address} dev eth0"));
            }
        }
        host.keep("route fd00:99::");
        let lan = Lan { network, router, other };
        test(&lan);
        host.ip("route flush default");
        for port in ["lan0", "lan1"] {
            host.ip(&format!("link del {port}"));
        }
    });
}

/// Addresses of both families by `static`, with or without the router as their gateway.
fn by_static(network: &Network, names_gateways: bool) -> Value {
    let mut config = network.config.clone();
    config.as_object_mut().expect("an object").remove("subnet");
    let mut addresses = json!([{ "address": "10.99.0.60/24" }, { "address": "fd00:99::60/64" }]);
    if names_gateways {
        (addresses[0]["gateway"], addresses[1]["gateway"]) = (GATEWAY.into(), GATEWAY_V6.into());
    }
    config["ipam"] = json!({ "type": "static", "addresses": addresses });
    config
}

/// Pools of the network in the LAN's subnets.
fn by_pools(network: &Network) -> Value {
    network.with_keys(json!({ "subnets": [
        { "subnet": "10.99.0.0/24", "rangeStart": "10.99.0.100" }, { "subnet": "fd00:99::/64", "rangeStart": "fd00:99::100" },
    ] }))
}

/// The ARP probes among the frames (RFC 5227: requests without a sender address).
fn probes(frames: &[Vec<u8>]) -> usize {
    frames.iter().filter(|frame| frame[12..14] == [8, 6] && frame[28..32] == [0; 4]).count()
}
