//! Two containers with the network that the plugin gives them.

use std::fs;

use cnikit_testbed::{Host, Namespace, host, privileged, tool};
use serde_json::json;

use crate::containerd::Containerd;
use crate::image::{PAGE, tiny};

#[test]
fn two_containers_reach_each_other_and_leave_nothing() {
    if !privileged() || !["containerd", "ctr", "runc", "busybox"].into_iter().all(tool) {
        return;
    }
    host(|host| {
        install(host);
        let containerd = Containerd::start(host);
        containerd.import(&tiny(host));

        let (one, two) = (containerd.run("one"), containerd.run("two"));
        let (first, second) = (one.address(), two.address());
        assert_ne!(first, second);
        for (from, to) in [(&one, &second), (&two, &first)] {
            let pinged = from.exec(&["ping", "-c", "3", "-W", "2", to]);
            assert!(pinged.contains(" 0% packet loss"), "{pinged}");
            // Without a time limit of its own: wget's -T crashes in Debian's static busybox.
            assert_eq!(from.exec(&["wget", "-q", "-O", "-", &format!("http://{to}:8080/page")]), PAGE);
        }
        assert_eq!(rows(host), 2);

        two.remove();
        one.remove();
        let veths = host.ip("link show type veth");
        assert!(veths.as_array().is_none_or(|links| links.iter().all(|link| link["ifname"].is_null())), "{veths}");
        assert_eq!(rows(host), 0);
    });
}

/// Puts the plugin and a network configuration where runtimes look for them.
fn install(host: &Host) {
    host.empty_dir("/opt/cni/bin");
    fs::copy(env!("CARGO_BIN_EXE_simple-ebpf-cni"), "/opt/cni/bin/simple-ebpf-cni").expect("the plugin is installed");
    host.empty_dir("/etc/cni/net.d");
    let list = json!({
        "cniVersion": "1.0.0", "name": "containers",
        "plugins": [{ "type": "simple-ebpf-cni", "bridge": "cbr0", "subnet": "10.99.0.0/24" }],
    });
    fs::write("/etc/cni/net.d/10-containers.conflist", list.to_string()).expect("the configuration is installed");
    for line in [
        "link cbr0 ",
        "address cbr0 ",
        "route 10.99.0.0/24 ",
        "pin /sys/fs/bpf/simple-ebpf-cni/",
        "file /var/lib/cni/simple-ebpf-cni/containers/lock",
        "file /var/lib/cni/simple-ebpf-cni/containers/last",
    ] {
        host.keep(line);
    }
}

/// How many pods the maps know of.
#[track_caller]
fn rows(host: &Host) -> usize {
    let found = host.command("find").args(["/sys/fs/bpf/simple-ebpf-cni/containers", "-name", "pkt_count"]).run();
    let dump = host.command("bpftool").args(["-j", "map", "dump", "pinned", found.trim()]).json();
    dump.as_array().map_or_else(|| panic!("no list: {dump}"), Vec::len)
}
