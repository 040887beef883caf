//! Results in the form of every version, compared with documents from the specification.

use cnikit::spec::{
    AddResult, Dns, Error, ErrorCode, ErrorDocument, HasErrorCode, Interface, IpConfig, Route, Version,
};
use serde_json::{Value, json};

fn golden(name: &str) -> Value {
    let path = format!("{}/tests/golden/cni/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect(&path);
    serde_json::from_str(&text).expect(&path)
}

fn written(result: &AddResult, version: Version) -> Value {
    serde_json::from_str(&result.to_json(version).unwrap()).unwrap()
}

fn read(json: &Value) -> AddResult {
    AddResult::from_json(json, Version::LATEST).unwrap()
}

fn ip(text: &str) -> IpConfig {
    IpConfig::new(text.parse().unwrap())
}

fn route(text: &str) -> Route {
    Route::new(text.parse().unwrap())
}

fn dns(nameserver: &str) -> Dns {
    let mut dns = Dns::default();
    dns.nameservers.push(nameserver.to_owned());
    dns
}

fn per_family() -> AddResult {
    let mut dns = dns("10.1.0.1");
    dns.domain = Some("example.org".to_owned());
    dns.search = vec!["a.example.org".to_owned(), "example.org".to_owned()];
    dns.options = vec!["ndots:5".to_owned()];
    AddResult::default()
        .with_ip(ip("10.1.0.5/16").gateway("10.1.0.1".parse().unwrap()))
        .with_ip(ip("2001:db8::5/64").gateway("2001:db8::1".parse().unwrap()))
        .with_route(route("0.0.0.0/0"))
        .with_route(route("192.168.0.0/16").via("10.1.0.254".parse().unwrap()))
        .with_route(route("::/0"))
        .dns(dns)
}

fn bridged() -> AddResult {
    let mut result = AddResult::default();
    let bridge = result.push_interface(Interface::new("cni0").mac("00:11:22:33:44:55".parse().unwrap()));
    result.push_interface(Interface::new("veth3243").mac("55:44:33:22:11:11".parse().unwrap()));
    let eth0 = Interface::new("eth0").mac("99:88:77:66:55:44".parse().unwrap());
    let eth0 = result.push_interface(eth0.sandbox("/var/run/netns/blue"));
    result
        .with_ip(ip("10.1.0.5/16").gateway("10.1.0.1".parse().unwrap()).interface(eth0))
        .with_ip(ip("2001:db8::5/64").interface(bridge))
        .with_route(route("0.0.0.0/0"))
        .with_route(route("::/0").via("2001:db8::1".parse().unwrap()))
        .dns(dns("10.1.0.1"))
}

fn newest() -> AddResult {
    let mut result = bridged().dns(Dns::default());
    result.interfaces[0].mtu = Some(1500);
    result.interfaces[1].socket_path = Some("/run/vhost/3243.sock".to_owned());
    result.interfaces[2].mtu = Some(1500);
    result.interfaces[2].pci_id = Some("0000:04:00.5".to_owned());
    let route = &mut result.routes[0];
    route.mtu = Some(1400);
    route.advmss = Some(1360);
    route.priority = Some(100);
    route.table = Some(0);
    route.scope = Some(0);
    result
}

#[test]
fn every_version_is_read_and_written_as_in_the_specification() {
    let cases = [
        (Version::V0_1_0, per_family()),
        (Version::V0_2_0, per_family()),
        (Version::V0_3_0, bridged()),
        (Version::V0_3_1, bridged()),
        (Version::V0_4_0, bridged()),
        (Version::V1_0_0, bridged()),
        (Version::V1_1_0, newest()),
    ];
    assert_eq!(cases.each_ref().map(|(version, _)| *version), Version::ALL);
    for (version, expected) in cases {
        let document = golden(&format!("result-{version}"));
        // Results of older versions contain no 1.1.0 keys to preserve.
        assert_eq!(read(&document), expected, "{version}");
        assert_eq!(written(&expected, version), document, "{version}");
    }
}

#[test]
fn a_result_of_an_ipam_plugin_has_no_interfaces() {
    let expected = AddResult::default()
        .with_ip(ip("10.1.0.5/16").gateway("10.1.0.1".parse().unwrap()))
        .with_route(route("0.0.0.0/0"))
        .dns(dns("10.1.0.1"));
    assert_eq!(read(&golden("ipam-1.1.0")), expected);
    assert_eq!(written(&expected, Version::V1_1_0), golden("ipam-1.1.0"));
}

#[test]
fn an_error_document_is_as_in_the_specification() {
    let document: ErrorDocument = serde_json::from_value(golden("error-1.1.0")).unwrap();
    assert_eq!(document.code, ErrorCode::INVALID_CONFIG);
    assert_eq!(serde_json::to_value(&document).unwrap(), golden("error-1.1.0"));

    let bare: ErrorDocument = serde_json::from_value(json!({"code": 11, "msg": "later"})).unwrap();
    assert_eq!(bare.code, ErrorCode::TRY_AGAIN);
    assert_eq!(bare.details, "");
}

#[test]
fn dns_is_always_present_before_1_0_and_never_empty_since() {
    let result = AddResult::default().with_ip(ip("10.1.0.5/16"));
    for version in Version::ALL {
        let dns = written(&result, version).get("dns").cloned();
        assert_eq!(dns, (version < Version::V1_0_0).then(|| json!({})), "{version}");
    }
}

#[test]
fn descriptive_fields_are_omitted_in_older_versions() {
    let mut result = newest();
    result.routes.clear();
    let interfaces = |version| written(&result, version)["interfaces"].clone();
    assert_eq!(interfaces(Version::V1_1_0)[0]["mtu"], 1500);
    assert_eq!(interfaces(Version::V1_0_0), golden("result-1.0.0")["interfaces"]);
    assert_eq!(interfaces(Version::V0_3_1), golden("result-1.0.0")["interfaces"]);
    assert_eq!(interfaces(Version::V0_2_0), Value::Null);
}

#[test]
fn fields_that_affect_the_reader_are_never_dropped() {
    let message = |result: &AddResult, version| {
        let error = result.to_json(version).unwrap_err();
        assert_eq!(error.code(), ErrorCode::INCOMPATIBLE_VERSION);
        error.to_string()
    };
    let mut tabled = newest();
    tabled.routes[0] = route("0.0.0.0/0");
    tabled.routes[0].table = Some(100);
    assert_eq!(
        message(&tabled, Version::V1_0_0),
        "a result of CNI 1.0.0 cannot hold routes[0].table 100 (needs cniVersion 1.1.0 or later)"
    );

    let two = per_family().with_ip(ip("10.1.0.6/16"));
    assert_eq!(
        message(&two, Version::V0_2_0),
        "a result of CNI 0.2.0 cannot hold ips[2] 10.1.0.6/16 (needs cniVersion 0.3.0 or later)"
    );

    let homeless = AddResult::default().with_ip(ip("10.1.0.5/16")).with_route(route("::/0"));
    assert_eq!(
        message(&homeless, Version::V0_1_0),
        "a result of CNI 0.1.0 cannot hold routes[0] ::/0 without an address of its family \
         (needs cniVersion 0.3.0 or later)"
    );

    assert!(matches!(
        AddResult::default().to_json(Version::V0_2_0),
        Err(Error::NoAddress { version: Version::V0_2_0 })
    ));
    AddResult::default().to_json(Version::V0_3_0).unwrap();
}

#[test]
fn the_lossy_form_omits_attributes_of_routes_and_no_address() {
    // `newest` differs from `bridged` in keys of 1.1.0 alone.
    let (json, omitted) = newest().to_json_lossy(Version::V1_0_0).unwrap();
    let mut expected = golden("result-1.0.0");
    expected.as_object_mut().unwrap().remove("dns");
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), expected);
    let omitted: Vec<&str> = omitted.iter().map(|field| field.what.as_str()).collect();
    let all = ["mtu 1400", "advmss 1360", "priority 100", "table 0", "scope 0"];
    assert_eq!(omitted, all.map(|field| format!("routes[0].{field}")));

    for (result, version) in [(newest(), Version::V1_1_0), (bridged(), Version::V0_4_0)] {
        assert_eq!(result.to_json_lossy(version).unwrap(), (result.to_json(version).unwrap(), Vec::new()));
    }
    let two = per_family().with_ip(ip("10.1.0.6/16"));
    let error = two.to_json_lossy(Version::V0_2_0).unwrap_err();
    assert_eq!(error.to_string(), two.to_json(Version::V0_2_0).unwrap_err().to_string());
    assert!(matches!(AddResult::default().to_json_lossy(Version::V0_1_0), Err(Error::NoAddress { .. })));
}

#[test]
fn an_interface_index_is_checked() {
    bridged().check_interface_indexes().unwrap();
    per_family().check_interface_indexes().unwrap();
    let mut wrong = bridged();
    wrong.ips[1].interface = Some(3);
    let error = wrong.check_interface_indexes().unwrap_err();
    assert!(matches!(error, Error::NoSuchInterface { ip: 1, interface: 3, interfaces: 3 }), "{error}");
    assert_eq!(error.code(), ErrorCode::INTERNAL);
}

#[test]
fn a_result_without_a_version_has_the_configurations_version() {
    let json = json!({"ip4": {"ip": "10.1.0.5/16"}});
    let result = AddResult::from_json(&json, Version::V0_2_0).unwrap();
    assert_eq!(result, AddResult::default().with_ip(ip("10.1.0.5/16")));
    // An explicit version takes precedence.
    let json = json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.5/16"}});
    assert_eq!(AddResult::from_json(&json, Version::V1_1_0).unwrap(), result);
}

#[test]
fn null_and_empty_strings_count_as_absent() {
    let json = json!({
        "interfaces": [{"name": "eth0", "mac": "", "sandbox": null}],
        "ips": [{"address": "10.1.0.5/16", "gateway": "", "interface": null}],
        "routes": null,
        "dns": {"nameservers": null, "domain": ""},
    });
    let expected = AddResult::default().with_interface(Interface::new("eth0")).with_ip(ip("10.1.0.5/16"));
    assert_eq!(read(&json), expected);
    assert_eq!(read(&json!({"dns": null, "ips": null, "interfaces": null})), AddResult::default());
}

#[test]
fn undefined_keys_are_passed_through() {
    let mut document = golden("result-1.0.0");
    document["interfaces"][2]["mtu"] = json!(9000);
    document["interfaces"][2]["pciID"] = json!("0000:04:00.5");
    document["interfaces"][2]["colour"] = json!("blue");
    document["ips"][0]["lifetime"] = json!(3600);
    document["routes"][0]["table"] = json!(100);
    document["origin"] = json!({"plugin": "other"});
    let result = read(&document);
    assert_eq!(result.interfaces[2].mtu, None);
    assert_eq!(written(&result, Version::V1_0_0), document);
    // A version that defines the key contains it once, with the value that was set last.
    let mut result = result;
    result.interfaces[2].mtu = Some(1400);
    let text = result.to_json(Version::V1_1_0).unwrap();
    assert_eq!(text.matches("\"mtu\"").count(), 1);
    assert!(text.contains("\"mtu\":1400"), "{text}");
}

#[test]
fn a_hardware_address_of_another_link_type_is_preserved() {
    let infiniband = "80:00:02:08:fe:80:00:00:00:00:00:00:f4:52:14:03:00:12:34:56";
    let json = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "ib0", "mac": infiniband}]});
    let result = read(&json);
    assert_eq!(result.interfaces[0].mac_addr(), None);
    assert_eq!(written(&result, Version::V1_0_0), json);
}

#[test]
fn invalid_results_are_rejected() {
    let error = |json: Value| AddResult::from_json(&json, Version::V1_0_0).unwrap_err();
    let invalid = [
        json!([]),
        json!("result"),
        json!({"ips": [{"address": "10.1.0.5/33"}]}),
        json!({"ips": [{}]}),
        json!({"ips": [{"address": "10.1.0.5/16", "interface": -1}]}),
        json!({"routes": [{"dst": "0.0.0.0/0", "gw": "here"}]}),
    ];
    for json in invalid {
        assert!(matches!(error(json.clone()), Error::InvalidResult { .. }), "{json}");
    }
    assert!(matches!(error(json!({"cniVersion": "2.0.0"})), Error::UnknownVersion { .. }));
}

#[test]
fn interfaces_and_their_addresses_are_found() {
    let result = bridged();
    let (index, eth0) = result.interface("eth0", Some("/var/run/netns/blue".as_ref())).unwrap();
    assert_eq!((index, eth0.name.as_str()), (2, "eth0"));
    assert!(result.interface("eth0", None).is_none());
    assert!(result.interface("cni0", None).is_some());
    let of_eth0: Vec<_> = result.ips_of(2).map(|ip| ip.address.to_string()).collect();
    assert_eq!(of_eth0, ["10.1.0.5/16"]);
}
