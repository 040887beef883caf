//! The document that `ADD` prints.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::Value;

use crate::conformance::fixture::{Attached, Fixture};
use crate::conformance::rule::{Applies, Rule, Section};
use crate::conformance::verdict::{Verdict, ensure};
use crate::spec::{Command::Add as ADD, MacAddr, Version};

pub(super) const RULES: &[Rule] = &[
    Rule::must(
        ADD,
        "result.document",
        Section::Result,
        "ADD prints one JSON object to standard output and nothing else",
        |fixture| fixture.call_for("ADD", &fixture.target()?).run()?.document().map(drop),
    )
    .each_version(),
    Rule::must(
        ADD,
        "result.cni-version",
        Section::Result,
        "the cniVersion of the result is the one of the configuration; an IPAM plugin may omit it",
        cni_version,
    )
    .each_version(),
    Rule::must(
        ADD,
        "result.interfaces",
        Section::Result,
        "the interfaces of the result have names, and the container's interface has CNI_NETNS as its sandbox",
        interfaces,
    )
    .since(Version::V0_3_0)
    .each_version()
    .only(Applies::Attached),
    Rule::must(ADD, "result.mac", Section::Result, "the hardware addresses of the result are valid", mac)
        .since(Version::V0_3_0)
        .only(Applies::Attached),
    Rule::must(
        ADD,
        "result.ips",
        Section::Result,
        "the result has addresses in CIDR notation, with valid gateways and, before 1.0.0, the IP version",
        ips,
    )
    .each_version(),
    Rule::must(
        ADD,
        "result.ip-interface",
        Section::Result,
        "each address has the index of its interface in the list",
        ip_interface,
    )
    .since(Version::V0_3_0)
    .each_version()
    .only(Applies::Attached),
    Rule::must(
        ADD,
        "result.ipam-abbreviated",
        Section::IpamResult,
        "the result of an IPAM plugin has no interfaces, and its addresses refer to none",
        ipam_abbreviated,
    )
    .since(Version::V0_3_0)
    .each_version()
    .only(Applies::Ipam),
    Rule::must(
        ADD,
        "result.routes",
        Section::Result,
        "the routes of the result have a destination in CIDR notation and valid next hops",
        routes,
    )
    .each_version(),
    Rule::must(
        ADD,
        "result.dns",
        Section::Result,
        "dns in the result, if present, is an object with lists of strings and a string as domain",
        dns,
    )
    .each_version(),
    Rule::should(
        ADD,
        "result.keys-of-version",
        Section::Result,
        "the result has no keys of other versions",
        keys_of_version,
    )
    .each_version(),
];

fn cni_version(fixture: &Fixture<'_>) -> Verdict {
    let result = fixture.attach()?.result;
    let stated = &result["cniVersion"];
    let left_out = fixture.is_ipam() && stated.is_null();
    ensure(left_out || stated == fixture.version.as_str(), || format!("cniVersion is {stated}"))
}

fn interfaces(fixture: &Fixture<'_>) -> Verdict {
    let Attached { target, result } = fixture.attach()?;
    let listed = list(&result, "interfaces");
    let path = target.pod.path().to_string_lossy();
    for interface in &listed {
        let name = interface["name"].as_str().unwrap_or_default();
        ensure(!name.is_empty(), || format!("an interface without name: {interface}"))?;
    }
    let inside = |interface: &Value| interface["name"] == target.ifname.as_str() && interface["sandbox"] == *path;
    ensure(listed.iter().any(inside), || format!("no {} with sandbox {path}: {result}", target.ifname))
}

fn mac(fixture: &Fixture<'_>) -> Verdict {
    let result = fixture.attach()?.result;
    for interface in list(&result, "interfaces") {
        let mac = &interface["mac"];
        // Addresses of links other than Ethernet, such as InfiniBand, are longer.
        let text = mac.as_str().unwrap_or_default();
        let good = text.is_empty() || text.parse::<MacAddr>().is_ok() || text.len() > 17;
        ensure(mac.is_null() || (mac.is_string() && good), || format!("mac is {mac}"))?;
    }
    Ok(())
}

fn ips(fixture: &Fixture<'_>) -> Verdict {
    let result = fixture.attach()?.result;
    if fixture.version < Version::V0_3_0 {
        let families = [("ip4", &result["ip4"]), ("ip6", &result["ip6"])];
        ensure(families.iter().any(|(_, ip)| ip.is_object()), || format!("neither ip4 nor ip6: {result}"))?;
        for (key, ip) in families.iter().filter(|(_, ip)| !ip.is_null()) {
            let address = cidr(&ip["ip"]);
            ensure(address.is_some_and(|address| address.is_ipv4() == (*key == "ip4")), || format!("{key} is {ip}"))?;
            ensure(is_ip_or_absent(&ip["gateway"]), || format!("{key} has gateway {}", ip["gateway"]))?;
        }
        return Ok(());
    }
    for ip in list(&result, "ips") {
        let Some(address) = cidr(&ip["address"]) else {
            return ensure(false, || format!("address is {}", ip["address"]));
        };
        ensure(is_ip_or_absent(&ip["gateway"]), || format!("gateway is {}", ip["gateway"]))?;
        let version = if address.is_ipv4() { "4" } else { "6" };
        let good = fixture.version >= Version::V1_0_0 || ip["version"] == version;
        ensure(good, || format!("version is {} for {address}", ip["version"]))?;
    }
    Ok(())
}

fn ip_interface(fixture: &Fixture<'_>) -> Verdict {
    let result = fixture.attach()?.result;
    let interfaces = list(&result, "interfaces").len();
    for ip in list(&result, "ips") {
        let index = ip["interface"].as_u64().and_then(|index| usize::try_from(index).ok());
        ensure(index.is_some_and(|index| index < interfaces), || {
            format!("address {} has interface {}, but the list has {interfaces}", ip["address"], ip["interface"])
        })?;
    }
    Ok(())
}

fn ipam_abbreviated(fixture: &Fixture<'_>) -> Verdict {
    let result = fixture.attach()?.result;
    ensure(result["interfaces"].is_null(), || format!("interfaces is {}", result["interfaces"]))?;
    let named = list(&result, "ips").into_iter().find(|ip| !ip["interface"].is_null());
    ensure(named.is_none(), || format!("an address refers to an interface: {}", named.unwrap_or_default()))
}

fn routes(fixture: &Fixture<'_>) -> Verdict {
    let result = fixture.attach()?.result;
    let families = [&result["ip4"], &result["ip6"]].map(|ip| list(ip, "routes")).concat();
    for route in families.iter().chain(&list(&result, "routes")) {
        ensure(cidr(&route["dst"]).is_some(), || format!("dst is {}", route["dst"]))?;
        ensure(is_ip_or_absent(&route["gw"]), || format!("gw is {}", route["gw"]))?;
        for key in ["mtu", "advmss", "priority", "table", "scope"] {
            let value = &route[key];
            ensure(value.is_null() || value.is_u64(), || format!("{key} is {value}"))?;
        }
    }
    Ok(())
}

fn dns(fixture: &Fixture<'_>) -> Verdict {
    let result = fixture.attach()?.result;
    let dns = &result["dns"];
    let of_texts = |value: &Value| value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
    let lists = ["nameservers", "search", "options"].map(|key| &dns[key]);
    let good = lists.iter().all(|list| list.is_null() || of_texts(list));
    let domain = dns["domain"].is_null() || dns["domain"].is_string();
    ensure(dns.is_null() || (dns.is_object() && good && domain), || format!("dns is {dns}"))
}

fn keys_of_version(fixture: &Fixture<'_>) -> Verdict {
    let (version, result) = (fixture.version, fixture.attach()?.result);
    let foreign = |holder: &Value, keys: &[&str]| -> Option<String> {
        keys.iter().find(|key| !holder[**key].is_null()).map(|key| format!("{key} is in {holder}"))
    };
    let lists = version >= Version::V0_3_0;
    let mut found = foreign(&result, if lists { &["ip4", "ip6"] } else { &["interfaces", "ips", "routes"] });
    if version < Version::V1_1_0 {
        for interface in list(&result, "interfaces") {
            found = found.or_else(|| foreign(&interface, &["mtu", "socketPath", "pciID"]));
        }
        for route in list(&result, "routes") {
            found = found.or_else(|| foreign(&route, &["mtu", "advmss", "priority", "table", "scope"]));
        }
    }
    if version >= Version::V1_0_0 {
        for ip in list(&result, "ips") {
            found = found.or_else(|| foreign(&ip, &["version"]));
        }
    }
    ensure(found.is_none(), || found.unwrap_or_default())
}

/// The elements of a list. An absent key or `null` is an empty list.
fn list(holder: &Value, key: &str) -> Vec<Value> {
    holder[key].as_array().cloned().unwrap_or_default()
}

/// An address with a prefix length.
fn cidr(value: &Value) -> Option<IpNetwork> {
    value.as_str().filter(|text| text.contains('/'))?.parse().ok()
}

fn is_ip_or_absent(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.is_empty() || text.parse::<IpAddr>().is_ok())
}
