use std::net::IpAddr;

use serde_json::json;

use super::fixture::owner;
use crate::ipam::{Error, IpamConfig, IpamKeys, MemoryStore, Pool, RangeKeys};
use crate::spec::{ErrorCode, HasErrorCode};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn config(json: serde_json::Value) -> Result<IpamConfig, String> {
    serde_json::from_value(json).map_err(|error| error.to_string())
}

fn ranges(config: &IpamConfig) -> Vec<Vec<String>> {
    config.pools().iter().map(|pool| pool.ranges().iter().map(ToString::to_string).collect()).collect()
}

#[test]
fn every_form_of_host_local_configuration_is_accepted() {
    for (form, expected) in [
        (json!({"subnet": "10.0.0.0/24"}), vec![vec!["10.0.0.0/24"]]),
        (
            json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.19", "gateway": "10.0.0.254"}),
            vec![vec!["10.0.0.9-10.0.0.19 of 10.0.0.0/24"]],
        ),
        (
            json!({"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "10.7.0.0/24"}], [{"subnet": "fd00::/64"}]]}),
            vec![vec!["10.0.0.0/24", "10.7.0.0/24"], vec!["fd00::/64"]],
        ),
        (
            json!({"subnet": "10.0.0.0/24", "ranges": [[{"subnet": "fd00::/64"}]]}),
            vec![vec!["10.0.0.0/24"], vec!["fd00::/64"]],
        ),
        (
            json!({"type": "host-local", "subnet": "10.0.0.0/24", "gateway": "", "rangeStart": null, "ranges": null,
                   "routes": null, "exclude": null, "dataDir": "", "resolvConf": null}),
            vec![vec!["10.0.0.0/24"]],
        ),
        (
            json!({"ranges": [[
                {"subnet": "10.0.0.0/24", "rangeEnd": "10.0.0.99"},
                {"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.100"}
            ]]}),
            vec![vec!["10.0.0.1-10.0.0.99 of 10.0.0.0/24", "10.0.0.100-10.0.0.254 of 10.0.0.0/24"]],
        ),
    ] {
        let read = config(form.clone()).unwrap_or_else(|error| panic!("{form}: {error}"));
        assert_eq!(ranges(&read), expected);
    }
}

#[test]
fn keys_beside_the_ranges_are_kept() {
    let config = config(json!({
        "subnet": "10.0.0.0/24",
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.1.0.0/16", "gw": "10.0.0.9"}],
        "dataDir": "/run/leases",
        "resolvConf": "/etc/resolv.conf"
    }))
    .unwrap();
    assert_eq!(config.data_dir().unwrap(), "/run/leases");
    assert_eq!(config.resolv_conf().unwrap(), "/etc/resolv.conf");
    let routes: Vec<_> = config.routes().iter().map(|route| (route.dst.to_string(), route.gw)).collect();
    assert_eq!(routes, [("0.0.0.0/0".to_owned(), None), ("10.1.0.0/16".to_owned(), Some(ip("10.0.0.9")))]);
}

#[test]
fn an_address_has_the_gateway_of_its_range() {
    let config = config(json!({
        "ranges": [
            [{"subnet": "10.0.0.0/24", "rangeEnd": "10.0.0.9"},
             {"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.20", "gateway": "10.0.0.10"}],
            [{"subnet": "fd00::/64", "gateway": "fd00::ffff"}]
        ],
        "exclude": ["10.0.0.21"]
    }))
    .unwrap();
    for (address, gateway) in [
        ("10.0.0.5", Some("10.0.0.1")),
        ("10.0.0.22", Some("10.0.0.10")),
        ("10.0.0.21", Some("10.0.0.10")),
        ("10.0.0.15", Some("10.0.0.1")),
        ("fd00::7", Some("fd00::ffff")),
        ("10.9.9.9", None),
    ] {
        assert_eq!(config.gateway_of(ip(address)), gateway.map(ip), "{address}");
    }
}

#[test]
fn errors_name_the_range_and_the_remedy() {
    for (wrong, message) in [
        (json!({}), "no address range is configured; add a subnet"),
        (json!({"gateway": "10.0.0.1"}), "gateway 10.0.0.1 is set without a subnet; add the subnet"),
        (json!({"ranges": [[]]}), "a list of ranges is empty; add a range or remove the list"),
        (
            json!({"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]]}),
            "10.0.0.0/24 and fd00::/64 are in one list of ranges; use separate lists for IPv4 and IPv6",
        ),
        (json!({"subnet": "10.0.0.7/24"}), "10.0.0.7/24 has host bits set; write 10.0.0.0/24"),
        (
            json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.20", "rangeEnd": "10.0.0.10"}),
            "the range of 10.0.0.0/24 from 10.0.0.20 to 10.0.0.10 is reversed; swap its bounds",
        ),
        (
            json!({"subnet": "10.0.0.0/24", "rangeEnd": "10.0.1.10"}),
            "10.0.1.10 is outside 10.0.0.0/24; use an address from 10.0.0.1 to 10.0.0.254",
        ),
        (
            json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.0"}),
            "10.0.0.0 is outside 10.0.0.0/24; use an address from 10.0.0.1 to 10.0.0.254",
        ),
        (
            json!({"subnet": "10.0.0.0/24", "rangeStart": "fd00::1"}),
            "fd00::1 is outside 10.0.0.0/24; use an address from 10.0.0.1 to 10.0.0.254",
        ),
        (
            json!({"subnet": "10.0.0.0/24", "gateway": "10.0.1.1"}),
            "gateway 10.0.1.1 is not in 10.0.0.0/24; use an address of the subnet, or omit the gateway for the first address",
        ),
        (
            json!({"subnet": "10.0.0.0/24", "exclude": ["10.0.0.0/25", "10.1.0.0/16"]}),
            "exclude 10.1.0.0/16 is not in 10.0.0.0/24; correct or remove it",
        ),
        (
            json!({"ranges": [[{"subnet": "10.0.0.0/24", "exclude": ["10.0.1.1"]}]]}),
            "exclude 10.0.1.1/32 is not in 10.0.0.0/24; correct or remove it",
        ),
        (
            json!({"subnet": "10.0.0.0/24", "exclude": ["10.0.0.9/25"]}),
            "10.0.0.9/25 has host bits set; write 10.0.0.0/25",
        ),
        (
            json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.8", "rangeEnd": "10.0.0.15", "exclude": ["10.0.0.8/29"]}),
            "no address of 10.0.0.8-10.0.0.15 of 10.0.0.0/24 can be allocated; widen its bounds or exclude less",
        ),
        (
            json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.1", "rangeEnd": "10.0.0.1"}),
            "no address of 10.0.0.1-10.0.0.1 of 10.0.0.0/24 can be allocated; widen its bounds or exclude less",
        ),
        (
            json!({"ranges": [[{"subnet": "fd00::/64"}], [{"subnet": "fd00::/80"}]]}),
            "ranges fd00::/64 and fd00::/80 overlap; each address must be in one range only",
        ),
        (
            json!({"ranges": [[
                {"subnet": "10.0.0.0/24", "rangeEnd": "10.0.0.99"},
                {"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.99"}
            ]]}),
            "ranges 10.0.0.1-10.0.0.99 of 10.0.0.0/24 and 10.0.0.99-10.0.0.254 of 10.0.0.0/24 overlap; each \
             address must be in one range only",
        ),
        (
            json!({"ranges": [[
                {"subnet": "10.0.0.0/24", "rangeEnd": "10.0.0.99", "gateway": "10.0.0.200"},
                {"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.100"}
            ]]}),
            "range 10.0.0.100-10.0.0.254 of 10.0.0.0/24 contains 10.0.0.200, the gateway of another range; exclude it",
        ),
        (json!({"subnet": "10.0.0.0/24", "dataDir": "leases"}), "dataDir leases is relative; write an absolute path"),
        (
            json!({"subnet": "10.0.0.0/24", "resolvConf": "resolv.conf"}),
            "resolvConf resolv.conf is relative; write an absolute path",
        ),
    ] {
        assert_eq!(config(wrong.clone()).unwrap_err(), message, "{wrong}");
        let keys: IpamKeys = serde_json::from_value(wrong).unwrap();
        assert_eq!(IpamConfig::try_from(keys).unwrap_err().code(), ErrorCode::INVALID_CONFIG);
    }
}

#[test]
fn ranges_from_other_sources_are_validated_together() {
    let keys: IpamKeys = serde_json::from_value(json!({"subnet": "10.0.0.0/24"})).unwrap();
    let with = |subnet: &str| {
        let mut keys = keys.clone();
        keys.ranges.push(vec![RangeKeys::from(subnet.parse::<ipnetwork::IpNetwork>().unwrap())]);
        IpamConfig::try_from(keys)
    };
    assert_eq!(ranges(&with("fd00::/64").unwrap()), [["10.0.0.0/24"], ["fd00::/64"]]);
    assert_eq!(
        with("10.0.0.0/25").unwrap_err().to_string(),
        "ranges 10.0.0.0/24 and 10.0.0.0/25 overlap; each address must be in one range only"
    );
}

#[test]
fn the_ranges_of_a_pool_are_iterated_in_a_circle() {
    let pool: Pool = serde_json::from_value(json!([
        {"subnet": "10.0.0.0/29", "exclude": ["10.0.0.4/31"]},
        {"subnet": "10.9.0.0/30"},
        {"subnet": "10.5.0.0/29", "rangeStart": "10.5.0.5"}
    ]))
    .unwrap();
    let circle = ["10.0.0.2", "10.0.0.3", "10.0.0.6", "10.9.0.2", "10.5.0.5", "10.5.0.6"].map(ip);
    assert_eq!(pool.capacity(), circle.len() as u128);
    assert_eq!(pool.iter_from(None).collect::<Vec<_>>(), circle);
    assert_eq!(pool.iter_from(Some(ip("192.168.0.1"))).collect::<Vec<_>>(), circle);
    for turn in 0..circle.len() {
        let expected = [&circle[turn + 1..], &circle[..=turn]].concat();
        assert_eq!(pool.iter_from(Some(circle[turn])).collect::<Vec<_>>(), expected);
    }
    // An excluded cursor still marks the position of the search.
    assert_eq!(pool.iter_from(Some(ip("10.0.0.4"))).next(), Some(ip("10.0.0.6")));
    assert_eq!(pool.iter_from(Some(ip("10.9.0.1"))).next(), Some(ip("10.9.0.2")));
}

#[test]
fn a_result_has_the_gateways_of_the_ranges_and_the_name_servers() {
    let dir = tempfile::tempdir().unwrap();
    let resolv_conf = dir.path().join("resolv.conf");
    let text = format!(
        r#"{{"ranges": [[{{"subnet": "10.0.0.0/30"}}, {{"subnet": "10.7.0.0/24", "gateway": "10.7.0.254"}}], [{{"subnet": "fd00::/64"}}]],
            "routes": [{{"dst": "0.0.0.0/0", "mtu": 1400}}], "resolvConf": {resolv_conf:?}}}"#
    );
    let config: IpamConfig = serde_json::from_str(&text).unwrap();
    let mut leases = MemoryStore::new();
    leases.allocate(&owner("a"), config.pools(), &[]).unwrap();
    // The first range of the first pool has one address.
    let lease = leases.allocate(&owner("b"), config.pools(), &[]).unwrap();
    assert!(matches!(config.result(&lease), Err(Error::Io { .. })));
    std::fs::write(&resolv_conf, "nameserver 10.0.0.53\n").unwrap();

    let result = config.result(&lease).unwrap();
    let ips: Vec<_> = result.ips.iter().map(|ip| (ip.address.to_string(), ip.gateway.unwrap().to_string())).collect();
    let pair = |address: &str, gateway: &str| (address.to_owned(), gateway.to_owned());
    assert_eq!(ips, [pair("10.7.0.1/24", "10.7.0.254"), pair("fd00::3/64", "fd00::1")]);
    assert_eq!((result.routes[0].mtu, result.routes[0].gw), (Some(1400), None));
    assert_eq!(result.dns.nameservers, ["10.0.0.53"]);
    assert!(result.interfaces.is_empty());
}
