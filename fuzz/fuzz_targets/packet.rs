//! Arbitrary frames: the kernel runs the TC programs, which return the verdict and the frame of the
//! model.
//!
//! An input is a `cnikit_model::Scenario`. The target needs root. The process unshares its network
//! and mount namespaces; its BPF file system disappears with the process.

#![no_main]

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::sync::OnceLock;

use cnikit::bpf::Program;
use cnikit::datapath::{CounterMap, Datapath, PortConfigMap, DatapathConfig, PortConfig, Endpoint, EndpointMap, ProgramName};
use cnikit::spec::{IfIndex, MacAddr};
use cnikit_model::{Hook, Mac, Network, Origin, Port, Scenario, Step, Verdict};
use libbpf_rs::{MapCore as _, MapHandle, libbpf_sys};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

const ROOT: &str = "/sys/fs/bpf";
/// `BPF_PROG_TEST_RUN` takes `lo`, index 1, as the device of the frame.
const PORT: u32 = 1;
const OTHER_PORT: u32 = 77;
/// A port of another network.
const PORT_ELSEWHERE: u32 = 79;
const SECOND_PORT: u32 = 78;
const BRIDGE: u32 = 99;
const MAC_A: Mac = [0x02, 0, 0, 0, 0, 0x0a];
const MAC_B: Mac = [0x02, 0, 0, 0, 0, 0x0b];
const MAC_SECOND: Mac = [0x02, 0, 0, 0, 0, 0x0c];
const MAC_GATEWAY: Mac = [0x02, 0, 0, 0, 0, 0xfe];
/// The addresses of the tests in src/datapath/skeleton/verdicts.
const ADDRESSES: [(&str, u32, Mac); 8] = [
    ("10.244.1.2", PORT, MAC_A),
    ("fd00:244::2", PORT, MAC_A),
    ("10.244.1.3", OTHER_PORT, MAC_B),
    ("fd00:244::3", OTHER_PORT, MAC_B),
    ("10.244.1.5", SECOND_PORT, MAC_SECOND),
    ("fd00:244::5", SECOND_PORT, MAC_SECOND),
    ("10.244.1.1", BRIDGE, MAC_GATEWAY),
    ("fd00:244::1", BRIDGE, MAC_GATEWAY),
];

/// Addresses that the pod at `PORT` has on its other ports.
const SHARED: [&str; 4] = ["10.244.1.5", "fd00:244::5", "10.245.1.2", "fd00:245::2"];

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    static BED: OnceLock<Bed> = OnceLock::new();
    let bed = BED.get_or_init(Bed::new);
    let scenario = Scenario::of(input);
    let mut network = bed.set_up(&scenario);
    for Step { hook, origin, frame } in &scenario.steps {
        let device = match origin {
            Origin::Elsewhere => 0,
            Origin::ThisPort => PORT,
            Origin::Bridge => network.bridge,
        };
        let Some(verdict) = bed.verdict(*hook, device, frame) else { continue };
        let expected = match network.judge(*hook, PORT, *origin, frame) {
            Verdict::Drop(_) => (2, None),
            Verdict::Redirect(left) => (7, Some(left)),
            Verdict::Stack(left) => (-1, Some(left)),
        };
        assert_eq!(verdict.0, expected.0, "{hook:?}, {frame:02x?}, {scenario:?}");
        assert!(expected.1.is_none_or(|left| left == verdict.1), "{:02x?}, {scenario:?}", verdict.1);
    }
});

struct Bed {
    datapath: Datapath,
    programs: [Program; 2],
    links: PortConfigMap,
    flows: MapHandle,
}

impl Bed {
    fn new() -> Self {
        // SAFETY: CLONE_FILES is not among the flags, and the threads keep one descriptor table.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }.expect("root");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("private mounts");
        mount("bpf", ROOT, "bpf", MountFlags::empty(), None).expect("a BPF file system");
        let datapath = Datapath::new(Path::new(ROOT).join("fuzz"), &"packet".parse().expect("a name"));
        datapath.ensure().expect("programs");
        let (ports, counters): (EndpointMap, CounterMap) =
            (datapath.open_endpoints().expect("a map"), datapath.open_counters().expect("a map"));
        for (address, ifindex, mac) in addresses() {
            ports.insert(address, Endpoint::new(index(ifindex), MacAddr::new(mac))).expect("room");
            counters.insert(address).expect("room");
        }
        let shared = datapath.open_shared_addresses().expect("pins").expect("a map");
        for address in shared_addresses() {
            shared.insert(index(PORT), address, index(PORT_ELSEWHERE)).expect("room");
        }
        Self {
            programs: [ProgramName::Main, ProgramName::Egress].map(|name| datapath.program(name).expect("a program")),
            links: datapath.open_port_configs().expect("a map"),
            flows: MapHandle::from_pinned_path(datapath.directory().join("flows")).expect("a map"),
            datapath,
        }
    }

    fn set_up(&self, scenario: &Scenario) -> Network {
        let bridge = if scenario.at_bridge { PORT } else { BRIDGE };
        let mut config = DatapathConfig::new(index(bridge), MacAddr::new(MAC_GATEWAY));
        (config.spoof_check, config.direct_forwarding) = (scenario.guard, scenario.direct);
        self.datapath.configure(config).expect("an entry");
        let mut network = Network::new(bridge, MAC_GATEWAY);
        (network.guard, network.direct) = (scenario.guard, scenario.direct);
        for (address, port, mac) in addresses() {
            network.own(address, port, mac);
        }
        network.shared.extend(shared_addresses().map(|address| ((PORT, address), PORT_ELSEWHERE)));
        let ports = [(PORT, MAC_A, scenario.stack_only), (OTHER_PORT, MAC_B, scenario.other_stack_only)];
        for (port, mac, stack_only) in ports {
            if port == PORT && scenario.is_nobodys {
                self.links.remove(index(port)).expect("an entry");
            } else {
                network.ports.insert(port, Port { mac, stack_only });
                self.links.insert(index(port), PortConfig::new(MacAddr::new(mac)).stack_only(stack_only)).expect("room");
            }
        }
        for flow in self.flows.keys().collect::<Vec<_>>() {
            self.flows.delete(&flow).expect("a flow");
        }
        network
    }

    /// The return code of a program and the frame after the program; `None` if the kernel
    /// refuses to run the frame.
    fn verdict(&self, hook: Hook, origin: u32, frame: &[u8]) -> Option<(i32, Vec<u8>)> {
        let mut left = vec![0; frame.len() + 64];
        // `struct __sk_buff` up to `ingress_ifindex`, its tenth word. The kernel reads the rest as
        // zero.
        let mut context = [0_u32; 10];
        context[9] = origin;
        let mut run = libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_sys::bpf_test_run_opts>() as _,
            data_in: frame.as_ptr().cast(),
            data_size_in: frame.len() as _,
            data_out: left.as_mut_ptr().cast(),
            data_size_out: left.len() as _,
            ctx_in: (&raw const context).cast(),
            ctx_size_in: size_of_val(&context) as _,
            ..Default::default()
        };
        let program = self.programs[hook as usize].as_fd().as_raw_fd();
        // SAFETY: the buffers and the context outlive the call, and `run` holds their sizes.
        let tried = unsafe { libbpf_sys::bpf_prog_test_run_opts(program, &raw mut run) };
        left.truncate(run.data_size_out as usize);
        (tried == 0).then(|| (run.retval.cast_signed(), left))
    }
}

/// The number of a port as an index in a map.
fn index(port: u32) -> IfIndex {
    IfIndex::new(port).expect("a port")
}

fn shared_addresses() -> impl Iterator<Item = std::net::IpAddr> {
    SHARED.into_iter().map(|address| address.parse().expect("an address"))
}

fn addresses() -> impl Iterator<Item = (std::net::IpAddr, u32, Mac)> {
    let link_local = [(PORT, MAC_A), (OTHER_PORT, MAC_B)];
    let link_local = link_local.map(|(port, mac)| (MacAddr::new(mac).link_local().into(), port, mac));
    ADDRESSES
        .map(|(address, port, mac)| (address.parse().expect("an address"), port, mac))
        .into_iter()
        .chain(link_local)
}
