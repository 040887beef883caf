//! A plugin that delegates, called through `dispatch`, and its delegate as a process.

use std::cell::RefCell;
use std::ffi::OsString;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use cnikit::plugin::{
    AddRequest, CheckRequest, DelRequest, GcRequest, Output, Plugin, PluginError, PluginInfo, StatusRequest, dispatch,
};
use cnikit::runtime::{Delegable, Delegate, Error, Prior};
use cnikit::spec::{AddResult, ErrorCode};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::support::{Bin, RESULT};

/// Delegates every verb, and then fails its own part of an `ADD` if configured.
pub(crate) struct Delegating {
    pub(crate) prior: Prior,
    pub(crate) own_part: Result<(), ErrorCode>,
    pub(crate) timeout: Option<Duration>,
    /// The delegate's configuration, instead of the plugin's own.
    pub(crate) config: Option<Value>,
    /// The result of the delegate's `ADD`.
    pub(crate) seen: RefCell<Option<AddResult>>,
}

impl Delegating {
    pub(crate) fn new(prior: Prior) -> Self {
        Self { prior, own_part: Ok(()), timeout: None, config: None, seen: RefCell::default() }
    }

    pub(crate) fn failing(prior: Prior) -> Self {
        Self { own_part: Err(ErrorCode::plugin_specific(123)), ..Self::new(prior) }
    }

    fn ipam<'r, R: Delegable>(&self, request: &'r R) -> Result<Option<Delegate<'r, R>>, Error> {
        let Some(mut ipam) = Delegate::ipam(request)? else { return Ok(None) };
        if let Some(timeout) = self.timeout {
            ipam = ipam.timeout(timeout);
        }
        if let Some(config) = &self.config {
            ipam = ipam.config(config.clone().try_into()?);
        }
        Ok(Some(ipam))
    }
}

impl Plugin for Delegating {
    type Config = IgnoredAny;

    fn info(&self) -> PluginInfo {
        PluginInfo { name: "delegating", version: "1", summary: "Delegates.", docs: "none" }
    }

    fn add(&self, request: &AddRequest<IgnoredAny>) -> Result<AddResult, PluginError> {
        let Some(ipam) = self.ipam(request)? else { return Ok(AddResult::default()) };
        let addresses = ipam.add(self.prior)?;
        *self.seen.borrow_mut() = Some(addresses.result().clone());
        self.own_part.map_err(|code| PluginError::new(code, "the own part failed"))?;
        Ok(addresses.commit())
    }

    fn del(&self, request: &DelRequest<IgnoredAny>) -> Result<(), PluginError> {
        Ok(self.ipam(request)?.map_or(Ok(()), |ipam| ipam.del())?)
    }

    fn check(&self, request: &CheckRequest<IgnoredAny>) -> Result<(), PluginError> {
        Ok(self.ipam(request)?.map_or(Ok(()), |ipam| ipam.check())?)
    }

    fn gc(&self, request: &GcRequest<IgnoredAny>) -> Result<(), PluginError> {
        Ok(self.ipam(request)?.map_or(Ok(()), |ipam| ipam.gc())?)
    }

    fn status(&self, request: &StatusRequest<IgnoredAny>) -> Result<(), PluginError> {
        Ok(self.ipam(request)?.map_or(Ok(()), |ipam| ipam.status())?)
    }
}

/// Calls the plugin as a runtime does, with this `CNI_PATH` and the test's own namespace as the
/// container's.
pub(crate) fn call(plugin: &Delegating, verb: &str, path: &str, config: &Value) -> Output {
    let own = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
    let netns = format!("/proc/{}/fd/{}", std::process::id(), own.as_raw_fd());
    let variable = |name: &str| -> Option<OsString> {
        let value = match name {
            "CNI_COMMAND" => verb,
            "CNI_CONTAINERID" => "c1",
            "CNI_NETNS" => &netns,
            "CNI_NETNS_OVERRIDE" => "1",
            "CNI_IFNAME" => "eth0",
            "CNI_ARGS" => "IgnoreUnknown=1;A=1",
            "CNI_PATH" => path,
            _ => return None,
        };
        Some(value.into())
    };
    dispatch(plugin, &variable, &mut config.to_string().as_bytes())
}

pub(crate) fn json_of(output: &Output) -> Value {
    if output.stdout.is_empty() { Value::Null } else { serde_json::from_slice(&output.stdout).unwrap() }
}

fn config() -> Value {
    json!({"cniVersion": "1.1.0", "name": "dbnet", "type": "delegating", "mine": true,
           "ipam": {"type": "fake", "pool": "a"}})
}

fn on(bin: &Bin, plugin: &Delegating, verb: &str, config: &Value) -> Output {
    call(plugin, verb, &bin.path().display().to_string(), config)
}

#[test]
fn the_delegate_receives_the_same_call() {
    let bin = Bin::new();
    bin.succeeding("fake", RESULT);
    let plugin = Delegating::new(Prior::Absent);
    let output = on(&bin, &plugin, "ADD", &config());
    assert_eq!((output.exit_code, &json_of(&output)["ips"][0]["address"]), (0, &json!("10.1.0.5/16")));
    let mut check = config();
    check["prevResult"] = json_of(&output);
    let mut gc = config();
    gc["cni.dev/valid-attachments"] = json!([]);
    for (verb, config) in [("CHECK", &check), ("DEL", &config()), ("GC", &gc), ("STATUS", &config())] {
        let output = on(&bin, &plugin, verb, config);
        assert_eq!((output.exit_code, output.stdout.as_slice()), (0, b"".as_slice()), "{verb}");
        assert_eq!(bin.stdin("fake", verb), *config, "{verb}");
        assert_eq!(bin.variable("fake", verb, "CNI_COMMAND").as_deref(), Some(verb));
    }
    assert_eq!(bin.stdin("fake", "ADD"), config());
    assert_eq!(bin.calls(), ["fake ADD", "fake CHECK", "fake DEL", "fake GC", "fake STATUS"]);
    for verb in ["ADD", "CHECK", "DEL"] {
        let expected = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_ARGS", "IgnoreUnknown=1;A=1")];
        for (name, value) in expected {
            assert_eq!(bin.variable("fake", verb, name).as_deref(), Some(value), "{verb} {name}");
        }
    }
    assert!(bin.variable("fake", "ADD", "CNI_NETNS").unwrap().starts_with("/proc/"));
    assert_eq!(bin.variable("fake", "GC", "CNI_PATH"), Some(bin.path().display().to_string()));
}

#[test]
fn another_configuration_reaches_the_delegate_and_its_rollback() {
    let bin = Bin::new();
    bin.succeeding("fake", r#"{"ip4":{"ip":"10.2.0.5/16"}}"#);
    let own = json!({"cniVersion": "0.2.0", "name": "inner", "type": "fake", "subnet": "10.2.0.0/16"});
    let plugin = Delegating { config: Some(own.clone()), ..Delegating::failing(Prior::Absent) };
    assert_eq!(json_of(&on(&bin, &plugin, "ADD", &config()))["code"], 123);
    assert_eq!(bin.calls(), ["fake ADD", "fake DEL"]);
    assert_eq!((bin.stdin("fake", "ADD"), bin.stdin("fake", "DEL")), (own.clone(), own));
    // The result has the form of 0.2.0, which the plugin's own version does not define.
    assert_eq!(plugin.seen.take().unwrap().ips[0].address.to_string(), "10.2.0.5/16");

    let own = json!({"cniVersion": "1.1.0", "name": "inner", "type": "fake", "cni.dev/valid-attachments": []});
    let plugin = Delegating { config: Some(own.clone()), ..Delegating::new(Prior::Absent) };
    let mut check = config();
    check["prevResult"] = json!({"cniVersion": "1.1.0"});
    let mut gc = config();
    gc["cni.dev/valid-attachments"] = json!([{"containerID": "c1", "ifname": "eth0"}]);
    for (verb, config) in [("CHECK", &check), ("DEL", &config()), ("GC", &gc), ("STATUS", &config())] {
        assert_eq!(on(&bin, &plugin, verb, config).exit_code, 0, "{verb}");
        assert_eq!(bin.stdin("fake", verb), own, "{verb}");
    }
}

#[test]
fn another_configuration_without_valid_attachments_does_not_reach_gc() {
    let bin = Bin::new();
    bin.succeeding("fake", RESULT);
    let own = json!({"cniVersion": "1.1.0", "name": "inner", "type": "fake"});
    let plugin = Delegating { config: Some(own), ..Delegating::new(Prior::Absent) };
    let mut gc = config();
    gc["cni.dev/valid-attachments"] = json!([]);
    let error = json_of(&on(&bin, &plugin, "GC", &gc));
    assert!(error["msg"].as_str().unwrap().contains("cni.dev/valid-attachments"), "{error}");
    assert_eq!(bin.calls(), [""; 0]);
    // `cnitool gc` sends no list either.
    assert_eq!(on(&bin, &plugin, "GC", &config()).exit_code, 0);
    assert_eq!(bin.calls(), ["fake GC"]);
}

#[test]
fn without_a_type_no_delegate_is_called() {
    let bin = Bin::new();
    for ipam in [Value::Null, json!({}), json!({"type": ""})] {
        let mut config = config();
        config["ipam"] = ipam;
        assert_eq!(on(&bin, &Delegating::new(Prior::Absent), "ADD", &config).exit_code, 0);
    }
    let mut config = config();
    config["ipam"]["type"] = json!("../fake");
    let error = json_of(&on(&bin, &Delegating::new(Prior::Absent), "DEL", &config));
    assert_eq!(error["code"], 7);
}

#[test]
fn the_delegates_own_error_is_passed_on() {
    let bin = Bin::new();
    bin.failing("fake", "ADD", 11);
    let output = on(&bin, &Delegating::new(Prior::Unknown), "ADD", &config());
    let error = json_of(&output);
    assert_eq!((output.exit_code, &error["code"]), (1, &json!(11)));
    assert!(error["msg"].as_str().unwrap().ends_with("failed ADD with code 11: fake is broken: really"), "{error}");

    let mut config = config();
    config["ipam"]["type"] = json!("missing");
    let error = json_of(&on(&bin, &Delegating::new(Prior::Absent), "STATUS", &config));
    assert!(error["msg"].as_str().unwrap().starts_with("plugin missing not found in "), "{error}");
}

#[test]
fn an_error_is_rolled_back_if_nothing_existed_before() {
    let bin = Bin::new();
    bin.succeeding("fake", RESULT);
    let output = on(&bin, &Delegating::failing(Prior::Absent), "ADD", &config());
    assert_eq!(json_of(&output)["code"], 123);
    assert_eq!(bin.calls(), ["fake ADD", "fake DEL"]);
    assert_eq!(bin.stdin("fake", "DEL"), config());

    bin.failing("fake", "ADD", 11);
    on(&bin, &Delegating::new(Prior::Absent), "ADD", &config());
    assert_eq!(bin.calls()[2..], ["fake ADD", "fake DEL"]);

    bin.failing("fake", "ADD|DEL", 11);
    let error = json_of(&on(&bin, &Delegating::new(Prior::Absent), "ADD", &config()));
    assert_eq!(error["code"], 11);
    let path = bin.path().join("fake");
    let expected = format!(
        "{0} failed ADD with code 11: fake is broken: really; \
         the rollback failed too: {0} failed DEL for the same reason",
        path.display()
    );
    assert_eq!(error["msg"], expected);
}

#[test]
fn an_error_releases_nothing_if_the_attachment_may_have_existed() {
    let bin = Bin::new();
    bin.succeeding("fake", RESULT);
    on(&bin, &Delegating::failing(Prior::Unknown), "ADD", &config());
    bin.failing("fake", "ADD", 11);
    on(&bin, &Delegating::new(Prior::Unknown), "ADD", &config());
    assert_eq!(bin.calls(), ["fake ADD", "fake ADD"]);
}

#[test]
fn del_reaches_the_delegate_despite_other_errors() {
    let bin = Bin::new();
    bin.succeeding("fake", RESULT);
    let mut config = config();
    config["dns"] = json!("wrong");
    config["prevResult"] = json!(7);
    let output = on(&bin, &Delegating::new(Prior::Absent), "DEL", &config);
    assert_eq!((output.exit_code, bin.calls()), (0, vec!["fake DEL".to_owned()]));
}

#[test]
fn a_hanging_delegate_is_named() {
    let bin = Bin::new();
    bin.plugin("fake", "sleep 600");
    let plugin = Delegating { timeout: Some(Duration::from_secs(1)), ..Delegating::new(Prior::Unknown) };
    let mut gc = config();
    gc["cni.dev/valid-attachments"] = json!([]);
    for (verb, config) in [("ADD", &config()), ("DEL", &config()), ("GC", &gc), ("STATUS", &config())] {
        let error = json_of(&on(&bin, &plugin, verb, config));
        let expected = format!("/fake was killed: {verb} took longer than 1s");
        assert_eq!(error["code"], 11, "{error}");
        assert!(error["msg"].as_str().unwrap().contains(&expected), "{error}");
    }
}
