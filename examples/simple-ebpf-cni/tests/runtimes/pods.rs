//! Pods that containerd creates for the kubelet.

use std::collections::BTreeSet;
use std::fs;

use cnikit_testbed::{Host, Namespace, eventually, host, privileged, tool};
use serde_json::{Value, json};

use crate::containerd::Containerd;
use crate::cri::{Cri, NAMESPACE, PodOptions};
use crate::image::{PAGE, SERVED, tiny};
use crate::network::{
    Attached as _, BIN_DIR, CONF_DIR, NAME, assert_deserted, assert_not_published, assert_published,
    assert_reach_each_other, forward, install, map_entries, ours, pairs, peers, portmap, shown_pods,
};
use crate::processes::PATIENCE;

const HOST_PORT: u16 = 30_080;

#[test]
fn two_pods_reach_each_other_and_leave_nothing() {
    on_cri(&[ours()], |host, cri| {
        let (one, two) = (cri.run("one", PodOptions::default()), cri.run("two", PodOptions::default()));
        assert_reach_each_other(&one, &two);
        assert_eq!(map_entries(host), 2);

        one.remove();
        two.remove();
    });
}

/// containerd passes the metadata of the sandbox in `CNI_ARGS`.
#[test]
fn pods_are_shown_by_their_kubernetes_names() {
    on_cri(&[ours()], |host, cri| {
        let (one, two) = (cri.run("one", PodOptions::default()), cri.run("two", PodOptions::default()));
        assert_reach_each_other(&one, &two);
        let (table, pods) = shown_pods(host);
        for (pod, name) in pods.iter().zip(["one", "two"]) {
            assert_eq!(
                [&pod["podNamespace"], &pod["podName"], &pod["podUid"]],
                ["default", name, &format!("{name}-uid")]
            );
            assert!(table.lines().any(|line| line.starts_with(&format!("default/{name}  "))), "{table}");
        }
        one.remove();
        two.remove();
    });
}

/// The plugin directory has only the files of `install`.
#[test]
fn a_pod_runs_with_nothing_but_the_installed_files() {
    if !privileged() || !["containerd", "ctr", "runc", "busybox", "curl"].into_iter().all(tool) {
        return;
    }
    host(|host| {
        for line in ["link cbr0 ", "address cbr0 ", "route 10.99.0.0/24 ", "pin /sys/fs/bpf/simple-ebpf-cni/"] {
            host.keep(line);
        }
        for folder in [BIN_DIR, CONF_DIR] {
            host.empty_dir(folder);
        }
        let binary = env!("CARGO_BIN_EXE_simple-ebpf-cni");
        host.command(binary).words(&format!("install --network {NAME} --subnet 10.99.0.0/24")).run();
        let installed: BTreeSet<_> = fs::read_dir(BIN_DIR)
            .expect("the folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a text"))
            .collect();
        assert_eq!(installed, ["loopback", "simple-ebpf-cni"].map(str::to_owned).into());
        let containerd = Containerd::start(host);
        containerd.import(NAMESPACE, &tiny(host));
        let cri = Cri::connect(host, &containerd);

        let (one, two) = (cri.run("one", PodOptions::default()), cri.run("two", PodOptions::default()));
        assert_reach_each_other(&one, &two);
        let lo = one.exec(&["ip", "address", "show", "dev", "lo"]);
        assert!(lo.contains("LOOPBACK,UP") && lo.contains("inet 127.0.0.1/8"), "{lo}");
        one.remove();
        two.remove();
        assert_deserted(host);
        containerd.assert_idle();
        host.command(binary).words("uninstall --purge").run();
        assert_eq!(fs::read_dir(BIN_DIR).expect("the folder").count(), 0);
    });
}

/// `hostPort` and the annotations reach their plugins through capabilities.
#[test]
fn a_pod_gets_the_requested_port_and_limits() {
    let mut first = ours();
    first["capabilities"] = json!({ "bandwidth": true });
    let bandwidth = json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } });
    on_cri(&[first, portmap(), bandwidth], |host, cri| {
        forward();
        let annotations = [("kubernetes.io/ingress-bandwidth", "8M"), ("kubernetes.io/egress-bandwidth", "16M")];
        let one = cri.run("one", PodOptions { published: Some((HOST_PORT, SERVED)), annotations: &annotations });
        let two = cri.run("two", PodOptions::default());
        assert_published(host, &two, HOST_PORT);
        // The kernel reports bytes. containerd requests a burst that is too large for the time of a
        // test.
        assert_eq!(rates(host), [1_000_000, 2_000_000]);

        one.remove();
        assert_eq!(rates(host), [0; 0]);
        assert_not_published(host, HOST_PORT);
        two.remove();
    });
}

#[test]
fn a_pod_outlives_containerd() {
    on_cri(&[ours()], |_, cri| {
        let one = cri.run("one", PodOptions::default());
        let first = one.address();
        cri.restart();
        assert_eq!(one.address(), first);
        let two = cri.run("two", PodOptions::default());
        assert_reach_each_other(&one, &two);

        one.remove();
        two.remove();
    });
}

/// containerd then sends DEL without a namespace.
#[test]
fn a_pod_without_its_namespace_is_removed() {
    on_cri(&[ours()], |host, cri| {
        let one = cri.run("one", PodOptions::default());
        one.destroy();
        eventually("the end of the pair", PATIENCE, || pairs(host).is_empty());
        assert_eq!(map_entries(host), 1);

        one.remove();
    });
}

/// containerd never calls GC. A pod that it forgets, as after an upgrade in place, keeps its lease.
#[test]
fn a_pod_that_containerd_has_forgotten_is_collected() {
    on_cri(&[ours()], |host, cri| {
        // containerd's cache of results.
        host.keep("file /var/lib/cni/results/");
        let [one, two, lost] = ["one", "two", "lost"].map(|name| cri.run(name, PodOptions::default()));
        let (address, taken, netns) = (one.address(), lost.address(), lost.netns());
        let lease = format!("/var/lib/cni/simple-ebpf-cni/{NAME}/leases/{}@eth0.json", lost.id());
        lost.forget();

        let call = |arguments: &[&str]| host.command(format!("{BIN_DIR}/simple-ebpf-cni")).args(arguments);
        let socket = format!("unix://{}", cri.socket().display());
        let collect = |option: &str| call(&["gc", "--runtime-endpoint", &socket]).words(option).run();
        // Its process may still serve.
        let text = collect("");
        assert!(text.contains("default/lost") && text.contains("kept: its interface veth"), "{text}");
        assert_eq!(one.wget(&taken, SERVED, "page"), PAGE);

        lost.kill(&netns);
        eventually("the end of the pair", PATIENCE, || pairs(host).len() == 2);
        let checks = call(&["doctor"]).output().stdout;
        assert!(checks.contains("(default/lost)") && checks.contains("simple-ebpf-cni gc --network"), "{checks}");
        let text = collect("--dry-run");
        assert!(text.contains("default/lost") && text.contains("would be removed"), "{text}");
        assert!(fs::exists(&lease).expect("the directory exists"));
        let text = collect("");
        assert!(text.contains(&taken) && text.contains("1 attachment removed, 0 kept"), "{text}");
        assert!(text.contains("lists 2 more"), "{text}");
        assert!(!fs::exists(&lease).expect("the directory exists"));
        assert_eq!(map_entries(host), 2);
        lost.delete();

        assert_eq!(one.address(), address);
        assert_reach_each_other(&one, &two);
        one.remove();
        two.remove();
    });
}

/// The rates of the host's token buckets, in bytes per second.
#[track_caller]
fn rates(host: &Host) -> Vec<u64> {
    let qdiscs = host.tc("qdisc show");
    let buckets = qdiscs.as_array().into_iter().flatten().filter(|qdisc| qdisc["kind"] == "tbf");
    let mut rates: Vec<u64> = buckets.map(|qdisc| qdisc["options"]["rate"].as_u64().expect("a rate")).collect();
    rates.sort_unstable();
    rates
}

/// Runs a test on a host with containerd and a network of this list. Its pods must leave nothing.
#[track_caller]
fn on_cri(list: &[Value], test: impl FnOnce(&Host, &Cri<'_>) + Send) {
    let needed = ["portmap", "bandwidth"];
    if !privileged() || !["containerd", "ctr", "runc", "busybox", "curl"].into_iter().all(tool) || !peers(&needed) {
        return;
    }
    host(|host| {
        install(host, list);
        let containerd = Containerd::start(host);
        containerd.import(NAMESPACE, &tiny(host));
        test(host, &Cri::connect(host, &containerd));
        assert_deserted(host);
        containerd.assert_idle();
    });
}
