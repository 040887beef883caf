//! What the sweeps look at between two points.

use std::fs;
use std::path::PathBuf;

use cnikit_testbed::{Footprint, Invocation, Namespace, Pod};
use serde_json::{Value, json};

use crate::support::{Attached, DATA_DIR, NAME, Network, ORPHANS};

/// The attachment that is hit.
pub(crate) const VICTIM: &str = "victim";

/// Where Debian has the reference plugins.
pub(crate) const PEERS: &str = "/usr/lib/cni";

/// The file that serves as the lock of the victim. One that could not be removed, or whose holder was killed, is as good
/// as another.
pub(crate) fn lock() -> String {
    format!("file {DATA_DIR}/{NAME}/owners/{VICTIM}@eth0.json")
}

/// A network with a pod that stays, and how it looks then.
pub(crate) struct Scene<'n> {
    network: &'n Network<'n>,
    stays: Attached,
    before: Footprint,
}

impl<'n> Scene<'n> {
    /// Attaches the pod that stays.
    #[track_caller]
    pub(crate) fn set(network: &'n Network<'n>) -> Self {
        let (first, stays) = (network.attach("first"), network.attach("stays"));
        network.detach(&first);
        Self { network, stays, before: look(network) }
    }

    /// Detaches the pod that stays.
    #[track_caller]
    pub(crate) fn clear(self) {
        self.network.detach(&self.stays);
    }

    /// A pod that is to be the victim.
    pub(crate) fn pod(&self) -> Pod {
        self.network.host.pod()
    }

    /// The victim, attached. Its DEL or GC will leave a process behind, whether or not orphans are reaped here.
    #[track_caller]
    pub(crate) fn attached(&self) -> Pod {
        let _ = fs::remove_file(ORPHANS);
        self.network.attach(VICTIM).pod
    }

    /// A call of a verb on the victim.
    pub(crate) fn victim(&self, verb: &str, pod: &Pod) -> Invocation {
        self.network.plugin.on(verb, &self.network.config, VICTIM, pod)
    }

    /// A GC for which only the pod that stays is valid.
    pub(crate) fn gc(&self) -> Invocation {
        let mut config = self.network.with("cniVersion", "1.1.0");
        config["cni.dev/valid-attachments"] = json!([{ "containerID": "stays", "ifname": "eth0" }]);
        self.network.plugin.invocation("GC").config(&config)
    }

    /// Attaches another container, which must work at once and reach the pod that stays, and detaches it.
    #[track_caller]
    pub(crate) fn others_are_served(&self) {
        let other = self.network.attach("other");
        assert_ne!(other.address(), self.stays.address(), "an address was given twice");
        assert!(other.pod.ping(self.stays.address(), 1).status.success(), "the pod that stays is not reached");
        self.network.detach(&other);
    }

    /// Attaches the victim, which must work and be whole, and detaches it.
    #[track_caller]
    pub(crate) fn victim_is_served(&self, pod: &Pod) {
        let result = self.victim("ADD", pod).run().result();
        self.victim_is_whole(pod, &result);
        self.victim("DEL", pod).run().silent();
    }

    /// The victim's CHECK finds nothing amiss.
    #[track_caller]
    pub(crate) fn victim_is_whole(&self, pod: &Pod, result: &Value) {
        let config = self.network.with("prevResult", result.clone());
        self.network.plugin.on("CHECK", &config, VICTIM, pod).run().silent();
    }

    /// Nothing of the victim is left, but for its lock.
    #[track_caller]
    pub(crate) fn is_clean_but_for_a_lock(&self, pod: &Pod, after: &str) {
        is_empty(pod, after);
        let left = look(self.network).beyond(&Footprint::default(), &[lock()]);
        left.assert_unchanged(&self.before, after);
    }

    /// Nothing of the victim is left.
    #[track_caller]
    pub(crate) fn is_clean(&self, pod: &Pod, after: &str) {
        is_empty(pod, after);
        look(self.network).assert_unchanged(&self.before, after);
    }
}

/// A pod has no interface of the plugin's.
#[track_caller]
pub(crate) fn is_empty(pod: &Pod, after: &str) {
    let links = pod.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev")).expect("/proc is mounted");
    assert!(!links.contains("eth0"), "after {after} the pod has a link: {links}");
}

/// All there is of the network, and what a plugin holds that gives it addresses.
#[track_caller]
fn look(network: &Network) -> Footprint {
    let Some(dir) = network.config["ipam"]["dataDir"].as_str().map(PathBuf::from) else {
        return network.footprint();
    };
    let own = ["lock", "last_reserved_ip"].map(|name| format!("file {}", dir.join(NAME).join(name).display()));
    network.footprint().and(Footprint::of_files(dir).beyond(&Footprint::default(), &own))
}
