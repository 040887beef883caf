//! Arbitrary bytes on stdin: the parsers return a value or an error. For each verb, `dispatch`
//! writes one JSON document or nothing.

use std::ffi::OsString;

use cnikit::plugin::{AddRequest, CheckRequest, DelRequest, Plugin, PluginError, PluginInfo, dispatch};
use cnikit::spec::{AddResult, RawConfig};

struct Nothing;

impl Plugin for Nothing {
    type Config = serde_json::Value;

    fn info(&self) -> PluginInfo {
        PluginInfo { name: "nothing", version: "0", summary: "", docs: "" }
    }

    fn add(&self, request: &AddRequest<Self::Config>) -> Result<AddResult, PluginError> {
        Ok(request.prev_result.clone().unwrap_or_default())
    }

    fn del(&self, _: &DelRequest<Self::Config>) -> Result<(), PluginError> {
        Ok(())
    }

    fn check(&self, _: &CheckRequest<Self::Config>) -> Result<(), PluginError> {
        Ok(())
    }
}

pub(crate) fn run(input: &[u8]) {
    if let Ok(config) = RawConfig::parse(input) {
        let _ = config.net_conf();
        let _ = config.prev_result();
        let _ = config.valid_attachments();
    }
    for verb in ["ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION"] {
        let variable = |name: &str| -> Option<OsString> {
            let value = match name {
                "CNI_COMMAND" => verb,
                "CNI_CONTAINERID" => "c1",
                "CNI_NETNS" => "/proc/self/ns/net",
                "CNI_NETNS_OVERRIDE" => "1",
                "CNI_IFNAME" => "eth0",
                "CNI_PATH" => "/opt/cni/bin",
                _ => return None,
            };
            Some(value.into())
        };
        let output = dispatch(&Nothing, &variable, &mut &*input);
        if output.exit_code != 0 || !output.stdout.is_empty() {
            serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("one JSON document");
        }
    }
}
