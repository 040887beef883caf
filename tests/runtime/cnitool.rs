//! The reference library, through its command `cnitool`, on the same result cache.

use std::path::Path;

use cnikit::runtime::{AttachmentParameters, NetworkConfigList, Runtime};
use cnikit_testbed::{Command, Host, cnitool, host};
use serde_json::json;

use crate::support::Bin;

fn run(_: &Host, cnitool: &Path, bin: &Bin, verb: &str) -> cnikit_testbed::Output {
    Command::new(cnitool)
        .args([verb, "dbnet", "/run/netns/blue"])
        .env("CNI_PATH", bin.path())
        .env("NETCONFPATH", bin.scratch("net.d"))
        .env("CNI_ARGS", "IgnoreUnknown=1;A=1")
        .env("CAP_ARGS", r#"{"mac":"02:00:00:00:00:01"}"#)
        .output()
}

#[test]
fn cnitool_and_this_library_share_attachments() {
    let Some(cnitool) = cnitool() else { return };
    // The cache of cnitool has a fixed path, so the test uses a private host.
    host(|host| {
        let bin = Bin::new();
        bin.succeeding("one", r#"{"cniVersion":"1.1.0","ips":[{"address":"10.1.0.5/16"}],"x-note":"kept"}"#);
        std::fs::create_dir(bin.scratch("net.d")).unwrap();
        let list = json!({"cniVersion": "1.1.0", "name": "dbnet", "plugins": [
            {"type": "one", "capabilities": {"mac": true}}
        ]});
        std::fs::write(bin.scratch("net.d/10-dbnet.conflist"), list.to_string()).unwrap();
        let network = NetworkConfigList::load(&bin.scratch("net.d"), &"dbnet".parse().unwrap()).unwrap();
        let runtime = Runtime::new([bin.path()]);

        // The library checks and deletes an attachment of cnitool.
        let added = run(host, &cnitool, &bin, "add");
        assert!(added.status.success(), "{added:?}");
        let theirs = runtime.result_cache().attachments().unwrap().remove(0);
        assert_eq!(theirs.parameters.netns, Some("/run/netns/blue".into()));
        assert_eq!(theirs.parameters.args.value("A"), Some("1"));
        assert_eq!(theirs.parameters.capability_args["mac"], "02:00:00:00:00:01");
        assert_eq!(NetworkConfigList::parse(theirs.config.unwrap()).unwrap().plugins.len(), 1);
        runtime.check(&network, &theirs.parameters).unwrap();
        assert_eq!(bin.stdin("one", "CHECK")["prevResult"]["ips"][0]["address"], "10.1.0.5/16");
        assert_eq!(bin.stdin("one", "CHECK")["runtimeConfig"], json!({"mac": "02:00:00:00:00:01"}));
        runtime.del(&network, &theirs.parameters).unwrap();
        assert!(runtime.result_cache().attachments().unwrap().is_empty());

        // cnitool checks and deletes an attachment of the library.
        let ours = runtime.add(&network, &theirs.parameters).unwrap();
        let checked = run(host, &cnitool, &bin, "check");
        assert!(checked.status.success(), "{checked:?}");
        assert_eq!(bin.stdin("one", "CHECK")["prevResult"]["ips"][0]["address"], ours.ips[0].address.to_string());
        let deleted = run(host, &cnitool, &bin, "del");
        assert!(deleted.status.success(), "{deleted:?}");
        assert_eq!(bin.stdin("one", "DEL")["prevResult"]["ips"][0]["address"], ours.ips[0].address.to_string());
        assert!(runtime.result_cache().attachments().unwrap().is_empty());

        // cnitool gc collects an undeleted attachment, with the DEL that the cache records.
        runtime.add(&network, &theirs.parameters).unwrap();
        let before = bin.calls().len();
        let collected = run(host, &cnitool, &bin, "gc");
        assert!(collected.status.success(), "{collected:?}");
        assert_eq!(bin.calls()[before..], ["one DEL", "one GC"]);
        assert_eq!(bin.variable("one", "DEL", "CNI_ARGS").as_deref(), Some("IgnoreUnknown=1;A=1"));
        assert!(runtime.result_cache().attachments().unwrap().is_empty());

        let status = run(host, &cnitool, &bin, "status");
        assert!(status.status.success(), "{status:?}");
        runtime.status(&network).unwrap();
    });
}

/// cnitool derives the container id from the path of the namespace: `cnitool-` and hexadecimal
/// digits. Network `a` with that container has the same file name as network `a-cnitool` with the
/// digits as container id.
#[test]
fn records_of_cnitool_are_not_overwritten() {
    let Some(cnitool) = cnitool() else { return };
    host(|_| {
        let bin = Bin::new();
        bin.succeeding("one", r#"{"cniVersion":"1.1.0","ips":[{"address":"10.1.0.5/16"}]}"#);
        std::fs::create_dir(bin.scratch("net.d")).unwrap();
        for name in ["a", "a-cnitool"] {
            let list = json!({"cniVersion": "1.1.0", "name": name, "plugins": [{"type": "one"}]});
            std::fs::write(bin.scratch(&format!("net.d/{name}.conflist")), list.to_string()).unwrap();
        }
        let runtime = Runtime::new([bin.path()]);
        let call = |verb: &str| {
            let command = Command::new(&cnitool).args([verb, "a", "/run/netns/blue"]).env("CNI_PATH", bin.path());
            let output = command.env("NETCONFPATH", bin.scratch("net.d")).output();
            assert!(output.status.success(), "{verb}: {output:?}");
        };
        call("add");
        let theirs = runtime.result_cache().attachments().unwrap().remove(0);
        let digits = theirs.parameters.container_id.as_str().strip_prefix("cnitool-").unwrap().to_owned();
        let network = NetworkConfigList::load(&bin.scratch("net.d"), &"a-cnitool".parse().unwrap()).unwrap();
        let ours = AttachmentParameters::new(digits.parse().unwrap(), theirs.parameters.ifname.clone())
            .netns("/run/netns/red");

        bin.succeeding("one", r#"{"cniVersion":"1.1.0","ips":[{"address":"10.1.0.6/16"}]}"#);
        runtime.add(&network, &ours).unwrap();
        assert_eq!(runtime.result_cache().attachments().unwrap().len(), 2);
        // cnitool and the library each find their own record.
        call("check");
        assert_eq!(bin.stdin("one", "CHECK")["prevResult"]["ips"][0]["address"], "10.1.0.5/16");
        runtime.check(&network, &ours).unwrap();
        assert_eq!(bin.stdin("one", "CHECK")["prevResult"]["ips"][0]["address"], "10.1.0.6/16");
        call("del");
        assert_eq!(bin.stdin("one", "DEL")["prevResult"]["ips"][0]["address"], "10.1.0.5/16");
        let left = runtime.result_cache().attachments().unwrap();
        assert_eq!(left.iter().map(|cached| &cached.parameters).collect::<Vec<_>>(), [&ours]);

        // cnitool gc lists the library's file, and sends the DEL that its content describes.
        let output = Command::new(&cnitool)
            .args(["gc", "a-cnitool", "/run/netns/blue"])
            .env("CNI_PATH", bin.path())
            .env("NETCONFPATH", bin.scratch("net.d"))
            .output();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(bin.stdin("one", "DEL")["prevResult"], serde_json::Value::Null);
        runtime.del(&network, &ours).unwrap();
        assert!(runtime.result_cache().attachments().unwrap().is_empty());
    });
}
