//! Addresses from a DHCP server, by Debian's plugin `dhcp` and its daemon.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use cnikit_testbed::{Namespace as _, Outcome, Pod, Running, eventually, tool};
use serde_json::{Value, json};

use crate::support::{Network, on_host};

const PLUGIN: &str = "/usr/lib/cni/dhcp";

/// Time limit for the start of a daemon, or the arrival of a message.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server of three addresses on the bridge, and the plugin's daemon.
struct Dhcp<'n> {
    network: &'n Network<'n>,
    config: Value,
    leases: PathBuf,
    _processes: [Running; 2],
}

impl<'n> Dhcp<'n> {
    fn start(network: &'n Network<'n>) -> Self {
        let (host, scratch) = (network.host, network.host.scratch());
        host.ip("link add cbr0 type bridge");
        host.ip("link set cbr0 up");
        host.ip("address add 10.99.0.1/24 dev cbr0");
        let leases = scratch.join("leases");
        let options = "-d -C /dev/null --port=0 --user=root --interface=cbr0 --bind-interfaces --no-ping \
                       --dhcp-range=10.99.0.200,10.99.0.202,1h --dhcp-option=3,10.99.0.7";
        let server = host.command("dnsmasq").words(options);
        let server = server.arg(format!("--dhcp-leasefile={}", leases.display()));
        let server = server.arg(format!("--pid-file={}", scratch.join("pid").display()));
        let server = server.spawn_logged(&scratch.join("server"));
        fs::create_dir("/run/cni").expect("the host's own /run");
        let daemon = host.command(PLUGIN).arg("daemon").spawn_logged(&scratch.join("daemon"));
        let is_ready = || fs::exists("/run/cni/dhcp.sock").unwrap_or(false) && leases.exists();
        eventually("the server and the daemon", PATIENCE, is_ready);
        let config = network.with_keys(json!({ "ipam": { "type": "dhcp" } }));
        Self { network, config, leases, _processes: [server, daemon] }
    }

    fn call(&self, verb: &str, container: &str, pod: &Pod) -> Outcome {
        self.network.plugin.clone().beside("/usr/lib/cni").on(verb, &self.config, container, pod).run()
    }

    /// The number of addresses that the server holds: the lines of its lease file.
    fn held(&self) -> usize {
        fs::read_to_string(&self.leases).expect("the server's file").lines().count()
    }

    #[track_caller]
    fn holds(&self, count: usize) {
        eventually(&format!("a server that holds {count}"), PATIENCE, || self.held() == count);
    }
}

#[test]
fn the_server_gets_its_address_back_after_del_and_after_a_failed_add() {
    if !tool("dnsmasq") || !tool(PLUGIN) {
        return;
    }
    on_host(|network| {
        let dhcp = Dhcp::start(network);
        // More pods than addresses, one after the other. Each has its own MAC.
        for container in ["one", "two", "three", "four"] {
            let pod = network.host.pod();
            dhcp.call("ADD", container, &pod).result();
            dhcp.holds(1);
            assert!(pod.ping("10.99.0.7", 2).status.success());
            dhcp.call("DEL", container, &pod).silent();
            dhcp.holds(0);
        }

        // The bridge cannot get the gateway's address. ADD notices this after it has the pod's
        // address.
        let (host, pod) = (network.host, network.host.pod());
        host.ip("address del 10.99.0.7/24 dev cbr0");
        host.ip("link add other type bridge");
        host.ip("address add 10.99.128.1/16 dev other");
        let error = dhcp.call("ADD", "five", &pod).error(7);
        assert!(error.contains("overlaps"), "{error}");
        dhcp.holds(0);
        assert!(pod.link("eth0").is_none());
        host.ip("link del other");
    });
}
