//! XDP programs of pods in driver mode, and pods in stack-only mode.

use std::fs;
use std::path::Path;

use cnikit_testbed::{Invocation, Namespace, Pod, Xdp};
use serde_json::{Value, json};

use crate::cli::command;
use crate::doctor::{configured, doctor, found};
use crate::support::{Attached, Network, code, on_host};

const PIN: &str = "/sys/fs/bpf/drop";
const PINS: &str = "/sys/fs/bpf/simple-ebpf-cni";
const WARNING: &str = "does not see packets from other pods of blackbox";

/// Two pods. The second drops all incoming packets while the test runs.
fn with_filter(test: impl FnOnce(&Network, [&Attached; 2]) + Send) {
    on_host(|network| {
        let [one, two] = ["one", "two"].map(|name| network.attach(name));
        // The neighbors are known, because the program drops their requests, too.
        assert!(one.pod.ping(two.address(), 2).status.success());
        Xdp::new(Xdp::DROP).pin(Path::new(PIN));
        filter(&two.pod);
        test(network, [&one, &two]);
        fs::remove_file(PIN).expect("the pin can be removed");
        for pod in [&one, &two] {
            network.detach(pod);
        }
    });
}

fn filter(pod: &Pod) {
    pod.ip(&format!("-force link set dev eth0 xdpdrv pinned {PIN}"));
}

fn unfilter(pod: &Pod) {
    pod.ip("link set dev eth0 xdpdrv off");
}

/// Whether pings arrive, and how many were direct.
#[track_caller]
fn ping(network: &Network, from: &Attached, to: &Attached) -> (bool, u64) {
    let before = network.counters(from.address()).expect("an entry").tx_direct;
    let arrived = from.pod.ping(to.address(), 3).status.success();
    (arrived, network.counters(from.address()).expect("an entry").tx_direct - before)
}

#[test]
fn a_filter_of_a_pod_sees_packets_of_other_pods() {
    with_filter(|network, [one, two]| {
        assert_eq!(ping(network, one, two), (false, 3));
        unfilter(&two.pod);
        assert_eq!(ping(network, one, two), (true, 3));
        let (status, checks) = doctor(&configured(network));
        assert_eq!((status, found(&checks, "xdp", "warn")), (Some(0), String::new()));
    });
}

#[test]
fn a_filter_works_without_the_pins_and_after_their_return() {
    with_filter(|network, [one, two]| {
        fs::remove_dir_all(PINS).expect("a bpffs is writable");
        assert!(!one.pod.ping(two.address(), 3).status.success());
        let three = network.attach("three");
        assert!(!one.pod.ping(two.address(), 3).status.success());
        assert!(!three.pod.ping(two.address(), 3).status.success());
        network.detach(&three);
    });
}

/// The state after an upgrade from a build without `port_xdp`.
#[test]
fn an_upgrade_covers_attached_pods() {
    with_filter(|network, [one, two]| {
        network.make_foreign();
        for pin in ["find_xdp", "port_xdp"] {
            fs::remove_file(network.pin(pin)).expect("a bpffs is writable");
        }
        let three = network.attach("three");
        for from in [one, &three] {
            assert!(!from.pod.ping(two.address(), 3).status.success(), "{}", from.container);
        }
        network.detach(&three);
    });
}

/// The state on a kernel that denies the read.
#[test]
fn doctor_warns_about_a_bypassed_filter() {
    with_filter(|network, [one, two]| {
        let dir = configured(network);
        fs::remove_file(network.pin("find_xdp")).expect("a bpffs is writable");
        for entry in network.map("port_xdp") {
            let index = u32::try_from(entry["key"].as_u64().expect("an index")).expect("32 bits");
            let key = index.to_ne_bytes().map(|byte| byte.to_string());
            network
                .host
                .command("bpftool")
                .args(["map", "delete", "pinned"])
                .arg(network.pin("port_xdp"))
                .arg("key")
                .args(key)
                .run();
        }
        let (status, checks) = doctor(&dir);
        let warned = found(&checks, "xdp", "warn");
        assert_eq!(status, Some(0), "no check fails: {checks:#?}");
        assert!(warned.contains(&format!("on eth0 of two {WARNING}")) && !warned.contains("of one"), "{warned}");
        assert!(warned.contains("directForwarding") && warned.contains("DIRECT_FORWARDING=false"), "{warned}");

        // The fix that `doctor` names.
        network.detach(two);
        let mut config = network.config.clone();
        config["args"] = json!({ "cni": { "directForwarding": false } });
        let kept = network.by(config);
        let two = kept.attach("two");
        filter(&two.pod);
        assert_eq!(ping(network, one, &two), (false, 0));
        assert_eq!(found(&doctor(&dir).1, "xdp", "warn"), "");
        unfilter(&two.pod);
        assert_eq!(ping(network, one, &two), (true, 0));
        kept.detach(&two);

        // No warning for a pod without such a program, or with one in generic mode.
        let three = network.attach("three");
        assert_eq!(found(&doctor(&dir).1, "xdp", "warn"), "");
        three.pod.ip(&format!("link set dev eth0 xdpgeneric pinned {PIN}"));
        assert_eq!(found(&doctor(&dir).1, "xdp", "warn"), "");
        network.detach(&three);
    });
}

/// Attaches a pod in stack-only mode, requested by a key or a variable, beside a pod without.
#[track_caller]
fn is_kept_to_the_stack(args: Option<Value>, change: impl Fn(Invocation) -> Invocation + Sync) {
    on_host(|network| {
        let mut config = network.config.clone();
        if let Some(args) = args.clone() {
            config["args"] = args;
        }
        let call = |verb: &str, config: &Value, pod: &Pod| change(network.plugin.on(verb, config, "one", pod)).run();
        let pod = network.host.pod();
        let result = call("ADD", &config, &pod).result();
        let one = Attached { container: "one".into(), pod, result: result.clone() };
        let [two, three] = ["two", "three"].map(|name| network.attach(name));
        assert_eq!(ping(network, &one, &two), (true, 0), "from the pod");
        assert_eq!(ping(network, &two, &one), (true, 0), "to the pod");
        assert_eq!(ping(network, &two, &three), (true, 3), "others");

        config["prevResult"] = result;
        call("CHECK", &config, &one.pod).silent();
        fs::remove_dir_all(PINS).expect("a bpffs is writable");
        let four = network.attach("four");
        assert_eq!(ping(network, &two, &one), (true, 0), "its pins were lost");
        assert_eq!(ping(network, &two, &three), (true, 3), "its pins were lost");
        call("CHECK", &config, &one.pod).silent();
        call("DEL", &config, &one.pod).silent();
        for pod in [&two, &three, &four] {
            network.detach(pod);
        }
    });
}

#[test]
fn args_in_the_configuration_request_the_stack() {
    is_kept_to_the_stack(Some(json!({ "cni": { "directForwarding": false } })), |invocation| invocation);
}

#[test]
fn the_variable_requests_the_stack() {
    is_kept_to_the_stack(None, |invocation| invocation.env("CNI_ARGS", "IgnoreUnknown=1;DIRECT_FORWARDING=false"));
}

#[test]
fn the_configuration_has_priority() {
    is_kept_to_the_stack(Some(json!({ "cni": { "directForwarding": false } })), |invocation| {
        invocation.env("CNI_ARGS", "DIRECT_FORWARDING=true")
    });
}

/// `true`, `null` and an absent value leave the decision to the network.
#[test]
fn a_pod_cannot_enable_direct_forwarding_of_its_network() {
    on_host(|network| {
        let network = network.by(network.with("directForwarding", false));
        let with = |args: Value| network.by(network.with("args", args));
        let requests = [json!({ "cni": { "directForwarding": true } }), json!({ "cni": null }), Value::Null];
        let pods: Vec<_> =
            requests.into_iter().zip(["a", "b", "c"]).map(|(args, name)| with(args).attach(name)).collect();
        assert_eq!(ping(&network, &pods[0], &pods[1]), (true, 0));
        pods.iter().for_each(|pod| network.detach(pod));
    });
}

#[test]
fn a_value_that_is_not_boolean_is_refused_before_any_change() {
    on_host(|network| {
        let pod = network.host.pod();
        let before = network.footprint();
        let config = network.with("args", json!({ "cni": { "directForwarding": "never" } }));
        let message = network.plugin.on("ADD", &config, "one", &pod).run().error(7);
        assert!(message.contains("args.cni.directForwarding"), "{message}");
        let by_variable = network.plugin.on("ADD", &network.config, "one", &pod);
        let message = by_variable.env("CNI_ARGS", "DIRECT_FORWARDING=never").run().error(4);
        assert!(message.ends_with("DIRECT_FORWARDING=never is not valid: write true or false"), "{message}");
        network.footprint().assert_unchanged(&before, "a refused ADD");
    });
}

#[test]
fn check_reports_a_pod_whose_packets_bypass_the_stack_against_its_request() {
    on_host(|network| {
        let one = network.attach("one");
        let mut config = network.with("args", json!({ "cni": { "directForwarding": false } }));
        config["prevResult"] = one.result.clone();
        let message = network.plugin.on("CHECK", &config, "one", &one.pod).run().error(code::DIFFERS);
        assert!(message.contains("bypass the stack"), "{message}");
        network.detach(&one);
    });
}

#[test]
fn uninstall_removes_the_program_that_finds_xdp_programs() {
    on_host(|network| {
        let one = network.attach("one");
        assert!(network.pin("find_xdp").exists());
        network.detach(&one);
        let purged = command(&format!("uninstall --purge --network {}", crate::support::NAME));
        assert!(purged.status.success(), "{purged:?}");
        assert!(!Path::new(PINS).join(crate::support::NAME).exists());
    });
}
