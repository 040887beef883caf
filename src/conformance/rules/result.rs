//! The document that `ADD` prints.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::Value;

use crate::conformance::bench::{Attached, Bench};
use crate::conformance::rule::{Applies, Rule, Section};
use crate::conformance::verdict::{Verdict, ensure};
use crate::spec::{Command::Add as ADD, MacAddr, Version};

pub(super) const RULES: &[Rule] = &[
    Rule::must(
        ADD,
        "result.document",
        Section::Result,
        "ADD prints one JSON object to standard output and nothing else",
        |bench| bench.on("ADD", &bench.target()?).run()?.document().map(drop),
    )
    .each_version(),
    Rule::must(
        ADD,
        "result.cni-version",
        Section::Result,
        "the result's cniVersion is that of the configuration; an IPAM plugin may leave it out",
        cni_version,
    )
    .each_version(),
    Rule::must(
        ADD,
        "result.interfaces",
        Section::Result,
        "the result's interfaces have names, and the container's is there with CNI_NETNS as its sandbox",
        interfaces,
    )
    .since(Version::V0_3_0)
    .each_version()
    .only(Applies::Interfaces),
    Rule::must(
        ADD,
        "result.mac",
        Section::Result,
        "the result's hardware addresses are such",
        mac,
    )
    .since(Version::V0_3_0)
    .only(Applies::Interfaces),
    Rule::must(
        ADD,
        "result.ips",
        Section::Result,
        "the result's addresses are in CIDR notation, with gateways that are addresses and, before 1.0.0, their version",
        ips,
    )
    .each_version(),
    Rule::must(
        ADD,
        "result.ip-interface",
        Section::Result,
        "each address names the interface it belongs to, by its index in the list",
        ip_interface,
    )
    .since(Version::V0_3_0)
    .each_version()
    .only(Applies::Interfaces),
    Rule::must(
        ADD,
        "result.ipam-abbreviated",
        Section::IpamResult,
        "the result of an IPAM plugin has no interfaces, and its addresses name none",
        ipam_abbreviated,
    )
    .since(Version::V0_3_0)
    .each_version()
    .only(Applies::Ipam),
    Rule::must(
        ADD,
        "result.routes",
        Section::Result,
        "the result's routes have a destination in CIDR notation, and next hops that are addresses",
        routes,
    )
    .each_version(),
    Rule::must(
        ADD,
        "result.dns",
        Section::Result,
        "the result's dns, where it is there, is an object of lists of texts, and domain a text",
        dns,
    )
    .each_version(),
    Rule::should(
        ADD,
        "result.keys-of-version",
        Section::Result,
        "the result has no keys of another version",
        keys_of_version,
    )
    .each_version(),
];

fn cni_version(bench: &Bench<'_>) -> Verdict {
    let result = bench.attach()?.result;
    let stated = &result["cniVersion"];
    let left_out = bench.is_ipam() && stated.is_null();
    ensure(left_out || stated == bench.version.as_str(), || format!("cniVersion is {stated}"))
}

fn interfaces(bench: &Bench<'_>) -> Verdict {
    let Attached { target, result } = bench.attach()?;
    let listed = list(&result, "interfaces");
    let path = target.pod.path().to_string_lossy();
    for interface in &listed {
        let name = interface["name"].as_str().unwrap_or_default();
        ensure(!name.is_empty(), || format!("an interface without name: {interface}"))?;
    }
    let inside = |interface: &Value| interface["name"] == target.ifname.as_str() && interface["sandbox"] == *path;
    ensure(listed.iter().any(inside), || format!("no {} with sandbox {path}: {result}", target.ifname))
}

fn mac(bench: &Bench<'_>) -> Verdict {
    let result = bench.attach()?.result;
    for interface in list(&result, "interfaces") {
        let mac = &interface["mac"];
        // Of links that are not Ethernet, such as InfiniBand, addresses are longer.
        let text = mac.as_str().unwrap_or_default();
        let good = text.is_empty() || text.parse::<MacAddr>().is_ok() || text.len() > 17;
        ensure(mac.is_null() || (mac.is_string() && good), || format!("mac is {mac}"))?;
    }
    Ok(())
}

fn ips(bench: &Bench<'_>) -> Verdict {
    let result = bench.attach()?.result;
    if bench.version < Version::V0_3_0 {
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
        let good = bench.version >= Version::V1_0_0 || ip["version"] == version;
        ensure(good, || format!("version is {} for {address}", ip["version"]))?;
    }
    Ok(())
}

fn ip_interface(bench: &Bench<'_>) -> Verdict {
    let result = bench.attach()?.result;
    let interfaces = list(&result, "interfaces").len();
    for ip in list(&result, "ips") {
        let index = ip["interface"].as_u64().and_then(|index| usize::try_from(index).ok());
        ensure(index.is_some_and(|index| index < interfaces), || {
            format!("address {} has interface {}, of {interfaces} in the list", ip["address"], ip["interface"])
        })?;
    }
    Ok(())
}

fn ipam_abbreviated(bench: &Bench<'_>) -> Verdict {
    let result = bench.attach()?.result;
    ensure(result["interfaces"].is_null(), || format!("interfaces is {}", result["interfaces"]))?;
    let named = list(&result, "ips").into_iter().find(|ip| !ip["interface"].is_null());
    ensure(named.is_none(), || format!("an address names an interface: {}", named.unwrap_or_default()))
}

fn routes(bench: &Bench<'_>) -> Verdict {
    let result = bench.attach()?.result;
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

fn dns(bench: &Bench<'_>) -> Verdict {
    let result = bench.attach()?.result;
    let dns = &result["dns"];
    let of_texts = |value: &Value| value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
    let lists = ["nameservers", "search", "options"].map(|key| &dns[key]);
    let good = lists.iter().all(|list| list.is_null() || of_texts(list));
    let domain = dns["domain"].is_null() || dns["domain"].is_string();
    ensure(dns.is_null() || (dns.is_object() && good && domain), || format!("dns is {dns}"))
}

fn keys_of_version(bench: &Bench<'_>) -> Verdict {
    let (version, result) = (bench.version, bench.attach()?.result);
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

/// The elements of a list; a key that is absent or `null` is an empty one.
fn list(holder: &Value, key: &str) -> Vec<Value> {
    holder[key].as_array().cloned().unwrap_or_default()
}

/// An address with the length of its prefix.
fn cidr(value: &Value) -> Option<IpNetwork> {
    value.as_str().filter(|text| text.contains('/'))?.parse().ok()
}

fn is_ip_or_absent(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.is_empty() || text.parse::<IpAddr>().is_ok())
}
