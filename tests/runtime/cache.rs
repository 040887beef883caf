use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use cnikit::runtime::{Error, NetworkList, Parameters};
use cnikit::spec::{AddResult, Attachment, IpConfig};
use serde_json::{Value, json};

use crate::support::{Bin, network, parameters};

fn one_plugin() -> NetworkList {
    network(&json!({"cniVersion": "1.0.0", "name": "dbnet", "plugins": [{"type": "one"}]}))
}

fn result() -> AddResult {
    AddResult::default().with_ip(IpConfig::new("10.1.0.5/16".parse().unwrap()))
}

fn attachment(container: &str) -> Attachment {
    parameters(container).attachment(&"dbnet".parse().unwrap())
}

#[test]
fn a_file_has_the_form_of_the_reference_library() {
    let bin = Bin::new();
    let parameters =
        parameters("c1").with_args("A=1;B=2".parse().unwrap()).with_capability("mac", json!("02:00:00:00:00:01"));
    bin.cache().store(&one_plugin(), &parameters, &result()).unwrap();
    let path = bin.scratch("cache/results/dbnet-c1-eth0");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    let file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let expected = json!({
        "kind": "cniCacheV1", "containerId": "c1", "ifName": "eth0", "networkName": "dbnet", "netns": "/run/netns/blue",
        "cniArgs": [["A", "1"], ["B", "2"]], "capabilityArgs": {"mac": "02:00:00:00:00:01"},
        // base64 -w0 of the list
        "config": "eyJjbmlWZXJzaW9uIjoiMS4wLjAiLCJuYW1lIjoiZGJuZXQiLCJwbHVnaW5zIjpbeyJ0eXBlIjoib25lIn1dfQ==",
        "result": {"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.5/16"}]},
    });
    assert_eq!(file, expected);
    let names = fs::read_dir(path.parent().unwrap()).unwrap().map(|one| one.unwrap().file_name());
    assert_eq!(Vec::from_iter(names), ["dbnet-c1-eth0"]);

    let cached = bin.cache().attachment(&attachment("c1")).unwrap().unwrap();
    assert_eq!((&cached.parameters, &cached.result), (&parameters, &result()));
    assert_eq!(NetworkList::parse(cached.config.unwrap()).unwrap().plugins[0].plugin_type.as_str(), "one");
    assert_eq!(bin.cache().attachments().unwrap()[0].parameters, parameters);

    bin.cache().remove(&attachment("c1")).unwrap();
    bin.cache().remove(&attachment("c1")).unwrap();
    assert!(bin.cache().attachment(&attachment("c1")).unwrap().is_none());
}

#[test]
fn names_that_run_together_are_told_apart() {
    let bin = Bin::new();
    let network = |name: &str| network(&json!({"cniVersion": "1.0.0", "name": name, "plugins": [{"type": "one"}]}));
    let parameters = |id: &str| Parameters::new(id.parse().unwrap(), "eth0".parse().unwrap());
    bin.cache().store(&network("a-b"), &parameters("c"), &result()).unwrap();
    let other = parameters("b-c").attachment(&"a".parse().unwrap());
    assert!(bin.cache().attachment(&other).unwrap().is_none());
    bin.cache().remove(&other).unwrap();
    assert_eq!(bin.cache().attachments().unwrap().len(), 1);
}

#[test]
fn a_file_of_old_is_the_result_alone() {
    let bin = Bin::new();
    fs::create_dir(bin.scratch("cache/results")).unwrap();
    let old = json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.1.0.5/16"}], "dns": {}});
    fs::write(bin.scratch("cache/results/dbnet-c1-eth0"), old.to_string()).unwrap();
    let cached = bin.cache().attachment(&attachment("c1")).unwrap().unwrap();
    assert_eq!((cached.config, cached.result.ips[0].address.to_string().as_str()), (None, "10.1.0.5/16"));
}

#[test]
fn what_cannot_be_understood_fails_check_but_not_del() {
    let bin = Bin::new();
    bin.answering("one", "{}");
    fs::create_dir(bin.scratch("cache/results")).unwrap();
    let path = bin.scratch("cache/results/dbnet-c1-eth0");
    for garbage in ["", "{", "[]", r#"{"kind": "cniCacheV9"}"#, r#"{"kind": "cniCacheV1", "config": "*"}"#] {
        fs::write(&path, garbage).unwrap();
        let error = bin.runtime().check(&one_plugin(), &parameters("c1")).unwrap_err();
        assert!(matches!(error, Error::CorruptCache { .. } | Error::File { .. }), "{garbage}: {error:?}");
        assert!(bin.cache().attachments().unwrap().is_empty());
        bin.runtime().del(&one_plugin(), &parameters("c1")).unwrap();
        assert!(!path.exists());
    }
}
