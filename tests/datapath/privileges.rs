use cnikit::datapath::{DatapathConfig, Error, PortConfig, ProgramName};
use cnikit::spec::{ErrorCode, HasErrorCode, MacAddr};
use cnikit_testbed::{host, kernel};
use rustix::thread::CapabilitySet;

use crate::support::{ROOT, datapath, ip, names, port, without};

#[test]
fn who_may_not_load_is_told_what_is_needed() {
    host(|_| {
        load_with_all();
        // CAP_SYS_ADMIN stands for either of the others.
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

/// Linux 5.10 and 6.1 let nobody overwrite a part of what the stack holds a constant in, unless they have a third.
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
            datapath.configure(DatapathConfig::new(2, gateway_mac)).unwrap();
            datapath.stats().unwrap();
            datapath.open_counters().unwrap().insert(pod).unwrap();
            assert!(datapath.open_counters().unwrap().read(pod).unwrap().is_some());
            datapath.open_endpoints().unwrap().insert(pod, port(7, 2)).unwrap();
            assert_eq!(datapath.open_endpoints().unwrap().read(pod).unwrap(), Some(port(7, 2)));
            let link = PortConfig::new(gateway_mac);
            datapath.open_port_configs().unwrap().insert(7, link).unwrap();
            assert_eq!(datapath.open_port_configs().unwrap().read(7).unwrap(), Some(link));
            datapath.drops().unwrap();
            // Only a third lets the programs look for XDP programs of pods.
            let looks = datapath.directory().join("find_xdp").exists();
            assert_eq!(looks, enough.contains(CapabilitySet::PERFMON));
            assert!(!datapath.open_port_configs().unwrap().watch_xdp(7).unwrap());
            datapath.remove().unwrap();
        });
    });
}

/// libbpf tries once in a process which helpers the kernel has. A thread with fewer capabilities must not be the first to
/// find out, or the programs of other tests go without.
fn load_with_all() {
    datapath("one").ensure().expect("load");
    datapath("one").remove().expect("remove");
}
