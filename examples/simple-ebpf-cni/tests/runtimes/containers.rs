//! containerd's own client: containers with this plugin alone, and with other plugins in the list.

use std::time::Duration;

use cnikit_testbed::{Host, host, kernel, privileged, tool};
use serde_json::{Value, json};

use crate::containerd::Containerd;
use crate::image::{BLOB_SIZE, tiny};
use crate::network::{
    Attached as _, assert_deserted, assert_reach_each_other, fetch, install, map_entries, ours, peers,
};

#[test]
fn two_containers_reach_each_other_and_leave_nothing() {
    on_containerd(&[], &[ours()], |host, containerd| {
        let (one, two) = (containerd.run("one"), containerd.run("two"));
        assert_reach_each_other(&one, &two);
        assert_eq!(map_entries(host), 2);

        two.remove();
        one.remove();
    });
}

#[test]
fn tuning_is_visible_in_the_container() {
    let tuning = json!({ "type": "tuning", "mtu": 1400, "sysctl": { "net.core.somaxconn": "321" } });
    on_containerd(&["tuning"], &[ours(), tuning], |_, containerd| {
        let (one, two) = (containerd.run("one"), containerd.run("two"));
        assert_eq!(one.exec(&["cat", "/proc/sys/net/core/somaxconn"]).trim(), "321");
        let link = one.exec(&["ip", "link", "show", "dev", "eth0"]);
        assert!(link.contains(" mtu 1400 "), "{link}");
        assert_reach_each_other(&one, &two);

        one.remove();
        two.remove();
    });
}

/// The limit is in the plugin list, so this plugin cannot see it. The configuration must therefore
/// disable direct forwarding, and leave the queueing discipline to others.
#[test]
fn a_limit_in_the_list_applies() {
    /// In bits per second and in bits. The last of the blob is sent when everything except a burst
    /// has waited.
    const RATE: u64 = 16 << 20;
    const BURST: u64 = RATE / 8;
    const LEAST: Duration = Duration::from_millis((BLOB_SIZE as u64 * 8 - BURST) * 1000 / RATE);
    // Older kernels have no TCX.
    if kernel() < (6, 6) {
        return;
    }
    let mut first = ours();
    first["directForwarding"] = false.into();
    first["attach"] = "tcx".into();
    let limited = json!({ "type": "bandwidth",
        "ingressRate": RATE, "ingressBurst": BURST, "egressRate": RATE, "egressBurst": BURST });
    for (name, list, limit) in [
        ("with the limit", &[first.clone(), limited][..], LEAST..Duration::MAX),
        ("without", &[first][..], Duration::ZERO..LEAST / 2),
    ] {
        on_containerd(&["bandwidth"], list, |_, containerd| {
            let (one, two) = (containerd.run("one"), containerd.run("two"));
            let took = fetch(&one, &two);
            assert!(limit.contains(&took), "{name}: {BLOB_SIZE} bytes took {took:?}, and not {limit:?}");

            one.remove();
            two.remove();
        });
    }
}

/// Runs a test on a host with containerd and a network of this list. Its containers must leave
/// nothing.
#[track_caller]
fn on_containerd(needed: &[&str], list: &[Value], test: impl FnOnce(&Host, &Containerd<'_>) + Send) {
    if !privileged() || !["containerd", "ctr", "runc", "busybox"].into_iter().all(tool) || !peers(needed) {
        return;
    }
    host(|host| {
        install(host, list);
        let containerd = Containerd::start(host);
        containerd.import("default", &tiny(host));
        test(host, &containerd);
        assert_deserted(host);
        containerd.assert_idle();
    });
}
