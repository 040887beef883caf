//! The commands `pods` and `status`: pods, counters and problems of networks.

use std::fs;

use cnikit_testbed::Namespace as _;
use serde_json::{Value, json};

use crate::cli::{cells, command, conflist, json_of, refused, shown};
use crate::support::{GATEWAY, NAME, Network, on_host};

/// The command with a directory that has only this network's configuration.
fn looking(network: &Network, words: &str) -> String {
    let file = conflist(network);
    format!("{words} --conf-dir {}", file.parent().expect("a directory").display())
}

#[test]
fn pods_are_shown_with_what_they_sent_and_received() {
    on_host(|network| {
        let line = looking(network, "pods");
        assert_eq!(shown(&line), "No pod is attached.\n");
        let long = "4fe2c9d1a87b4fe2c9d1a87b4fe2c9d1a87b4fe2c9d1a87b4fe2c9d1a87b0123";
        let (one, two) = (network.attach(long), network.attach("two"));
        assert!(one.pod.ping(two.address(), 5).status.success());

        let text = shown(&line);
        let cells = cells(&text);
        let header = [
            "NAMESPACE/POD",
            "NETWORK",
            "CONTAINER",
            "IFNAME",
            "ADDRESSES",
            "VETH",
            "TX",
            "RX",
            "DIRECT",
            "DROPS",
            "AGE",
        ];
        assert_eq!(cells[0], header);
        assert_eq!(cells[1][..6], ["-", NAME, &long[..12], "eth0", one.address(), one.host_veth()]);
        assert_eq!(cells[2][..6], ["-", NAME, "two", "eth0", two.address(), two.host_veth()]);
        assert_eq!(text.lines().last(), Some("2 pods"));
        assert!(shown(&format!("{line} --no-trunc")).contains(long));

        // The maps themselves, when no packet is in flight any more.
        let all = json_of(&format!("{line} --json"));
        for (pod, attached) in all["pods"].as_array().expect("a list").iter().zip([&one, &two]) {
            let counted = network.counters(attached.address()).expect("a row");
            let (tx, rx) = (&pod["counters"]["tx"], &pod["counters"]["rx"]);
            assert_eq!(
                tx,
                &json!({"packets": counted.tx_packets, "bytes": counted.tx_bytes, "direct": counted.tx_direct})
            );
            assert_eq!(
                rx,
                &json!({"packets": counted.rx_packets, "bytes": counted.rx_bytes, "direct": counted.rx_direct})
            );
            assert!(counted.tx_direct >= 5, "{counted:?}");
            assert_eq!(pod["containerId"], attached.container.as_str());
            assert_eq!(pod["hostInterface"], attached.host_veth());
        }
        network.detach(&one);
        network.detach(&two);
    });
}

#[test]
fn spoofed_packets_are_shown_as_drops_with_their_reason() {
    on_host(|network| {
        let (one, two) = (network.attach("one"), network.attach("two"));
        one.pod.ip("address add 10.99.0.200/24 dev eth0");
        let spoofed = one.pod.command("ping").words("-c 3 -i 0.1 -W 1 -I 10.99.0.200").arg(two.address()).output();
        assert!(!spoofed.status.success(), "{spoofed:?}");
        // A broadcast has no answer.
        let broadcast = two.pod.command("ping").words("-b -c 1 -W 1 10.99.0.255").output();
        assert!(!broadcast.status.success(), "{broadcast:?}");

        let line = looking(network, "pods");
        let all = json_of(&format!("{line} --json"));
        let drops = |index: usize| &all["pods"][index]["drops"];
        let refused = drops(0)["ip_source"].as_u64().expect("the packets were refused");
        assert_eq!(drops(1)["ip_source"], Value::Null, "{all:#}");
        let status = json_of(&format!("{} --json", looking(network, "status")));
        assert_eq!(status["networks"][0]["datapath"]["drops"]["ip_source"], refused);
        // Frames that would return to their sender are in no table and no total: each pod has some.
        let reflected = |drops: &Value| drops["reflected"].as_u64().unwrap_or_default();
        assert!(reflected(drops(1)) > 0, "{all:#}");
        assert_eq!((&drops(0)["total"], &drops(1)["total"]), (&refused.into(), &0.into()), "{all:#}");
        let text = shown(&line);
        let in_table: Vec<&str> = cells(&text)[1..3].iter().map(|row| row[9]).collect();
        assert_eq!(in_table, [refused.to_string().as_str(), "0"]);
        network.detach(&one);
        network.detach(&two);
    });
}

#[test]
fn pods_with_addresses_from_another_plugin_are_shown() {
    on_host(|network| {
        for file in ["route 10.98.0.0/24", "file /var/lib/cni/networks/"] {
            network.host.keep(file);
        }
        if !fs::exists("/usr/lib/cni/host-local").expect("an answer") {
            panic!("no host-local in /usr/lib/cni: install containernetworking-plugins");
        }
        let config = network.with_keys(json!({ "ipam": { "type": "host-local", "subnet": "10.98.0.0/24" } }));
        let pod = network.host.pod();
        let call = |verb: &str| {
            let invocation = network.plugin.on(verb, &config, "theirs", &pod);
            invocation.env("CNI_PATH", "/usr/lib/cni").run()
        };
        let result = call("ADD").result();
        let all = json_of(&format!("{} --json", looking(network, "pods")));
        let shown = &all["pods"][0];
        assert_eq!(shown["addresses"], json!(["10.98.0.2"]));
        assert_eq!(shown["hostInterface"], result["interfaces"][1]["name"]);
        assert_eq!((&shown["since"], &shown["containerId"]), (&Value::Null, &Value::Null));
        assert!(shown["counters"].is_object(), "{shown}");
        call("DEL").silent();
    });
}

#[test]
fn status_distinguishes_working_and_broken_networks() {
    on_host(|network| {
        let line = looking(network, "status");
        let idle = json_of(&format!("{line} --json"));
        assert_eq!(idle["networks"][0]["problems"], json!([]), "a network without pods has no problem");
        let pod = network.attach("one");
        assert!(pod.pod.ping(GATEWAY, 3).status.success());

        let all = json_of(&format!("{line} --json"));
        let shown_network = &all["networks"][0];
        assert_eq!((&shown_network["name"], &shown_network["pods"]), (&json!(NAME), &json!(1)));
        assert_eq!(shown_network["bridge"]["name"], "cbr0");
        assert!(shown_network["bridge"]["addresses"].as_array().expect("a list").contains(&json!(GATEWAY)));
        let range = json!({ "range": "10.99.0.0/24", "used": 1, "free": 252, "total": 253 });
        assert_eq!(shown_network["ranges"], json!([range]));
        let datapath = &shown_network["datapath"];
        for flag in ["attached", "direct", "guard"] {
            assert_eq!(datapath[flag], true, "{flag}");
        }
        assert!(datapath["stats"]["toHost"].as_u64() >= Some(3), "{datapath}");
        assert!(shown(&line).contains("  OK\n"));

        network.detach_programs();
        let output = command(&line);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.contains("cni_tc_main") && output.stderr.contains("1 problem"), "{output:?}");
        network.host.ip("link set cbr0 down");
        let output = command(&format!("{line} --json"));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let all: Value = serde_json::from_str(&output.stdout).expect("JSON");
        assert_eq!(all["networks"][0]["problems"].as_array().map(Vec::len), Some(2), "{all}");
        network.detach(&pod);
    });
}

#[test]
fn an_unknown_network_is_refused() {
    on_host(|network| {
        for words in ["pods --network none", "status --network none"] {
            let message = refused(1, &looking(network, words));
            assert!(message.contains("none") && message.contains(NAME), "{message}");
        }
        assert_eq!(shown(&looking(network, "pods --network blackbox")), "No pod is attached.\n");
    });
}

/// Names of clients have common prefixes. Only generated ids differ in their first characters.
#[test]
fn names_of_containers_are_shown_in_full() {
    on_host(|network| {
        let pods = ["default-small-1", "default-small-2"].map(|name| network.attach(name));
        let text = shown(&looking(network, "pods"));
        let containers: Vec<&str> = cells(&text)[1..3].iter().map(|row| row[2]).collect();
        assert_eq!(containers, ["default-small-1", "default-small-2"]);
        pods.iter().for_each(|pod| network.detach(pod));
    });
}

#[test]
fn a_full_pool_with_a_reclaimable_address_is_no_problem() {
    on_host(|network| {
        network.host.keep("route 10.99.0.0/30 ");
        let network = &network.by(network.with("subnet", "10.99.0.0/30"));
        let only = network.attach("only");
        let line = looking(network, "status");
        let output = command(&line);
        assert!(output.status.code() == Some(1) && output.stdout.contains("addresses of 10.99.0.0/30"), "{output:?}");
        network.host.ip(&format!("link del {}", only.host_veth()));
        let text = shown(&line);
        assert!(text.contains("1 pod holds addresses and has no interface"), "{text}");
        network.attach("next");
        network.detach(&only);
        network.call("DEL", "next", &network.host.pod()).silent();
    });
}
