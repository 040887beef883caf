//! No operation leaks a descriptor. This test is its own binary, because it counts the descriptors
//! of the process, and other tests would open descriptors at the same time.
#![cfg(feature = "netlink")]

use cnikit::{
    netlink::{Netns, OrphanRecord, VethEnd, VethPair},
    spec::MacAddr,
};

#[test]
fn descriptors_are_closed() {
    if let Err(error) = Netns::create() {
        let demanded = std::env::var("CNIKIT_REQUIRE_PRIVILEGED").is_ok_and(|v| v == "1");
        assert!(!demanded, "CNIKIT_REQUIRE_PRIVILEGED=1 demands privileges: {error}");
        eprintln!("SKIP {error}");
        return;
    }
    let before = descriptors();
    for _ in 0..10 {
        attach();
    }
    assert_eq!(descriptors(), before);
}

fn attach() {
    let host = Netns::create().expect("create the host's namespace");
    let pod = Netns::create().expect("create the pod's namespace");
    let on_host = host.socket().expect("open a socket");
    let end = |name: &str, last| VethEnd::new(name.parse().expect("name"), MacAddr::new([2, 0, 0, 0, 0, last]));
    let pair = VethPair::new(end("veth0", 1), end("eth0", 2), &pod).host_up();
    let indexes = on_host.create_veth(&pair).expect("create the pair");
    on_host.create_veth(&pair).expect_err("it exists");
    pod.socket().expect("open a socket").set_up(indexes.peer).expect("bring it up");
    assert_eq!(on_host.links().expect("list").len(), 2);
    Netns::open("/dev/null").expect_err("no namespace");
    let dir = tempfile::tempdir().expect("a directory");
    let record = OrphanRecord::new(dir.path().join("orphans"));
    on_host.delete_link_nowait(indexes.host, &record).expect("delete");
    on_host.delete_link(indexes.host).expect("delete what is gone");
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("list the descriptors").count()
}
