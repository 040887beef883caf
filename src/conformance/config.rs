//! The network configuration that a runtime derives for one call.

use serde_json::{Map, Value};

use super::Error;
use crate::spec::{NetworkName, Version};

/// The configuration of the plugin under test, without the keys that a runtime sets for each call.
#[derive(Debug, Clone)]
pub(super) struct Config {
    keys: Map<String, Value>,
    /// Whether a list has another plugin before this one.
    pub(super) follows_another: bool,
}

impl Config {
    /// Accepts a configuration for one plugin. Of a list, takes the plugin with the type
    /// `executable`, or the first plugin if there is none.
    pub(super) fn new(config: Value, executable: &str) -> Result<Self, Error> {
        let wrong = |problem| Error::Config { problem };
        let Value::Object(mut config) = config else { return Err(wrong("is not a JSON object")) };
        let mut follows_another = false;
        if let Some(plugins) = config.remove("plugins") {
            let plugins = plugins.as_array().map(Vec::as_slice).unwrap_or_default();
            let index = plugins.iter().position(|plugin| plugin["type"] == executable).unwrap_or_default();
            follows_another = index > 0;
            let Some(Value::Object(plugin)) = plugins.get(index).cloned() else {
                return Err(wrong("has a list \"plugins\" that does not start with an object"));
            };
            let listed = std::mem::replace(&mut config, plugin);
            for key in ["cniVersion", "name"] {
                if let Some(value) = listed.get(key) {
                    config.insert(key.to_owned(), value.clone());
                }
            }
        }
        // The runtime consumes these keys; a plugin never receives them.
        for key in ["capabilities", "cniVersions", "disableCheck", "disableGC", "loadOnlyInlinedPlugins"] {
            config.remove(key);
        }
        let config = Self { keys: config, follows_another };
        if config.keys.contains_key("prevResult") {
            return Err(wrong("has a \"prevResult\": remove it, the suite sets it for a chained plugin"));
        }
        match config.keys.get("name").and_then(Value::as_str).map(str::parse::<NetworkName>) {
            Some(Ok(_)) => Ok(config),
            _ => Err(wrong("needs a \"name\" of letters, digits, '_', '.' and '-'")),
        }
    }

    /// The configuration for standard input, in a version.
    pub(super) fn in_version(&self, version: Version) -> Map<String, Value> {
        let mut config = self.keys.clone();
        config.insert("cniVersion".to_owned(), version.as_str().into());
        config
    }

    /// The `cniVersion` of the original configuration, if it is valid.
    pub(super) fn stated_version(&self) -> Option<Version> {
        self.keys.get("cniVersion")?.as_str()?.parse().ok()
    }

    /// The name of the network.
    pub(super) fn name(&self) -> &str {
        self.keys.get("name").and_then(Value::as_str).unwrap_or_default()
    }

    /// The plugin in `ipam.type`.
    pub(super) fn delegate(&self) -> Option<&str> {
        self.keys.get("ipam")?.get("type")?.as_str().filter(|kind| !kind.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_plugin_of_a_list_gets_the_lists_name() {
        let list = json!({
            "cniVersion": "1.0.0", "name": "dbnet",
            "plugins": [{ "type": "bridge", "capabilities": { "ips": true } }, { "type": "portmap" }],
        });
        let config = Config::new(list, "other").unwrap().in_version(Version::V0_4_0);
        assert_eq!(Value::from(config), json!({ "cniVersion": "0.4.0", "name": "dbnet", "type": "bridge" }));
    }

    #[test]
    fn the_plugin_of_a_list_is_the_one_with_the_type_of_the_executable() {
        let list = json!({ "name": "dbnet", "plugins": [{ "type": "bridge" }, { "type": "tuning", "mtu": 1400 }] });
        let config = |executable| Config::new(list.clone(), executable).unwrap();
        assert_eq!(config("tuning").in_version(Version::V1_0_0)["mtu"], 1400);
        assert_eq!(["tuning", "bridge", "other"].map(|name| config(name).follows_another), [true, false, false]);
    }

    #[test]
    fn invalid_configurations_are_rejected() {
        for config in [json!([]), json!({}), json!({ "name": "a b" }), json!({ "name": "a", "plugins": [] })] {
            Config::new(config, "any").unwrap_err();
        }
    }

    #[test]
    fn a_plugin_delegates_when_it_names_an_ipam_plugin() {
        let delegate =
            |ipam| Config::new(json!({ "name": "a", "ipam": ipam }), "any").unwrap().delegate().map(str::to_owned);
        assert_eq!(delegate(json!({ "type": "host-local" })).as_deref(), Some("host-local"));
        assert_eq!(delegate(json!({})), None);
    }
}
