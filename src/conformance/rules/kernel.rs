//! Whether the result of `ADD` matches the state of the kernel.

use std::net::IpAddr;

use crate::conformance::fixture::{Attached, Fixture};
use crate::conformance::rule::{Applies, Rule, Section};
use crate::conformance::snapshot::addresses;
use crate::conformance::verdict::{Verdict, ensure, not_tried};
use crate::netlink::Link;
use crate::spec::{AddResult, Command::Add as ADD, IfName, Version};

pub(super) const RULES: &[Rule] = &[
    Rule::must(ADD, "kernel.link", Section::Add, "after ADD the interface is in the container", |fixture| {
        fixture.attach()?.target.required_link().map(drop)
    })
    .each_version()
    .only(Applies::Attached),
    Rule::should(ADD, "kernel.up", Section::Add, "after ADD the interface is up", |fixture| {
        let link = fixture.attach()?.target.required_link()?;
        ensure(link.up, || format!("{} is down", link.name))
    })
    .only(Applies::Attached),
    Rule::must(
        ADD,
        "kernel.mac",
        Section::Result,
        "the hardware address in the result is the one of the interface",
        mac,
    )
    .since(Version::V0_3_0)
    .only(Applies::Attached),
    Rule::must(ADD, "kernel.mtu", Section::Result, "the MTU in the result is the one of the interface", mtu)
        .since(Version::V1_1_0)
        .only(Applies::Attached),
    Rule::must(
        ADD,
        "kernel.addresses",
        Section::Result,
        "the interface has the addresses of the result, with their prefix lengths",
        has_addresses,
    )
    .each_version()
    .only(Applies::Attached),
    Rule::should(
        ADD,
        "kernel.no-more-addresses",
        Section::Result,
        "the interface has no address that is not in the result",
        no_more_addresses,
    )
    .only(Applies::Attached),
    Rule::must(ADD, "kernel.routes", Section::Result, "the container has the routes of the result", routes)
        .each_version()
        .only(Applies::Attached),
    Rule::must(
        ADD,
        "kernel.host-interfaces",
        Section::Result,
        "interfaces without sandbox in the result exist on the host, with their hardware addresses",
        host_interfaces,
    )
    .since(Version::V0_3_0)
    .only(Applies::Attached),
];

fn attach(fixture: &Fixture<'_>) -> Verdict<(Attached, AddResult, Link)> {
    let attached = fixture.attach()?;
    let result = attached.parsed(fixture)?;
    let link = attached.target.required_link()?;
    Ok((attached, result, link))
}

/// The interface in the container, as the result describes it, if present.
fn in_container<'r>(attached: &Attached, result: &'r AddResult) -> Option<&'r crate::spec::Interface> {
    result.interface(&attached.target.ifname, Some(attached.target.pod.path())).map(|(_, interface)| interface)
}

fn mac(fixture: &Fixture<'_>) -> Verdict {
    let (attached, result, link) = attach(fixture)?;
    let Some(stated) = in_container(&attached, &result).and_then(|interface| interface.mac.clone()) else {
        return not_tried("the result has no hardware address");
    };
    let real = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
    ensure(stated.eq_ignore_ascii_case(&real), || format!("the result has {stated}, the kernel {real}"))
}

fn mtu(fixture: &Fixture<'_>) -> Verdict {
    let (attached, result, link) = attach(fixture)?;
    let Some(stated) = in_container(&attached, &result).and_then(|interface| interface.mtu) else {
        return not_tried("the result has no MTU");
    };
    ensure(stated == link.mtu, || format!("the result has {stated}, the kernel {}", link.mtu))
}

fn has_addresses(fixture: &Fixture<'_>) -> Verdict {
    let (attached, result, link) = attach(fixture)?;
    let actual = addresses(attached.target.pod.socket(), &link);
    for ip in on_container(&attached, &result) {
        ensure(actual.contains(&ip), || format!("the result has {ip}, the interface {actual:?}"))?;
    }
    Ok(())
}

fn no_more_addresses(fixture: &Fixture<'_>) -> Verdict {
    let (attached, result, link) = attach(fixture)?;
    let stated = on_container(&attached, &result);
    let extra = addresses(attached.target.pod.socket(), &link).into_iter().find(|address| !stated.contains(address));
    ensure(extra.is_none(), || format!("the interface has {extra:?}, the result {stated:?}"))
}

/// The addresses of the interface in the container, according to the result. Before 0.3.0 there is
/// no other interface.
fn on_container(attached: &Attached, result: &AddResult) -> Vec<ipnetwork::IpNetwork> {
    let index = result.interface(&attached.target.ifname, Some(attached.target.pod.path())).map(|(index, _)| index);
    result.ips.iter().filter(|ip| ip.interface == index || index.is_none()).map(|ip| ip.address).collect()
}

/// A route without a next hop uses the gateway of an address of its family, or is on-link.
fn routes(fixture: &Fixture<'_>) -> Verdict {
    let (attached, result, _) = attach(fixture)?;
    let socket = attached.target.pod.socket();
    // A chained plugin may move routes of the previous plugin to other tables.
    let actual = if fixture.is_chained() { socket.routes_of_all_tables()? } else { socket.all_routes()? };
    for route in result.routes.iter().filter(|route| route.table.is_none_or(|table| table == 254)) {
        let gateways: Vec<IpAddr> = match route.gw {
            Some(gateway) => vec![gateway],
            None => result.ips.iter().filter_map(|ip| ip.gateway).collect(),
        };
        let found = actual.iter().any(|real| {
            let same = real.dst.network() == route.dst.network() && real.dst.prefix() == route.dst.prefix();
            let by = real.gateway.is_none_or(|gateway| gateways.contains(&gateway));
            same && by && (route.gw.is_none() || real.gateway == route.gw)
        });
        ensure(found, || {
            let actual: Vec<String> = actual.iter().map(ToString::to_string).collect();
            format!("the result has {} via {gateways:?}, the container {}", route.dst, actual.join("; "))
        })?;
    }
    Ok(())
}

fn host_interfaces(fixture: &Fixture<'_>) -> Verdict {
    let result = fixture.attach()?.parsed(fixture)?;
    for interface in result.interfaces.iter().filter(|interface| interface.sandbox.is_none()) {
        let Ok(name) = interface.name.parse::<IfName>() else { continue };
        // An interface with a socket or a PCI device may have no link.
        if interface.socket_path.is_some() || interface.pci_id.is_some() {
            continue;
        }
        let link = fixture.host().socket().link_by_name(&name)?;
        let real = link.as_ref().and_then(|link| link.mac).map(|mac| mac.to_string());
        ensure(link.is_some(), || format!("the host has no {name}"))?;
        let same = interface
            .mac
            .as_ref()
            .is_none_or(|stated| real.as_ref().is_some_and(|real| stated.eq_ignore_ascii_case(real)));
        ensure(same, || {
            format!("{name} has {} in the result, {} on the host", mac_or_none(&interface.mac), mac_or_none(&real))
        })?;
    }
    Ok(())
}

fn mac_or_none(mac: &Option<String>) -> &str {
    mac.as_deref().unwrap_or("no hardware address")
}
