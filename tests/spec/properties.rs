//! Properties that hold for all results and names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cnikit::spec::{
    AddResult, Args, Attachment, ContainerId, IfName, Interface, IpConfig, MacAddr, NetworkName, Route, Version,
};
use ipnetwork::IpNetwork;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from(bits).into()),
        any::<u128>().prop_map(|bits| Ipv6Addr::from(bits).into()),
    ]
}

fn prefix() -> impl Strategy<Value = IpNetwork> {
    (address(), any::<u8>()).prop_map(|(address, length)| {
        let max = if address.is_ipv4() { 32 } else { 128 };
        IpNetwork::new(address, length % (max + 1)).unwrap()
    })
}

prop_compose! {
    fn interface()(
        name in "[a-z0-9.]{1,15}",
        mac in option::of(any::<[u8; 6]>()),
        mtu in option::of(any::<u32>()),
        sandbox in option::of("/[a-z/]{1,20}"),
        socket_path in option::of("/[a-z/]{1,20}"),
        pci_id in option::of("[0-9a-f:.]{1,12}"),
    ) -> Interface {
        let mut interface = Interface::new(name);
        interface.mac = mac.map(|octets| MacAddr::new(octets).to_string());
        interface.mtu = mtu;
        interface.sandbox = sandbox;
        interface.socket_path = socket_path;
        interface.pci_id = pci_id;
        interface
    }
}

prop_compose! {
    fn ip()(
        address in prefix(),
        gateway in option::of(address()),
        interface in option::of(0_usize..9),
    ) -> IpConfig {
        let mut ip = IpConfig::new(address);
        ip.gateway = gateway;
        ip.interface = interface;
        ip
    }
}

prop_compose! {
    fn plain_route()(dst in prefix(), gw in option::of(address())) -> Route {
        let mut route = Route::new(dst);
        route.gw = gw;
        route
    }
}

prop_compose! {
    fn route()(
        route in plain_route(),
        mtu in option::of(any::<u32>()),
        advmss in option::of(any::<u32>()),
        priority in option::of(any::<u32>()),
        table in option::of(any::<u32>()),
        scope in option::of(any::<u8>()),
    ) -> Route {
        let mut route = route;
        route.mtu = mtu;
        route.advmss = advmss;
        route.priority = priority;
        route.table = table;
        route.scope = scope;
        route
    }
}

prop_compose! {
    fn result_with(route: BoxedStrategy<Route>)(
        interfaces in vec(interface(), 0..4),
        ips in vec(ip(), 0..4),
        routes in vec(route, 0..4),
        texts in vec("[a-z.]{1,9}", 0..3),
        domain in option::of("[a-z.]{1,9}"),
    ) -> AddResult {
        let mut result = AddResult::default();
        result.interfaces = interfaces;
        result.ips = ips;
        result.routes = routes;
        result.dns.nameservers = texts.clone();
        result.dns.search = texts;
        result.dns.domain = domain;
        result
    }
}

fn through(result: &AddResult, version: Version) -> AddResult {
    let json = serde_json::from_str(&result.to_json(version).unwrap()).unwrap();
    AddResult::from_json(&json, Version::V0_1_0).unwrap()
}

fn without_descriptions(mut result: AddResult) -> AddResult {
    for interface in &mut result.interfaces {
        interface.mtu = None;
        interface.socket_path = None;
        interface.pci_id = None;
    }
    result
}

fn is_valid_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && chars.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

proptest! {
    #[test]
    fn the_newest_version_represents_every_field(result in result_with(route().boxed())) {
        prop_assert_eq!(through(&result, Version::V1_1_0), result);
    }

    #[test]
    fn versions_from_0_3_represent_all_fields_except_descriptions(result in result_with(plain_route().boxed())) {
        let expected = without_descriptions(result.clone());
        for version in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0, Version::V1_0_0] {
            prop_assert_eq!(through(&result, version), expected.clone());
        }
    }

    /// A result is either written completely or rejected: reading it back loses nothing.
    #[test]
    fn no_field_is_lost_silently(result in result_with(route().boxed())) {
        for version in Version::ALL {
            if result.to_json(version).is_err() {
                continue;
            }
            let back = through(&result, version);
            let sorted = |result: &AddResult| {
                let mut ips: Vec<_> = result.ips.iter().map(|ip| (ip.address, ip.gateway)).collect();
                let mut routes: Vec<_> =
                    result.routes.iter().map(|route| serde_json::to_string(route).unwrap()).collect();
                ips.sort();
                routes.sort();
                (ips, routes, result.dns.clone())
            };
            prop_assert_eq!(sorted(&back), sorted(&result));
        }
    }

    /// A plugin in a chain can return its previous result unchanged, in the same version.
    #[test]
    fn a_parsed_result_can_be_written(result in result_with(route().boxed()), extra in any::<u32>()) {
        for version in Version::ALL {
            let Ok(text) = result.to_json(version) else { continue };
            let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
            if version >= Version::V0_3_0 {
                json["extra"] = extra.into();
                let routes = json.get_mut("routes").and_then(|routes| routes.as_array_mut());
                for route in routes.into_iter().flatten() {
                    route["table"] = extra.into();
                }
            }
            let read = AddResult::from_json(&json, version).unwrap();
            let back: serde_json::Value =
                serde_json::from_str(&read.to_json(version).unwrap()).unwrap();
            prop_assert_eq!(back, json);
        }
    }

    #[test]
    fn identifiers_match_exactly_the_pattern(text in "\\PC{0,6}|[a-z0-9_./ -]{0,8}") {
        prop_assert_eq!(text.parse::<NetworkName>().is_ok(), is_valid_identifier(&text));
        prop_assert_eq!(text.parse::<ContainerId>().is_ok(), is_valid_identifier(&text));
    }

    #[test]
    fn names_round_trip_and_never_panic(text in any::<String>()) {
        if let Ok(name) = text.parse::<IfName>() {
            prop_assert_eq!(name.to_string(), text.clone());
            prop_assert!((1..=15).contains(&text.len()));
        }
        let _ = text.parse::<MacAddr>();
        let _ = text.parse::<Args>();
        let _ = text.parse::<Version>();
    }

    #[test]
    fn hardware_addresses_round_trip(octets in any::<[u8; 6]>()) {
        let mac = MacAddr::new(octets);
        prop_assert_eq!(mac.to_string().parse::<MacAddr>().unwrap(), mac);
        prop_assert_eq!(mac.to_string().to_uppercase().parse::<MacAddr>().unwrap(), mac);
    }

    #[test]
    fn derived_names_are_valid(
        network in "[a-z0-9][a-z0-9_.-]{0,20}",
        container_id in "[a-z0-9][a-z0-9_.-]{0,70}",
        ifname in "[a-z0-9]{1,15}",
    ) {
        let attachment = Attachment::new(
            network.parse().unwrap(),
            container_id.parse().unwrap(),
            ifname.parse().unwrap(),
        );
        let host = attachment.host_ifname();
        prop_assert_eq!(host.as_str().parse::<IfName>().unwrap(), host.clone());
        prop_assert_eq!(host.as_str().len(), 15);
        for mac in [attachment.host_mac(), attachment.container_mac()] {
            prop_assert!(mac.is_local() && mac.is_unicast());
        }
        prop_assert_ne!(attachment.host_mac(), attachment.container_mac());
    }
}
