use std::net::{IpAddr, Ipv4Addr};

use cnikit::datapath::{Datapath, Error, NetConfig, PodCounters};
use cnikit::spec::{Coded, ErrorCode, MacAddr};
use cnikit_testbed::{host, tool};
use serde_json::{Value, json};

use crate::support::{datapath, header, ip, map, port};

/// A test on a host of its own, with a set that is loaded before and removed after.
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
fn ports_are_what_bpftool_shows() {
    loaded(|datapath| {
        let ports = datapath.ports().unwrap();
        let (one, other) = (ip("10.244.1.2"), ip("10.244.1.3"));
        assert_eq!(ports.read(one).unwrap(), None);
        ports.insert(one, port(7, 2)).unwrap();
        ports.insert(other, port(8, 3)).unwrap();
        ports.insert(one, port(0x0102_0304, 4)).unwrap();

        assert_eq!(ports.read(one).unwrap(), Some(port(0x0102_0304, 4)));
        assert_eq!(sorted(ports.addresses()), [one, other]);
        let expected = json!([
            { "key": { "octet": [10, 244, 1, 2] },
              "value": { "ifindex": 0x0102_0304, "mac": [2, 0, 0, 0, 0, 4], "reserved": [0, 0] } },
            { "key": { "octet": [10, 244, 1, 3] },
              "value": { "ifindex": 8, "mac": [2, 0, 0, 0, 0, 3], "reserved": [0, 0] } },
        ]);
        assert_eq!(rows(datapath, "pod_ifindex"), expected);

        for _ in 0..2 {
            ports.remove(one).unwrap();
            assert_eq!(ports.read(one).unwrap(), None);
        }
        assert_eq!(sorted(ports.addresses()), [other]);
    });
}

#[test]
fn counters_are_added_up_over_the_cpus() {
    loaded(|datapath| {
        let counters = datapath.counters().unwrap();
        let (one, other) = (ip("10.244.1.2"), ip("10.244.1.3"));
        assert_eq!(counters.read(one).unwrap(), None);
        counters.track(one).unwrap();
        counters.track(other).unwrap();
        assert_eq!(counters.read(one).unwrap(), Some(PodCounters::default()));
        let zeros = json!({ "tx_packets": 0, "tx_bytes": 0, "tx_direct": 0, "rx_stack": 0 });
        let dumped = rows(datapath, "pkt_count");
        assert_eq!(dumped[0]["key"], json!({ "octet": [10, 244, 1, 2] }));
        for value in dumped[0]["values"].as_array().unwrap() {
            assert_eq!(value["value"], zeros);
        }

        // bpftool writes the value for each of the CPUs. A number in each member: 1, 2, 3 and 2^40.
        let words = [[1, 0, 0, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0, 0, 0]];
        let value = format!(
            "{} 0 0 0 0 0 1 0 0",
            words.as_flattened().iter().map(|byte| format!("{byte} ")).collect::<String>()
        );
        map("update", &datapath.directory(), "pkt_count", &format!("key 10 244 1 2 value {value}"));
        let read = counters.read(one).unwrap().unwrap();
        let values = rows(datapath, "pkt_count")[0]["values"].clone();
        let cpus = values.as_array().unwrap().len() as u64;
        assert_eq!(
            values[0]["value"],
            json!({ "tx_packets": 1, "tx_bytes": 2, "tx_direct": 3, "rx_stack": 1u64 << 40 })
        );
        assert_eq!((read.tx_packets, read.tx_bytes, read.tx_direct), (cpus, 2 * cpus, 3 * cpus));
        assert_eq!(read.rx_stack, cpus << 40);
        assert_eq!(counters.read(other).unwrap(), Some(PodCounters::default()));

        counters.track(one).unwrap();
        assert_eq!(counters.read(one).unwrap(), Some(PodCounters::default()), "from zero");
        for _ in 0..2 {
            counters.forget(one).unwrap();
            assert_eq!(counters.read(one).unwrap(), None);
        }
        assert_eq!(sorted(counters.addresses()), [other]);
    });
}

#[test]
fn the_config_is_zeros_until_it_is_told() {
    loaded(|datapath| {
        let told = NetConfig { bridge_ifindex: 0x0102_0304, gateway_mac: MacAddr::new([2, 4, 6, 8, 10, 12]) };
        let untold = NetConfig { bridge_ifindex: 0, gateway_mac: MacAddr::new([0; 6]) };
        assert_eq!(datapath.config().unwrap(), untold);
        for _ in 0..2 {
            datapath.configure(told).unwrap();
            assert_eq!(datapath.config().unwrap(), told);
        }
        let expected =
            json!({ "bridge_ifindex": 0x0102_0304, "gateway_mac": [2, 4, 6, 8, 10, 12], "reserved": [0, 0] });
        assert_eq!(rows(datapath, "net_config")[0]["value"], expected);
    });
}

#[test]
fn stats_are_added_up_over_the_cpus() {
    loaded(|datapath| {
        let zeros = datapath.stats().unwrap();
        assert_eq!((zeros.direct, zeros.to_stack, zeros.to_host), (0, 0, 0));
        let value: String = (1..=5).map(|member| format!("{member} 0 0 0 0 0 0 0 ")).collect();
        map("update", &datapath.directory(), "net_stats", &format!("key 0 0 0 0 value {value}"));

        let values = rows(datapath, "net_stats")[0]["values"].clone();
        let cpus = values.as_array().unwrap().len() as u64;
        let one = json!({ "direct": 1, "to_stack": 2, "to_host": 3, "from_stack": 4, "unknown_source": 5 });
        assert_eq!(values[0]["value"], one);
        let stats = datapath.stats().unwrap();
        assert_eq!((stats.direct, stats.to_stack, stats.to_host), (cpus, 2 * cpus, 3 * cpus));
        assert_eq!((stats.from_stack, stats.unknown_source), (4 * cpus, 5 * cpus));
    });
}

#[test]
fn an_ipv6_address_is_refused_by_every_call() {
    loaded(|datapath| {
        let (counters, ports, six) = (datapath.counters().unwrap(), datapath.ports().unwrap(), ip("2001:db8::2"));
        let refused = [
            counters.track(six).unwrap_err(),
            counters.read(six).unwrap_err(),
            counters.forget(six).unwrap_err(),
            ports.insert(six, port(7, 2)).unwrap_err(),
            ports.read(six).unwrap_err(),
            ports.remove(six).unwrap_err(),
        ];
        for error in refused {
            assert!(matches!(error, Error::AddressFamily { address } if address == six), "{error:?}");
            assert_eq!(error.code(), ErrorCode::UNSUPPORTED_FIELD);
        }
        // Not even an IPv4 address in IPv6's clothes gets a row.
        counters.track(ip("::ffff:10.244.1.2")).unwrap_err();
        assert_eq!(rows(datapath, "pkt_count"), json!([]));
    });
}

#[test]
fn a_full_map_says_so_and_serves_the_rows_it_has() {
    loaded(|datapath| {
        let (counters, ports) = (datapath.counters().unwrap(), datapath.ports().unwrap());
        let most = header("CNI_TC_MAX_ROWS") as u32;
        for number in 0..most {
            counters.track(address(number)).unwrap();
            ports.insert(address(number), port(number, 2)).unwrap();
        }

        let surplus = address(most);
        for (error, name) in [
            (counters.track(surplus).unwrap_err(), "pkt_count"),
            (ports.insert(surplus, port(7, 2)).unwrap_err(), "pod_ifindex"),
        ] {
            let Error::Map { map, operation, .. } = &error else { panic!("{error:?}") };
            assert_eq!((*map, operation), (name, &format!("put {surplus}")));
            assert!(error.to_string().contains("it is full"), "{error}");
        }
        assert_eq!((ports.read(surplus).unwrap(), counters.read(surplus).unwrap()), (None, None));
        assert_eq!(ports.addresses().count(), most as usize);

        ports.insert(address(0), port(8, 3)).unwrap();
        assert_eq!(ports.read(address(0)).unwrap(), Some(port(8, 3)));
        counters.track(address(0)).unwrap();
        ports.remove(address(1)).unwrap();
        ports.insert(surplus, port(7, 2)).unwrap();
    });
}

/// As many addresses as there are numbers.
fn address(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 244, 0, 0).to_bits() + number).into()
}

fn sorted(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = addresses.collect();
    addresses.sort();
    addresses
}

/// The rows of a map with the names of their members, sorted by key.
#[track_caller]
fn rows(datapath: &Datapath, name: &str) -> Value {
    let dumped = map("dump", &datapath.directory(), name, "");
    let mut rows: Vec<Value> = dumped.as_array().expect("rows").iter().map(|row| row["formatted"].clone()).collect();
    rows.sort_by_key(|row| row["key"].to_string());
    Value::Array(rows)
}
