//! The order of the delegate and the pair: a delegate runs while the pod's interface exists.

use std::fs;
use std::path::PathBuf;

use cnikit_testbed::{Namespace, Pod};
use serde_json::{Value, json};

use crate::delegation::write_executable;
use crate::support::{Network, on_host};

/// A network with addresses from a script. The script records each verb, the presence of the pod's
/// interface, and its address.
struct RecordingDelegate<'n> {
    network: &'n Network<'n>,
    config: Value,
    bin: PathBuf,
    records: PathBuf,
}

impl<'n> RecordingDelegate<'n> {
    /// `del` is the script's action for DEL, as shell code.
    fn new(network: &'n Network<'n>, del: &str) -> Self {
        let (bin, records) = (network.host.scratch(), network.host.scratch().join("records"));
        let script = format!(
            "#!/bin/sh\n\
             shown=$(nsenter --net=${{CNI_NETNS:-$NETNS}} ip -o address show dev eth0 2>&1) && is=there || is=gone\n\
             address=$(echo \"$shown\" | sed -n 's/.*inet \\([0-9.]*\\).*/ \\1/p')\n\
             echo \"$CNI_COMMAND $is$address\" >>{}\n\
             case $CNI_COMMAND in\nADD) cat {} ;;\nDEL) {del} ;;\nesac\n",
            records.display(),
            bin.join("answer").display()
        );
        write_executable(&bin.join("recording-ipam"), &script);
        let config = network.with_keys(json!({ "cniVersion": "1.1.0", "ipam": { "type": "recording-ipam" } }));
        let delegate = Self { network, config, bin, records };
        delegate.answer(json!({ "ips": [{ "address": "10.99.0.5/24", "gateway": "10.99.0.1" }] }));
        delegate
    }

    /// The answer of the script.
    fn answer(&self, mut answer: Value) {
        answer["cniVersion"] = "1.1.0".into();
        fs::write(self.bin.join("answer"), answer.to_string()).expect("room");
    }

    fn call(&self, verb: &str, container: &str, pod: &Pod) -> cnikit_testbed::Outcome {
        self.network.plugin.on(verb, &self.config, container, pod).env("CNI_PATH", &self.bin).run()
    }

    /// The records since the last call.
    fn take_records(&self) -> Vec<String> {
        let seen = fs::read_to_string(&self.records).unwrap_or_default();
        fs::write(&self.records, "").expect("room");
        seen.lines().map(str::to_owned).collect()
    }
}

/// The delegate releases the address with the DHCP server through the pod's interface (RFC 2131,
/// section 4.4.6).
#[test]
fn the_delegate_runs_while_the_interface_exists() {
    on_host(|network| {
        let delegate = RecordingDelegate::new(network, "exit 0");
        let pod = network.host.pod();
        delegate.call("ADD", "one", &pod).result();
        delegate.call("DEL", "one", &pod).silent();
        assert_eq!(delegate.take_records(), ["ADD there", "DEL there 10.99.0.5"]);
        delegate.call("DEL", "one", &pod).silent();
        assert_eq!(delegate.take_records(), ["DEL gone"], "a second DEL runs the delegate again");
    });
}

#[test]
fn the_rollback_runs_the_delegate_while_the_interface_exists() {
    on_host(|network| {
        let delegate = RecordingDelegate::new(network, "exit 0");
        // An unreachable next hop.
        delegate.answer(
            json!({ "ips": [{ "address": "10.99.0.5/24" }], "routes": [{ "dst": "10.1.0.0/16", "gw": "192.0.2.1" }] }),
        );
        let pod = network.host.pod();
        let error = delegate.call("ADD", "one", &pod).error(5);
        assert!(error.contains("configure the pod: give eth0 the route to 10.1.0.0/16"), "{error}");
        assert_eq!(delegate.take_records(), ["ADD there", "DEL there 10.99.0.5"]);
        assert!(pod.link("eth0").is_none());
    });
}

#[test]
fn a_failed_delegate_does_not_keep_the_pair() {
    on_host(|network| {
        let delegate = RecordingDelegate::new(
            network,
            "echo '{\"cniVersion\":\"1.1.0\",\"code\":11,\"msg\":\"no server\"}'; exit 1",
        );
        let pod = network.host.pod();
        delegate.call("ADD", "one", &pod).result();
        let error = delegate.call("DEL", "one", &pod).error(11);
        assert!(error.contains("give the address back") && error.contains("no server"), "{error}");
        assert!(pod.link("eth0").is_none());
        assert!(network.map_entries().lines().next().is_none());
    });
}

#[test]
fn gc_runs_the_delegate_while_the_interfaces_exist() {
    on_host(|network| {
        let delegate = RecordingDelegate::new(network, "exit 0");
        let pod = network.host.pod();
        delegate.call("ADD", "one", &pod).result();
        let seen = fs::read_to_string(&delegate.records).expect("the delegate ran");
        assert_eq!(seen.lines().count(), 1);
        let mut config = delegate.config.clone();
        config["cni.dev/valid-attachments"] = json!([]);
        network
            .plugin
            .invocation("GC")
            .env("CNI_PATH", &delegate.bin)
            .env("NETNS", pod.netns())
            .config(&config)
            .run()
            .silent();
        let seen = fs::read_to_string(&delegate.records).expect("the delegate ran");
        assert_eq!(seen.lines().nth(1), Some("GC there 10.99.0.5"));
        assert!(pod.link("eth0").is_none());
    });
}

/// An address is released and assigned again while the old pod still has it.
#[test]
fn an_add_waits_for_the_pod_that_leaves_with_its_address() {
    on_host(|network| {
        let delegate = RecordingDelegate::new(network, "sleep 1");
        let pods = [network.host.pod(), network.host.pod()];
        delegate.call("ADD", "one", &pods[0]).result();
        std::thread::scope(|scope| {
            let del = scope.spawn(|| delegate.call("DEL", "one", &pods[0]));
            std::thread::sleep(std::time::Duration::from_millis(300));
            assert!(pods[0].link("eth0").is_some(), "the old pod exists");
            delegate.call("ADD", "two", &pods[1]).result();
            del.join().expect("the thread ends").silent();
        });
        assert!(pods[0].link("eth0").is_none());
        assert!(network.host.ping("10.99.0.5", 2).status.success(), "the new pod is reachable");
        delegate.call("DEL", "two", &pods[1]).silent();
    });
}

/// A GC releases the addresses of all removed pods before it removes the first pod.
#[test]
fn an_add_waits_for_the_gc_that_removes_the_pod_with_its_address() {
    on_host(|network| {
        let delegate = RecordingDelegate::new(network, "exit 0 ;;\nGC) sleep 1");
        let pods = [network.host.pod(), network.host.pod()];
        delegate.call("ADD", "one", &pods[0]).result();
        let mut config = delegate.config.clone();
        config["cni.dev/valid-attachments"] = json!([]);
        let gc = network.plugin.invocation("GC").env("CNI_PATH", &delegate.bin).env("NETNS", pods[0].netns());
        let gc = gc.config(&config);
        std::thread::scope(|scope| {
            let gc = scope.spawn(|| gc.run());
            std::thread::sleep(std::time::Duration::from_millis(300));
            assert!(pods[0].link("eth0").is_some(), "the old pod exists");
            delegate.call("ADD", "two", &pods[1]).result();
            gc.join().expect("the thread ends").silent();
        });
        assert!(pods[0].link("eth0").is_none());
        assert!(network.host.ping("10.99.0.5", 2).status.success(), "the new pod is reachable");
        delegate.call("DEL", "two", &pods[1]).silent();
    });
}
