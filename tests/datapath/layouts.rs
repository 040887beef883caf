//! Sets of pins with another layout than the layout of this build.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use cnikit::datapath::{Datapath, DatapathConfig, Error, PinState, PortConfig, ProgramName};
use cnikit::spec::MacAddr;
use cnikit_testbed::{classifier, classifier_with_maps, host, tool};
use libbpf_rs::libbpf_sys::{BPF_F_NO_PREALLOC, bpf_map_create_opts};
use libbpf_rs::{MapCore as _, MapFlags, MapHandle, MapType};

use crate::support::{PROGRAMS, ROOT, bpftool, datapath, header, ids, index, ip, make_foreign, names, port};

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

fn create(name: &str, kind: MapType, key: u32, value: u32, max_entries: u32) -> MapHandle {
    create_in(OLD, name, kind, key, value, max_entries)
}

fn create_in(directory: &str, name: &str, kind: MapType, key: u32, value: u32, max_entries: u32) -> MapHandle {
    let hash = matches!(kind, MapType::Hash | MapType::PercpuHash);
    let options = bpf_map_create_opts {
        sz: size_of::<bpf_map_create_opts>() as _,
        map_flags: if hash { BPF_F_NO_PREALLOC } else { 0 },
        ..Default::default()
    };
    let mut map = MapHandle::create(kind, Some(name), key, value, max_entries, &options).expect("a map");
    map.pin(Path::new(directory).join(name)).expect("a pin");
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
            let (address, ifindex) = (ip(&format!("10.244.1.{last}")), index(u32::from(last) + 5));
            let expected = port(ifindex.get(), last);
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
        assert_eq!(datapath.config().unwrap(), DatapathConfig::new(index(42), gateway));
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

/// A set of this layout as builds pinned it before the filters, the stages and the pinned scratch
/// space, with its programs.
fn make_older_set() {
    const DIRECTORY: &str = "/sys/fs/bpf/example/one/v2";
    fs::create_dir_all(DIRECTORY).expect("a directory");
    let create = |name, kind, key, value, max_entries| create_in(DIRECTORY, name, kind, key, value, max_entries);
    let pkt_count = create("pkt_count", MapType::PercpuHash, 4, 48, 8192);
    create("pkt_count_v6", MapType::PercpuHash, 16, 48, 8192);
    let pod_ifindex = create("pod_ifindex", MapType::Hash, 4, 12, 8192);
    create("pod_ifindex_v6", MapType::Hash, 16, 12, 8192);
    let port_config = create("port_config", MapType::Hash, 4, 8, 2048);
    create("port_addresses", MapType::Hash, 20, 4, 8192);
    create("port_drops", MapType::PercpuHash, 4, 128, 2048);
    create("port_xdp", MapType::Hash, 4, 8, 2048);
    create("net_config", MapType::Array, 4, 12, 1);
    create("net_stats", MapType::PercpuArray, 4, 112, 1);
    create("net_drops", MapType::PercpuArray, 4, 128, 1);
    let flows = create("flows", MapType::LruHash, 40, 1, 32768);
    for name in PROGRAMS {
        let (_program, id) = classifier(-1);
        bpftool().words(&format!("prog pin id {id}")).arg(Path::new(DIRECTORY).join(name)).run();
    }
    fs::create_dir(Path::new(DIRECTORY).join("build-of-another")).expect("a mark");

    let cpus = libbpf_rs::num_possible_cpus().expect("a number");
    let address = [10, 244, 1, 2];
    pkt_count.update_percpu(&address, &vec![words(&[1, 2, 3, 4, 5, 6]); cpus], MapFlags::ANY).expect("an entry");
    let row = [&7_u32.to_ne_bytes()[..], &[2, 0, 0, 0, 0, 2], &[0, 0]].concat();
    pod_ifindex.update(&address, &row, MapFlags::ANY).expect("an entry");
    port_config.update(&7_u32.to_ne_bytes(), &[2, 0, 0, 0, 0, 2, 1, 0], MapFlags::ANY).expect("an entry");
    flows.update(&[9; 40], &[2], MapFlags::ANY).expect("an entry");
}

/// The values of a filter, each once.
fn values(datapath: &Datapath, filter: &str) -> Vec<u8> {
    let map = MapHandle::from_pinned_path(datapath.directory().join(filter)).expect("a pin");
    let mut values: Vec<u8> =
        map.keys().map(|key| map.lookup(&key, MapFlags::ANY).expect("a lookup").expect("a value")[0]).collect();
    assert_eq!(values.len(), header("CNI_TC_FILTER_SIZE"));
    values.sort_unstable();
    values.dedup();
    values
}

/// Programs without the filters track flows, and builds without them write flags, until all of them
/// are replaced.
#[test]
fn the_filters_pass_all_after_an_upgrade_from_a_set_without_them() {
    if !tool("bpftool") {
        return;
    }
    host(|_| {
        make_older_set();
        let datapath = datapath("one");
        assert!(datapath.is_complete().unwrap(), "an older set serves its pods");
        let cpus = libbpf_rs::num_possible_cpus().unwrap() as u64;
        datapath.ensure().unwrap();
        ids(&datapath.directory());
        let counted = datapath.open_counters().unwrap().read(ip("10.244.1.2")).unwrap().unwrap();
        assert_eq!((counted.tx_packets, counted.rx_direct), (cpus, 6 * cpus));
        assert_eq!(datapath.open_endpoints().unwrap().read(ip("10.244.1.2")).unwrap(), Some(port(7, 2)));
        assert!(datapath.open_port_configs().unwrap().read(index(7)).unwrap().unwrap().stack_only);
        for filter in ["flow_filter", "port_filter"] {
            assert_eq!(values(&datapath, filter), [1], "{filter}");
        }
        datapath.remove().unwrap();

        // Programs that keep the filters leave them as they are.
        datapath.ensure().unwrap();
        let links = datapath.open_port_configs().unwrap();
        links.insert(index(7), PortConfig::new(port(7, 2).mac).stack_only(true)).unwrap();
        make_foreign(&datapath.directory());
        datapath.ensure().unwrap();
        assert_eq!(values(&datapath, "flow_filter"), [0]);
        assert_eq!(values(&datapath, "port_filter"), [0, 1]);
        // A downgrade, and an upgrade again: programs without the filters ran in between.
        for name in PROGRAMS {
            let (_program, id) = classifier(-1);
            let pin = datapath.directory().join(name);
            fs::remove_file(&pin).unwrap();
            bpftool().words(&format!("prog pin id {id}")).arg(pin).run();
        }
        make_foreign(&datapath.directory());
        datapath.ensure().unwrap();
        assert_eq!(values(&datapath, "flow_filter"), [1]);
        datapath.remove().unwrap();
    });
}

/// A program of another build, with the name of a program of the set and some of its maps.
fn other_build(datapath: &Datapath, name: &str, maps: &[&str]) -> (OwnedFd, u32) {
    let pins: Vec<PathBuf> = maps.iter().map(|map| datapath.directory().join(map)).collect();
    classifier_with_maps(name, &pins)
}

/// An older build finds the set through the running programs, for example from a mount namespace
/// with its own BPF file system. It attaches its programs, and the pins do not change.
#[test]
fn filters_pass_all_after_another_build_ran_on_a_settled_set() {
    host(|_| {
        const OLD: &[&str] = &["port_config", "flows"];
        const NEW: &[&str] = &["port_config", "port_filter", "flows", "flow_filter"];
        const NEW_EGRESS: &[&str] = &["flows", "flow_filter"];
        for (main, egress, expected) in [
            (Some(OLD), Some(OLD), [1, 1]),
            (Some(NEW), Some(OLD), [1, 1]),
            (Some(OLD), Some(NEW_EGRESS), [1, 1]),
            (Some(NEW), Some(NEW_EGRESS), [0, 0]),
            (Some(NEW), None, [0, 0]),
            // Nothing shows that its build has used this filter.
            (None, Some(NEW_EGRESS), [0, 1]),
        ] {
            let datapath = datapath("one");
            datapath.ensure().unwrap();
            datapath.settle().unwrap();
            let running = [("cni_tc_main", main), ("cni_tc_egress", egress)];
            let running: Vec<(OwnedFd, u32)> =
                running.iter().filter_map(|(name, maps)| Some(other_build(&datapath, name, (*maps)?))).collect();
            let programs: Vec<u32> = running.iter().map(|(_, id)| *id).collect();
            datapath.ensure_for(&programs).unwrap();
            assert_eq!(datapath.state().unwrap(), PinState::Settled, "the pins are of this build");
            for (filter, expected) in ["flow_filter", "port_filter"].into_iter().zip(expected) {
                assert_eq!(values(&datapath, filter), [expected], "{filter} after {main:?} and {egress:?}");
            }
            datapath.remove().unwrap();
        }
    });
}

/// The pins are lost, and the program that uses the filter is detached, so nothing leads to it.
#[test]
fn a_new_port_filter_beside_existing_flags_passes_all() {
    host(|_| {
        let datapath = datapath("one");
        datapath.ensure().unwrap();
        let config = PortConfig::new(port(7, 2).mac).stack_only(true);
        datapath.open_port_configs().unwrap().insert(index(7), config).unwrap();
        let egress = datapath.program(ProgramName::Egress).unwrap();
        datapath.remove().unwrap();

        datapath.ensure_for(&[egress.id()]).unwrap();
        assert_eq!(datapath.open_port_configs().unwrap().read(index(7)).unwrap(), Some(config));
        assert_eq!(values(&datapath, "port_filter"), [1]);
        assert_eq!(values(&datapath, "flow_filter"), [0], "the running program uses it");
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
