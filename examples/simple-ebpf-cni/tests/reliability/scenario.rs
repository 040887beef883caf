//! The state that the sweeps check between two points.

use std::fs;
use std::path::PathBuf;

use cnikit_testbed::{Footprint, Invocation, Namespace, Pod};
use serde_json::{Value, json};

use crate::support::{Attached, DATA_DIR, NAME, Network, ORPHANS};

/// The container id of the attachment that receives the injections.
pub(crate) const TARGET: &str = "target";

/// Debian's directory of the reference plugins.
pub(crate) const PEERS: &str = "/usr/lib/cni";

/// The file that is the lock of the target, as a line of a footprint begins. A leftover lock has no
/// effect: a call could not remove it, or its holder was killed.
pub(crate) fn lock() -> String {
    format!("file {DATA_DIR}/{NAME}/owners/{TARGET}@eth0.json")
}

/// A network with a pod that stays, and the state of the network at that time.
pub(crate) struct Scenario<'n> {
    network: &'n Network<'n>,
    stays: Attached,
    before: Footprint,
}

impl<'n> Scenario<'n> {
    /// Attaches the pod that stays.
    #[track_caller]
    pub(crate) fn new(network: &'n Network<'n>) -> Self {
        let (first, stays) = (network.attach("first"), network.attach("stays"));
        network.detach(&first);
        Self { network, stays, before: state(network) }
    }

    /// Detaches the pod that stays.
    #[track_caller]
    pub(crate) fn finish(self) {
        self.network.detach(&self.stays);
    }

    /// A new pod for the target.
    pub(crate) fn pod(&self) -> Pod {
        self.network.host.pod()
    }

    /// Attaches the target. Its DEL or GC starts a background process, whether or not orphans are
    /// reaped here.
    #[track_caller]
    pub(crate) fn attach_target(&self) -> Pod {
        let _ = fs::remove_file(ORPHANS);
        self.network.attach(TARGET).pod
    }

    /// A call of a verb for the target.
    pub(crate) fn call(&self, verb: &str, pod: &Pod) -> Invocation {
        self.network.plugin.on(verb, &self.network.config, TARGET, pod)
    }

    /// A GC with the pod that stays as the only valid attachment.
    pub(crate) fn gc(&self) -> Invocation {
        let mut config = self.network.with("cniVersion", "1.1.0");
        config["cni.dev/valid-attachments"] = json!([{ "containerID": "stays", "ifname": "eth0" }]);
        self.network.plugin.invocation("GC").config(&config)
    }

    /// Attaches another container, which must work at once and reach the pod that stays. Detaches
    /// it.
    #[track_caller]
    pub(crate) fn assert_others_work(&self) {
        let other = self.network.attach("other");
        assert_ne!(other.address(), self.stays.address(), "an address was assigned twice");
        assert!(other.pod.ping(self.stays.address(), 1).status.success(), "the pod that stays is unreachable");
        self.network.detach(&other);
    }

    /// Attaches the target, which must work and be complete. Detaches it.
    #[track_caller]
    pub(crate) fn assert_target_works(&self, pod: &Pod) {
        let result = self.call("ADD", pod).run().result();
        self.assert_target_complete(pod, &result);
        self.call("DEL", pod).run().silent();
    }

    /// The target's CHECK finds no difference.
    #[track_caller]
    pub(crate) fn assert_target_complete(&self, pod: &Pod, result: &Value) {
        let config = self.network.with("prevResult", result.clone());
        self.network.plugin.on("CHECK", &config, TARGET, pod).run().silent();
    }

    /// Nothing of the target remains, except its lock.
    #[track_caller]
    pub(crate) fn assert_clean_except_lock(&self, pod: &Pod, after: &str) {
        assert_pod_empty(pod, after);
        let left = state(self.network).beyond(&Footprint::default(), &[lock()]);
        left.assert_unchanged(&self.before, after);
    }

    /// Nothing of the target remains.
    #[track_caller]
    pub(crate) fn assert_clean(&self, pod: &Pod, after: &str) {
        assert_pod_empty(pod, after);
        state(self.network).assert_unchanged(&self.before, after);
    }
}

/// The pod has no interface of the plugin.
#[track_caller]
pub(crate) fn assert_pod_empty(pod: &Pod, after: &str) {
    let links = pod.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev")).expect("/proc is mounted");
    assert!(!links.contains("eth0"), "after {after} the pod has a link: {links}");
}

/// The whole state of the network, and of a delegate that assigns its addresses.
#[track_caller]
fn state(network: &Network) -> Footprint {
    let Some(dir) = network.config["ipam"]["dataDir"].as_str().map(PathBuf::from) else {
        return network.footprint();
    };
    let own = ["lock", "last_reserved_ip"].map(|name| format!("file {}", dir.join(NAME).join(name).display()));
    network.footprint().and(Footprint::of_files(dir).beyond(&Footprint::default(), &own))
}
