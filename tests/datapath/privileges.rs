use cnikit::datapath::{DatapathConfig, Error, PortConfig, ProgramName};
use cnikit::spec::{ErrorCode, HasErrorCode, MacAddr};
use cnikit_testbed::{host, kernel};
use rustix::thread::CapabilitySet;

use crate::support::{ROOT, datapath, index, ip, names, port, without};

#[test]
fn a_refused_load_names_the_required_capabilities() {
    host(|_| {
        load_with_all();
        // CAP_SYS_ADMIN includes CAP_BPF and CAP_NET_ADMIN.
        for missing in [CapabilitySet::BPF, CapabilitySet::NET_ADMIN] {
            let error = without(missing | CapabilitySet::SYS_ADMIN, || datapath("one").ensure()).unwrap_err();
            assert!(matches!(error, Error::Load { .. }), "{error:?}");
            assert_eq!(error.code(), ErrorCode::PLUGIN_NOT_AVAILABLE);
            assert!(error.to_string().contains("CAP_BPF and CAP_NET_ADMIN, or root, are needed"), "{error}");
            assert!(!datapath("one").is_complete().unwrap());
            assert_eq!(names(ROOT), [""; 0]);
        }
    });
}

/// The verifier of Linux 5.10 and 6.1 rejects a partial overwrite of a constant on the stack
/// without `CAP_PERFMON`.
#[test]
fn the_two_capabilities_are_enough() {
    host(|_| {
        load_with_all();
        let mut enough = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
        if let Err(error) = without(CapabilitySet::all() - enough, || datapath("one").ensure()) {
            assert!(kernel() < (6, 12), "{error}");
            assert!(matches!(error, Error::Rejected { .. }), "{error}");
            assert!(!datapath("one").is_complete().unwrap());
            enough |= CapabilitySet::PERFMON;
        }
        without(CapabilitySet::all() - enough, || {
            let (datapath, pod) = (datapath("one"), ip("10.244.1.2"));
            datapath.ensure().unwrap();
            datapath.program(ProgramName::Main).unwrap();
            let gateway_mac = MacAddr::new([0x02, 0, 0, 0, 0, 1]);
            datapath.configure(DatapathConfig::new(index(2), gateway_mac)).unwrap();
            datapath.stats().unwrap();
            datapath.open_counters().unwrap().insert(pod).unwrap();
            assert!(datapath.open_counters().unwrap().read(pod).unwrap().is_some());
            datapath.open_endpoints().unwrap().insert(pod, port(7, 2)).unwrap();
            assert_eq!(datapath.open_endpoints().unwrap().read(pod).unwrap(), Some(port(7, 2)));
            let config = PortConfig::new(gateway_mac);
            datapath.open_port_configs().unwrap().insert(index(7), config).unwrap();
            assert_eq!(datapath.open_port_configs().unwrap().read(index(7)).unwrap(), Some(config));
            datapath.drops().unwrap();
            // Only CAP_PERFMON allows the programs to read kernel memory for XDP programs of pods.
            let has_find_xdp = datapath.directory().join("find_xdp").exists();
            assert_eq!(has_find_xdp, enough.contains(CapabilitySet::PERFMON));
            assert!(!datapath.open_port_configs().unwrap().watch_xdp(index(7)).unwrap());
            datapath.remove().unwrap();
        });
    });
}

/// libbpf probes the kernel's features once per process. If a thread with fewer capabilities probed
/// first, the programs of other tests would be loaded without these features.
fn load_with_all() {
    datapath("one").ensure().expect("load");
    datapath("one").remove().expect("remove");
}
