use std::error::Error as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use cnikit::datapath::{Error, PinState, ProgramName};
use cnikit::spec::{ErrorCode, HasErrorCode as _};
use cnikit_testbed::{classifier, host, tool};
use rustix::thread::CapabilitySet;

use crate::support::{
    PROGRAMS, ROOT, bpftool, datapath, header, ids, ip, make_foreign, map, names, port, program, without,
};

#[test]
fn first_ensure_pins_and_second_keeps_the_set() {
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
        let [max_entries, ports, flows, stages] =
            ["ENDPOINTS", "PORTS", "FLOWS", "STAGES"].map(|what| header(&format!("CNI_TC_MAX_{what}")) as u64);
        let filter = header("CNI_TC_FILTER_SIZE") as u64;
        for (name, kind, key, value, max_entries) in [
            ("pkt_count", "percpu_hash", 4, 48, max_entries),
            ("pkt_count_v6", "percpu_hash", 16, 48, max_entries),
            ("pod_ifindex", "hash", 4, 12, max_entries),
            ("pod_ifindex_v6", "hash", 16, 12, max_entries),
            ("port_addresses", "hash", 20, 4, max_entries),
            ("port_xdp", "hash", 4, 8, ports),
            ("port_config", "hash", 4, 8, ports),
            ("port_drops", "percpu_hash", 4, 128, ports),
            ("net_config", "array", 4, 12, 1),
            ("net_stats", "percpu_array", 4, 112, 1),
            ("net_drops", "percpu_array", 4, 128, 1),
            ("flows", "lru_hash", 40, 1, flows),
            ("flow_filter", "array", 4, 1, filter),
            ("port_filter", "array", 4, 1, filter),
            ("packet_scratch", "percpu_array", 4, 256, 1),
            ("stages", "prog_array", 4, 4, stages),
        ] {
            let shown = map("show", &directory, name, "");
            assert_eq!((&shown["name"], &shown["type"]), (&name.into(), &kind.into()));
            assert_eq!((&shown["bytes_key"], &shown["bytes_value"]), (&key.into(), &value.into()), "{shown}");
            assert_eq!(shown["max_entries"], max_entries, "{shown}");
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
fn pins_of_a_killed_loader_are_removed() {
    if !tool("bpftool") {
        return;
    }
    host(|_| {
        let datapath = datapath("one");
        datapath.ensure().unwrap();
        let (network, directory) = (Path::new(ROOT).join("one"), datapath.directory());
        let loaded = ids(&directory);
        // The state after a kill between two pins.
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
fn missing_pins_are_restored_without_loss() {
    if !tool("bpftool") {
        return;
    }
    host(|_| {
        let datapath = datapath("one");
        datapath.ensure().unwrap();
        let directory = datapath.directory();
        let loaded = ids(&directory);
        let pod = ip("10.244.1.2");
        datapath.open_endpoints().unwrap().insert(pod, port(7, 2)).unwrap();
        for (pin, id) in &loaded {
            datapath.settle().unwrap();
            assert_eq!(datapath.state().unwrap(), PinState::Settled);
            fs::remove_file(directory.join(pin)).unwrap();
            let is_optional = [
                "port_addresses",
                "port_xdp",
                "flow_filter",
                "port_filter",
                "packet_scratch",
                "stages",
                "peers",
                "remote_stats",
            ]
            .contains(&pin.as_str());
            assert_eq!(datapath.is_complete().unwrap(), is_optional, "without {pin}");
            assert_eq!(datapath.state().unwrap(), PinState::Outdated);

            datapath.ensure().unwrap();
            assert_eq!(datapath.state().unwrap(), PinState::Unsettled, "after {pin}");
            let after = ids(&directory);
            let is_program = pin.starts_with("cni_tc_");
            // The map is found through the pinned programs.
            assert_eq!(after[pin] == *id, !is_program, "{pin}: {id} became {}", after[pin]);
            for map in loaded.keys().filter(|name| !name.starts_with("cni_tc_")) {
                assert_eq!(after[map], loaded[map], "{map} after {pin}");
            }
            assert_eq!(datapath.open_endpoints().unwrap().read(pod).unwrap(), Some(port(7, 2)));
        }
        datapath.remove().unwrap();
    });
}

/// An older build of the same layout has fewer maps. Neither its pins nor its programs refer to the
/// other maps.
#[test]
fn missing_maps_are_created_beside_existing_maps() {
    if !tool("bpftool") {
        return;
    }
    host(|_| {
        let datapath = datapath("one");
        datapath.ensure().unwrap();
        let directory = datapath.directory();
        let pod = ip("10.244.1.2");
        datapath.open_counters().unwrap().insert(pod).unwrap();
        for map in ["flows", "port_drops"] {
            let before = ids(&directory);
            make_foreign(&directory);
            for pin in [map, "cni_tc_main", "cni_tc_egress"] {
                fs::remove_file(directory.join(pin)).unwrap();
            }
            datapath.ensure().unwrap();
            let after = ids(&directory);
            for (name, id) in &after {
                let is_new = name == map || name.starts_with("cni_tc_");
                assert_eq!(before[name] != *id, is_new, "{name}: {} became {id}", before[name]);
            }
            assert!(datapath.open_counters().unwrap().read(pod).unwrap().is_some());
        }
        datapath.remove().unwrap();
    });
}

#[test]
fn a_refused_load_changes_nothing() {
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
fn pins_with_other_sizes_are_refused() {
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
        let error = datapath.open_counters().unwrap_err();
        let Error::Layout { path, expected, found } = &error else { panic!("{error:?}") };
        assert_eq!((path, *expected, *found), (&pin, (4, 48), (4, 8)));
        let text = error.to_string();
        assert!(["(4, 48)", "(4, 8)", pin.to_str().unwrap()].iter().all(|fact| text.contains(fact)), "{text}");

        datapath.open_endpoints().unwrap();
        datapath.remove().unwrap();
    });
}

#[test]
fn dots_in_network_names_are_replaced_in_pins() {
    if !tool("bpftool") {
        return;
    }
    host(|_| {
        let (dotted, plain) = (datapath("my.net-1.0"), datapath("my"));
        dotted.ensure().unwrap();
        plain.ensure().unwrap();
        assert_eq!(names(ROOT), ["my", "my:net-1:0"]);
        assert_ne!(ids(&dotted.directory())["pkt_count"], ids(&plain.directory())["pkt_count"]);

        dotted.open_counters().unwrap().insert(ip("10.244.1.2")).unwrap();
        assert_eq!(plain.open_counters().unwrap().read(ip("10.244.1.2")).unwrap(), None);
        plain.remove().unwrap();
        assert!(dotted.is_complete().unwrap());
        dotted.remove().unwrap();
    });
}

#[test]
fn removed_sets_can_be_created_again() {
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
        let error = datapath.open_counters().unwrap_err();
        assert!(matches!(error, Error::Pin { .. }), "{error:?}");

        datapath.ensure().unwrap();
        assert!(ids(&datapath.directory())["pkt_count"] > loaded["pkt_count"], "ids only grow");
        datapath.remove().unwrap();
    });
}

#[test]
fn an_unreadable_directory_is_an_error() {
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
fn the_error_for_a_missing_pin_names_its_path_once() {
    host(|_| {
        let datapath = datapath("one");
        let path = datapath.directory().join("cni_tc_main");
        let error = datapath.program(ProgramName::Main).unwrap_err();
        let expected =
            format!("cannot open the pinned program {}: No such file or directory (os error 2)", path.display());
        assert_eq!(error.to_string(), expected);
        assert!(error.source().is_none(), "{error:?}");
    });
}

#[test]
fn programs_of_another_build_are_replaced_on_existing_maps() {
    if !tool("bpftool") {
        return;
    }
    host(|_| {
        let datapath = datapath("one");
        datapath.ensure().unwrap();
        let directory = datapath.directory();
        let pod = ip("10.244.1.2");
        datapath.open_counters().unwrap().insert(pod).unwrap();
        datapath.open_endpoints().unwrap().insert(pod, port(7, 7)).unwrap();
        let before = ids(&directory);

        make_foreign(&directory);
        datapath.ensure().unwrap();

        // `ids` asserts that the new programs use the pinned maps.
        let after = ids(&directory);
        for (name, id) in &after {
            assert_eq!(before[name] == *id, !name.starts_with("cni_tc_"), "{name}: {} became {id}", before[name]);
        }
        assert_eq!(datapath.open_endpoints().unwrap().read(pod).unwrap(), Some(port(7, 7)));
        assert_eq!(names(directory.parent().unwrap()), ["v2"], "nothing is left of the replacement");
        datapath.ensure().unwrap();
        assert_eq!(ids(&directory), after, "once is enough");
        datapath.remove().unwrap();
    });
}

/// Two directories represent two BPF file systems with independent pins.
#[test]
fn maps_of_running_programs_replace_other_pins() {
    if !tool("bpftool") {
        return;
    }
    host(|_| {
        let [here, there] = ["here", "there"].map(datapath);
        here.ensure().unwrap();
        let (pod, running) = (ip("10.244.1.2"), ids(&here.directory()));
        here.open_endpoints().unwrap().insert(pod, port(7, 2)).unwrap();
        let programs = PROGRAMS.map(|name| running[name]);
        let programs = programs.map(|id| u32::try_from(id).unwrap());
        assert!(there.unpinned_maps(&programs).unwrap().is_some());
        assert!(here.unpinned_maps(&programs).unwrap().is_none());

        for (is_pinned, is_foreign, has_misfit) in
            [(false, false, false), (true, false, false), (true, true, false), (true, true, true)]
        {
            there.remove().unwrap();
            if is_pinned {
                there.ensure().unwrap();
                assert_ne!(ids(&there.directory())["flows"], running["flows"], "the control: another set");
            }
            if is_foreign {
                make_foreign(&there.directory());
            }
            if has_misfit {
                let pin = there.directory().join("port_config");
                fs::remove_file(&pin).unwrap();
                bpftool().words("map create").arg(&pin).words("type hash key 4 value 4 entries 1 name x").run();
            }
            let seen = there.unpinned_maps(&programs).unwrap().expect("others than the pinned maps");
            assert_eq!(seen.open_endpoints().unwrap().read(pod).unwrap(), Some(port(7, 2)));
            assert!(!there.is_used_by(programs[0]).unwrap());

            there.ensure_for(&programs).unwrap();
            // The code is the same, so the running programs are pinned.
            assert_eq!(ids(&there.directory()), running);
            assert_eq!(there.state().unwrap(), PinState::Unsettled);
            assert!(there.is_used_by(programs[0]).unwrap());
            assert!(there.unpinned_maps(&programs).unwrap().is_none());
            there.settle().unwrap();
            there.ensure_for(&programs).unwrap();
            assert_eq!(there.state().unwrap(), PinState::Settled);
        }
        here.remove().unwrap();
        there.remove().unwrap();
    });
}

#[test]
fn unopenable_or_foreign_running_programs_are_ignored() {
    if !tool("bpftool") {
        return;
    }
    host(|_| {
        let [here, there] = ["here", "there"].map(datapath);
        here.ensure().unwrap();
        let running = ids(&here.directory());
        let (_foreign, foreign) = classifier(-1);
        let own = u32::try_from(running["cni_tc_main"]).unwrap();
        assert!(there.unpinned_maps(&[foreign]).unwrap().is_none());
        // Opening by id needs this capability. Loading does not need it if bpffs is mounted.
        let unseen = without(CapabilitySet::SYS_ADMIN, || there.unpinned_maps(&[own]));
        assert!(unseen.unwrap().is_none());
        for refused in [
            without(CapabilitySet::SYS_ADMIN, || there.ensure_for(&[own])),
            there.remove().and_then(|()| there.ensure_for(&[foreign])),
        ] {
            refused.unwrap();
            assert!(ids(&there.directory()).iter().all(|(name, id)| running[name] != *id));
        }
        // Only one of the two programs belongs to this library.
        there.ensure_for(&[foreign, own]).unwrap();
        assert_eq!(ids(&there.directory())["pod_ifindex"], running["pod_ifindex"]);

        let error = here.ensure_for(&[u32::MAX - 1]).unwrap_err();
        assert!(matches!(error, Error::Program { id, .. } if id == u32::MAX - 1), "{error:?}");
        assert_eq!(error.code(), ErrorCode::TRY_AGAIN);
        here.remove().unwrap();
        there.remove().unwrap();
    });
}
