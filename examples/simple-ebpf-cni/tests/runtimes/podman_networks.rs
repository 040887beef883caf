//! Containers of podman in a network of the plugin.

use std::fs;
use std::path::Path;

use cnikit_testbed::{Host, host, privileged, tool};
use serde_json::Value;

use crate::image::SERVED;
use crate::network::{
    Attached as _, CONF_DIR, NAME, assert_deserted, assert_not_published, assert_published, assert_reach_each_other,
    install, map_entries, ours, peers, portmap, shown_pods,
};
use crate::podman::Podman;

const HOST_PORT: u16 = 30_080;

#[test]
fn two_containers_reach_each_other_and_leave_nothing() {
    on_podman(&[ours()], |host, podman| {
        let listed = podman.command("network").args(["ls", "--format", "{{.Name}} {{.Driver}}"]).run();
        assert!(listed.lines().any(|line| line == format!("{NAME} simple-ebpf-cni")), "{listed}");
        let inspected = podman.command("network").args(["inspect", NAME]).json();
        assert_eq!(inspected[0]["driver"], "simple-ebpf-cni", "{inspected}");

        let (one, two) = (podman.run("one", &["--network", NAME]), podman.run("two", &["--network", NAME]));
        assert_reach_each_other(&one, &two);
        assert_eq!(map_entries(host), 2);
        // podman passes the name of the container, and no namespace.
        let (table, pods) = shown_pods(host);
        assert_eq!((&pods[0]["podName"], pods[0].get("podNamespace")), (&"one".into(), None));
        assert!(table.lines().any(|line| line.starts_with("one  ")), "{table}");

        // A stop ends the container's network, and a start sets it up again.
        one.restart();
        assert_reach_each_other(&one, &two);
        assert_eq!(map_entries(host), 2);

        one.remove();
        two.remove();
    });
}

#[test]
fn a_published_port_answers_until_its_container_is_removed() {
    // A host that publishes a port to containers must route between them, too.
    let mut first = ours();
    first["ipMasq"] = true.into();
    on_podman(&[first, portmap()], |host, podman| {
        let publish = format!("{HOST_PORT}:{SERVED}");
        let one = podman.run("one", &["--network", NAME, "--publish", &publish]);
        let two = podman.run("two", &["--network", NAME]);
        assert_published(host, &two, HOST_PORT);

        one.restart();
        assert_published(host, &two, HOST_PORT);

        // A DEL and an ADD, in a namespace that stays.
        let before = one.address();
        one.reload();
        assert_eq!(one.address(), before);
        assert_reach_each_other(&one, &two);
        assert_published(host, &two, HOST_PORT);

        one.remove();
        assert_not_published(host, HOST_PORT);
        two.remove();
    });
}

#[test]
fn a_container_gets_the_requested_address_and_mac() {
    const MAC: &str = "02:00:5e:00:53:17";
    let mut first = ours();
    // The address and the MAC arrive as arguments, without a capability. Aliases arrive as an
    // object, which differs from the conventions.
    first["capabilities"] = serde_json::json!({ "ips": true, "mac": true, "aliases": true });
    on_podman(&[first], |_, podman| {
        let wishes = ["--network", NAME, "--ip", "10.99.0.77", "--mac-address", MAC, "--network-alias", "first"];
        let one = podman.run("one", &wishes);
        let two = podman.run("two", &["--network", &format!("{NAME}:ip=10.99.0.78")]);
        assert_eq!((one.address(), two.address()), ("10.99.0.77".into(), "10.99.0.78".into()));
        let link = one.exec(&["ip", "link", "show", "dev", "eth0"]);
        assert!(link.contains(MAC), "{link}");
        assert_reach_each_other(&one, &two);

        one.remove();
        two.remove();
    });
}

/// A file of `podman network create` for the reference plugin works with this plugin, after a
/// change of the type.
#[test]
fn a_network_file_of_podman_works() {
    on_podman(&[ours()], |host, podman| {
        let file = Path::new(CONF_DIR).join("10-containers.conflist");
        fs::remove_file(&file).expect("an installed file");
        let create = podman.command("network").args(["create", "--subnet", "10.99.0.0/24"]);
        create.args(["--opt", "mtu=1400", NAME]).run();
        let file = file.with_file_name(format!("{NAME}.conflist"));
        let written = fs::read_to_string(&file).expect("podman wrote it");
        let mut list: Value = serde_json::from_str(&written).expect("it is JSON");
        let first = &mut list["plugins"][0];
        assert_eq!(first["type"], "bridge", "{written}");
        first["type"] = "simple-ebpf-cni".into();
        let bridge = first["bridge"].as_str().expect("podman names the bridge").to_owned();
        fs::write(&file, list.to_string()).expect("the folder is the host's");
        // host-local keeps the last of these files for a network.
        for line in [format!("link {bridge} "), format!("address {bridge} "), "file /var/lib/cni/networks/".into()] {
            host.keep(&line);
        }

        let publish = format!("{HOST_PORT}:{SERVED}");
        let one = podman.run("one", &["--network", NAME, "--publish", &publish, "--ip", "10.99.0.77"]);
        let two = podman.run("two", &["--network", NAME]);
        assert_eq!(one.address(), "10.99.0.77");
        let link = one.exec(&["ip", "link", "show", "dev", "eth0"]);
        assert!(link.contains(" mtu 1400 "), "{link}");
        assert_reach_each_other(&one, &two);
        assert_published(host, &two, HOST_PORT);

        one.remove();
        two.remove();
    });
}

/// Runs a test on a host with podman and a network of this list. Its containers must leave nothing.
#[track_caller]
fn on_podman(list: &[Value], test: impl FnOnce(&Host, &Podman<'_>) + Send) {
    let needed = ["host-local", "portmap", "firewall", "tuning"];
    if !privileged() || !["podman", "conmon", "runc", "busybox"].into_iter().all(tool) || !peers(&needed) {
        return;
    }
    host(|host| {
        install(host, list);
        let Some(podman) = Podman::start(host) else { return };
        test(host, &podman);
        assert_deserted(host);
        podman.assert_idle();
    });
}
