//! Probes for the gateway's address, and ADDs that assign it.

use std::time::{Duration, Instant};

use cnikit_testbed::Namespace;
use cnikit_testbed::raw::Ear;
use serde_json::Value;

use crate::gateway::{GATEWAY_V6, by_pools, by_static, on_lan, probes};
use crate::support::{GATEWAY, on_host};

/// RFC 5227 requires three probes. No other link of the host receives them, and no ADD sends them
/// if the address is assigned.
#[test]
fn a_free_gateway_is_probed_once_on_the_bridge_alone() {
    on_lan(|lan| {
        let (config, host) = (by_pools(lan.network), lan.network.host);
        let elsewhere = host.pod();
        host.ip(&format!("link add wan0 type veth peer name eth0 netns {}", elsewhere.netns().display()));
        host.ip("link set wan0 up");
        elsewhere.ip("link set eth0 up");
        let [there, beside] = [&lan.other, &elsewhere].map(|machine| machine.enter(Ear::open).expect("open"));
        let (one, two) = (host.pod(), host.pod());
        let start = Instant::now();
        lan.call("ADD", &config, &one).result();
        // The other work of the verb takes some 50 ms, beside the wait of 900 ms.
        assert!(start.elapsed() < cnikit_testbed::patience(Duration::from_secs(3)), "{:?}", start.elapsed());
        assert_eq!((probes(&there.frames()), probes(&beside.frames())), (3, 0));
        assert!(one.ping(GATEWAY, 2).status.success());
        lan.call_for("ADD", &config, "two", &two).result();
        assert_eq!(probes(&there.frames()), 0);
        lan.call_for("DEL", &config, "two", &two).silent();
        lan.call("DEL", &config, &one).silent();
        host.ip("link del wan0");
    });
}

/// A bridge with pods as its only ports leads to no other machine, so ADD sends no probe and loses
/// no time.
#[test]
fn a_bridge_without_other_machines_is_not_probed() {
    on_host(|network| {
        let one = network.attach("one");
        let ear = one.pod.enter(Ear::open).expect("open");
        network.host.ip(&format!("address del {GATEWAY}/24 dev cbr0"));
        let two = network.attach("two");
        assert_eq!(probes(&ear.frames()), 0);
        assert!(two.pod.ping(GATEWAY, 2).status.success());
        network.detach(&one);
        network.detach(&two);
    });
}

#[test]
fn two_parallel_adds_assign_one_gateway() {
    on_lan(|lan| {
        let host = lan.network.host;
        for (config, number) in [(by_pools(lan.network), 1), (by_static(lan.network, true), 6)] {
            let mut configs = [config.clone(), config];
            if number == 6 {
                configs.iter_mut().for_each(|config| config["isGateway"] = true.into());
                configs[1]["ipam"]["addresses"][0]["address"] = "10.99.0.61/24".into();
                configs[1]["ipam"]["addresses"][1]["address"] = "fd00:99::61/64".into();
            }
            let pods = [host.pod(), host.pod()];
            std::thread::scope(|scope| {
                let first = scope.spawn(|| lan.call_for("ADD", &configs[0], "one", &pods[0]));
                lan.call_for("ADD", &configs[1], "two", &pods[1]).result();
                first.join().expect("the thread ends").result();
            });
            for pod in &pods {
                assert!(pod.ping(GATEWAY, 2).status.success() && pod.ping(GATEWAY_V6, 2).status.success());
            }
            lan.call_for("DEL", &configs[0], "one", &pods[0]).silent();
            lan.call_for("DEL", &configs[1], "two", &pods[1]).silent();
            for address in [format!("{GATEWAY}/24"), format!("{GATEWAY_V6}/64")] {
                host.ip(&format!("address del {address} dev cbr0"));
            }
        }
    });
}

/// Monitoring calls STATUS and `status` all the time.
#[test]
fn read_only_commands_send_no_probe() {
    on_lan(|lan| {
        let (config, pod) = (by_pools(lan.network), lan.network.host.pod());
        let ear = lan.other.enter(Ear::open).expect("open");
        // STATUS, `status` and `doctor`.
        lan.assert_no_fault(&config);
        assert_eq!(probes(&ear.frames()), 0);
        lan.call("ADD", &config, &pod).result();
        assert_eq!(probes(&ear.frames()), 3);
        lan.call("DEL", &config, &pod).silent();
    });
}

#[test]
fn a_capability_that_the_probe_lacks_is_named() {
    on_lan(|lan| {
        let (config, pod) = (by_pools(lan.network), lan.network.host.pod());
        let before = lan.network.footprint();
        let output = lan.network.host.command("setpriv").args(["--bounding-set=-net_raw", "--inh-caps=-all"]);
        let output = output.arg(crate::cli::BINARY).env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", "one");
        let output = output.env("CNI_NETNS", pod.netns()).env("CNI_IFNAME", "eth0").env("CNI_PATH", "/");
        let output = output.stdin(config.to_string()).output();
        let error: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        let message = error["msg"].as_str().expect("a message");
        assert!(message.contains("cbr0") && message.contains("CAP_NET_RAW"), "{message}");
        lan.network.footprint().beyond(&before, &["pin ".to_owned()]).assert_unchanged(&Default::default(), "the ADD");
        assert!(lan.network.taken().is_empty());
    });
}
