use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use proptest::prelude::*;

use crate::ipam::{Error, Range};
use crate::spec::{ErrorCode, HasErrorCode};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn range(subnet: &str, gateway: Option<&str>) -> Result<Range, Error> {
    Range::new(subnet.parse().unwrap(), gateway.map(ip))
}

#[test]
fn a_range_is_its_subnet_without_reserved_addresses() {
    for (subnet, first, last, gateway, capacity) in [
        ("10.244.1.0/24", "10.244.1.1", "10.244.1.254", "10.244.1.1", 253),
        ("10.0.0.0/30", "10.0.0.1", "10.0.0.2", "10.0.0.1", 1),
        ("10.0.0.0/8", "10.0.0.1", "10.255.255.254", "10.0.0.1", (1 << 24) - 3),
        ("0.0.0.0/0", "0.0.0.1", "255.255.255.254", "0.0.0.1", (1 << 32) - 3),
        ("fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff", "fd00::1", (1 << 64) - 2),
        ("fd00::/126", "fd00::1", "fd00::3", "fd00::1", 2),
        ("::/0", "::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::1", u128::MAX - 1),
    ] {
        let range = range(subnet, None).unwrap();
        assert_eq!((range.first(), range.last(), range.gateway()), (ip(first), ip(last), ip(gateway)));
        assert_eq!(range.subnet(), subnet.parse().unwrap());
        assert_eq!(range.capacity(), capacity, "{subnet}");
    }
}

#[test]
fn errors_of_a_range_name_the_remedy() {
    for (subnet, gateway, message) in [
        ("10.244.1.7/24", None, "10.244.1.7/24 has host bits set; write 10.244.1.0/24"),
        ("fd00::1/64", None, "fd00::1/64 has host bits set; write fd00::/64"),
        ("10.0.0.0/31", None, "10.0.0.0/31 has no address except the gateway; use a subnet of /30 or larger"),
        ("10.0.0.0/32", None, "10.0.0.0/32 has no address except the gateway; use a subnet of /30 or larger"),
        ("fd00::/127", None, "fd00::/127 has no address except the gateway; use a subnet of /126 or larger"),
        ("fd00::/128", None, "fd00::/128 has no address except the gateway; use a subnet of /126 or larger"),
        (
            "10.0.0.0/24",
            Some("10.0.1.1"),
            "gateway 10.0.1.1 is not in 10.0.0.0/24; use an address of the subnet, or omit the gateway for the first address",
        ),
        (
            "10.0.0.0/24",
            Some("fd00::1"),
            "gateway fd00::1 is not in 10.0.0.0/24; use an address of the subnet, or omit the gateway for the first address",
        ),
        (
            "10.0.0.0/24",
            Some("10.0.0.0"),
            "gateway 10.0.0.0 is the network or the broadcast address of 10.0.0.0/24; use an address between them",
        ),
        (
            "10.0.0.0/24",
            Some("10.0.0.255"),
            "gateway 10.0.0.255 is the network or the broadcast address of 10.0.0.0/24; use an address between them",
        ),
        (
            "fd00::/64",
            Some("fd00::"),
            "gateway fd00:: is the network or the broadcast address of fd00::/64; use an address between them",
        ),
    ] {
        let error = range(subnet, gateway).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!(error.code(), ErrorCode::INVALID_CONFIG);
    }
}

#[test]
fn the_last_address_of_an_ipv6_subnet_may_be_the_gateway() {
    let range = range("fd00::/126", Some("fd00::3")).unwrap();
    assert_eq!(range.iter_from(None).collect::<Vec<_>>(), [ip("fd00::1"), ip("fd00::2")]);
    assert_eq!(range.iter_from(Some(ip("fd00::2"))).collect::<Vec<_>>(), [ip("fd00::1"), ip("fd00::2")]);
}

#[test]
fn an_iteration_starts_in_the_middle_of_a_huge_range() {
    let range = range("::/0", None).unwrap();
    let cursor = ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe");
    let order: Vec<_> = range.iter_from(Some(cursor)).take(3).collect();
    assert_eq!(order, [ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), ip("::2"), ip("::3")]);
}

#[test]
fn a_cursor_outside_the_range_starts_at_the_first_address() {
    let range = range("10.0.0.0/24", None).unwrap();
    for cursor in ["10.0.1.7", "9.255.255.255", "10.0.0.0", "10.0.0.255", "10.0.0.254", "::a00:7", "fd00::7"] {
        assert_eq!(range.iter_from(Some(ip(cursor))).next(), Some(ip("10.0.0.2")), "{cursor}");
    }
}

/// A small subnet of either family, for a complete iteration, and a gateway in it.
fn small() -> impl Strategy<Value = (IpNetwork, Option<IpAddr>)> {
    let v4 = (any::<u32>(), 20..=30_u8).prop_map(|(bits, prefix)| (IpAddr::from(Ipv4Addr::from_bits(bits)), prefix));
    let v6 = (any::<u128>(), 116..=126_u8).prop_map(|(bits, prefix)| (IpAddr::from(Ipv6Addr::from_bits(bits)), prefix));
    (prop_oneof![v4, v6], any::<bool>()).prop_map(|((address, prefix), with_gateway)| {
        let around = IpNetwork::new(address, prefix).unwrap();
        let subnet = IpNetwork::new(around.network(), prefix).unwrap();
        let reserved = address == subnet.network() || address == subnet.broadcast();
        (subnet, (with_gateway && !reserved).then_some(address))
    })
}

proptest! {
    #[test]
    fn each_address_comes_once_and_no_reserved_one_ever((subnet, gateway) in small(), start in any::<u16>()) {
        let range = Range::new(subnet, gateway).unwrap();
        let all: Vec<IpAddr> = range.iter_from(None).collect();
        let unique: HashSet<IpAddr> = all.iter().copied().collect();

        // Compare with the subnet iterator of `ipnetwork`.
        let expected: HashSet<IpAddr> = subnet
            .iter()
            .filter(|a| *a != subnet.network() && *a != range.gateway())
            .filter(|a| subnet.is_ipv6() || *a != subnet.broadcast())
            .collect();
        prop_assert_eq!(unique.len(), all.len());
        prop_assert_eq!(&unique, &expected);
        prop_assert_eq!(range.capacity(), expected.len() as u128);
        prop_assert!(all.is_sorted());
        for address in subnet.iter() {
            prop_assert_eq!(range.contains(address), expected.contains(&address));
        }

        let cursor = all[usize::from(start) % all.len()];
        let turned: Vec<IpAddr> = range.iter_from(Some(cursor)).collect();
        let split = all.iter().position(|a| *a == cursor).unwrap() + 1;
        prop_assert_eq!(turned, [&all[split..], &all[..split]].concat());
    }

    #[test]
    fn any_subnet_is_a_range_or_a_configuration_error(bits in any::<u128>(), v6 in any::<bool>(), prefix in 0..=128_u8, gateway in any::<Option<u128>>()) {
        let address = |bits: u128| if v6 { IpAddr::from(Ipv6Addr::from_bits(bits)) } else { Ipv4Addr::from_bits(bits as u32).into() };
        let subnet = IpNetwork::new(address(bits), if v6 { prefix } else { prefix % 33 }).unwrap();
        match Range::new(subnet, gateway.map(address)) {
            Ok(range) => {
                let first = range.iter_from(None).next().unwrap();
                prop_assert!(range.contains(first));
                prop_assert_eq!(range.with_prefix(first).network(), subnet.network());
                prop_assert!(!range.contains(range.gateway()));
                prop_assert!(range.capacity() >= 1);
            }
            Err(error) => prop_assert_eq!(error.code(), ErrorCode::INVALID_CONFIG),
        }
    }
}
