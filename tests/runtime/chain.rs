use std::time::Duration;

use cnikit::runtime::{AttachmentParameters, Error, NetworkConfigList};
use cnikit::spec::{self, AttachmentKey, ErrorCode, HasErrorCode as _, Version};
use serde_json::{Value, json};

use crate::support::{Bin, RESULT, network, parameters};

fn chain(version: &str) -> NetworkConfigList {
    network(&json!({"cniVersion": version, "name": "dbnet", "plugins": [
        {"type": "one", "keyA": ["kept", 1], "cni.dev/valid-attachments": [], "prevResult": {}},
        {"type": "two", "capabilities": {"portMappings": true, "mac": false}},
        {"type": "three"},
    ]}))
}

fn succeeding(bin: &Bin) {
    bin.succeeding("one", RESULT);
    bin.succeeding("two", r#"{"cniVersion":"1.1.0","ips":[{"address":"10.1.0.6/16"}],"x-note":"two was here"}"#);
    bin.succeeding("three", r#"{"ips":[{"address":"10.1.0.7/16"}]}"#);
}

fn key(parameters: &AttachmentParameters) -> AttachmentKey {
    parameters.key()
}

#[test]
fn plugins_are_added_in_order_and_deleted_in_reverse() {
    let bin = Bin::new();
    succeeding(&bin);
    let (runtime, network) = (bin.runtime(), chain("1.1.0"));
    let mapping = json!([{"hostPort": 8080, "containerPort": 80}]);
    let parameters = parameters("c1")
        .with_capability("portMappings", mapping.clone())
        .with_capability("mac", json!("02:00:00:00:00:01"));
    let result = runtime.add(&network, &parameters).unwrap();
    assert_eq!(result.ips[0].address.to_string(), "10.1.0.7/16");

    let first = json!({"type": "one", "keyA": ["kept", 1], "name": "dbnet", "cniVersion": "1.1.0"});
    assert_eq!(bin.stdin("one", "ADD"), first);
    let second = bin.stdin("two", "ADD");
    assert_eq!(second["prevResult"], json!({"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.5/16"}]}));
    assert_eq!(second["runtimeConfig"], json!({"portMappings": mapping}));
    assert_eq!(second.get("capabilities"), None);
    let third = bin.stdin("three", "ADD");
    assert_eq!((&third["prevResult"]["x-note"], third.get("runtimeConfig")), (&json!("two was here"), None));

    runtime.check(&network, &parameters).unwrap();
    runtime.del(&network, &parameters).unwrap();
    for verb in ["CHECK", "DEL"] {
        for plugin in ["one", "two", "three"] {
            let stdin = bin.stdin(plugin, verb);
            assert_eq!(stdin["prevResult"]["ips"][0]["address"], "10.1.0.7/16", "{plugin} {verb}");
        }
    }
    let calls = bin.calls();
    assert_eq!(calls[..3], ["one ADD", "two ADD", "three ADD"]);
    assert_eq!(calls[3..6], ["one CHECK", "two CHECK", "three CHECK"]);
    assert_eq!(calls[6..], ["three DEL", "two DEL", "one DEL"]);
    assert!(bin.cache().attachments().unwrap().is_empty());

    // The cache is empty: DEL runs without a result, CHECK fails.
    runtime.del(&network, &parameters).unwrap();
    assert_eq!(bin.stdin("one", "DEL").get("prevResult"), None);
    let error = runtime.check(&network, &parameters).unwrap_err();
    assert!(matches!(error, Error::NotAttached { .. }), "{error:?}");
}

#[test]
fn results_are_passed_in_the_version_of_the_configuration() {
    let bin = Bin::new();
    succeeding(&bin);
    bin.succeeding("one", r#"{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.1.0.5/16"}]}"#);
    bin.runtime().add(&chain("0.3.1"), &parameters("c1")).unwrap();
    let prev = &bin.stdin("two", "ADD")["prevResult"];
    assert_eq!(prev["ips"], json!([{"version": "4", "address": "10.1.0.5/16"}]));
    assert_eq!(bin.stdin("three", "ADD")["prevResult"]["cniVersion"], "0.3.1");

    // DEL has results from 0.4.0 on, and CHECK exists from 0.4.0 on.
    bin.runtime().del(&chain("0.3.1"), &parameters("c1")).unwrap();
    assert_eq!(bin.stdin("one", "DEL").get("prevResult"), None);
    let error = bin.runtime().check(&chain("0.3.1"), &parameters("c1")).unwrap_err();
    assert!(matches!(error, Error::Spec(spec::Error::CommandTooNew { version: Version::V0_3_1, .. })), "{error:?}");
}

#[test]
fn a_failed_add_is_rolled_back_in_reverse_order_past_errors() {
    let bin = Bin::new();
    succeeding(&bin);
    bin.failing("two", "ADD|DEL", 101);
    let error = bin.runtime().add(&chain("1.0.0"), &parameters("c1")).unwrap_err();
    assert_eq!(error.code().value(), 101);
    assert!(error.to_string().contains("failed ADD with code 101"), "{error}");
    let Error::RollbackFailed { cause, left } = error else { panic!("{error:?}") };
    assert!(matches!(*cause, Error::Plugin { .. }), "{cause:?}");
    assert_eq!(left.len(), 1);
    assert_eq!(bin.calls(), ["one ADD", "two ADD", "two DEL", "one DEL"]);
    assert_eq!(bin.stdin("one", "DEL")["prevResult"]["ips"][0]["address"], "10.1.0.5/16");
    assert!(bin.cache().attachments().unwrap().is_empty());
}

#[test]
fn a_failed_add_of_an_attachment_in_use_is_not_rolled_back() {
    let bin = Bin::new();
    succeeding(&bin);
    bin.runtime().add(&chain("1.0.0"), &parameters("c1")).unwrap();
    bin.failing("two", "ADD", 101);
    bin.runtime().add(&chain("1.0.0"), &parameters("c1")).unwrap_err();
    assert_eq!(bin.calls()[3..], ["one ADD", "two ADD"]);
    assert_eq!(bin.cache().attachments().unwrap().len(), 1);
}

#[test]
fn a_missing_plugin_is_not_rolled_back() {
    let bin = Bin::new();
    bin.succeeding("one", RESULT);
    let error = bin.runtime().add(&chain("1.0.0"), &parameters("c1")).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    assert_eq!(bin.calls(), ["one ADD", "one DEL"]);
}

#[test]
fn a_plugin_that_cannot_start_is_not_rolled_back() {
    let bin = Bin::new();
    bin.succeeding("one", RESULT);
    std::fs::write(bin.succeeding("two", RESULT), "#!/nonexistent/interpreter\n").unwrap();
    let error = bin.runtime().add(&chain("1.0.0"), &parameters("c1")).unwrap_err();
    assert!(matches!(error, Error::Start { .. }), "{error:?}");
    assert_eq!(bin.calls(), ["one ADD", "one DEL"]);
}

#[test]
fn a_result_that_cannot_be_cached_is_rolled_back() {
    let bin = Bin::new();
    succeeding(&bin);
    bin.plugin("three", &format!("echo '{RESULT}'; touch {}", bin.scratch("cache/results").display()));
    let error = bin.runtime().add(&chain("1.0.0"), &parameters("c1")).unwrap_err();
    assert_eq!(error.code(), ErrorCode::IO);
    assert_eq!(bin.calls()[3..], ["three DEL", "two DEL", "one DEL"]);

    // If the error is known in advance, no plugin is called.
    bin.runtime().add(&chain("1.0.0"), &parameters("c1")).unwrap_err();
    assert_eq!(bin.calls().len(), 6);
}

#[test]
fn del_stops_at_the_first_error_and_can_be_repeated() {
    let bin = Bin::new();
    succeeding(&bin);
    let (runtime, network, parameters) = (bin.runtime(), chain("1.0.0"), parameters("c1"));
    runtime.add(&network, &parameters).unwrap();
    bin.failing("two", "DEL", 5);
    runtime.del(&network, &parameters).unwrap_err();
    assert_eq!(bin.calls()[3..], ["three DEL", "two DEL"]);
    assert_eq!(bin.cache().attachments().unwrap().len(), 1);
    succeeding(&bin);
    runtime.del(&network, &parameters).unwrap();
    assert_eq!(bin.calls()[5..], ["three DEL", "two DEL", "one DEL"]);
}

#[test]
fn check_and_gc_can_be_disabled() {
    let bin = Bin::new();
    succeeding(&bin);
    let (mut network, parameters) = (chain("1.1.0"), parameters("c1"));
    (network.disable_check, network.disable_gc) = (true, true);
    bin.runtime().check(&network, &parameters).unwrap();
    bin.runtime().gc(&network, &[]).unwrap();
    assert!(bin.calls().is_empty());
}

#[test]
fn gc_deletes_stale_cached_attachments_and_calls_every_plugin() {
    let bin = Bin::new();
    succeeding(&bin);
    let (runtime, network) = (bin.runtime(), chain("1.1.0"));
    let kept = parameters("kept");
    let stale = parameters("stale").args("A=1".parse().unwrap());
    for parameters in [&kept, &stale] {
        runtime.add(&network, parameters).unwrap();
    }
    bin.failing("two", "GC", 5);
    let error = runtime.gc(&network, &[key(&kept)]).unwrap_err();
    assert!(matches!(error, Error::Plugin { .. }), "{error:?}");
    assert_eq!(bin.calls()[6..], ["three DEL", "two DEL", "one DEL", "one GC", "two GC", "three GC"]);
    assert_eq!(bin.variable("one", "DEL", "CNI_CONTAINERID").as_deref(), Some("stale"));
    assert_eq!(bin.variable("one", "DEL", "CNI_ARGS").as_deref(), Some("A=1"));
    assert_eq!(bin.variable("one", "DEL", "CNI_NETNS").as_deref(), Some("/run/netns/blue"));
    let list = json!([{"containerID": "kept", "ifname": "eth0"}]);
    let stdin = bin.stdin("one", "GC");
    assert_eq!((&stdin["cni.dev/valid-attachments"], &stdin["cni.dev/attachments"]), (&list, &list));
    assert_eq!(bin.stdin("two", "GC")["capabilities"], json!({"portMappings": true, "mac": false}));
    assert_eq!(bin.variable("one", "GC", "CNI_CONTAINERID").as_deref(), Some(""));
    assert_eq!(bin.cache().attachments().unwrap().len(), 1);

    // Before 1.1.0 there is no GC, but stale cached attachments are still deleted.
    let called = bin.calls().len();
    runtime.gc(&chain("1.0.0"), &[]).unwrap();
    assert_eq!(bin.calls()[called..], ["three DEL", "two DEL", "one DEL"]);
}

#[test]
fn status_returns_the_error_of_the_first_plugin_that_is_not_ready() {
    let bin = Bin::new();
    succeeding(&bin);
    bin.failing("two", "STATUS", 51);
    let error = bin.runtime().status(&chain("1.1.0")).unwrap_err();
    assert_eq!(error.code(), ErrorCode::LIMITED_CONNECTIVITY);
    assert_eq!(bin.calls(), ["one STATUS", "two STATUS"]);
    bin.runtime().status(&chain("1.0.0")).unwrap();
    assert_eq!(bin.calls().len(), 2);
}

#[test]
fn a_network_is_validated_by_its_plugins() {
    let bin = Bin::new();
    let supports =
        |versions: Value| format!("echo '{}'", json!({"cniVersion": "1.1.0", "supportedVersions": versions}));
    bin.plugin("one", &supports(json!(["0.4.0", "1.0.0"])));
    bin.plugin("two", &supports(json!(["0.4.0"])));
    let error = bin.runtime().validate(&chain("1.0.0")).unwrap_err();
    let Error::Several { errors } = &error else { panic!("{error:?}") };
    assert!(matches!(errors[..], [Error::NotFound { .. }, Error::UnsupportedVersion { .. }]), "{errors:?}");
    bin.plugin("three", &supports(json!(["0.4.0"])));
    bin.runtime().validate(&chain("0.4.0")).unwrap();
    assert_eq!(bin.runtime().versions(&"two".parse().unwrap()).unwrap(), [Version::V0_4_0]);
}

#[test]
fn the_timeout_applies_to_each_plugin() {
    let bin = Bin::new();
    succeeding(&bin);
    bin.plugin("two", "[ $CNI_COMMAND != ADD ] || sleep 600");
    let runtime = bin.runtime().timeout(Duration::from_secs(2));
    let error = runtime.add(&chain("1.0.0"), &parameters("c1")).unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    assert_eq!(bin.calls(), ["one ADD", "two ADD", "two DEL", "one DEL"]);
}
