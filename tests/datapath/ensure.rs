use std::error::Error as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use cnikit::datapath::{Error, ProgramName};
use cnikit_testbed::{host, tool};
use rustix::thread::CapabilitySet;

use crate::support::{ROOT, bpftool, datapath, header, ids, ip, make_foreign, map, names, port, program, without};

#[test]
fn the_first_ensure_pins_the_set_and_the_second_keeps_it() {
    if !tool("bpftool") {
        return;
    }
    host(|_| {
        let datapath = datapath("one");
        assert!(!datapath.is_complete().unwrap());
        datapath.ensure().unwrap();
        assert!(datapath.is_complete().unwrap());

        let directory = datapath.directory();
        assert_eq!(directory, Path::new(ROOT).join("one/v2"));
        let loaded = ids(&directory);
        assert_eq!(names(Path::new(ROOT).join("one")), ["v2"]);
        let [rows, ports, flows] = ["ROWS", "PORTS", "FLOWS"].map(|what| header(&format!("CNI_TC_MAX_{what}")) as u64);
        for (name, kind, key, value, rows) in [
            ("pkt_count", "percpu_hash", 4, 48, rows),
            ("pkt_count_v6", "percpu_hash", 16, 48, rows),
            ("pod_ifindex", "hash", 4, 12, rows),
            ("pod_ifindex_v6", "hash", 16, 12, rows),
            ("port_addresses", "hash", 20, 1, rows),
            ("port_config", "hash", 4, 8, ports),
            ("port_drops", "percpu_hash", 4, 128, ports),
            ("net_config", "array", 4, 12, 1),
            ("net_stats", "percpu_array", 4, 112, 1),
            ("net_drops", "percpu_array", 4, 128, 1),
            ("flows", "lru_hash", 40, 1, flows),
        ] {
            let shown = map("show", &directory, name, "");
            assert_eq!((&shown["name"], &shown["type"]), (&name.into(), &kind.into()));
            assert_eq!((&shown["bytes_key"], &shown["bytes_value"]), (&key.into(), &value.into()), "{shown}");
            assert_eq!(shown["max_entries"], rows, "{shown}");
        }
        for name in [ProgramName::Main, ProgramName::Egress] {
            let shown = program(&directory, name.as_str());
            assert_eq!((&shown["name"], &shown["type"]), (&name.as_str().into(), &"sched_cls".into()));
            assert_eq!(shown["id"], datapath.program(name).unwrap().id());
        }

        datapath.ensure().unwrap();
        assert_eq!(ids(&directory), loaded);
        datapath.remove().unwrap();
    });
}

#[test]
fn what_a_killed_loader_left_is_swept() {
    if !tool("bpftool") {
        return;
    }
    host(|_| {
        let datapath = datapath("one");
        datapath.ensure().unwrap();
        let (network, directory) = (Path::new(ROOT).join("one"), datapath.directory());
        let loaded = ids(&directory);
        // As if it had been killed between two pins.
        fs::rename(&directory, network.join("loading")).unwrap();
        for pin in ["net_stats", "cni_tc_main", "cni_tc_egress"] {
            fs::remove_file(network.join("loading").join(pin)).unwrap();
        }
        assert!(!datapath.is_complete().unwrap());

        datapath.ensure().unwrap();
        assert_eq!(names(&network), ["v2"]);
        let reloaded = ids(&directory);
        assert!(loaded.iter().all(|(name, id)| reloaded[name] != *id), "{loaded:?} {reloaded:?}");
        datapath.remove().unwrap();
    });
}

#[test]
fn an_incomplete_set_is_replaced_whole() {
    if !tool("bpftool") {
        return;
    }
    host(|_| {
        let datapath = datapath("one");
        datapath.ensure().unwrap();
        let directory = datapath.directory();
        let mut loaded = ids(&directory);
        for pin in loaded.clone().keys() {
            datapath.ports().unwrap().insert(ip("10.244.1.2"), port(7, 2)).unwrap();
            fs::remove_file(directory.join(pin)).unwrap();
            assert!(!datapath.is_complete().unwrap(), "without {pin}");

            datapath.ensure().unwrap();
            let reloaded = ids(&directory);
            assert!(loaded.iter().all(|(name, id)| reloaded[name] != *id), "{loaded:?} {reloaded:?}");
            assert!(datapath.ports().unwrap().addresses().unwrap().is_empty());
            loaded = reloaded;
        }
        datapath.remove().unwrap();
    });
}

#[test]
fn a_refused_load_takes_nothing_away_and_leaves_nothing() {
    host(|_| {
        let datapath = datapath("one");
        datapath.ensure().unwrap();
        fs::remove_file(datapath.directory().join("cni_tc_main")).unwrap();
        let left = names(datapath.directory());

        let refused = without(CapabilitySet::BPF | CapabilitySet::SYS_ADMIN, || datapath.ensure());
        assert!(matches!(refused, Err(Error::Load { .. })), "{refused:?}");
        assert_eq!(names(Path::new(ROOT).join("one")), ["v2"]);
        assert_eq!(names(datapath.directory()), left);
        datapath.remove().unwrap();
    });
}

#[test]
fn a_pin_of_another_shape_is_refused_by_its_sizes() {
    if !tool("bpftool") {
        return;
    }
    host(|_| {
        let datapath = datapath("one");
        datapath.ensure().unwrap();
        let pin = datapath.directory().join("pkt_count");
        fs::remove_file(&pin).unwrap();
        bpftool().words("map create").arg(&pin).words("type hash key 4 value 8 entries 1 name x").run();

        datapath.ensure().unwrap();
        let error = datapath.counters().unwrap_err();
        let Error::Layout { path, expected, found } = &error else { panic!("{error:?}") };
        assert_eq!((path, *expected, *found), (&pin, (4, 48), (4, 8)));
        let text = error.to_string();
        assert!(["(4, 48)", "(4, 8)", pin.to_str().unwrap()].iter().all(|fact| text.contains(fact)), "{text}");

        datapath.ports().unwrap();
        datapath.remove().unwrap();
    });
}

#[test]
fn a_dot_in_a_networks_name_is_no_dot_in_the_pins() {
    if !tool("bpftool") {
        return;
    }
    host(|_| {
        let (dotted, plain) = (datapath("my.net-1.0"), datapath("my"));
        dotted.ensure().unwrap();
        plain.ensure().unwrap();
        assert_eq!(names(ROOT), ["my", "my:net-1:0"]);
        assert_ne!(ids(&dotted.directory())["pkt_count"], ids(&plain.directory())["pkt_count"]);

        dotted.counters().unwrap().track(ip("10.244.1.2")).unwrap();
        assert_eq!(plain.counters().unwrap().read(ip("10.244.1.2")).unwrap(), None);
        plain.remove().unwrap();
        assert!(dotted.is_complete().unwrap());
        dotted.remove().unwrap();
    });
}

#[test]
fn what_is_removed_can_be_made_again() {
    if !tool("bpftool") {
        return;
    }
    host(|_| {
        let datapath = datapath("one");
        datapath.remove().unwrap();
        assert!(!Path::new(ROOT).exists(), "there was nothing to remove");

        datapath.ensure().unwrap();
        let loaded = ids(&datapath.directory());
        let older = Path::new(ROOT).join("one/v0");
        fs::create_dir(&older).unwrap();
        let words = "type array key 4 value 4 entries 1 name x";
        bpftool().words("map create").arg(older.join("x")).words(words).run();
        for _ in 0..2 {
            datapath.remove().unwrap();
            assert_eq!(names(ROOT), [""; 0]);
        }
        let error = datapath.counters().unwrap_err();
        assert!(matches!(error, Error::Pin { .. }), "{error:?}");

        datapath.ensure().unwrap();
        assert!(ids(&datapath.directory())["pkt_count"] > loaded["pkt_count"], "ids only grow");
        datapath.remove().unwrap();
    });
}

#[test]
fn what_cannot_be_seen_is_not_taken_for_removed() {
    host(|_| {
        let datapath = datapath("one");
        datapath.ensure().unwrap();
        let shut = |mode| fs::set_permissions(ROOT, fs::Permissions::from_mode(mode)).unwrap();
        shut(0o000);
        let blind = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        let refused = without(blind, || datapath.remove());
        assert!(matches!(refused, Err(Error::Pin { .. })), "{refused:?}");
        shut(0o700);
        datapath.remove().unwrap();
        assert_eq!(names(ROOT), [""; 0]);
    });
}

#[test]
fn the_error_for_a_missing_pin_tells_its_path_once() {
    host(|_| {
        let datapath = datapath("one");
        let path = datapath.directory().join("cni_tc_main");
        let error = datapath.program(ProgramName::Main).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot open the pinned program {}", path.display()));
        let source = error.source().unwrap();
        assert_eq!(source.to_string(), "No such file or directory (os error 2)");
    });
}

#[test]
fn programs_of_another_build_are_replaced_on_the_maps_that_are_there() {
    if !tool("bpftool") {
        return;
    }
    host(|_| {
        let datapath = datapath("one");
        datapath.ensure().unwrap();
        let directory = datapath.directory();
        let pod = ip("10.244.1.2");
        datapath.counters().unwrap().track(pod).unwrap();
        datapath.ports().unwrap().insert(pod, port(7, 7)).unwrap();
        let before = ids(&directory);

        make_foreign(&directory);
        datapath.ensure().unwrap();

        // That the new programs use the maps which are pinned is looked at by `ids`.
        let after = ids(&directory);
        for (name, id) in &after {
            assert_eq!(before[name] == *id, !name.starts_with("cni_tc_"), "{name}: {} became {id}", before[name]);
        }
        assert_eq!(datapath.ports().unwrap().read(pod).unwrap(), Some(port(7, 7)));
        assert_eq!(names(directory.parent().unwrap()), ["v2"], "nothing is left of the replacement");
        datapath.ensure().unwrap();
        assert_eq!(ids(&directory), after, "once is enough");
        datapath.remove().unwrap();
    });
}
