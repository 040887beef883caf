//! Whether the result of `ADD` says what the kernel says.

use std::net::IpAddr;

use crate::conformance::bench::{Attached, Bench};
use crate::conformance::footprint::addresses;
use crate::conformance::rule::{Applies, Rule, Section};
use crate::conformance::verdict::{Verdict, ensure, not_tried};
use crate::netlink::Link;
use crate::spec::{AddResult, Command::Add as ADD, IfName, Version};

pub(super) const RULES: &[Rule] = &[
    Rule::must(ADD, "kernel.link", Section::Add, "after ADD the interface is in the container", |bench| {
        bench.attach()?.target.required_link().map(drop)
    })
    .each_version()
    .only(Applies::Interfaces),
    Rule::should(ADD, "kernel.up", Section::Add, "after ADD the interface is up", |bench| {
        let link = bench.attach()?.target.required_link()?;
        ensure(link.up, || format!("{} is down", link.name))
    })
    .only(Applies::Interfaces),
    Rule::must(
        ADD,
        "kernel.mac",
        Section::Result,
        "the result's hardware address of the container's interface is the kernel's",
        mac,
    )
    .since(Version::V0_3_0)
    .only(Applies::Interfaces),
    Rule::must(
        ADD,
        "kernel.mtu",
        Section::Result,
        "the result's MTU of the container's interface is the kernel's",
        mtu,
    )
    .since(Version::V1_1_0)
    .only(Applies::Interfaces),
    Rule::must(
        ADD,
        "kernel.addresses",
        Section::Result,
        "the interface has the addresses of the result, with their prefix lengths",
        has_addresses,
    )
    .each_version()
    .only(Applies::Interfaces),
    Rule::should(
        ADD,
        "kernel.no-more-addresses",
        Section::Result,
        "the interface has no address that the result does not name",
        no_more_addresses,
    )
    .only(Applies::Interfaces),
    Rule::must(ADD, "kernel.routes", Section::Result, "the container has the routes of the result", routes)
        .each_version()
        .only(Applies::Interfaces),
    Rule::must(
        ADD,
        "kernel.host-interfaces",
        Section::Result,
        "the result's interfaces without sandbox are on the host, with their hardware addresses",
        host_interfaces,
    )
    .since(Version::V0_3_0)
    .only(Applies::Interfaces),
];

fn attach(bench: &Bench<'_>) -> Verdict<(Attached, AddResult, Link)> {
    let attached = bench.attach()?;
    let result = attached.parsed(bench)?;
    let link = attached.target.required_link()?;
    Ok((attached, result, link))
}

/// What a result says of the interface in the container, if it is there.
fn in_container<'r>(attached: &Attached, result: &'r AddResult) -> Option<&'r crate::spec::Interface> {
    result.interface(&attached.target.ifname, Some(attached.target.pod.path())).map(|(_, interface)| interface)
}

fn mac(bench: &Bench<'_>) -> Verdict {
    let (attached, result, link) = attach(bench)?;
    let Some(stated) = in_container(&attached, &result).and_then(|interface| interface.mac.clone()) else {
        return not_tried("the result states no hardware address");
    };
    let real = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
    ensure(stated.eq_ignore_ascii_case(&real), || format!("the result has {stated}, the kernel {real}"))
}

fn mtu(bench: &Bench<'_>) -> Verdict {
    let (attached, result, link) = attach(bench)?;
    let Some(stated) = in_container(&attached, &result).and_then(|interface| interface.mtu) else {
        return not_tried("the result states no MTU");
    };
    ensure(stated == link.mtu, || format!("the result has {stated}, the kernel {}", link.mtu))
}

fn has_addresses(bench: &Bench<'_>) -> Verdict {
    let (attached, result, link) = attach(bench)?;
    let there = addresses(attached.target.pod.socket(), &link);
    for ip in on_container(&attached, &result) {
        ensure(there.contains(&ip), || format!("the result has {ip}, the interface {there:?}"))?;
    }
    Ok(())
}

fn no_more_addresses(bench: &Bench<'_>) -> Verdict {
    let (attached, result, link) = attach(bench)?;
    let stated = on_container(&attached, &result);
    let more = addresses(attached.target.pod.socket(), &link).into_iter().find(|address| !stated.contains(address));
    ensure(more.is_none(), || format!("the interface has {more:?}, the result {stated:?}"))
}

/// The addresses that a result gives to the interface in the container; before 0.3.0 there is no other.
fn on_container(attached: &Attached, result: &AddResult) -> Vec<ipnetwork::IpNetwork> {
    let index = result.interface(&attached.target.ifname, Some(attached.target.pod.path())).map(|(index, _)| index);
    result.ips.iter().filter(|ip| ip.interface == index || index.is_none()).map(|ip| ip.address).collect()
}

/// A route without next hop goes by the gateway of an address of its family, or is on the link.
fn routes(bench: &Bench<'_>) -> Verdict {
    let (attached, result, _) = attach(bench)?;
    let socket = attached.target.pod.socket();
    let mut there = Vec::new();
    for link in socket.links()? {
        there.extend(socket.routes(link.index)?);
    }
    // Only those of the main table are listed.
    for route in result.routes.iter().filter(|route| route.table.is_none_or(|table| table == 254)) {
        let gateways: Vec<IpAddr> = match route.gw {
            Some(gateway) => vec![gateway],
            None => result.ips.iter().filter_map(|ip| ip.gateway).collect(),
        };
        let found = there.iter().any(|real| {
            let same = real.dst.network() == route.dst.network() && real.dst.prefix() == route.dst.prefix();
            let by = real.gateway.is_none_or(|gateway| gateways.contains(&gateway));
            same && by && (route.gw.is_none() || real.gateway == route.gw)
        });
        ensure(found, || {
            let there: Vec<String> = there.iter().map(ToString::to_string).collect();
            format!("the result has {} via {gateways:?}, the container {}", route.dst, there.join("; "))
        })?;
    }
    Ok(())
}

fn host_interfaces(bench: &Bench<'_>) -> Verdict {
    let result = bench.attach()?.parsed(bench)?;
    for interface in result.interfaces.iter().filter(|interface| interface.sandbox.is_none()) {
        let Ok(name) = interface.name.parse::<IfName>() else { continue };
        // Behind a socket or a device there need be no link.
        if interface.socket_path.is_some() || interface.pci_id.is_some() {
            continue;
        }
        let link = bench.host().socket().link_by_name(&name)?;
        let real = link.as_ref().and_then(|link| link.mac).map(|mac| mac.to_string());
        ensure(link.is_some(), || format!("the host has no {name}"))?;
        let same = interface
            .mac
            .as_ref()
            .is_none_or(|stated| real.as_ref().is_some_and(|real| stated.eq_ignore_ascii_case(real)));
        ensure(same, || format!("{name} has {} in the result, {} on the host", words(&interface.mac), words(&real)))?;
    }
    Ok(())
}

fn words(mac: &Option<String>) -> &str {
    mac.as_deref().unwrap_or("no hardware address")
}
