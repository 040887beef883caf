use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use cnikit::runtime::{AttachmentParameters, Error, NetworkConfigList};
use cnikit::spec::{AddResult, Attachment, IpConfig};
use serde_json::{Value, json};

use crate::support::{Bin, network, parameters};

fn one_plugin() -> NetworkConfigList {
    network(&json!({"cniVersion": "1.0.0", "name": "dbnet", "plugins": [{"type": "one"}]}))
}

fn result() -> AddResult {
    AddResult::default().with_ip(IpConfig::new("10.1.0.5/16".parse().unwrap()))
}

fn attachment(container: &str) -> Attachment {
    parameters(container).attachment(&"dbnet".parse().unwrap())
}

#[test]
fn a_file_has_the_format_of_the_reference_library() {
    let bin = Bin::new();
    let parameters =
        parameters("c1").args("A=1;B=2".parse().unwrap()).with_capability("mac", json!("02:00:00:00:00:01"));
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
    assert_eq!(NetworkConfigList::parse(cached.config.unwrap()).unwrap().plugins[0].plugin_type.as_str(), "one");
    assert_eq!(bin.cache().attachments().unwrap()[0].parameters, parameters);

    bin.cache().remove(&attachment("c1")).unwrap();
    bin.cache().remove(&attachment("c1")).unwrap();
    assert!(bin.cache().attachment(&attachment("c1")).unwrap().is_none());
}

fn named(name: &str) -> NetworkConfigList {
    network(&json!({"cniVersion": "1.0.0", "name": name, "plugins": [{"type": "one"}]}))
}

fn of(id: &str, ifname: &str) -> AttachmentParameters {
    AttachmentParameters::new(id.parse().unwrap(), ifname.parse().unwrap())
}

/// Three attachments with one file name, because the reference library joins the parts with
/// hyphens.
fn colliding() -> [(NetworkConfigList, AttachmentParameters, AddResult); 3] {
    let result = |address: &str| AddResult::default().with_ip(IpConfig::new(address.parse().unwrap()));
    [
        (named("a-b"), of("c", "eth0"), result("10.1.0.1/16")),
        (named("a"), of("b-c", "eth0"), result("10.1.0.2/16")),
        (named("a"), of("b", "c-eth0"), result("10.1.0.3/16")),
    ]
}

#[test]
fn attachments_with_colliding_names_are_all_stored() {
    for turn in 0..3 {
        let bin = Bin::new();
        let mut colliding = colliding();
        colliding.rotate_left(turn);
        // Twice: the second store must find the attachment's own file.
        for (network, parameters, result) in colliding.iter().chain(&colliding) {
            bin.cache().store(network, parameters, result).unwrap();
        }
        // The first has the name that the reference library searches for.
        let first: Value = serde_json::from_slice(&fs::read(bin.scratch("cache/results/a-b-c-eth0")).unwrap()).unwrap();
        assert_eq!(first["networkName"], colliding[0].0.name.as_str());
        assert_eq!(bin.cache().attachments().unwrap().len(), 3);
        for (index, (network, parameters, result)) in colliding.iter().enumerate() {
            let attachment = parameters.attachment(&network.name);
            assert_eq!(bin.cache().attachment(&attachment).unwrap().unwrap().result, *result, "{turn} {attachment:?}");
            bin.cache().remove(&attachment).unwrap();
            assert!(bin.cache().attachment(&attachment).unwrap().is_none());
            assert_eq!(bin.cache().attachments().unwrap().len(), 2 - index);
        }
        assert_eq!(fs::read_dir(bin.scratch("cache/results")).unwrap().count(), 0);
    }
}

/// After the attachment with the shared name is removed, the next store of the other one takes that
/// name.
#[test]
fn a_released_name_is_reused() {
    let bin = Bin::new();
    let [(network, parameters, result), (other, others, _), _] = colliding();
    bin.cache().store(&network, &parameters, &result).unwrap();
    bin.cache().store(&other, &others, &result).unwrap();
    bin.cache().remove(&parameters.attachment(&network.name)).unwrap();
    bin.cache().store(&other, &others, &result).unwrap();
    let names = fs::read_dir(bin.scratch("cache/results")).unwrap().map(|one| one.unwrap().file_name());
    assert_eq!(Vec::from_iter(names), ["a-b-c-eth0"]);
    // A crash between the two steps leaves both files. The newer file counts.
    let shared = bin.scratch("cache/results/a-b-c-eth0");
    let old = fs::read_to_string(&shared).unwrap().replace("10.1.0.1/16", "10.1.0.9/16");
    fs::write(bin.scratch("cache/results/a:-b-c-:eth0"), old).unwrap();
    assert_eq!(
        bin.cache().attachments().unwrap().iter().map(|cached| cached.result.clone()).collect::<Vec<_>>(),
        [result]
    );
}

#[test]
fn concurrent_stores_do_not_overwrite_each_other() {
    for _ in 0..50 {
        let bin = Bin::new();
        let colliding = colliding();
        let start = std::sync::Barrier::new(colliding.len());
        std::thread::scope(|scope| {
            for (network, parameters, result) in &colliding {
                let (bin, start) = (&bin, &start);
                scope.spawn(move || {
                    start.wait();
                    bin.cache().store(network, parameters, result).unwrap();
                });
            }
        });
        assert_eq!(bin.cache().attachments().unwrap().len(), 3);
    }
}

/// The names of temporary files are predictable, and an earlier process with the same id may have
/// left one.
#[test]
fn a_store_does_not_follow_symbolic_links() {
    const NAMES: usize = 4096;
    let bin = Bin::new();
    let (results, target) = (bin.scratch("cache/results"), bin.scratch("target"));
    fs::create_dir(&results).unwrap();
    fs::write(&target, "untouched").unwrap();
    for number in 0..NAMES {
        std::os::unix::fs::symlink(&target, results.join(format!(".{}-{number}.tmp", std::process::id()))).unwrap();
    }
    bin.cache().store(&one_plugin(), &parameters("c1"), &result()).unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "untouched");
    assert!(fs::symlink_metadata(results.join("dbnet-c1-eth0")).unwrap().is_file());
    assert_eq!(fs::read_dir(&results).unwrap().count(), NAMES, "the store replaced one of the links");
}

#[test]
fn a_dangling_symbolic_link_is_replaced() {
    let bin = Bin::new();
    let (results, target) = (bin.scratch("cache/results"), bin.scratch("absent"));
    fs::create_dir(&results).unwrap();
    let path = results.join("dbnet-c1-eth0");
    std::os::unix::fs::symlink(&target, &path).unwrap();
    bin.cache().store(&one_plugin(), &parameters("c1"), &result()).unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().is_file() && !target.exists());
    assert_eq!(fs::read_dir(&results).unwrap().count(), 1);
    assert_eq!(bin.cache().attachment(&attachment("c1")).unwrap().unwrap().result, result());
}

#[test]
fn a_colliding_attachment_that_was_not_stored_is_unknown() {
    let bin = Bin::new();
    let [(network, parameters, result), (other, others, _), _] = colliding();
    bin.cache().store(&network, &parameters, &result).unwrap();
    let other = others.attachment(&other.name);
    assert!(bin.cache().attachment(&other).unwrap().is_none());
    bin.cache().remove(&other).unwrap();
    assert_eq!(bin.cache().attachments().unwrap().len(), 1);
}

#[test]
fn an_old_file_contains_only_the_result() {
    let bin = Bin::new();
    fs::create_dir(bin.scratch("cache/results")).unwrap();
    let old = json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.1.0.5/16"}], "dns": {}});
    fs::write(bin.scratch("cache/results/dbnet-c1-eth0"), old.to_string()).unwrap();
    let cached = bin.cache().attachment(&attachment("c1")).unwrap().unwrap();
    assert_eq!((cached.config, cached.result.ips[0].address.to_string().as_str()), (None, "10.1.0.5/16"));
}

#[test]
fn an_invalid_file_fails_check_but_not_del() {
    let bin = Bin::new();
    bin.succeeding("one", "{}");
    fs::create_dir(bin.scratch("cache/results")).unwrap();
    let path = bin.scratch("cache/results/dbnet-c1-eth0");
    for garbage in ["", "{", "[]", r#"{"kind": "cniCacheV9"}"#, r#"{"kind": "cniCacheV1", "config": "*"}"#] {
        fs::write(&path, garbage).unwrap();
        let error = bin.runtime().check(&one_plugin(), &parameters("c1")).unwrap_err();
        assert!(matches!(error, Error::CorruptCache { .. } | Error::File { .. }), "{garbage}: {error:?}");
        if let Error::CorruptCache { source, .. } = &error {
            assert!(error.to_string().ends_with(&format!(": {source}; delete the attachment")), "{error}");
        }
        assert!(bin.cache().attachments().unwrap().is_empty());
        bin.runtime().del(&one_plugin(), &parameters("c1")).unwrap();
        assert!(!path.exists());
    }
}
