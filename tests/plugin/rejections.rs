//! Rejected calls, in the order of validation.

use std::io::{self, Read};

use serde_json::json;

use crate::scripted::{Call, OWN_NETNS, Scripted, error_of};

fn assert_rejected(call: &Call, code: u32, words: &[&str]) {
    let document = call.rejection();
    assert_eq!(document["code"], code, "{document}");
    let text = format!("{}: {}", document["msg"], document["details"]);
    for word in words {
        assert!(text.contains(word), "{word} is not in {text}");
    }
}

#[test]
fn the_environment_is_validated_first() {
    let call = Call::new("ADD").variable("CNI_CONTAINERID", "").variable("CNI_IFNAME", "");
    assert_rejected(&call.key("name", json!(5)), 4, &["CNI_CONTAINERID, CNI_IFNAME"]);
    assert_rejected(&Call::new("ADD").variable("CNI_NETNS", ""), 4, &["CNI_NETNS"]);
    assert_rejected(&Call::new("CHECK").variable("CNI_NETNS", ""), 4, &["CNI_NETNS"]);
    assert_rejected(&Call::new("DEL").variable("CNI_IFNAME", "a/b"), 4, &["CNI_IFNAME", "a/b"]);
    assert_rejected(&Call::new("DEL").variable("CNI_CONTAINERID", "-"), 4, &["CNI_CONTAINERID"]);
    assert_rejected(&Call::new("GC").variable("CNI_PATH", ""), 4, &["CNI_PATH"]);
    assert_rejected(&Call::new("ADD").variable("CNI_ARGS", "x"), 4, &["CNI_ARGS"]);
    assert_rejected(&Call::new("UPDATE"), 4, &["UPDATE", "ADD, DEL, CHECK, GC, STATUS, VERSION"]);
}

#[test]
fn then_standard_input() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("broken pipe"))
        }
    }
    let plugin = Scripted::default();
    let document = error_of(&Call::new("ADD").run_with_stdin(&plugin, &mut Broken));
    assert_eq!(document["code"], 5);
    assert_eq!(document["msg"], "cannot read the network configuration from standard input: broken pipe");
    assert_eq!(document.get("details"), None);

    for (stdin, code) in [("", 6), ("{\"name\": ", 6), ("name", 6), ("[]", 6), ("null", 6)] {
        let output = Call::new("ADD").run_with_stdin(&plugin, &mut stdin.as_bytes());
        let document = error_of(&output);
        assert_eq!(document["code"], code, "{stdin:?}");
        assert_eq!(document["cniVersion"], "1.1.0", "{stdin:?}");
    }
    assert_eq!(plugin.calls(), Vec::<String>::new());
}

#[test]
fn then_the_name_and_the_version() {
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        assert_rejected(&Call::new(command).without_key("name"), 7, &["\\\"name\\\""]);
        let old = Call::new(command).key("name", json!("my net")).key("cniVersion", json!("9.9.9"));
        assert_rejected(&old, 7, &["my net", "letter or a digit"]);
        let unknown = Call::new(command).key("cniVersion", json!("9.9.9")).key("type", json!(5));
        assert_rejected(&unknown, 1, &["9.9.9", "1.1.0"]);
        assert_rejected(&Call::new(command).key("cniVersion", json!(1)), 6, &["cniVersion"]);
    }
    for command in ["ADD", "DEL"] {
        let words = ["0.2.0", "0.3.1, 0.4.0, 1.0.0, 1.1.0"];
        assert_rejected(&Call::new(command).key("cniVersion", json!("0.2.0")), 1, &words);
        assert_rejected(&Call::new(command).without_key("cniVersion"), 1, &["0.1.0"]);
    }
    for (command, version, needs) in
        [("CHECK", "0.3.1", "0.4.0"), ("GC", "1.0.0", "1.1.0"), ("STATUS", "1.0.0", "1.1.0")]
    {
        let call = Call::new(command).key("cniVersion", json!(version));
        assert_rejected(&call, 1, &[command, version, needs]);
        assert_eq!(call.rejection()["cniVersion"], version);
    }
}

#[test]
fn then_the_other_keys() {
    for command in ["ADD", "CHECK", "GC", "STATUS"] {
        let call = || Call::new(command);
        assert_rejected(&call().without_key("type"), 7, &["\\\"type\\\""]);
        assert_rejected(&call().key("ipMasq", json!("no")), 7, &["ipMasq", "boolean"]);
        // A key of the plugin.
        assert_rejected(&call().key("panics", json!("no")), 7, &["panics", "does not fit", "expected a boolean"]);
    }
    assert_rejected(&Call::new("ADD").key("prevResult", json!([])), 7, &["prevResult"]);
    assert_rejected(&Call::new("CHECK").without_key("prevResult"), 7, &["CHECK", "prevResult"]);
    assert_rejected(&Call::new("GC").key("cni.dev/valid-attachments", json!({})), 7, &["valid-attachments"]);
    // The error document has the configuration's version if it is known.
    let call = Call::new("ADD").key("cniVersion", json!("0.4.0"));
    assert_eq!(call.key("name", json!("-")).rejection()["cniVersion"], "0.4.0");
}

#[test]
fn then_the_namespace() {
    for command in ["ADD", "CHECK"] {
        let at = |path| Call::new(command).variable("CNI_NETNS", path);
        assert_rejected(&at("/nonexistent"), 8, &["CNI_NETNS", "/nonexistent", "No such file"]);
        assert_rejected(&at("/dev/null"), 8, &["CNI_NETNS", "/dev/null", "not a network namespace"]);
        assert_rejected(&at("/proc/self/ns/mnt"), 8, &["not a network namespace"]);
    }
    for command in ["ADD", "CHECK"] {
        for value in ["", "0", "yes"] {
            let call = Call::new(command).variable("CNI_NETNS_OVERRIDE", value);
            assert_rejected(&call, 8, &["CNI_NETNS", OWN_NETNS, "CNI_NETNS_OVERRIDE=1"]);
        }
        for value in ["1", "TRUE"] {
            let plugin = Scripted::default();
            let call = Call::new(command).variable("CNI_NETNS_OVERRIDE", value);
            assert_eq!(call.run(&plugin).exit_code, 0);
            assert_eq!(plugin.calls().len(), 1);
        }
    }
}

#[test]
fn del_ignores_the_plugins_own_namespace() {
    for (value, netns) in [("0", "netns=None".to_owned()), ("1", format!("netns=Some({OWN_NETNS:?})"))] {
        let plugin = Scripted::default();
        let call = Call::new("DEL").variable("CNI_NETNS_OVERRIDE", value);
        assert_eq!(call.run(&plugin).exit_code, 0);
        assert!(plugin.calls()[0].contains(&netns), "{:?}", plugin.calls());
    }
}
