//! Pods on a bridge. `tc` attaches the programs to the host ends of the veth pairs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cnikit::datapath::{Datapath, DatapathConfig, Endpoint, PodCounters, PortConfig};
use cnikit::spec::{IfIndex, MacAddr};
use cnikit_testbed::{Host, Namespace, Pod, raw};

use crate::support::datapath;

pub(crate) const GATEWAY_MAC: MacAddr = MacAddr::new([0x02, 0, 0, 0, 0, 0xfe]);
pub(crate) const GATEWAY: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 244, 1, 1)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 1))];

/// Three pods with an address of each family, and their map entries.
pub(crate) struct Fixture {
    pub(crate) datapath: Datapath,
    pub(crate) pods: [Pod; 3],
}

impl Fixture {
    pub(crate) fn new(host: &Host) -> Self {
        let datapath = datapath("one");
        datapath.ensure().expect("load");
        // With snooping, the bridge sends its own multicast reports, which would be counted.
        host.ip(&format!("link add cbr0 address {GATEWAY_MAC} type bridge mcast_snooping 0"));
        // Without DAD, the link-local address is usable at once. The host needs it for neighbor
        // solicitations.
        host.command("sysctl").words("-q -w net.ipv6.conf.cbr0.accept_dad=0").run();
        host.ip("link set cbr0 up");
        let bridge = index(host, "cbr0");
        attach(host, &datapath, "cbr0");
        let endpoints = datapath.open_endpoints().expect("open");
        for (gateway, length) in GATEWAY.into_iter().zip([24, 64]) {
            host.ip(&format!("address add {gateway}/{length} dev cbr0 {}", nodad(gateway)));
            endpoints.insert(gateway, Endpoint::new(bridge, GATEWAY_MAC)).expect("insert");
        }
        let pods = [0, 1, 2].map(|number| Self::pod(host, &datapath, number));
        datapath.configure(DatapathConfig::new(bridge, GATEWAY_MAC)).expect("configure");
        Self { datapath, pods }
    }

    fn pod(host: &Host, datapath: &Datapath, number: u8) -> Pod {
        let (pod, mac) = (host.pod(), mac(number));
        let netns = pod.netns();
        let netns = netns.display();
        host.ip(&format!("link add veth{number} type veth peer name eth0 address {mac} netns {netns}"));
        host.ip(&format!("link set veth{number} addrgenmode none master cbr0 up"));
        // Without DAD, the link-local address is usable at once, as CNI plugins configure it.
        pod.command("sysctl").words("-q -w net.ipv6.conf.eth0.accept_dad=0 net.ipv6.conf.lo.disable_ipv6=0").run();
        pod.ip("link set lo up");
        pod.ip("link set eth0 up");
        attach(host, datapath, &format!("veth{number}"));
        let endpoint = Endpoint::new(index(host, &format!("veth{number}")), mac);
        let endpoints = datapath.open_endpoints().expect("open");
        for (address, (gateway, length)) in addresses(number).into_iter().zip(GATEWAY.into_iter().zip([24, 64])) {
            pod.ip(&format!("address add {address}/{length} dev eth0 {}", nodad(address)));
            pod.ip(&format!("route add default via {gateway}"));
            datapath.open_counters().and_then(|counters| counters.insert(address)).expect("insert");
            endpoints.insert(address, endpoint).expect("insert");
        }
        endpoints.insert(mac.link_local().into(), endpoint).expect("insert");
        let config = PortConfig::new(mac);
        datapath.open_port_configs().and_then(|ports| ports.insert(endpoint.ifindex, config)).expect("insert");
        pod
    }

    pub(crate) fn counters(&self, address: IpAddr) -> PodCounters {
        let counters = self.datapath.open_counters().expect("open");
        counters.read(address).expect("read").expect("an entry")
    }

    /// Changes the configuration of the network.
    pub(crate) fn configure(&self, change: impl FnOnce(&mut DatapathConfig)) {
        let mut config = self.datapath.config().expect("read");
        change(&mut config);
        self.datapath.configure(config).expect("configure");
    }

    /// Sends a raw frame from the first pod.
    pub(crate) fn send(&self, frame: &[u8]) {
        self.pods[0].enter(|| raw::send(frame)).unwrap_or_else(|error| panic!("{} bytes: {error}", frame.len()));
    }

    pub(crate) fn end(self, host: &Host) {
        self.datapath.remove().expect("remove");
        for link in ["veth0", "veth1", "veth2", "cbr0"] {
            host.ip(&format!("link del {link}"));
        }
    }
}

/// The addresses of a pod, one of each family.
pub(crate) fn addresses(number: u8) -> [IpAddr; 2] {
    let last = 2 + number;
    [Ipv4Addr::new(10, 244, 1, last).into(), Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, last.into()).into()]
}

pub(crate) fn mac(number: u8) -> MacAddr {
    MacAddr::new([0x02, 0, 0, 0, 0, 2 + number])
}

pub(crate) fn index(namespace: &impl Namespace, link: &str) -> IfIndex {
    let index = namespace.link(link).expect("a link")["ifindex"].as_u64().expect("an index");
    IfIndex::new(index.try_into().expect("32 bits")).expect("an index")
}

fn attach(host: &Host, datapath: &Datapath, link: &str) {
    host.tc(&format!("qdisc add dev {link} clsact"));
    for (hook, program) in [("ingress", "cni_tc_main"), ("egress", "cni_tc_egress")] {
        let pin = datapath.directory().join(program);
        let pin = pin.display();
        host.tc(&format!("filter add dev {link} {hook} bpf direct-action object-pinned {pin}"));
    }
}

fn nodad(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "nodad" } else { "" }
}
