//! Sets of pins with programs of another author.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use cnikit::bpf::{Direction, Error, NewPins, PinSet, TcxLink};
use cnikit_testbed::{Host, Namespace, eventually, host, kernel, tool};
use rustix::thread::CapabilitySet;

use crate::foreign::{BEYOND, FIRST, LARGER, SECOND, compile, hits, load, put_hits, set};
use crate::support::{ROOT, index, map, names, program, without};

/// Runs a test on a separate host, and removes the set `one`.
fn on_host(test: impl FnOnce(&Host, &PinSet) + Send) {
    if !tool("bpftool") || !tool("clang") {
        return;
    }
    host(|host| {
        test(host, &set());
        set().remove().expect("remove");
    });
}

/// The kernel's id of a pinned map.
fn map_id(set: &PinSet, pin: &str) -> u64 {
    map("show", &set.directory(), pin, "")["id"].as_u64().expect("an id")
}

#[test]
fn first_ensure_pins_and_second_does_not_load() {
    on_host(|host, set| {
        let object = compile(host, FIRST);
        assert!(!set.is_complete().unwrap() && !set.is_current(&object).unwrap());
        set.probe(&object).unwrap();
        assert!(!Path::new(ROOT).exists(), "probe() changes nothing");
        set.ensure(&object, |pins| load(&object, pins)).unwrap();
        assert!(set.is_complete().unwrap() && set.is_current(&object).unwrap());
        set.probe(&object).unwrap();

        assert_eq!(set.directory(), Path::new(ROOT).join("one/v1"));
        assert_eq!(names(Path::new(ROOT).join("one")), ["v1"]);
        assert_eq!(names(set.directory()), ["count_packets", "extra", "hits"]);
        let shown = program(&set.directory(), "count_packets");
        let opened = set.open_program("count_packets").unwrap();
        assert_eq!((&shown["id"], &shown["type"]), (&opened.id().into(), &"sched_cls".into()));
        assert_eq!(u64::from(opened.map_ids().unwrap()[0]), map_id(set, "hits"));
        set.open_map("hits").unwrap();
        assert_eq!(set.path_of("hits"), set.directory().join("hits"));

        set.ensure(&object, |_| panic!("the set is pinned")).unwrap();
        assert_eq!(program(&set.directory(), "count_packets")["id"], shown["id"]);
    });
}

#[test]
fn another_build_replaces_programs_and_keeps_entries() {
    on_host(|host, set| {
        let (first, second) = (compile(host, FIRST), compile(host, SECOND));
        set.ensure(&first, |pins| load(&first, pins)).unwrap();
        put_hits(set, 7);
        let (map, program) = (map_id(set, "hits"), set.open_program("count_packets").unwrap().id());

        set.ensure(&second, |pins| load(&second, pins)).unwrap();
        assert_eq!((map_id(set, "hits"), hits(set)), (map, 7));
        let replaced = set.open_program("count_packets").unwrap();
        assert_ne!(replaced.id(), program);
        assert!(replaced.map_ids().unwrap().contains(&map.try_into().unwrap()));
        assert_eq!(names(set.directory()), ["count_packets", "hits"], "the second build has no program `extra`");
        assert!(set.is_current(&second).unwrap() && !set.is_current(&first).unwrap());
        assert_eq!(names(Path::new(ROOT).join("one")), ["v1"]);

        // A downgrade works in the same way.
        set.ensure(&first, |pins| load(&first, pins)).unwrap();
        assert_eq!((map_id(set, "hits"), hits(set)), (map, 7));
    });
}

#[test]
fn a_missing_pin_is_restored() {
    on_host(|host, set| {
        let object = compile(host, FIRST);
        set.ensure(&object, |pins| load(&object, pins)).unwrap();
        put_hits(set, 7);
        for pin in ["count_packets", "extra"] {
            fs::remove_file(set.path_of(pin)).unwrap();
            assert!(!set.is_complete().unwrap() && !set.is_current(&object).unwrap(), "without {pin}");
            set.ensure(&object, |pins| load(&object, pins)).unwrap();
            assert_eq!(names(set.directory()), ["count_packets", "extra", "hits"]);
            assert_eq!(hits(set), 7);
        }
    });
}

#[test]
fn a_changed_layout_has_its_own_directory() {
    on_host(|host, set| {
        let (first, larger) = (compile(host, FIRST), compile(host, LARGER));
        set.ensure(&first, |pins| load(&first, pins)).unwrap();
        put_hits(set, 7);

        let newer = set.clone().layout(2);
        newer
            .ensure(&larger, |pins| {
                assert!(pins.existing_map("hits")?.is_none(), "the map of the other layout");
                load(&larger, pins)
            })
            .unwrap();
        assert_eq!(map("show", &newer.directory(), "hits", "")["max_entries"], 2);
        assert_eq!((hits(&newer), hits(set)), (0, 7));
        assert_eq!(names(Path::new(ROOT).join("one")), ["v1", "v2"]);

        let error = set.ensure(&first, |pins| load(&first, pins)).unwrap_err();
        assert!(
            matches!(&error, Error::NewerLayout { path, found: 2, known: 1 } if *path == newer.directory()),
            "{error:?}"
        );
        for _ in 0..2 {
            newer.remove_older_layouts().unwrap();
            assert_eq!(names(Path::new(ROOT).join("one")), ["v2"]);
        }
        newer.open_program("count_packets").unwrap();
    });
}

#[test]
fn a_failed_load_publishes_nothing() {
    on_host(|host, set| {
        let (first, beyond) = (compile(host, FIRST), compile(host, BEYOND));
        let is_empty = || !Path::new(ROOT).join("one").exists();

        let error = set.ensure(&beyond, |pins| load(&beyond, pins)).unwrap_err();
        let Error::Rejected { source } = &error else { panic!("{error:?}") };
        assert!(source.to_string().contains("invalid access to map value"), "{source}");
        assert!(is_empty());

        let error = set.ensure(&first, |_| Ok(Err(io::Error::from(io::ErrorKind::AddrInUse))?)).unwrap_err();
        let Error::Load { source } = &error else { panic!("{error:?}") };
        assert_eq!(source.kind(), io::ErrorKind::AddrInUse);
        let error = set.ensure(&first, |_| Err("of the author".into())).unwrap_err();
        assert!(matches!(&error, Error::Load { source } if source.to_string() == "of the author"), "{error:?}");

        // All pins but the last: no part of the set appears.
        let late = |pins: &NewPins<'_>| {
            load(&first, pins)?;
            Err("late".into())
        };
        set.ensure(&first, late).unwrap_err();
        assert!(is_empty());
        set.ensure(&first, |pins| load(&first, pins)).unwrap();
        let published = names(set.directory());
        set.ensure("another build", late).unwrap_err();
        assert_eq!(names(set.directory()), published);
        assert!(set.is_current(&first).unwrap());

        let refused = without(CapabilitySet::BPF | CapabilitySet::SYS_ADMIN, || {
            set.ensure("another build", |pins| load(&first, pins)).unwrap_err()
        });
        assert!(matches!(&refused, Error::Load { .. }), "{refused:?}");
        assert!(refused.to_string().contains("CAP_BPF"), "{refused}");
        assert!(set.is_current(&first).unwrap());
    });
}

#[test]
fn pins_of_another_kind_are_refused() {
    on_host(|host, set| {
        let object = compile(host, SECOND);
        set.ensure(&object, |pins| load(&object, pins)).unwrap();
        for error in [set.open_program("hits").unwrap_err(), set.open_map("count_packets").unwrap_err()] {
            let Error::Pin { source, .. } = &error else { panic!("{error:?}") };
            assert_eq!(source.kind(), io::ErrorKind::InvalidData, "{source}");
        }
        let Error::Pin { path, source, .. } = set.open_map("absent").unwrap_err() else { panic!("an absent pin") };
        assert_eq!((path, source.kind()), (set.path_of("absent"), io::ErrorKind::NotFound));
    });
}

#[test]
fn the_programs_run_and_their_links_end_with_the_set() {
    on_host(|host, set| {
        if kernel() < (6, 6) {
            eprintln!("SKIP Linux {:?} has no TCX hooks", kernel());
            return;
        }
        let object = compile(host, FIRST);
        set.ensure(&object, |pins| load(&object, pins)).unwrap();
        host.ip("link add veth0 up type veth peer name eth0");
        host.ip("link set eth0 up");
        let index = index(host.link("veth0").unwrap()["ifindex"].as_u64().unwrap() as u32);
        let program = set.open_program("count_packets").unwrap();
        TcxLink::ensure(&program, index, Direction::Ingress, set.link_pins().join("veth0")).unwrap();
        // Both ends send multicast reports and router solicitations.
        eventually("a packet", Duration::from_secs(20), || hits(set) > 0);
        let attached = || TcxLink::attached(index, Direction::Ingress).unwrap().len();
        assert_eq!(attached(), 1);

        set.remove().unwrap();
        eventually("the link to be gone", Duration::from_secs(5), || attached() == 0);
        host.ip("link del veth0");
    });
}
