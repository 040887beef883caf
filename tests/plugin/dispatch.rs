//! The output of every kind of call.

use cnikit::plugin::{AddRequest, CheckRequest, DelRequest, Plugin, PluginError, PluginInfo};
use cnikit::spec::{AddResult, Version};

use serde_json::{Value, json};

use crate::scripted::{Call, OWN_NETNS, Script, Scripted, error_of, json_of};

#[test]
fn without_a_command_the_plugin_prints_its_usage() {
    for call in [Call { variables: vec![], config: json!(null) }, Call::new("")] {
        let output = call.run(&Scripted::default());
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.exit_code, 0);
        assert!(text.starts_with("scripted 1.2.3\nFollows the script in its configuration.\n"), "{text}");
        assert!(text.contains("0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{text}");
        assert!(text.contains("https://example.org/scripted"), "{text}");
    }
}

#[test]
fn version_responds_in_the_callers_version() {
    let supported = json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    let response = |stdin: &str| {
        let call = Call { variables: vec![("CNI_COMMAND", "VERSION".to_owned())], config: json!(null) };
        let output = call.run_with_stdin(&Scripted::default(), &mut stdin.as_bytes());
        assert_eq!(output.exit_code, 0);
        json_of(&output)
    };
    for (stdin, version) in [
        (r#"{"cniVersion": "0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion": "7.0.0"}"#, "7.0.0"),
        ("{}", "1.1.0"),
        ("", "1.1.0"),
        ("\n", "1.1.0"),
    ] {
        let expected = json!({"cniVersion": version, "supportedVersions": supported});
        assert_eq!(response(stdin), expected, "{stdin:?}");
    }
    let call = Call::new("VERSION");
    let output = call.run_with_stdin(&Scripted::default(), &mut "{".as_bytes());
    assert_eq!(error_of(&output)["code"], 6);
}

#[test]
fn the_version_document_is_as_in_the_specification() {
    struct UpTo1;
    impl Plugin for UpTo1 {
        type Config = serde::de::IgnoredAny;
        fn info(&self) -> PluginInfo {
            Scripted::default().info()
        }
        fn versions(&self) -> &[Version] {
            &Version::ALL[..6]
        }
        fn add(&self, _: &AddRequest<Self::Config>) -> Result<AddResult, PluginError> {
            Ok(AddResult::default())
        }
        fn del(&self, _: &DelRequest<Self::Config>) -> Result<(), PluginError> {
            Ok(())
        }
        fn check(&self, _: &CheckRequest<Self::Config>) -> Result<(), PluginError> {
            Ok(())
        }
    }
    let golden: Value = serde_json::from_str(include_str!("../golden/cni/version-1.0.0.json")).unwrap();
    assert_eq!(json_of(&Call::new("VERSION").key("cniVersion", json!("1.0.0")).run(&UpTo1)), golden);
    // The newest version that this plugin supports does not define GC.
    let refused = error_of(&Call::new("GC").run(&UpTo1));
    assert_eq!(refused["code"], 1);
    assert!(refused["msg"].as_str().unwrap().contains("0.1.0, 0.2.0, 0.3.0"), "{refused}");
}

#[test]
fn add_writes_its_result_in_the_configurations_version() {
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let plugin = Scripted::default();
        let output = Call::new("ADD").key("cniVersion", json!(version)).run(&plugin);
        assert_eq!(output.exit_code, 0);
        assert_eq!(plugin.calls(), [format!("ADD c1 {OWN_NETNS}")]);
        let mut interface = json!({"name": "eth0", "sandbox": OWN_NETNS});
        let mut ip = json!({"address": "10.1.0.5/16", "interface": 0});
        if version == "1.1.0" {
            interface["mtu"] = json!(1500);
        }
        let mut expected = json!({"cniVersion": version, "routes": [{"dst": "0.0.0.0/0"}]});
        if version < "1.0.0" {
            ip["version"] = json!("4");
            expected["dns"] = json!({});
        }
        expected["interfaces"] = json!([interface]);
        expected["ips"] = json!([ip]);
        assert_eq!(json_of(&output), expected);
        assert_eq!(output.stdout.last(), Some(&b'\n'));
    }
}

#[test]
fn add_receives_the_result_of_the_chain() {
    let call = Call::new("ADD").key("prevResult", json!({"interfaces": [{"name": "cni0"}]}));
    let result = json_of(&call.run(&Scripted::default()));
    assert_eq!(result["interfaces"][0]["name"], "cni0");
    assert_eq!(result["ips"][0]["interface"], 1);
}

#[test]
fn an_attribute_that_the_version_does_not_define_is_omitted() {
    for version in ["0.3.1", "1.0.0"] {
        let plugin = Scripted::default();
        let call = Call::new("ADD").key("table", json!(100)).key("cniVersion", json!(version));
        assert_eq!(json_of(&call.run(&plugin))["routes"], json!([{"dst": "0.0.0.0/0"}]), "{version}");
        assert_eq!(plugin.calls().len(), 1);
    }
    let newest = json_of(&Call::new("ADD").key("table", json!(100)).run(&Scripted::default()));
    assert_eq!(newest["routes"], json!([{"dst": "0.0.0.0/0", "table": 100}]));
}

#[test]
fn an_address_of_a_missing_interface_is_rolled_back() {
    let plugin = Scripted::default();
    let document = error_of(&Call::new("ADD").key("interface", json!(7)).run(&plugin));
    assert_eq!(document["code"], 999);
    assert_eq!(document["msg"], "the result's ips[0].interface is 7, and the result has 1 interfaces");
    assert_eq!(plugin.calls().len(), 2);
    assert!(plugin.calls()[1].starts_with("DEL c1 "), "{:?}", plugin.calls());

    // The errors of the ADD and of its rollback are both in the document.
    let call = Call::new("ADD").key("interface", json!(1)).key("del_fails", json!(true));
    let document = error_of(&call.run(&Scripted::default()));
    assert_eq!(document["code"], 999);
    let msg = "the result's ips[0].interface is 1, and the result has 1 interfaces; \
               roll back the ADD: the pool is locked";
    assert_eq!((&document["msg"], &document["details"]), (&json!(msg), &json!("by 42")));
}

#[test]
fn a_result_without_a_place_for_an_address_is_rolled_back() {
    /// Supports versions with one address for each family.
    struct Oldest(Scripted);
    impl Plugin for Oldest {
        type Config = Script;
        fn info(&self) -> PluginInfo {
            self.0.info()
        }
        fn versions(&self) -> &[Version] {
            &Version::ALL
        }
        fn add(&self, request: &AddRequest<Script>) -> Result<AddResult, PluginError> {
            self.0.add(request)
        }
        fn del(&self, request: &DelRequest<Script>) -> Result<(), PluginError> {
            self.0.del(request)
        }
        fn check(&self, _: &CheckRequest<Script>) -> Result<(), PluginError> {
            Ok(())
        }
    }
    let plugin = Oldest(Scripted::default());
    let call = Call::new("ADD").key("cniVersion", json!("0.2.0"));
    let document = error_of(&call.key("prevResult", json!({"ip4": {"ip": "10.2.0.5/16"}})).run(&plugin));
    assert_eq!((&document["code"], &document["cniVersion"]), (&json!(1), &json!("0.2.0")));
    assert!(document["msg"].as_str().unwrap().contains("ips[1] 10.1.0.5/16"), "{document}");
    assert!(plugin.0.calls()[1].starts_with("DEL c1 "), "{:?}", plugin.0.calls());
}

#[test]
fn a_wrong_index_of_an_earlier_plugin_is_passed_on() {
    let received = json!({"interfaces": [{"name": "cni0"}], "ips": [{"address": "10.2.0.5/16", "interface": 7}]});
    let result = json_of(&Call::new("ADD").key("prevResult", received).run(&Scripted::default()));
    assert_eq!(result["ips"][0]["interface"], 7);
    assert_eq!(result["ips"][1]["interface"], 1);
}

#[test]
fn verbs_without_a_result_write_nothing() {
    for (command, expected) in
        [("CHECK", "CHECK 1 ips".to_owned()), ("GC", "GC Absent".to_owned()), ("STATUS", "STATUS dbnet".to_owned())]
    {
        let plugin = Scripted::default();
        let output = Call::new(command).run(&plugin);
        assert_eq!((output.stdout.len(), output.exit_code), (0, 0), "{command}");
        assert_eq!(plugin.calls(), [expected]);
    }
    let plugin = Scripted::default();
    let list = json!([{"containerID": "c1", "ifname": "eth0"}]);
    Call::new("GC").key("cni.dev/valid-attachments", list).run(&plugin);
    assert_eq!(plugin.calls(), ["GC 1 valid"]);
}

#[test]
fn del_is_called_with_all_readable_parameters() {
    let called_with = |call: Call| {
        let plugin = Scripted::default();
        let output = call.run(&plugin);
        assert_eq!((output.stdout.len(), output.exit_code), (0, 0));
        plugin.calls().concat()
    };
    let readable = "config=ok net_conf=ok prev_result=ok args=ok";
    for (netns, expected) in
        [("", "None"), ("/nonexistent", "Some(\"/nonexistent\")"), ("/dev/null", "Some(\"/dev/null\")")]
    {
        assert_eq!(
            called_with(Call::new("DEL").variable("CNI_NETNS", netns)),
            format!("DEL c1 netns={expected} {readable}")
        );
    }
    let wrong = Call::new("DEL")
        .variable("CNI_NETNS", "")
        .variable("CNI_ARGS", "x")
        .key("panics", json!("no"))
        .key("dns", json!(5))
        .key("prevResult", json!([]));
    assert_eq!(
        called_with(wrong),
        "DEL c1 netns=None config=unreadable net_conf=unreadable prev_result=unreadable args=unreadable"
    );
}

#[test]
fn an_error_is_one_error_document() {
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        let call = Call::new(command).key("fails", json!(true));
        let expected = json!({"cniVersion": "1.1.0", "code": 11, "msg": "the pool is locked", "details": "by 42"});
        assert_eq!(error_of(&call.run(&Scripted::default())), expected);
    }
}

#[test]
fn a_panic_is_one_error_document() {
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        let version = if command == "ADD" { "0.4.0" } else { "1.1.0" };
        let call = Call::new(command).key("panics", json!(true)).key("cniVersion", json!(version));
        let document = error_of(&call.run(&Scripted::default()));
        assert_eq!(document["code"], 999);
        assert_eq!(document["cniVersion"], version);
        assert_eq!(document["msg"], "the plugin panicked: as scripted");
    }
}
