//! The command `uninstall`: what it leaves of a node, and of what it was not asked for.

use std::path::Path;

use cnikit_testbed::{Footprint, Namespace as _};

use crate::install::{BLACKBOX, Node};
use crate::people::shown;
use crate::support::{DATA_DIR, on_host};

const PINS: &str = "/sys/fs/bpf/simple-ebpf-cni";

#[test]
fn a_purge_leaves_nothing_of_the_network() {
    on_host(|network| {
        let node = Node::new(network);
        let before = network.footprint();
        shown(&node.install(BLACKBOX));
        let installed = node.network("10-blackbox.conflist");
        let pods = ["one", "two"].map(|name| installed.attach(name));
        let text = shown(&node.uninstall("--purge --force"));
        for what in [
            format!("removed {}", node.binary().display()),
            format!("removed {}", node.conf("10-blackbox.conflist").display()),
            format!("removed veth {}", pods[0].host_veth()),
            format!("removed veth {}", pods[1].host_veth()),
            "removed bridge cbr0".into(),
            "removed programs and maps pinned in /sys/fs/bpf/simple-ebpf-cni/blackbox".into(),
            format!("removed leases in {DATA_DIR}/blackbox"),
        ] {
            assert!(text.contains(&what), "{what}: {text}");
        }
        network.footprint().assert_unchanged(&before, "install and purge");
        node.files().assert_unchanged(&Footprint::default(), "install and purge");
        assert!(!Path::new(DATA_DIR).exists() && !Path::new("/sys/fs/bpf/simple-ebpf-cni").exists());
        for pod in &pods {
            assert!(pod.pod.link("eth0").is_none());
            network.detach(pod);
        }
    });
}

#[test]
fn a_purge_leaves_a_bridge_that_was_there_before_and_links_of_others() {
    on_host(|network| {
        network.host.ip("link add cbr0 type bridge");
        network.host.ip("link add other0 type veth peer name other1");
        network.host.ip("link set other0 master cbr0");
        let pod = network.attach("one");
        let node = Node::new(network);
        let text = shown(&node.uninstall("--purge --force"));
        assert!(text.contains("left bridge cbr0"), "{text}");
        assert!(network.host.link("cbr0").is_some() && network.host.link("other0").is_some());
        assert!(network.host.link(pod.host_veth()).is_none());
        network.host.ip("link del other0");
        network.detach(&pod);
    });
}
