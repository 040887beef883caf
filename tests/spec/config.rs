//! Configurations and the environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use cnikit::spec::{
    AttachmentKey, Command, Environment, Error, ErrorCode, HasErrorCode, KubernetesPod, RawConfig, Requirement,
    RuntimeConfig, ValidAttachments, Variable, Version,
};
use serde_json::{Value, json};

fn parse(json: &Value) -> RawConfig {
    RawConfig::parse(json.to_string()).unwrap()
}

fn with(key: &str, value: Value) -> RawConfig {
    let mut config = json!({"cniVersion": "1.1.0", "name": "dbnet", "type": "bridge"});
    config[key] = value;
    parse(&config)
}

#[test]
fn the_specifications_example_is_read_completely() {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Bridge {
        bridge: String,
        key_a: Vec<String>,
    }
    #[derive(serde::Deserialize)]
    struct HostLocal {
        subnet: String,
    }

    let raw = RawConfig::parse(include_bytes!("../golden/cni/config-1.1.0.json")).unwrap();
    let net_conf = raw.net_conf().unwrap();
    assert_eq!(net_conf.cni_version, Version::V1_1_0);
    assert_eq!(net_conf.name.as_str(), "dbnet");
    assert_eq!(net_conf.plugin_type.as_str(), "bridge");
    assert!(net_conf.ip_masq);
    assert_eq!(net_conf.dns.nameservers, ["10.1.0.1"]);
    assert_eq!(net_conf.runtime_config.mac.unwrap().to_string(), "00:11:22:33:44:66");

    let ipam = net_conf.ipam.unwrap();
    assert_eq!(ipam.plugin_type.as_ref().unwrap().as_str(), "host-local");
    assert_eq!(ipam.decode::<HostLocal>().unwrap().subnet, "10.1.0.0/16");

    let args = net_conf.args;
    let ips: Vec<_> = args.ips.iter().map(ToString::to_string).collect();
    assert_eq!(ips, ["10.2.2.42/24", "2001:db8::5/128"]);
    assert_eq!((args.labels[1].key.as_str(), args.labels[1].value.as_str()), ("env", "prod"));
    assert_eq!(args.mac.unwrap().to_string(), "c2:11:22:33:44:55");

    let own: Bridge = raw.decode().unwrap();
    assert_eq!((own.bridge.as_str(), own.key_a.len()), ("cni0", 3));

    let prev_result = raw.prev_result().unwrap().unwrap();
    assert_eq!(prev_result.interfaces.len(), 3);
    assert_eq!(prev_result.ips[0].interface, Some(2));
}

#[test]
fn a_configuration_without_a_version_has_0_1_0() {
    for config in [
        json!({"name": "dbnet", "type": "bridge"}),
        json!({"cniVersion": "", "name": "dbnet", "type": "bridge"}),
        json!({"cniVersion": null, "name": "dbnet", "type": "bridge"}),
    ] {
        assert_eq!(parse(&config).net_conf().unwrap().cni_version, Version::V0_1_0);
    }
}

#[test]
fn null_counts_as_absent() {
    let config = json!({
        "cniVersion": "1.1.0", "name": "dbnet", "type": "bridge",
        "ipMasq": null, "ipam": null, "dns": null, "args": {"cni": null}, "runtimeConfig": null, "prevResult": null,
    });
    let raw = parse(&config);
    let net_conf = raw.net_conf().unwrap();
    assert!(!net_conf.ip_masq && net_conf.ipam.is_none() && net_conf.runtime_config == RuntimeConfig::default());
    assert!(raw.prev_result().unwrap().is_none());
    // A network without addresses.
    let ipam = with("ipam", json!({})).net_conf().unwrap().ipam.unwrap();
    assert!(ipam.plugin_type.is_none() && ipam.other.is_empty());
}

#[test]
fn prev_result_has_the_configurations_version() {
    let config = json!({
        "cniVersion": "0.2.0", "name": "dbnet", "type": "bridge",
        "prevResult": {"ip4": {"ip": "10.1.0.5/16"}},
    });
    let prev_result = parse(&config).prev_result().unwrap().unwrap();
    assert_eq!(prev_result.ips[0].address.to_string(), "10.1.0.5/16");
}

#[test]
fn errors_name_the_invalid_key() {
    let error = |raw: RawConfig| raw.net_conf().unwrap_err();
    let text = |error: Error| {
        assert_eq!(error.code(), ErrorCode::INVALID_CONFIG);
        error.to_string()
    };
    assert_eq!(
        text(error(with("name", json!("my net")))),
        "the network configuration's \"name\" is not valid: network name \"my net\" is not valid: it must start \
         with a letter or a digit and contain only letters, digits, '_', '.' and '-'"
    );
    assert_eq!(text(error(parse(&json!({"name": "dbnet"})))), "the network configuration has no \"type\": add it");
    let ip_masq = text(error(with("ipMasq", json!("yes"))));
    assert!(ip_masq.contains("\"ipMasq\"") && ip_masq.contains("boolean"), "{ip_masq}");
    for (key, value) in [
        ("type", json!("../bridge")),
        ("ipam", json!("host-local")),
        ("ipam", json!({"type": "a/b"})),
        ("dns", json!("10.1.0.1")),
        ("args", json!({"cni": {"ips": ["here"]}})),
        ("runtimeConfig", json!([])),
    ] {
        let text = text(error(with(key, value)));
        assert!(text.contains(&format!("{key:?}")), "{text}");
    }
    assert!(matches!(with("prevResult", json!(5)).prev_result(), Err(Error::InvalidPrevResult { .. })));
    assert!(matches!(with("cniVersion", json!("9.9.9")).net_conf(), Err(Error::UnknownVersion { .. })));
    let undecodable = error(with("cniVersion", json!(1)));
    assert_eq!(undecodable.code(), ErrorCode::DECODE);
    assert!(undecodable.to_string().contains("\"cniVersion\""), "{undecodable}");
}

#[test]
fn a_configuration_must_be_an_object() {
    let code = |text: &str| RawConfig::parse(text).unwrap_err().code();
    for text in ["", " ", "{", "{]", "name", "{} {}", "[]", "null", "5", "\"name\""] {
        assert_eq!(code(text), ErrorCode::DECODE, "{text:?}");
    }
}

#[test]
fn absent_null_and_empty_valid_attachments_differ() {
    let key = AttachmentKey { container_id: "c1".parse().unwrap(), ifname: "eth0".parse().unwrap() };
    let list = json!([{"containerID": "c1", "ifname": "eth0"}]);
    let valid = |raw: RawConfig| raw.valid_attachments().unwrap();
    assert_eq!(valid(with("other", json!(1))), ValidAttachments::Absent);
    for name in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        assert_eq!(valid(with(name, Value::Null)), ValidAttachments::Null);
        assert_eq!(valid(with(name, json!([]))), ValidAttachments::List(vec![]));
        assert_eq!(valid(with(name, list.clone())), ValidAttachments::List(vec![key.clone()]));
        for bad in [json!({}), json!([{"containerID": "c1"}]), json!([{"containerID": "/", "ifname": "eth0"}])] {
            with(name, bad).valid_attachments().unwrap_err();
        }
    }
    let both = json!({"cni.dev/valid-attachments": [], "cni.dev/attachments": list});
    assert_eq!(valid(parse(&both)), ValidAttachments::List(vec![]));
}

fn read(command: Command, variables: &[(&str, &str)]) -> Result<Environment, Error> {
    let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
    Environment::read(command, &|name| variables.get(name).map(OsString::from))
}

#[test]
fn the_requirements_of_verbs_match_the_specification() {
    use Requirement::{Optional as O, Required as R, Unused as U};
    // CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_ARGS, CNI_PATH, from the sections of the verbs.
    let table = [
        ("ADD", "0.1.0", [R, R, R, O, O], O),
        ("DEL", "0.1.0", [R, O, R, O, O], O),
        ("CHECK", "0.4.0", [R, R, R, O, O], R),
        ("GC", "1.1.0", [U, U, U, U, R], U),
        ("STATUS", "1.1.0", [U, U, U, U, O], U),
        ("VERSION", "0.1.0", [U, U, U, U, U], U),
    ];
    assert_eq!(table.map(|(word, ..)| word), Command::ALL.map(Command::as_str));
    for (word, since, requirements, prev_result) in table {
        let rule = word.parse::<Command>().unwrap().spec();
        assert_eq!(rule.since.as_str(), since, "{word}");
        assert_eq!(Variable::ALL.map(|variable| rule.requirement(variable)), requirements, "{word}");
        assert_eq!(rule.prev_result, prev_result, "{word}");
    }
}

#[test]
fn one_error_names_all_missing_and_invalid_variables() {
    let error = read(Command::Add, &[("CNI_CONTAINERID", ""), ("CNI_NETNS", "")]).unwrap_err();
    assert_eq!(error.code(), ErrorCode::INVALID_ENVIRONMENT);
    assert_eq!(
        error.to_string(),
        "ADD needs CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME in the environment: not set, or empty"
    );
    let wrong = [("CNI_CONTAINERID", "/"), ("CNI_IFNAME", "a:b"), ("CNI_ARGS", "x"), ("CNI_NETNS", "")];
    let text = read(Command::Check, &wrong).unwrap_err().to_string();
    for name in ["CNI_CONTAINERID: ", "CNI_IFNAME: ", "CNI_ARGS: ", "CHECK needs CNI_NETNS "] {
        assert!(text.contains(name), "{text}");
    }
    assert!(text.contains("CNI_ARGS: \"x\" is not KEY=VALUE: write KEY=VALUE;KEY=VALUE"), "{text}");
}

#[test]
fn unused_variables_are_not_validated() {
    let junk = [("CNI_CONTAINERID", "/"), ("CNI_IFNAME", ":"), ("CNI_ARGS", "x"), ("CNI_PATH", "/a:/b")];
    let environment = read(Command::Gc, &junk).unwrap();
    assert_eq!(environment.path, [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert_eq!(environment.container_id, None);
    read(Command::Status, &junk).unwrap();
    read(Command::Version, &junk).unwrap();
    assert_eq!(
        read(Command::Gc, &[]).unwrap_err().to_string(),
        "GC needs CNI_PATH in the environment: not set, or empty"
    );
}

#[test]
fn del_tolerates_malformed_arguments() {
    let variables = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_ARGS", "x")];
    let environment = read(Command::Del, &variables).unwrap();
    assert!(matches!(environment.args, Err(Error::Args { .. })));
    assert_eq!(environment.netns, None);
}

#[test]
fn the_netns_override_is_1_or_true() {
    for (value, expected) in [("1", true), ("TRUE", true), ("true", true), ("0", false), ("yes", false), ("", false)] {
        let environment = read(Command::Status, &[("CNI_NETNS_OVERRIDE", value)]).unwrap();
        assert_eq!(environment.netns_override, expected, "{value:?}");
    }
}

#[test]
fn only_paths_may_contain_invalid_utf_8() {
    let lookup = |name: &str| match name {
        "CNI_CONTAINERID" => Some("c1".into()),
        "CNI_IFNAME" => Some(OsString::from_vec(vec![b'e', 0xff])),
        "CNI_NETNS" => Some(OsString::from_vec(vec![b'/', 0xff])),
        _ => None,
    };
    let text = Environment::read(Command::Add, &lookup).unwrap_err().to_string();
    assert_eq!(text, r#"CNI_IFNAME: "e\xFF" is not UTF-8"#);
}

#[test]
fn invalid_utf_8_in_arguments_affects_one_value() {
    let lookup = |name: &str| match name {
        "CNI_CONTAINERID" => Some("c1".into()),
        "CNI_IFNAME" => Some("eth0".into()),
        "CNI_NETNS" => Some("/run/netns/c1".into()),
        "CNI_ARGS" => Some(OsString::from_vec(b"K8S_POD_NAME=a\xffb;K8S_POD_NAMESPACE=shop".to_vec())),
        _ => None,
    };
    for command in [Command::Add, Command::Check, Command::Del] {
        let args = Environment::read(command, &lookup).unwrap().args.unwrap();
        let pod = KubernetesPod::from_args(&args);
        assert_eq!((pod.to_string().as_str(), KubernetesPod::invalid_args(&args).len()), ("shop/-", 1), "{command:?}");
    }
}

#[test]
fn the_verb_is_known_or_absent() {
    let command =
        |value: &'static str| Environment::command(&move |name| (name == "CNI_COMMAND").then(|| value.into()));
    assert_eq!(command("ADD").unwrap(), Some(Command::Add));
    assert_eq!(command("").unwrap(), None);
    for unknown in ["add", "UPDATE"] {
        assert_eq!(command(unknown).unwrap_err().code(), ErrorCode::INVALID_ENVIRONMENT);
    }
}

/// The conventions define a list. Podman 4 sends an object with one list, keyed by the network's
/// name.
#[test]
fn aliases_are_read_in_both_forms() {
    let asked = |aliases: Value| with("runtimeConfig", json!({ "aliases": aliases })).net_conf();
    for aliases in [json!(["db", "0123456789ab"]), json!({ "dbnet": ["db", "0123456789ab"] })] {
        assert_eq!(asked(aliases).unwrap().runtime_config.aliases, ["db", "0123456789ab"]);
    }
    assert!(asked(json!({})).unwrap().runtime_config.aliases.is_empty());
    for wrong in [json!("db"), json!([["db"]]), json!({ "dbnet": "db" })] {
        let message = asked(wrong).unwrap_err().to_string();
        assert!(message.contains("runtimeConfig"), "{message}");
    }
}

#[test]
fn every_capability_of_the_conventions_is_typed() {
    let runtime_config = json!({
        "portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "192.0.2.1"}
        ],
        "ipRanges": [[{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.3", "rangeEnd": "10.1.2.99", "gateway": "10.1.2.254"}]],
        "bandwidth": {"ingressRate": 2048, "ingressBurst": 1600, "egressRate": 4096, "egressBurst": 1600},
        "dns": {"searches": ["internal.yoyodyne.net"], "servers": ["8.8.8.8"]},
        "ips": ["192.168.0.1/24", "3ffe:ffff:0:1ff::1"],
        "mac": "c2:11:22:33:44:55",
        "infinibandGUID": "c2:11:22:33:44:55:66:77",
        "deviceID": "0000:04:00.5",
        "aliases": ["my-container", "primary-db"],
        "cgroupPath": "/kubelet.slice/kubelet-kubepods.slice",
        "org.example.colour": {"red": 1}
    });
    let asked = with("runtimeConfig", runtime_config.clone()).net_conf().unwrap().runtime_config;
    assert_eq!((asked.port_mappings[1].container_port, asked.bandwidth.as_ref().unwrap().egress_rate), (5353, 4096));
    assert_eq!(asked.ip_ranges[0][0].range_end, Some("10.1.2.99".parse().unwrap()));
    assert_eq!(asked.other.keys().collect::<Vec<_>>(), ["org.example.colour"]);
    // The round trip preserves everything, and adds the prefix length of an address.
    let mut expected = runtime_config;
    expected["ips"][1] = json!("3ffe:ffff:0:1ff::1/128");
    assert_eq!(serde_json::to_value(&asked).unwrap(), expected);

    let nulls = json!({"portMappings": null, "ips": null, "mac": "", "bandwidth": null, "dns": null, "aliases": null});
    let asked = with("runtimeConfig", nulls).net_conf().unwrap().runtime_config;
    assert_eq!(asked, RuntimeConfig::default());
}
