//! The network configuration that a runtime derives for one call.

use serde_json::{Map, Value};

use super::Error;
use crate::spec::{NetworkName, Version};

/// The configuration of the plugin under test, without the keys that a runtime sets for each call.
#[derive(Debug, Clone)]
pub(super) struct Config(Map<String, Value>);

impl Config {
    /// Accepts a configuration for one plugin, or takes the first plugin of a list.
    pub(super) fn new(config: Value) -> Result<Self, Error> {
        let wrong = |problem| Error::Config { problem };
        let Value::Object(mut config) = config else { return Err(wrong("is not a JSON object")) };
        if let Some(plugins) = config.remove("plugins") {
            let Some(Value::Object(first)) = plugins.get(0).cloned() else {
                return Err(wrong("has a list \"plugins\" that does not start with an object"));
            };
            let listed = std::mem::replace(&mut config, first);
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
        let config = Self(config);
        if config.0.contains_key("prevResult") {
            return Err(wrong("has a \"prevResult\", and the suite does not test chained plugins"));
        }
        match config.0.get("name").and_then(Value::as_str).map(str::parse::<NetworkName>) {
            Some(Ok(_)) => Ok(config),
            _ => Err(wrong("needs a \"name\" of letters, digits, '_', '.' and '-'")),
        }
    }

    /// The configuration for standard input, in a version.
    pub(super) fn in_version(&self, version: Version) -> Map<String, Value> {
        let mut config = self.0.clone();
        config.insert("cniVersion".to_owned(), version.as_str().into());
        config
    }

    /// The `cniVersion` of the original configuration, if it is valid.
    pub(super) fn stated_version(&self) -> Option<Version> {
        self.0.get("cniVersion")?.as_str()?.parse().ok()
    }

    /// The name of the network.
    pub(super) fn name(&self) -> &str {
        self.0.get("name").and_then(Value::as_str).unwrap_or_default()
    }

    /// The plugin in `ipam.type`.
    pub(super) fn delegate(&self) -> Option<&str> {
        self.0.get("ipam")?.get("type")?.as_str().filter(|kind| !kind.is_empty())
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
        let config = Config::new(list).unwrap().in_version(Version::V0_4_0);
        assert_eq!(Value::from(config), json!({ "cniVersion": "0.4.0", "name": "dbnet", "type": "bridge" }));
    }

    #[test]
    fn invalid_configurations_are_rejected() {
        for config in [json!([]), json!({}), json!({ "name": "a b" }), json!({ "name": "a", "plugins": [] })] {
            Config::new(config).unwrap_err();
        }
    }

    #[test]
    fn a_plugin_delegates_when_it_names_an_ipam_plugin() {
        let delegate = |ipam| Config::new(json!({ "name": "a", "ipam": ipam })).unwrap().delegate().map(str::to_owned);
        assert_eq!(delegate(json!({ "type": "host-local" })).as_deref(), Some("host-local"));
        assert_eq!(delegate(json!({})), None);
    }
}
