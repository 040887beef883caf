//! Many at once: no address twice, no network twice, and nothing left when they are gone.

use std::collections::BTreeSet;
use std::sync::Barrier;

use cnikit_testbed::Pod;
use serde_json::Value;

use crate::support::{Network, on_host};

const PODS: usize = 16;

/// Calls a verb on each pod, all at the same time. Threads of the host's thread live in its namespaces.
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

/// The very first ADDs of a network, which all find nothing there: bridge, programs, pins and leases are made once.
#[test]
fn parallel_adds_make_one_network_and_no_address_twice() {
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
