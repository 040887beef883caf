//! The reference library as the runtime: its command `cnitool`, with its own cache and
//! configuration.

use std::path::{Path, PathBuf};

use cnikit_testbed::{Command, Namespace, Output, Pod, cnitool};
use serde_json::{Value, json};

use crate::support::{NAME, Network, bin, on_host};

/// `cnitool` with a network of this plugin alone.
struct CniTool {
    program: PathBuf,
    configs: PathBuf,
}

impl CniTool {
    fn new(program: &Path, network: &Network) -> Self {
        let configs = network.host.scratch();
        let list = json!({ "cniVersion": "1.1.0", "name": NAME, "plugins": [network.config] });
        std::fs::write(configs.join("10-blackbox.conflist"), list.to_string()).expect("the configuration is written");
        Self { program: program.to_owned(), configs }
    }

    #[track_caller]
    fn call(&self, verb: &str, pod: &Pod) -> Output {
        let command = Command::new(&self.program).args([verb, NAME]).arg(pod.netns());
        command.env("CNI_PATH", bin()).env("NETCONFPATH", &self.configs).output()
    }

    #[track_caller]
    fn add(&self, pod: &Pod) -> Value {
        let stdout = self.succeeds("add", pod);
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
    }

    #[track_caller]
    fn succeeds(&self, verb: &str, pod: &Pod) -> String {
        let output = self.call(verb, pod);
        assert!(output.status.success(), "{verb}: {output:?}");
        output.stdout
    }

    #[track_caller]
    fn fails(&self, verb: &str, pod: &Pod) -> String {
        let output = self.call(verb, pod);
        assert!(!output.status.success(), "{verb}: {output:?}");
        output.stderr
    }
}

#[test]
fn cnitool_attaches_checks_and_detaches() {
    let Some(program) = cnitool() else { return };
    on_host(|network| {
        let cnitool = CniTool::new(&program, network);
        let pod = network.host.pod();
        let result = cnitool.add(&pod);
        assert_eq!(result["cniVersion"], "1.1.0");
        let address = result["ips"][0]["address"].as_str().expect("the result has an address");
        assert_eq!(pod.addresses("eth0"), [address]);
        cnitool.succeeds("check", &pod);

        pod.ip(&format!("address del {address} dev eth0"));
        let message = cnitool.fails("check", &pod);
        assert!(message.contains(address), "{message}");

        cnitool.succeeds("del", &pod);
        assert!(pod.link("eth0").is_none() && network.taken().is_empty());
        cnitool.succeeds("del", &pod);
    });
}

#[test]
fn cnitool_removes_its_own_attachments_and_no_others() {
    let Some(program) = cnitool() else { return };
    on_host(|network| {
        let cnitool = CniTool::new(&program, network);
        // An attachment of another runtime. `cnitool` passes no list, and a missing list removes
        // nothing.
        let other = network.attach("other");
        let pod = network.host.pod();
        cnitool.add(&pod);
        assert_eq!(network.taken().len(), 2);
        cnitool.succeeds("gc", &pod);
        assert!(pod.link("eth0").is_none());
        assert_eq!(network.taken().into_iter().collect::<Vec<_>>(), [other.address()]);
        network.check(&other).silent();
        network.detach(&other);
    });
}

#[test]
fn cnitool_receives_the_error_of_an_exhausted_pool() {
    let Some(program) = cnitool() else { return };
    on_host(|network| {
        network.host.keep("route 10.99.0.0/30 ");
        // The gateway has one of the two addresses.
        let config = network.with("subnet", "10.99.0.0/30");
        let cnitool = CniTool::new(&program, &Network { host: network.host, plugin: network.plugin.clone(), config });
        let (one, two) = (network.host.pod(), network.host.pod());
        cnitool.succeeds("status", &one);
        cnitool.add(&one);
        for (verb, pod) in [("status", &one), ("add", &two)] {
            let message = cnitool.fails(verb, pod);
            assert!(message.contains("10.99.0.0/30"), "{message}");
        }
        cnitool.succeeds("check", &one);
        cnitool.succeeds("del", &one);
        cnitool.succeeds("status", &one);
    });
}
