//! The datapath leaks no descriptors. This test is a separate binary because other tests open
//! descriptors concurrently.
#![cfg(feature = "datapath")]

use std::net::IpAddr;

use cnikit::datapath::{Datapath, DatapathConfig, Endpoint, PortConfig, ProgramName};
use cnikit::spec::{IfIndex, MacAddr};
use cnikit_testbed::host;

#[test]
fn descriptors_are_closed() {
    host(|_| {
        let datapath = Datapath::new("/sys/fs/bpf/example", &"one".parse().expect("a name"));
        // On the first probe of the kernel, libbpf may keep a descriptor open.
        use_all(&datapath);
        let before = descriptors();
        for _ in 0..5 {
            use_all(&datapath);
        }
        assert_eq!(descriptors(), before);
    });
}

fn use_all(datapath: &Datapath) {
    let address: IpAddr = "10.244.1.2".parse().expect("an address");
    let (ifindex, mac) = (IfIndex::new(7).expect("an index"), MacAddr::new([0x02, 0, 0, 0, 0, 2]));
    datapath.open_counters().expect_err("nothing is loaded");
    datapath.ensure().expect("load");
    datapath.ensure().expect("look");
    datapath.program(ProgramName::Main).expect("open");
    datapath.configure(DatapathConfig::new(ifindex, mac)).expect("configure");
    datapath.config().expect("read");
    datapath.stats().expect("read");
    datapath.drops().expect("read");
    let (counters, endpoints) = (datapath.open_counters().expect("open"), datapath.open_endpoints().expect("open"));
    counters.insert(address).expect("insert");
    endpoints.insert(address, Endpoint::new(ifindex, mac)).expect("insert");
    let ports = datapath.open_port_configs().expect("open");
    ports.insert(ifindex, PortConfig::new(mac)).expect("insert");
    assert_eq!(ports.indexes().expect("the map can be listed").len(), 1);
    let [counted, owned] =
        [counters.addresses(), endpoints.addresses()].map(|listed| listed.expect("the map can be listed"));
    assert_eq!((counted.len(), owned.len()), (1, 1));
    datapath.remove_outdated().expect("look");
    datapath.remove().expect("remove");
    let elsewhere = Datapath::new("/proc", &"one".parse().expect("a name"));
    elsewhere.ensure().expect_err("no BPF file system");
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("list the descriptors").count()
}
