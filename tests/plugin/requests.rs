//! Requests that a test builds, compared with the requests of `dispatch`.

use std::fmt::Debug;
use std::sync::Mutex;

use cnikit::plugin::{AddRequest, CheckRequest, DelRequest, GcRequest, Plugin, PluginError, PluginInfo, StatusRequest};
use cnikit::spec::{AddResult, Attachment, Error, RawConfig};
use serde_json::{Value, json};

use crate::scripted::{Call, OWN_NETNS, Scripted};

#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
struct Config {
    bridge: String,
}

/// Keeps the text of its last request.
#[derive(Default)]
struct Keeper(Mutex<String>);

impl Keeper {
    fn keep(&self, request: &dyn Debug) -> Result<(), PluginError> {
        *self.0.lock().unwrap() = format!("{request:?}");
        Ok(())
    }
}

impl Plugin for Keeper {
    type Config = Config;

    fn info(&self) -> PluginInfo {
        Scripted::default().info()
    }
    fn add(&self, request: &AddRequest<Config>) -> Result<AddResult, PluginError> {
        self.keep(request).map(|()| AddResult::default())
    }
    fn del(&self, request: &DelRequest<Config>) -> Result<(), PluginError> {
        self.keep(request)
    }
    fn check(&self, request: &CheckRequest<Config>) -> Result<(), PluginError> {
        self.keep(request)
    }
    fn gc(&self, request: &GcRequest<Config>) -> Result<(), PluginError> {
        self.keep(request)
    }
    fn status(&self, request: &StatusRequest<Config>) -> Result<(), PluginError> {
        self.keep(request)
    }
}

fn attachment() -> Attachment {
    Attachment::new("dbnet".parse().unwrap(), "c1".parse().unwrap(), "eth0".parse().unwrap())
}

fn raw(json: &Value) -> RawConfig {
    RawConfig::try_from(json.clone()).unwrap()
}

/// The request that `dispatch` makes, as text.
fn dispatched(call: Call) -> String {
    let keeper = Keeper::default();
    let output = call.variable("CNI_ARGS", "IP=10.1.0.5").run(&keeper);
    assert_eq!(output.exit_code, 0, "{}", String::from_utf8_lossy(&output.stdout));
    keeper.0.into_inner().unwrap()
}

#[test]
fn a_built_request_is_the_request_of_dispatch() {
    let args = || "IP=10.1.0.5".parse().unwrap();
    let path = || ["/opt/cni/bin".into()];
    let call = |command| Call::new(command).key("bridge", json!("cni0"));

    let add = call("ADD").key("prevResult", json!({"ips": [{"address": "10.1.0.5/16"}]}));
    let built = AddRequest::<Config>::new(attachment(), OWN_NETNS, raw(&add.config)).unwrap();
    assert_eq!(format!("{:?}", built.args(args()).path(path())), dispatched(add));

    let check = call("CHECK");
    let built = CheckRequest::<Config>::new(attachment(), OWN_NETNS, raw(&check.config)).unwrap();
    assert_eq!(format!("{:?}", built.args(args()).path(path())), dispatched(check));

    // DEL takes all readable parts.
    let del = Call::new("DEL").key("bridge", json!(5)).key("prevResult", json!([]));
    let built = DelRequest::<Config>::new(attachment(), Some(OWN_NETNS.into()), raw(&del.config));
    assert!(built.config.is_err() && built.prev_result.is_err() && built.net_conf.is_ok());
    assert_eq!(format!("{:?}", built.args(args()).path(path())), dispatched(del));

    let gc = call("GC").key("cni.dev/valid-attachments", json!([{"containerID": "c1", "ifname": "eth0"}]));
    let built = GcRequest::<Config>::new(raw(&gc.config)).unwrap();
    assert_eq!(built.valid_attachments.list(), Some(&[attachment().key()][..]));
    assert_eq!(format!("{:?}", built.path(path())), dispatched(gc));

    let status = call("STATUS");
    let built = StatusRequest::<Config>::new(raw(&status.config)).unwrap();
    assert_eq!(format!("{:?}", built.path(path())), dispatched(status));
}

#[test]
fn an_invalid_configuration_is_no_request() {
    let config = json!({"cniVersion": "1.1.0", "name": "dbnet", "type": "p"});
    let error = AddRequest::<Config>::new(attachment(), OWN_NETNS, raw(&config)).unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    let config = json!({"cniVersion": "1.1.0", "name": "dbnet", "type": "p", "bridge": "cni0"});
    let error = CheckRequest::<Config>::new(attachment(), OWN_NETNS, raw(&config)).unwrap_err();
    assert!(matches!(error, Error::MissingPrevResult { .. }), "{error}");
    assert!(matches!(RawConfig::try_from(json!([])), Err(Error::NotAnObject)));
}

#[test]
fn a_wrapper_replaces_the_configuration_alone() {
    let config = json!({"cniVersion": "1.1.0", "name": "dbnet", "type": "p", "bridge": "cni0", "prevResult": {}});
    let add = AddRequest::<Config>::new(attachment(), OWN_NETNS, raw(&config)).unwrap();
    let name = |config: Config| config.bridge;
    let mapped = add.clone().map_config(name);
    assert_eq!(mapped.config, "cni0");
    assert_eq!((mapped.attachment, mapped.netns, mapped.prev_result), (add.attachment, add.netns, add.prev_result));

    let mut config = config;
    let del = DelRequest::<Config>::new(attachment(), None, raw(&config)).map_config(name);
    assert_eq!(del.config.unwrap(), "cni0");
    config["bridge"] = json!(5);
    let del = DelRequest::<Config>::new(attachment(), None, raw(&config)).map_config(name);
    assert!(matches!(del.config, Err(Error::InvalidConfig { .. })));
}
