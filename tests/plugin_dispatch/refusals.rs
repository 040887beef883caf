//! What is wrong with a call, in the order in which it is looked at.

use std::io::{self, Read};

use serde_json::json;

use crate::scripted::{Call, OWN_NETNS, Scripted, error_of};

fn assert_refused(call: &Call, code: u32, words: &[&str]) {
    let document = call.refusal();
    assert_eq!(document["code"], code, "{document}");
    let text = format!("{}: {}", document["msg"], document["details"]);
    for word in words {
        assert!(text.contains(word), "{word} is not in {text}");
    }
}

#[test]
fn the_environment_comes_first() {
    let call = Call::new("ADD").variable("CNI_CONTAINERID", "").variable("CNI_IFNAME", "");
    assert_refused(&call.key("name", json!(5)), 4, &["CNI_CONTAINERID, CNI_IFNAME"]);
    assert_refused(&Call::new("ADD").variable("CNI_NETNS", ""), 4, &["CNI_NETNS"]);
    assert_refused(&Call::new("CHECK").variable("CNI_NETNS", ""), 4, &["CNI_NETNS"]);
    assert_refused(&Call::new("DEL").variable("CNI_IFNAME", "a/b"), 4, &["CNI_IFNAME", "a/b"]);
    assert_refused(&Call::new("DEL").variable("CNI_CONTAINERID", "-"), 4, &["CNI_CONTAINERID"]);
    assert_refused(&Call::new("GC").variable("CNI_PATH", ""), 4, &["CNI_PATH"]);
    assert_refused(&Call::new("ADD").variable("CNI_ARGS", "x"), 4, &["CNI_ARGS"]);
    assert_refused(&Call::new("UPDATE"), 4, &["UPDATE", "ADD, DEL, CHECK, GC, STATUS, VERSION"]);
}

#[test]
fn then_standard_input() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the cable is cut"))
        }
    }
    let plugin = Scripted::default();
    let document = error_of(&Call::new("ADD").run_with_stdin(&plugin, &mut Broken));
    assert_eq!(document["code"], 5);
    assert_eq!(document["details"], "the cable is cut");

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
        assert_refused(&Call::new(command).without_key("name"), 7, &["\\\"name\\\""]);
        let old = Call::new(command).key("name", json!("my net")).key("cniVersion", json!("9.9.9"));
        assert_refused(&old, 7, &["my net", "letter or a digit"]);
        let unknown = Call::new(command).key("cniVersion", json!("9.9.9")).key("type", json!(5));
        assert_refused(&unknown, 1, &["9.9.9", "1.1.0"]);
        assert_refused(&Call::new(command).key("cniVersion", json!(1)), 6, &["cniVersion"]);
    }
    for command in ["ADD", "DEL"] {
        let words = ["0.2.0", "0.3.1, 0.4.0, 1.0.0, 1.1.0"];
        assert_refused(&Call::new(command).key("cniVersion", json!("0.2.0")), 1, &words);
        assert_refused(&Call::new(command).without_key("cniVersion"), 1, &["0.1.0"]);
    }
    for (command, version, needs) in
        [("CHECK", "0.3.1", "0.4.0"), ("GC", "1.0.0", "1.1.0"), ("STATUS", "1.0.0", "1.1.0")]
    {
        let call = Call::new(command).key("cniVersion", json!(version));
        assert_refused(&call, 1, &[command, version, needs]);
        assert_eq!(call.refusal()["cniVersion"], version);
    }
}

#[test]
fn then_the_other_keys() {
    for command in ["ADD", "CHECK", "GC", "STATUS"] {
        let call = || Call::new(command);
        assert_refused(&call().without_key("type"), 7, &["\\\"type\\\""]);
        assert_refused(&call().key("ipMasq", json!("no")), 7, &["ipMasq", "boolean"]);
        // Of the plugin's own.
        assert_refused(&call().key("panics", json!("no")), 7, &["panics", "does not fit", "expected a boolean"]);
    }
    assert_refused(&Call::new("ADD").key("prevResult", json!([])), 7, &["prevResult"]);
    assert_refused(&Call::new("CHECK").without_key("prevResult"), 7, &["CHECK", "prevResult"]);
    assert_refused(&Call::new("GC").key("cni.dev/valid-attachments", json!({})), 7, &["valid-attachments"]);
    // The error document is in the configuration's version wherever that is known.
    let call = Call::new("ADD").key("cniVersion", json!("0.4.0"));
    assert_eq!(call.key("name", json!("-")).refusal()["cniVersion"], "0.4.0");
}

#[test]
fn then_the_namespace() {
    for command in ["ADD", "CHECK"] {
        let at = |path| Call::new(command).variable("CNI_NETNS", path);
        assert_refused(&at("/nonexistent"), 8, &["CNI_NETNS", "/nonexistent", "No such file"]);
        assert_refused(&at("/dev/null"), 8, &["CNI_NETNS", "/dev/null", "not a network namespace"]);
        assert_refused(&at("/proc/self/ns/mnt"), 8, &["not a network namespace"]);
    }
    for command in ["ADD", "CHECK"] {
        for value in ["", "0", "yes"] {
            let call = Call::new(command).variable("CNI_NETNS_OVERRIDE", value);
            assert_refused(&call, 8, &["CNI_NETNS", OWN_NETNS, "CNI_NETNS_OVERRIDE=1"]);
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
fn del_goes_on_without_a_namespace_that_is_the_plugins_own() {
    for (value, netns) in [("0", "netns=None".to_owned()), ("1", format!("netns=Some({OWN_NETNS:?})"))] {
        let plugin = Scripted::default();
        let call = Call::new("DEL").variable("CNI_NETNS_OVERRIDE", value);
        assert_eq!(call.run(&plugin).exit_code, 0);
        assert!(plugin.calls()[0].contains(&netns), "{:?}", plugin.calls());
    }
}
