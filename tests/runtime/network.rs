use std::fs;

use cnikit::runtime::{Error, NetworkConfigList};
use cnikit::spec::Version;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::network;

fn rejected(json: &Value) -> String {
    NetworkConfigList::parse(json.to_string()).unwrap_err().to_string()
}

fn version_of(version: &Value, versions: &Value) -> Result<Version, Error> {
    let list = json!({"cniVersion": version, "cniVersions": versions, "name": "n", "plugins": [{"type": "a"}]});
    Ok(NetworkConfigList::parse(list.to_string())?.cni_version)
}

#[test]
fn the_highest_known_version_counts() {
    let cases = [
        (json!("0.4.0"), json!(null), Version::V0_4_0),
        (json!(null), json!(null), Version::V0_1_0),
        (json!(""), json!(["0.3.1", "1.0.0"]), Version::V1_0_0),
        (json!("1.0.0"), json!(["0.3.1", "0.4.0"]), Version::V1_0_0),
        (json!("0.3.1"), json!(["1.1.0", "9.0.0"]), Version::V1_1_0),
        (json!("9.0.0"), json!(["0.4.0", "1.0.0"]), Version::V1_0_0),
    ];
    for (version, versions, expected) in cases {
        assert_eq!(version_of(&version, &versions).unwrap(), expected, "{version} {versions}");
    }
    version_of(&json!("9.0.0"), &json!(["9.1.0"])).unwrap_err();
    version_of(&json!(1), &json!(["1.0.0"])).unwrap_err();
    version_of(&json!("1.0.0"), &json!("1.0.0")).unwrap_err();
}

#[test]
fn flags_are_booleans_or_strings() {
    for (value, expected) in
        [(json!(true), true), (json!("True"), true), (json!(false), false), (json!("false"), false)]
    {
        let list = json!({"name": "n", "disableCheck": value, "disableGC": value, "plugins": [{"type": "a"}]});
        let network = network(&list);
        assert_eq!((network.disable_check, network.disable_gc), (expected, expected), "{value}");
    }
    let list = json!({"name": "n", "disableGC": "perhaps", "plugins": [{"type": "a"}]});
    assert!(rejected(&list).contains("\"disableGC\" is not valid"), "{}", rejected(&list));
}

#[test]
fn a_single_plugin_is_a_list_of_one() {
    let network = network(&json!({"cniVersion": "1.0.0", "name": "n", "type": "bridge", "bridge": "cni0"}));
    assert_eq!((network.plugins.len(), network.plugins[0].plugin_type.as_str()), (1, "bridge"));
    let again = NetworkConfigList::parse(network.as_bytes()).unwrap();
    assert_eq!((again.cni_version, again.plugins.len()), (Version::V1_0_0, 1));
}

#[test]
fn only_true_capabilities_are_declared() {
    let network = network(&json!({"name": "n", "plugins": [
        {"type": "a", "capabilities": {"mac": true, "ips": false}}, {"type": "a", "capabilities": {"portMappings": true}},
    ]}));
    assert_eq!(Vec::from_iter(network.capabilities()), ["mac", "portMappings"]);
}

#[test]
fn errors_name_the_cause() {
    let cases = [
        (json!([]), "is not a JSON object"),
        (json!({"plugins": [{"type": "a"}]}), "no \"name\""),
        (json!({"name": "a/b", "plugins": [{"type": "a"}]}), "\"name\" is not valid: network name \"a/b\""),
        (json!({"name": "n", "plugins": []}), "network n has no plugins"),
        (json!({"name": "n", "loadOnlyInlinedPlugins": true}), "network n has no plugins"),
        (json!({"name": "n", "plugins": [{"type": "a"}, {}]}), "\"plugins[1]\" of the network configuration"),
        (json!({"name": "n", "plugins": [{"type": "../a"}]}), "plugin type \"../a\" is not valid"),
    ];
    for (list, expected) in cases {
        assert!(rejected(&list).contains(expected), "{}", rejected(&list));
    }
}

#[test]
fn a_directory_is_read_in_order_and_a_broken_file_is_named() {
    let dir = TempDir::new().unwrap();
    let write = |name: &str, content: Value| fs::write(dir.path().join(name), content.to_string()).unwrap();
    write("20-b.conf", json!({"cniVersion": "1.0.0", "name": "b", "type": "ptp"}));
    write("10-a.conflist", json!({"name": "a", "plugins": [{"type": "bridge"}]}));
    write("30-a.json", json!({"name": "a", "type": "macvlan"}));
    write("05-no.txt", json!("not a network"));
    let names: Vec<String> =
        NetworkConfigList::load_dir(dir.path()).unwrap().into_iter().map(|one| one.unwrap().name.to_string()).collect();
    assert_eq!(names, ["a", "b", "a"]);
    let first = NetworkConfigList::load(dir.path(), &"a".parse().unwrap()).unwrap();
    assert_eq!(first.plugins[0].plugin_type.as_str(), "bridge");
    let error = NetworkConfigList::load(dir.path(), &"c".parse().unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("network c not found in {}: the directory has a, b, a", dir.path().display())
    );

    write("00-broken.conflist", json!({"name": "c", "plugins": []}));
    NetworkConfigList::load(dir.path(), &"b".parse().unwrap()).unwrap();
    let error = NetworkConfigList::load(dir.path(), &"c".parse().unwrap()).unwrap_err();
    let path = dir.path().join("00-broken.conflist");
    let reason = "network c has no plugins: list them under \"plugins\"";
    assert_eq!(error.to_string(), format!("{} is not valid: {reason}", path.display()));
    assert!(NetworkConfigList::load_dir(&dir.path().join("nonexistent")).unwrap().is_empty());
}

#[test]
fn plugins_from_separate_files_are_appended() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("n")).unwrap();
    let plugin = |name: &str, plugin: &str| {
        fs::write(dir.path().join("n").join(name), json!({"type": plugin}).to_string()).unwrap();
    };
    plugin("20.conf", "portmap");
    plugin("10.conf", "tuning");
    plugin("30.conflist", "ignored");
    let path = dir.path().join("n.conflist");
    let types = |list: Value| {
        fs::write(&path, list.to_string()).unwrap();
        let network = NetworkConfigList::load_file(&path)?;
        Ok::<_, Error>(network.plugins.iter().map(|one| one.plugin_type.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(types(json!({"name": "n", "plugins": [{"type": "a"}]})).unwrap(), ["a", "tuning", "portmap"]);
    assert_eq!(types(json!({"name": "n"})).unwrap(), ["tuning", "portmap"]);
    let only = json!({"name": "n", "loadOnlyInlinedPlugins": true, "plugins": [{"type": "a"}]});
    assert_eq!(types(only).unwrap(), ["a"]);
    let error = types(json!({"name": "m"})).unwrap_err();
    let reason = "network m has no plugins: list them under \"plugins\"";
    assert_eq!(error.to_string(), format!("{} is not valid: {reason}", path.display()));

    fs::write(dir.path().join("n/15.conf"), "{}").unwrap();
    let error = types(json!({"name": "n"})).unwrap_err();
    let reason = "the network configuration has no \"type\": add it";
    assert_eq!(error.to_string(), format!("{} is not valid: {reason}", dir.path().join("n/15.conf").display()));
}
