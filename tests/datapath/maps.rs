use std::net::{IpAddr, Ipv4Addr};

use cnikit::datapath::{Datapath, DatapathConfig, DropReason, Error, PodCounters, PortConfig};
use cnikit::spec::MacAddr;
use cnikit_testbed::{host, tool};
use serde_json::{Value, json};

use crate::support::{datapath, header, index, ip, map, port};

/// Runs a test on a separate host. The set is loaded before the test and removed after it.
fn loaded(test: impl FnOnce(&Datapath) + Send) {
    if !tool("bpftool") {
        return;
    }
    host(|_| {
        let datapath = datapath("one");
        datapath.ensure().expect("load");
        test(&datapath);
        datapath.remove().expect("remove");
    });
}

#[test]
fn endpoints_match_bpftool() {
    loaded(|datapath| {
        let ports = datapath.open_endpoints().unwrap();
        let (one, other) = (ip("10.244.1.2"), ip("10.244.1.3"));
        assert_eq!(ports.read(one).unwrap(), None);
        ports.insert(one, port(7, 2)).unwrap();
        ports.insert(other, port(8, 3)).unwrap();
        ports.insert(one, port(0x0102_0304, 4)).unwrap();

        assert_eq!(ports.read(one).unwrap(), Some(port(0x0102_0304, 4)));
        assert_eq!(sorted(ports.addresses().unwrap()), [one, other]);
        let expected = json!([
            { "key": { "octet": [10, 244, 1, 2] },
              "value": { "ifindex": 0x0102_0304, "mac": [2, 0, 0, 0, 0, 4], "xdp": 0 } },
            { "key": { "octet": [10, 244, 1, 3] },
              "value": { "ifindex": 8, "mac": [2, 0, 0, 0, 0, 3], "xdp": 0 } },
        ]);
        assert_eq!(rows(datapath, "pod_ifindex"), expected);

        for _ in 0..2 {
            ports.remove(one).unwrap();
            assert_eq!(ports.read(one).unwrap(), None);
        }
        assert_eq!(sorted(ports.addresses().unwrap()), [other]);
    });
}

#[test]
fn counters_are_summed_over_the_cpus() {
    loaded(|datapath| {
        let counters = datapath.open_counters().unwrap();
        let (one, other) = (ip("10.244.1.2"), ip("10.244.1.3"));
        assert_eq!(counters.read(one).unwrap(), None);
        counters.insert(one).unwrap();
        counters.insert(other).unwrap();
        assert_eq!(counters.read(one).unwrap(), Some(PodCounters::default()));
        let members = |of: [u64; 6]| {
            json!({ "tx_packets": of[0], "tx_bytes": of[1], "tx_direct": of[2],
                    "rx_packets": of[3], "rx_bytes": of[4], "rx_direct": of[5] })
        };
        let dumped = rows(datapath, "pkt_count");
        assert_eq!(dumped[0]["key"], json!({ "octet": [10, 244, 1, 2] }));
        for value in dumped[0]["values"].as_array().unwrap() {
            assert_eq!(value["value"], members([0; 6]));
        }

        // bpftool writes a value for each CPU. Each member has a number, and one number needs more
        // than a byte.
        let value = format!("{} 0 0 0 0 0 1 0 0", numbers(1..=5));
        map("update", &datapath.directory(), "pkt_count", &format!("key 10 244 1 2 value {value}"));
        let read = counters.read(one).unwrap().unwrap();
        let values = rows(datapath, "pkt_count")[0]["values"].clone();
        let cpus = values.as_array().unwrap().len() as u64;
        assert_eq!(values[0]["value"], members([1, 2, 3, 4, 5, 1 << 40]));
        assert_eq!((read.tx_packets, read.tx_bytes, read.tx_direct), (cpus, 2 * cpus, 3 * cpus));
        assert_eq!((read.rx_packets, read.rx_bytes, read.rx_direct), (4 * cpus, 5 * cpus, cpus << 40));
        assert_eq!(counters.read(other).unwrap(), Some(PodCounters::default()));

        counters.insert(one).unwrap();
        assert_eq!(counters.read(one).unwrap(), Some(PodCounters::default()), "from zero");
        for _ in 0..2 {
            counters.remove(one).unwrap();
            assert_eq!(counters.read(one).unwrap(), None);
        }
        assert_eq!(sorted(counters.addresses().unwrap()), [other]);
    });
}

#[test]
fn the_config_is_zero_before_configure() {
    loaded(|datapath| {
        let mut untold = DatapathConfig::new(index(1), MacAddr::new([0; 6]));
        (untold.bridge_ifindex, untold.direct_forwarding, untold.spoof_check) = (None, false, false);
        assert_eq!(datapath.config().unwrap(), untold);
        for (direct, guard, flags) in [(true, true, 3), (false, true, 2), (true, false, 1), (false, false, 0)] {
            let mut told = DatapathConfig::new(index(0x0102_0304), MacAddr::new([2, 4, 6, 8, 10, 12]));
            assert!(told.direct_forwarding && told.spoof_check, "as is best for most");
            (told.direct_forwarding, told.spoof_check) = (direct, guard);
            for _ in 0..2 {
                datapath.configure(told).unwrap();
                assert_eq!(datapath.config().unwrap(), told);
            }
            let expected = json!({ "bridge_ifindex": 0x0102_0304, "gateway_mac": [2, 4, 6, 8, 10, 12],
                                   "flags": flags, "reserved": 0 });
            assert_eq!(rows(datapath, "net_config")[0]["value"], expected);
        }
    });
}

#[test]
fn stats_are_summed_over_the_cpus() {
    loaded(|datapath| {
        let zeros = datapath.stats().unwrap();
        assert_eq!((zeros.direct, zeros.to_stack, zeros.to_host), (0, 0, 0));
        let value = numbers(1..=14);
        map("update", &datapath.directory(), "net_stats", &format!("key 0 0 0 0 value {value}"));

        let values = rows(datapath, "net_stats")[0]["values"].clone();
        let cpus = values.as_array().unwrap().len() as u64;
        let one = json!({
            "direct": 1, "to_stack": 2, "to_host": 3, "from_stack": 4,
            "arp_answers": 5, "nd_answers": 6, "flows_added": 7, "flows_forgotten": 8,
            "unknown": { "tx_packets": 9, "tx_bytes": 10, "tx_direct": 11, "rx_packets": 12, "rx_bytes": 13, "rx_direct": 14 }
        });
        assert_eq!(values[0]["value"], one);
        let stats = datapath.stats().unwrap();
        assert_eq!((stats.direct, stats.to_stack, stats.to_host), (cpus, 2 * cpus, 3 * cpus));
        assert_eq!((stats.from_stack, stats.unknown.tx_packets), (4 * cpus, 9 * cpus));
        assert_eq!((stats.arp_answers, stats.nd_answers), (5 * cpus, 6 * cpus));
        assert_eq!((stats.flows_added, stats.flows_forgotten), (7 * cpus, 8 * cpus));
        assert_eq!(stats.unknown.rx_direct, 14 * cpus);
    });
}

#[test]
fn both_families_have_separate_entries() {
    loaded(|datapath| {
        let (counters, ports) = (datapath.open_counters().unwrap(), datapath.open_endpoints().unwrap());
        let (four, six) = (ip("10.244.1.2"), ip("2001:db8::a:2"));
        for (number, address) in [(7, four), (8, six)] {
            counters.insert(address).unwrap();
            ports.insert(address, port(number, 2)).unwrap();
            assert_eq!(ports.read(address).unwrap(), Some(port(number, 2)));
            assert_eq!(counters.read(address).unwrap(), Some(PodCounters::default()));
        }
        assert_eq!(
            (sorted(ports.addresses().unwrap()), sorted(counters.addresses().unwrap())),
            (vec![four, six], vec![four, six])
        );
        let octets = json!({ "octet": [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 2] });
        for name in ["pod_ifindex_v6", "pkt_count_v6"] {
            assert_eq!(rows(datapath, name)[0]["key"], octets, "{name}");
        }
        let mapped = ip("::ffff:10.244.1.2");
        assert_eq!(ports.read(mapped).unwrap(), Some(port(7, 2)), "an IPv4 address in other clothes");

        counters.remove(six).unwrap();
        ports.remove(six).unwrap();
        assert_eq!(
            (sorted(ports.addresses().unwrap()), sorted(counters.addresses().unwrap())),
            (vec![four], vec![four])
        );
    });
}

#[test]
fn port_configs_match_bpftool() {
    loaded(|datapath| {
        let links = datapath.open_port_configs().unwrap();
        let link = |last, stack_only| PortConfig::new(MacAddr::new([2, 0, 0, 0, 0, last])).stack_only(stack_only);
        assert_eq!((links.read(index(7)).unwrap(), links.drops(index(7)).unwrap()), (None, None));
        links.insert(index(7), link(1, false)).unwrap();
        links.insert(index(0x0102_0304), link(2, true)).unwrap();
        assert_eq!(links.read(index(7)).unwrap(), Some(link(1, false)));
        assert_eq!(links.read(index(0x0102_0304)).unwrap(), Some(link(2, true)));
        let mut indexes = links.indexes().unwrap();
        indexes.sort_unstable();
        assert_eq!(indexes, [7, 0x0102_0304].map(index));
        let shown = rows(datapath, "port_config");
        let value = |last, flags| json!({ "mac": [2, 0, 0, 0, 0, last], "flags": flags, "reserved": 0 });
        let mut shown: Vec<_> = shown.as_array().unwrap().iter().map(|row| row["value"].clone()).collect();
        shown.sort_by_key(|value| value["flags"].as_u64());
        assert_eq!(shown, [value(1, 0), value(2, 1)]);

        // The programs use the number of the reason as index.
        let counted = numbers(1..=16);
        map("update", &datapath.directory(), "port_drops", &format!("key 7 0 0 0 value {counted}"));
        let drops = links.drops(index(7)).unwrap().unwrap();
        let cpus = drops.of(DropReason::Malformed);
        let expected: Vec<_> = DropReason::ALL.into_iter().zip((1..).map(|number| number * cpus)).collect();
        assert_eq!(drops.iter().collect::<Vec<_>>(), expected);
        assert_eq!(drops.total(), 136 * cpus);
        links.insert(index(7), link(1, true)).unwrap();
        assert_eq!(links.drops(index(7)).unwrap(), Some(drops), "a change of mind is no new port");
        assert_eq!(datapath.drops().unwrap().total(), 0, "the network's are the programs' to count");

        for _ in 0..2 {
            links.remove(index(7)).unwrap();
            assert_eq!((links.read(index(7)).unwrap(), links.drops(index(7)).unwrap()), (None, None));
        }
        assert_eq!(links.indexes().unwrap(), [index(0x0102_0304)]);
    });
}

#[test]
fn a_full_map_is_reported_and_keeps_its_entries() {
    loaded(|datapath| {
        let (counters, ports) = (datapath.open_counters().unwrap(), datapath.open_endpoints().unwrap());
        let most = header("CNI_TC_MAX_ENDPOINTS") as u32;
        for number in 0..most {
            counters.insert(address(number)).unwrap();
            ports.insert(address(number), port(number + 1, 2)).unwrap();
        }

        let surplus = address(most);
        for (error, name) in [
            (counters.insert(surplus).unwrap_err(), "pkt_count"),
            (ports.insert(surplus, port(7, 2)).unwrap_err(), "pod_ifindex"),
        ] {
            let Error::Map { map, operation, .. } = &error else { panic!("{error:?}") };
            assert_eq!((*map, operation), (name, &format!("put {surplus}")));
            let reason = "Argument list too long (os error 7); the map is full, and DEL of a pod removes its entries";
            assert_eq!(error.to_string(), format!("cannot put {surplus} in the eBPF map {name}: {reason}"));
        }
        assert_eq!((ports.read(surplus).unwrap(), counters.read(surplus).unwrap()), (None, None));
        assert_eq!(ports.addresses().unwrap().len(), most as usize);

        ports.insert(address(0), port(8, 3)).unwrap();
        assert_eq!(ports.read(address(0)).unwrap(), Some(port(8, 3)));
        counters.insert(address(0)).unwrap();
        ports.remove(address(1)).unwrap();
        ports.insert(surplus, port(7, 2)).unwrap();
    });
}

/// 64-bit numbers as arguments of `bpftool`.
fn numbers(range: std::ops::RangeInclusive<u8>) -> String {
    range.map(|number| format!("{number} 0 0 0 0 0 0 0 ")).collect()
}

/// One address per number.
fn address(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 244, 0, 0).to_bits() + number).into()
}

fn sorted(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = addresses.into_iter().collect();
    addresses.sort();
    addresses
}

/// The entries of a map with the names of their members, sorted by key.
#[track_caller]
fn rows(datapath: &Datapath, name: &str) -> Value {
    let dumped = map("dump", &datapath.directory(), name, "");
    let mut rows: Vec<Value> = dumped.as_array().expect("rows").iter().map(|row| row["formatted"].clone()).collect();
    rows.sort_by_key(|row| row["key"].to_string());
    Value::Array(rows)
}
