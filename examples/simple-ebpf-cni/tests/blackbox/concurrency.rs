//! Parallel calls: one network, unique addresses, and no leftovers.

use std::collections::BTreeSet;
use std::sync::Barrier;

use cnikit_testbed::{Namespace, Pod};
use serde_json::Value;

use crate::support::{Network, on_host};

const PODS: usize = 16;

/// Calls a verb on each pod, all in parallel. Threads of the host's thread run in its namespaces.
fn all_at_once(network: &Network, verb: &str, pods: &[Pod]) -> Vec<Value> {
    let call = |(number, pod)| network.plugin.on(verb, &network.config, &format!("pod-{number}"), pod);
    let calls: Vec<_> = pods.iter().enumerate().map(call).collect();
    let start = Barrier::new(pods.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = calls
            .iter()
            .map(|call| {
                scope.spawn(|| {
                    start.wait();
                    call.run().result()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// The first ADDs of a network find nothing. They create bridge, programs, pins and leases once.
#[test]
fn parallel_adds_create_one_network_and_unique_addresses() {
    on_host(|network| {
        let pods: Vec<_> = (0..PODS).map(|_| network.host.pod()).collect();
        let results = all_at_once(network, "ADD", &pods);
        let addresses: BTreeSet<_> = results.iter().map(|result| result["ips"][0]["address"].to_string()).collect();
        assert_eq!(addresses.len(), PODS, "{addresses:?}");
        assert_eq!(network.taken().len(), PODS);
        let macs: BTreeSet<_> = results.iter().map(|result| result["interfaces"][0]["mac"].to_string()).collect();
        assert_eq!(macs.len(), 1, "more than one bridge: {macs:?}");
        for (number, result) in results.iter().enumerate() {
            let config = network.with("prevResult", result.clone());
            network.plugin.on("CHECK", &config, &format!("pod-{number}"), &pods[number]).run().silent();
        }
        let filters: Vec<_> =
            network.footprint().lines().filter(|line| line.starts_with("filter ")).map(str::to_owned).collect();
        assert_eq!(filters.len(), 2, "one filter for each direction: {filters:#?}");
        all_at_once(network, "DEL", &pods);
        assert!(network.taken().is_empty(), "{:?}", network.taken());
    });
}

#[test]
fn parallel_dels_of_one_attachment_all_succeed() {
    on_host(|network| {
        let one = network.attach("one");
        let two = network.attach("two");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| network.call("DEL", "one", &one.pod).silent());
            }
        });
        network.check(&two).silent();
        network.detach(&two);
    });
}

/// A runtime must not do this, but a restarted runtime does not know about the running call.
#[test]
fn parallel_adds_of_one_attachment_create_one() {
    on_host(|network| {
        for _ in 0..5 {
            let pod = network.host.pod();
            let add = network.plugin.on("ADD", &network.config, "one", &pod);
            let outcomes: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| add.run())).collect();
                threads.into_iter().map(|thread| thread.join().expect("the call ends")).collect()
            });
            let made: Vec<_> = outcomes.iter().filter(|outcome| outcome.status.success()).collect();
            assert_eq!(made.len(), 1, "{outcomes:#?}");
            let config = network.with("prevResult", made[0].json.clone());
            network.plugin.on("CHECK", &config, "one", &pod).run().silent();
            network.call("DEL", "one", &pod).silent();
            assert!(network.taken().is_empty(), "{:?}", network.taken());
        }
    });
}

/// Each network names the default bridge, which serves one of them.
#[test]
fn of_two_networks_that_race_for_a_bridge_one_claims_it() {
    on_host(|network| {
        for line in ["pin /sys/fs/bpf/", "file /var/lib/cni/simple-ebpf-cni/", "route 10.98.0.0/24 "] {
            network.host.keep(line);
        }
        for _ in 0..5 {
            let mut other = network.with("name", "other");
            other["subnet"] = "10.98.0.0/24".into();
            let pods = [network.host.pod(), network.host.pod()];
            let adds = [
                network.plugin.on("ADD", &network.config, "one", &pods[0]),
                network.plugin.on("ADD", &other, "one", &pods[1]),
            ];
            let outcomes: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = adds.iter().map(|add| scope.spawn(|| add.run())).collect();
                threads.into_iter().map(|thread| thread.join().expect("the call ends")).collect()
            });
            assert_eq!(outcomes.iter().filter(|outcome| outcome.status.success()).count(), 1, "{outcomes:#?}");
            for outcome in outcomes.into_iter().filter(|outcome| !outcome.status.success()) {
                let message = outcome.error(7);
                assert!(message.contains("another network"), "{message}");
            }
            for (config, pod) in [(&network.config, &pods[0]), (&other, &pods[1])] {
                network.plugin.on("DEL", config, "one", pod).run().silent();
            }
            network.host.ip("link del cbr0");
        }
    });
}
