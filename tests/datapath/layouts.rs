//! Sets of pins with another layout than the layout of this build.

use std::fs;
use std::path::{Path, PathBuf};

use cnikit::datapath::{Datapath, DatapathConfig, Error, PortConfig};
use cnikit::spec::MacAddr;
use cnikit_testbed::{host, tool};
use libbpf_rs::libbpf_sys::{BPF_F_NO_PREALLOC, bpf_map_create_opts};
use libbpf_rs::{MapCore as _, MapFlags, MapHandle, MapType};

use crate::support::{ROOT, datapath, ids, ip, names, port};

const OLD: &str = "/sys/fs/bpf/example/one/v1";

/// Creates a set of layout 1, with the maps of its C header and entries for two pods.
fn make_layout_1() {
    fs::create_dir_all(OLD).expect("a directory");
    let pkt_count = create("pkt_count", MapType::PercpuHash, 4, 32, 8192);
    let pod_ifindex = create("pod_ifindex", MapType::Hash, 4, 12, 8192);
    let net_config = create("net_config", MapType::Array, 4, 12, 1);
    let net_stats = create("net_stats", MapType::PercpuArray, 4, 40, 1);
    let cpus = libbpf_rs::num_possible_cpus().expect("a number");
    for last in [2_u8, 3] {
        let address = [10, 244, 1, last];
        let counters = words(&[1, 2, 3, u64::from(last)]);
        pkt_count.update_percpu(&address, &vec![counters; cpus], MapFlags::ANY).expect("an entry");
        let entry = [&u32::from(last + 5).to_ne_bytes()[..], &[2, 0, 0, 0, 0, last], &[0, 0]].concat();
        pod_ifindex.update(&address, &entry, MapFlags::ANY).expect("an entry");
    }
    let entry = [&42_u32.to_ne_bytes()[..], &[2, 0, 0, 0, 0, 0xfe], &[0, 0]].concat();
    net_config.update(&[0; 4], &entry, MapFlags::ANY).expect("an entry");
    net_stats.update_percpu(&[0; 4], &vec![words(&[1, 2, 3, 4, 5]); cpus], MapFlags::ANY).expect("an entry");
}

fn create(name: &str, kind: MapType, key: u32, value: u32, rows: u32) -> MapHandle {
    let hash = matches!(kind, MapType::Hash | MapType::PercpuHash);
    let options = bpf_map_create_opts {
        sz: size_of::<bpf_map_create_opts>() as _,
        map_flags: if hash { BPF_F_NO_PREALLOC } else { 0 },
        ..Default::default()
    };
    let mut map = MapHandle::create(kind, Some(name), key, value, rows, &options).expect("a map");
    map.pin(Path::new(OLD).join(name)).expect("a pin");
    map
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

#[test]
fn entries_and_counters_of_layout_1_are_migrated() {
    if !tool("bpftool") {
        return;
    }
    host(|_| {
        make_layout_1();
        let cpus = libbpf_rs::num_possible_cpus().unwrap() as u64;
        let datapath = datapath("one");
        datapath.ensure().unwrap();
        assert_eq!(names(Path::new(ROOT).join("one")), ["v1", "v2"]);

        let (endpoints, counters, ports) = (
            datapath.open_endpoints().unwrap(),
            datapath.open_counters().unwrap(),
            datapath.open_port_configs().unwrap(),
        );
        for last in [2_u8, 3] {
            let (address, ifindex) = (ip(&format!("10.244.1.{last}")), u32::from(last + 5));
            let expected = port(ifindex, last);
            assert_eq!(endpoints.read(address).unwrap(), Some(expected));
            assert_eq!(endpoints.read(ip(&format!("fe80::ff:fe00:{last}"))).unwrap(), Some(expected), "link-local");
            let config = PortConfig::new(expected.mac);
            assert_eq!(ports.read(ifindex).unwrap(), Some(config));
            assert_eq!(ports.drops(ifindex).unwrap().unwrap().total(), 0);
            let counted = counters.read(address).unwrap().unwrap();
            assert_eq!((counted.tx_packets, counted.tx_bytes, counted.tx_direct), (cpus, 2 * cpus, 3 * cpus));
            assert_eq!((counted.rx_packets, counted.rx_bytes), (u64::from(last) * cpus, 0));
        }
        assert_eq!(
            (endpoints.addresses().unwrap().len(), counters.addresses().unwrap().len(), ports.indexes().unwrap().len()),
            (4, 2, 2)
        );
        let gateway = MacAddr::new([2, 0, 0, 0, 0, 0xfe]);
        assert_eq!(datapath.config().unwrap(), DatapathConfig::new(42, gateway));
        let stats = datapath.stats().unwrap();
        assert_eq!((stats.direct, stats.to_stack, stats.to_host), (cpus, 2 * cpus, 3 * cpus));
        assert_eq!((stats.from_stack, stats.unknown.tx_packets), (4 * cpus, 5 * cpus));

        // A second call does not migrate again.
        endpoints.remove(ip("10.244.1.3")).unwrap();
        datapath.ensure().unwrap();
        assert_eq!(endpoints.read(ip("10.244.1.3")).unwrap(), None);

        let loaded = ids(&datapath.directory());
        for _ in 0..2 {
            datapath.remove_outdated().unwrap();
            assert_eq!(names(Path::new(ROOT).join("one")), ["v2"]);
        }
        assert_eq!(ids(&datapath.directory()), loaded);
        datapath.remove().unwrap();
    });
}

#[test]
fn an_incomplete_set_of_layout_1_is_not_migrated() {
    host(|_| {
        make_layout_1();
        fs::remove_file(Path::new(OLD).join("net_stats")).unwrap();
        let datapath = datapath("one");
        datapath.ensure().unwrap();
        assert!(datapath.open_endpoints().unwrap().addresses().unwrap().is_empty());
        datapath.remove_outdated().unwrap();
        datapath.remove().unwrap();
    });
}

#[test]
fn a_newer_layout_is_refused() {
    host(|_| {
        let datapath = datapath("one");
        let newer: PathBuf = Path::new(ROOT).join("one/v3");
        let refused = |datapath: &Datapath| {
            let error = datapath.ensure().unwrap_err();
            let Error::NewerLayout { path, found, known } = &error else { panic!("{error:?}") };
            assert_eq!((path, *found, *known), (&newer, 3, 2));
            let text = error.to_string();
            for fact in [newer.to_str().unwrap(), "layout 3", "up to 2", "install the newer build again"] {
                assert!(text.contains(fact), "{text}");
            }
        };
        fs::create_dir_all(&newer).unwrap();
        refused(&datapath);
        assert_eq!(names(Path::new(ROOT).join("one")), ["v3"], "nothing was loaded");
        datapath.remove_outdated().unwrap();
        assert_eq!(names(Path::new(ROOT).join("one")), ["v3"], "it is not outdated");

        fs::remove_dir(&newer).unwrap();
        datapath.ensure().unwrap();
        fs::create_dir(&newer).unwrap();
        refused(&datapath);
        datapath.remove().unwrap();
        assert_eq!(names(ROOT), [""; 0], "remove() deletes all layouts");
    });
}

#[test]
fn remove_outdated_without_pins_is_success() {
    host(|_| {
        datapath("one").remove_outdated().unwrap();
        assert!(!Path::new(ROOT).exists());
    });
}
