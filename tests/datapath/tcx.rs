//! TCX links, checked with `/proc/<pid>/fdinfo` and packets.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::time::Duration;

use cnikit::bpf::{Direction, Error, TcxLink};
use cnikit::spec::{ErrorCode, HasErrorCode as _, IfIndex};
use cnikit_testbed::{Host, Namespace, classifier, eventually, host, kernel, tool};
use rustix::thread::CapabilitySet;

use crate::fixture::index;
use crate::support::{bpftool, names, without};

const DIRECTORY: &str = "/sys/fs/bpf/tcx";
const PIN: &str = "/sys/fs/bpf/tcx/link";
const NEXT: i32 = -1;
const ACCEPT: i32 = 0;
const DROP: i32 = 2;

#[test]
fn a_link_lives_as_long_as_its_descriptor_or_its_pin() {
    with_pair(|_, index| {
        let (program, id) = classifier(NEXT);
        let link = TcxLink::attach(&program, index, Direction::Ingress).unwrap();
        let info = link.info().unwrap();
        assert_eq!((info.program_id, info.ifindex, info.direction), (id, Some(index), Direction::Ingress));
        assert_eq!(fdinfo(&link, "link_type"), "tcx");
        assert_eq!(fdinfo(&link, "attach_type"), "46 (ingress)");
        assert_eq!(fdinfo(&link, "ifindex"), index.to_string());
        assert_eq!(fdinfo(&link, "link_id"), info.link_id.to_string());
        assert_eq!(fdinfo(&link, "prog_id"), id.to_string());
        assert_eq!(on_hook(index, Direction::Ingress), [(id, Some(info.link_id))]);
        drop(link);
        // A process started by another test holds a copy of the descriptor until exec(2).
        eventually("the link to be gone", Duration::from_secs(5), || on_hook(index, Direction::Ingress).is_empty());

        let link = TcxLink::attach(&program, index, Direction::Egress).unwrap();
        assert_eq!(fdinfo(&link, "attach_type"), "47 (egress)");
        let link_id = link.info().unwrap().link_id;
        std::fs::create_dir(DIRECTORY).unwrap();
        link.pin(PIN).unwrap();
        let error = link.pin(PIN).unwrap_err();
        assert!(
            matches!(&error, Error::Pin { source, .. } if source.kind() == io::ErrorKind::AlreadyExists),
            "{error:?}"
        );
        drop((link, program));
        assert_eq!(on_hook(index, Direction::Egress), [(id, Some(link_id))]);

        let opened = TcxLink::open(PIN).unwrap();
        assert_eq!(opened.info().unwrap().link_id, link_id);
        opened.detach().unwrap();
        assert_eq!(on_hook(index, Direction::Egress), []);
        assert_eq!(opened.info().unwrap().ifindex, None, "the link is dead, and still pinned");
        opened.detach().expect("a dead link is detached");
        TcxLink::remove(PIN).unwrap();
        TcxLink::remove(PIN).expect("an absent pin is success");
    });
}

#[test]
fn ensure_attaches_once_and_replaces_in_place() {
    with_pair(|_, index| {
        let ((first, first_id), (second, second_id)) = (classifier(NEXT), classifier(NEXT));
        let ensure = |program| TcxLink::ensure(program, index, Direction::Ingress, PIN).unwrap().info().unwrap();
        let created = ensure(&first);
        assert_eq!(ensure(&first), created);
        assert_eq!(on_hook(index, Direction::Ingress), [(first_id, Some(created.link_id))]);
        assert_eq!(names(DIRECTORY), ["link"]);

        let updated = ensure(&second);
        assert_eq!((updated.link_id, updated.program_id), (created.link_id, second_id));
        assert_eq!(on_hook(index, Direction::Ingress), [(second_id, Some(created.link_id))]);

        let moved = TcxLink::ensure(&second, index, Direction::Egress, PIN).unwrap().info().unwrap();
        assert_eq!(on_hook(index, Direction::Ingress), [], "the link is on the other hook now");
        assert_eq!(on_hook(index, Direction::Egress), [(second_id, Some(moved.link_id))]);
        TcxLink::remove(PIN).unwrap();
        assert_eq!(on_hook(index, Direction::Egress), []);
    });
}

#[test]
fn concurrent_callers_attach_one_link() {
    with_pair(|_, index| {
        let (program, id) = classifier(NEXT);
        let links: Vec<_> = std::thread::scope(|scope| {
            let ensure = || TcxLink::ensure(&program, index, Direction::Ingress, PIN).unwrap().info().unwrap().link_id;
            let racing: Vec<_> = (0..8).map(|_| scope.spawn(ensure)).collect();
            racing.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(on_hook(index, Direction::Ingress), [(id, Some(links[0]))]);
        assert!(links.iter().all(|link| *link == links[0]), "{links:?}");
        TcxLink::remove(PIN).unwrap();
    });
}

#[test]
fn links_of_deleted_interfaces_are_dead_and_replaced() {
    with_pair(|host, index| {
        let (program, id) = classifier(NEXT);
        let link = TcxLink::ensure(&program, index, Direction::Ingress, PIN).unwrap();
        host.ip("link del veth0");
        let info = link.info().unwrap();
        assert_eq!((info.ifindex, info.program_id), (None, id));
        let error = link.update(&program).unwrap_err();
        assert!(
            matches!(&error, Error::Tcx { source, .. } if source.raw_os_error() == Some(libc::ENOLINK)),
            "{error:?}"
        );

        let index = pair(host);
        let again = TcxLink::ensure(&program, index, Direction::Ingress, PIN).unwrap().info().unwrap();
        assert_ne!(again.link_id, info.link_id);
        assert_eq!(on_hook(index, Direction::Ingress), [(id, Some(again.link_id))]);
        TcxLink::remove(PIN).unwrap();
    });
}

#[test]
fn attached_lists_all_programs_in_order() {
    with_pair(|_, index| {
        let programs = [classifier(NEXT), classifier(NEXT), classifier(NEXT)];
        assert_eq!(TcxLink::attached(index, Direction::Ingress).unwrap(), []);
        let attach = |number: usize| TcxLink::attach(&programs[number].0, index, Direction::Ingress).unwrap();
        let links: Vec<_> = (0..3).map(attach).collect();
        let expected: Vec<_> =
            programs.iter().zip(&links).map(|((_, id), link)| (*id, fdinfo(link, "link_id").parse().ok())).collect();
        assert_eq!(on_hook(index, Direction::Ingress), expected);
        assert_eq!(TcxLink::attached(index, Direction::Egress).unwrap(), []);
    });
}

#[test]
fn a_qdisc_of_another_tool_coexists() {
    with_pair(|host, index| {
        let pod = host.pod();
        host.ip(&format!("link set eth0 netns {}", pod.netns().display()));
        host.ip("address add 10.22.0.1/24 dev veth0");
        host.ip("link set veth0 up");
        pod.ip("address add 10.22.0.2/24 dev eth0");
        pod.ip("link set eth0 up");
        let reaches = || pod.ping("10.22.0.1", 1).status.success();
        let ((next, _), (accept, _), (drop, drop_id)) = (classifier(NEXT), classifier(ACCEPT), classifier(DROP));
        std::fs::create_dir(DIRECTORY).unwrap();
        bpftool().words(&format!("prog pin id {drop_id} {DIRECTORY}/other")).run();
        for qdisc in ["clsact", "ingress"] {
            let link = TcxLink::attach(&next, index, Direction::Ingress).unwrap();
            host.tc(&format!("qdisc add dev veth0 {qdisc}"));
            assert!(reaches(), "{qdisc}");
            host.tc(&format!("filter add dev veth0 ingress bpf direct-action object-pinned {DIRECTORY}/other"));
            assert!(!reaches(), "the filter of the {qdisc} qdisc drops packets that the TCX program passes");
            link.update(&accept).unwrap();
            assert!(reaches(), "packets that the TCX program accepts skip the filter of the {qdisc} qdisc");
            link.update(&next).unwrap();
            assert!(!reaches(), "{qdisc}");

            host.tc(&format!("qdisc del dev veth0 {qdisc}"));
            assert!(reaches(), "{qdisc}");
            link.update(&drop).unwrap();
            assert!(!reaches(), "the TCX program stays after the {qdisc} qdisc is deleted");
        }
        std::fs::remove_file(Path::new(DIRECTORY).join("other")).unwrap();
        host.ip("link del veth0");
    });
}

#[test]
fn pins_that_are_not_tcx_links_are_refused_and_kept() {
    with_pair(|_, index| {
        let program = classifier(NEXT).0;
        std::fs::create_dir(DIRECTORY).unwrap();
        // BPF_MAP_TYPE_LPM_TRIE has the number of BPF_LINK_TYPE_TCX.
        let trie = "map create /sys/fs/bpf/tcx/link type lpm_trie key 8 value 4 entries 1 name trie flags 1";
        let _ = bpftool().words(trie).run();
        for refused in [
            TcxLink::open(PIN).map(drop),
            TcxLink::ensure(&program, index, Direction::Ingress, PIN).map(drop),
            TcxLink::remove(PIN),
        ] {
            let error = refused.unwrap_err();
            assert!(
                matches!(&error, Error::Pin { source, .. } if source.kind() == io::ErrorKind::InvalidData),
                "{error:?}"
            );
        }
        assert!(Path::new(PIN).exists());
        std::fs::remove_file(PIN).unwrap();

        let error = TcxLink::open(PIN).unwrap_err();
        assert!(matches!(&error, Error::Pin { source, .. } if source.kind() == io::ErrorKind::NotFound), "{error:?}");
        let absent = IfIndex::new(4_711).unwrap();
        let no_program = std::fs::File::open("/dev/null").unwrap();
        let errors = [
            (TcxLink::attach(&program, absent, Direction::Ingress).unwrap_err(), libc::ENODEV),
            (TcxLink::attach(&no_program, index, Direction::Ingress).unwrap_err(), libc::EINVAL),
            (TcxLink::attached(absent, Direction::Ingress).unwrap_err(), libc::ENODEV),
        ];
        for (error, errno) in errors {
            assert!(matches!(&error, Error::Tcx { source, .. } if source.raw_os_error() == Some(errno)), "{error:?}");
        }
        let error = without(CapabilitySet::all(), || TcxLink::attached(index, Direction::Ingress).unwrap_err());
        assert!(error.to_string().contains("CAP_BPF and CAP_NET_ADMIN, or root, are needed"), "{error}");
    });
}

/// Runs a test on a host with `veth0`. The test receives the index of `veth0`.
#[track_caller]
fn with_pair(test: impl FnOnce(&Host, IfIndex) + Send) {
    if !tool("bpftool") {
        return;
    }
    host(|host| {
        let index = pair(host);
        match TcxLink::attached(index, Direction::Ingress) {
            Err(Error::TcxUnsupported) => refused_by_an_old_kernel(index),
            _ => test(host, index),
        }
        if host.link("veth0").is_some() {
            host.ip("link del veth0");
        }
        // The testbed reports left pins, but not left directories.
        let _ = std::fs::remove_dir(DIRECTORY);
    });
}

/// The only test on kernels without TCX. Fails on a kernel that must have TCX.
fn refused_by_an_old_kernel(index: IfIndex) {
    assert!(kernel() < (6, 6), "{:?} has TCX hooks", kernel());
    let error = TcxLink::attach(&classifier(NEXT).0, index, Direction::Ingress).expect_err("no TCX");
    assert!(matches!(error, Error::TcxUnsupported), "{error:?}");
    assert_eq!(error.code(), ErrorCode::PLUGIN_NOT_AVAILABLE);
    eprintln!("SKIP Linux {:?} has no TCX hooks", kernel());
}

/// Creates the veth pair `veth0` and `eth0`. Returns the index of `veth0`.
fn pair(host: &Host) -> IfIndex {
    host.ip("link add veth0 type veth peer name eth0");
    index(host, "veth0")
}

/// Program and link ids on a hook.
fn on_hook(index: IfIndex, direction: Direction) -> Vec<(u32, Option<u32>)> {
    let programs = TcxLink::attached(index, direction).expect("list the programs");
    programs.iter().map(|program| (program.program_id, program.link_id)).collect()
}

/// A field of the link in `fdinfo`.
fn fdinfo(link: &TcxLink, key: &str) -> String {
    let path = format!("/proc/self/fdinfo/{}", link.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(path).expect("fdinfo");
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
    value.unwrap_or_else(|| panic!("no {key} in {text}")).to_owned()
}
