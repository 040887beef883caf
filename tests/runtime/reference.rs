//! The reference IPAM plugins as delegates.

use cnikit::runtime::{Invocation, Prior};
use cnikit::spec::{Command, Version};
use cnikit_testbed::tool;
use serde_json::{Value, json};

use crate::delegate::{Delegating, call, json_of};
use crate::support::Bin;

const DIR: &str = "/usr/lib/cni";

fn host_local(bin: &Bin) -> Value {
    json!({"cniVersion": "1.0.0", "name": "dbnet", "type": "delegating", "ipam": {
        "type": "host-local", "dataDir": bin.scratch("leases"),
        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]], "routes": [{"dst": "0.0.0.0/0"}],
    }})
}

fn leases(bin: &Bin) -> Vec<String> {
    let entries = std::fs::read_dir(bin.scratch("leases/dbnet")).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut leases: Vec<String> = names.filter(|name| name.starts_with("10.") || name.starts_with("fd00")).collect();
    leases.sort();
    leases
}

#[test]
fn host_local_serves_as_delegate() {
    if !tool("/usr/lib/cni/host-local") {
        return;
    }
    let bin = Bin::new();
    let config = host_local(&bin);
    let plugin = Delegating::new(Prior::Absent);
    let output = call(&plugin, "ADD", DIR, &config);
    let result = json_of(&output);
    assert_eq!(output.exit_code, 0, "{result}");
    assert_eq!(result["ips"][0], json!({"address": "10.1.0.2/24", "gateway": "10.1.0.1"}));
    assert_eq!(result["ips"][1], json!({"address": "fd00:1::2/64", "gateway": "fd00:1::1"}));
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0"}]));
    assert_eq!(leases(&bin).len(), 2);

    let mut check = config.clone();
    check["prevResult"] = result;
    assert_eq!(json_of(&call(&plugin, "CHECK", DIR, &check)), Value::Null);

    // A second ADD, by a plugin that does not know the first one, releases none of its addresses.
    let error = json_of(&call(&Delegating::new(Prior::Unknown), "ADD", DIR, &config));
    assert!(error["msg"].as_str().unwrap().contains("duplicate allocation is not allowed"), "{error}");
    assert_eq!(leases(&bin).len(), 2);

    assert_eq!(json_of(&call(&plugin, "DEL", DIR, &config)), Value::Null);
    assert_eq!(json_of(&call(&plugin, "DEL", DIR, &config)), Value::Null);
    assert!(leases(&bin).is_empty());
    assert!(json_of(&call(&plugin, "CHECK", DIR, &check))["code"].is_u64());

    // An error of the plugin itself releases the addresses.
    let failing = Delegating::failing(Prior::Absent);
    assert_eq!(json_of(&call(&failing, "ADD", DIR, &config))["code"], 123);
    assert_eq!(failing.seen.borrow().as_ref().unwrap().ips.len(), 2);
    assert!(leases(&bin).is_empty());
}

#[test]
fn static_serves_as_delegate_in_every_supported_version() {
    let path = "/usr/lib/cni/static";
    if !tool(path) {
        return;
    }
    let supported = Invocation::new(path, Command::Version).versions().unwrap();
    assert!(supported.contains(&Version::V0_3_1) && supported.contains(&Version::V1_0_0), "{supported:?}");
    for version in supported.into_iter().filter(|version| *version >= Version::V0_3_1) {
        let config = json!({"cniVersion": version, "name": "dbnet", "type": "delegating", "ipam": {
            "type": "static", "addresses": [{"address": "10.1.0.9/24", "gateway": "10.1.0.1"}],
            "dns": {"nameservers": ["10.1.0.1"]},
        }});
        let plugin = Delegating::new(Prior::Absent);
        let result = json_of(&call(&plugin, "ADD", DIR, &config));
        assert_eq!(result["cniVersion"], json!(version), "{result}");
        assert_eq!(result["ips"][0]["address"], "10.1.0.9/24");
        assert_eq!(result["dns"]["nameservers"], json!(["10.1.0.1"]));
        assert_eq!(json_of(&call(&plugin, "DEL", DIR, &config)), Value::Null);
    }
    let broken = json!({"cniVersion": "1.0.0", "name": "dbnet", "type": "delegating",
                        "ipam": {"type": "static", "addresses": [{"address": "10.1.0.9"}]}});
    let error = json_of(&call(&Delegating::new(Prior::Absent), "ADD", DIR, &broken));
    assert!(error["msg"].as_str().unwrap().contains("CIDR"), "{error}");
}
