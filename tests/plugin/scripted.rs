//! A plugin for tests, and calls of it.

use std::ffi::OsString;
use std::io::Read;
use std::sync::Mutex;

use cnikit::plugin::{
    AddRequest, CheckRequest, DelRequest, GcRequest, Output, Plugin, PluginError, PluginInfo, StatusRequest, dispatch,
};
use cnikit::spec::{AddResult, ErrorCode, Interface, IpConfig, Route, ValidAttachments};
use serde_json::{Value, json};

pub(crate) const OWN_NETNS: &str = "/proc/self/ns/net";

/// Follows the script in its configuration, and records its calls.
#[derive(Default)]
pub(crate) struct Scripted {
    calls: Mutex<Vec<String>>,
}

#[derive(Debug, Clone, Default, serde::Deserialize)]
pub(crate) struct Script {
    #[serde(default)]
    panics: bool,
    #[serde(default)]
    fails: bool,
    #[serde(default)]
    del_fails: bool,
    #[serde(default)]
    table: Option<u32>,
    /// The interface index of the address, instead of the right one.
    #[serde(default)]
    interface: Option<usize>,
}

impl Scripted {
    fn play(&self, call: String, script: &Script) -> Result<(), PluginError> {
        self.calls.lock().unwrap().push(call);
        assert!(!script.panics, "as scripted");
        if script.fails {
            return Err(PluginError::new(ErrorCode::TRY_AGAIN, "the pool is locked").details("by 42"));
        }
        Ok(())
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

impl Plugin for Scripted {
    type Config = Script;

    fn info(&self) -> PluginInfo {
        PluginInfo {
            name: "scripted",
            version: "1.2.3",
            summary: "Follows the script in its configuration.",
            docs: "https://example.org/scripted",
        }
    }

    fn add(&self, request: &AddRequest<Script>) -> Result<AddResult, PluginError> {
        let call = format!("ADD {} {}", request.attachment.container_id, request.netns.display());
        self.play(call, &request.config)?;
        let eth0 = Interface::new(&request.attachment.ifname).sandbox(&request.netns).mtu(1500);
        let mut result = request.prev_result.clone().unwrap_or_default();
        let index = result.push_interface(eth0);
        let index = request.config.interface.unwrap_or(index);
        let mut route = Route::new("0.0.0.0/0".parse().unwrap());
        route.table = request.config.table;
        Ok(result.with_ip(IpConfig::new("10.1.0.5/16".parse().unwrap()).interface(index)).with_route(route))
    }

    fn del(&self, request: &DelRequest<Script>) -> Result<(), PluginError> {
        let readable = |ok: bool| if ok { "ok" } else { "unreadable" };
        let call = format!(
            "DEL {} netns={:?} config={} net_conf={} prev_result={} args={}",
            request.attachment.container_id,
            request.netns,
            readable(request.config.is_ok()),
            readable(request.net_conf.is_ok()),
            readable(request.prev_result.is_ok()),
            readable(request.args.is_ok()),
        );
        let script = request.config.as_ref().cloned().unwrap_or_default();
        let fails = script.fails || script.del_fails;
        self.play(call, &Script { fails, ..script })
    }

    fn check(&self, request: &CheckRequest<Script>) -> Result<(), PluginError> {
        self.play(format!("CHECK {} ips", request.prev_result.ips.len()), &request.config)
    }

    fn gc(&self, request: &GcRequest<Script>) -> Result<(), PluginError> {
        let call = match &request.valid_attachments {
            ValidAttachments::List(list) => format!("GC {} valid", list.len()),
            other => format!("GC {other:?}"),
        };
        self.play(call, &request.config)
    }

    fn status(&self, request: &StatusRequest<Script>) -> Result<(), PluginError> {
        self.play(format!("STATUS {}", request.net_conf.name), &request.config)
    }
}

/// A valid call. Each test invalidates one part of it.
pub(crate) struct Call {
    pub(crate) variables: Vec<(&'static str, String)>,
    pub(crate) config: Value,
}

impl Call {
    pub(crate) fn new(command: &str) -> Self {
        let variables = vec![
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", "c1".to_owned()),
            ("CNI_NETNS", OWN_NETNS.to_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", "/opt/cni/bin".to_owned()),
            ("CNI_NETNS_OVERRIDE", "1".to_owned()),
        ];
        let mut config = json!({"cniVersion": "1.1.0", "name": "dbnet", "type": "scripted"});
        if command == "CHECK" {
            config["prevResult"] = json!({"ips": [{"address": "10.1.0.5/16"}]});
        }
        Self { variables, config }
    }

    pub(crate) fn variable(mut self, name: &'static str, value: &str) -> Self {
        self.variables.retain(|(known, _)| *known != name);
        self.variables.push((name, value.to_owned()));
        self
    }

    pub(crate) fn key(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    pub(crate) fn without_key(mut self, key: &str) -> Self {
        self.config.as_object_mut().unwrap().remove(key);
        self
    }

    pub(crate) fn run(&self, plugin: &impl Plugin) -> Output {
        self.run_with_stdin(plugin, &mut self.config.to_string().as_bytes())
    }

    pub(crate) fn run_with_stdin(&self, plugin: &impl Plugin, stdin: &mut dyn Read) -> Output {
        let variable = |name: &str| {
            let found = self.variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        dispatch(plugin, &variable, stdin)
    }

    /// The error document. Asserts that the plugin was not called.
    pub(crate) fn rejection(&self) -> Value {
        let plugin = Scripted::default();
        let document = error_of(&self.run(&plugin));
        assert_eq!(plugin.calls(), Vec::<String>::new());
        document
    }
}

pub(crate) fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

pub(crate) fn error_of(output: &Output) -> Value {
    let document = json_of(output);
    assert_eq!(output.exit_code, 1, "{document}");
    document
}
