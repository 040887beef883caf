//! The reference library, as its command `cnitool`, on the same result cache.
//!
//! `go install github.com/containernetworking/cni/cnitool@v1.3.0` installs it; `CNITOOL` is its path where it is neither
//! in `PATH` nor where Go puts it.

use std::path::PathBuf;

use cnikit::runtime::{NetworkList, Runtime};
use cnikit_testbed::{Command, Host, host};
use serde_json::json;

use crate::support::{Bin, peer};

fn cnitool() -> PathBuf {
    if let Some(path) = std::env::var_os("CNITOOL") {
        return path.into();
    }
    let home = std::env::var_os("HOME").unwrap_or_default();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let go = PathBuf::from(home).join("go/bin");
    let found = std::env::split_paths(&path).chain([go]).map(|dir| dir.join("cnitool")).find(|path| path.is_file());
    found.unwrap_or_else(|| "cnitool".into())
}

fn run(_: &Host, bin: &Bin, verb: &str) -> cnikit_testbed::Output {
    Command::new(cnitool())
        .args([verb, "dbnet", "/run/netns/blue"])
        .env("CNI_PATH", bin.path())
        .env("NETCONFPATH", bin.scratch("net.d"))
        .env("CNI_ARGS", "IgnoreUnknown=1;A=1")
        .env("CAP_ARGS", r#"{"mac":"02:00:00:00:00:01"}"#)
        .output()
}

#[test]
fn cnitool_and_this_library_find_each_others_attachments() {
    if !peer(&cnitool()) {
        return;
    }
    // The cache of cnitool is at a fixed place, of which this host has its own.
    host(|host| {
        let bin = Bin::new();
        bin.answering("one", r#"{"cniVersion":"1.1.0","ips":[{"address":"10.1.0.5/16"}],"x-note":"kept"}"#);
        std::fs::create_dir(bin.scratch("net.d")).unwrap();
        let list = json!({"cniVersion": "1.1.0", "name": "dbnet", "plugins": [
            {"type": "one", "capabilities": {"mac": true}}
        ]});
        std::fs::write(bin.scratch("net.d/10-dbnet.conflist"), list.to_string()).unwrap();
        let network = NetworkList::load(&bin.scratch("net.d"), &"dbnet".parse().unwrap()).unwrap();
        let runtime = Runtime::new([bin.path()]);

        // What cnitool attached, we check and delete, as it was attached.
        let added = run(host, &bin, "add");
        assert!(added.status.success(), "{added:?}");
        let theirs = runtime.cache().attachments().unwrap().remove(0);
        assert_eq!(theirs.parameters.netns, Some("/run/netns/blue".into()));
        assert_eq!(theirs.parameters.args.value("A"), Some("1"));
        assert_eq!(theirs.parameters.capability_args["mac"], "02:00:00:00:00:01");
        assert_eq!(NetworkList::parse(theirs.config.unwrap()).unwrap().plugins.len(), 1);
        runtime.check(&network, &theirs.parameters).unwrap();
        assert_eq!(bin.stdin("one", "CHECK")["prevResult"]["ips"][0]["address"], "10.1.0.5/16");
        assert_eq!(bin.stdin("one", "CHECK")["runtimeConfig"], json!({"mac": "02:00:00:00:00:01"}));
        runtime.del(&network, &theirs.parameters).unwrap();
        assert!(runtime.cache().attachments().unwrap().is_empty());

        // What we attached, cnitool checks and deletes.
        let ours = runtime.add(&network, &theirs.parameters).unwrap();
        let checked = run(host, &bin, "check");
        assert!(checked.status.success(), "{checked:?}");
        assert_eq!(bin.stdin("one", "CHECK")["prevResult"]["ips"][0]["address"], ours.ips[0].address.to_string());
        let deleted = run(host, &bin, "del");
        assert!(deleted.status.success(), "{deleted:?}");
        assert_eq!(bin.stdin("one", "DEL")["prevResult"]["ips"][0]["address"], ours.ips[0].address.to_string());
        assert!(runtime.cache().attachments().unwrap().is_empty());

        // And it collects what we forgot to delete: by the DEL that is recorded in the cache.
        runtime.add(&network, &theirs.parameters).unwrap();
        let before = bin.calls().len();
        let collected = run(host, &bin, "gc");
        assert!(collected.status.success(), "{collected:?}");
        assert_eq!(bin.calls()[before..], ["one DEL", "one GC"]);
        assert_eq!(bin.variable("one", "DEL", "CNI_ARGS").as_deref(), Some("IgnoreUnknown=1;A=1"));
        assert!(runtime.cache().attachments().unwrap().is_empty());

        let status = run(host, &bin, "status");
        assert!(status.status.success(), "{status:?}");
        runtime.status(&network).unwrap();
    });
}
