//! Races: calls with shared names, and calls in two networks. Each step of an ADD races with a GC,
//! a DEL and the end of the pod.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use cnikit_testbed::{Call, Footprint, Outcome, Pod, Ruling};
use serde_json::{Value, json};

use crate::random::Random;
use crate::scenario::{Scenario, TARGET};
use crate::support::{DATA_DIR, NAME, Network, on_host};
use crate::sweep::Sweep;
use crate::{faults, is_long, networks};

/// The number of loops.
const LOOPS: usize = 32;

/// The number of shared names in each of the two networks.
const NAMES: usize = 8;

/// A second network with its own bridge.
fn other(network: &Network) -> Value {
    for line in ["link cbr1 ", "address cbr1 ", "route 10.98.0.0/24 ", "file /var/lib/cni/simple-ebpf-cni/other/lock"] {
        network.host.keep(line);
    }
    let mut config = network.with("name", "other");
    config["subnet"] = "10.98.0.0/24".into();
    config["bridge"] = "cbr1".into();
    config
}

/// The attachments of one network that certainly exist: no DEL has started since their ADD.
#[derive(Default)]
struct Alive(Mutex<State>);

#[derive(Default)]
struct State {
    /// The attachments by their address.
    holders: HashMap<String, String>,
    /// The number of started and of finished DELs of each name.
    dels: HashMap<String, (usize, usize)>,
    /// The number of compared addresses.
    compared: usize,
}

impl Alive {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no thread panics with the lock")
    }

    /// Calls ADD. Its address must not belong to another attachment that certainly exists.
    fn add(&self, name: &str, add: impl FnOnce() -> Outcome) -> bool {
        let dels = |state: &State| state.dels.get(name).copied().unwrap_or_default();
        let (called, _) = dels(&self.state());
        let outcome = add();
        if !outcome.status.success() {
            let message = outcome.error(4);
            assert!(message.contains("already"), "{message}");
            return false;
        }
        let address = outcome.result()["ips"][0]["address"].to_string();
        let mut state = self.state();
        if dels(&state) == (called, called) {
            state.compared += 1;
            let holder = state.holders.insert(address.clone(), name.to_owned());
            drop(state);
            assert_eq!(holder, None, "{address} was assigned twice, the second time to {name}");
        }
        true
    }

    fn del(&self, name: &str, del: impl FnOnce() -> Outcome) {
        let mut state = self.state();
        state.holders.retain(|_, holder| holder != name);
        state.dels.entry(name.to_owned()).or_default().0 += 1;
        drop(state);
        del().silent();
        self.state().dels.entry(name.to_owned()).or_default().1 += 1;
    }
}

/// Two ADDs of one name, or an ADD and a DEL, always race.
#[test]
fn loops_over_shared_names_in_two_networks_leave_nothing() {
    on_host(|network| {
        let networks = [network.config.clone(), other(network)].map(|config| network.by(config));
        let before = networks.each_ref().map(|network| {
            let first = network.attach("first");
            network.detach(&first);
            network.map_entries()
        });
        // The footprint of the tests does not know the lock of the second network.
        let look = || network.footprint().beyond(&Footprint::default(), &[format!("file {DATA_DIR}/other/lock ")]);
        let before_all = look();
        let pods: Vec<Pod> = (0..2 * NAMES).map(|_| network.host.pod()).collect();
        let (alive, calls, added) = ([Alive::default(), Alive::default()], AtomicUsize::new(0), AtomicUsize::new(0));
        let end = Instant::now() + Duration::from_secs(if is_long() { 60 } else { 4 });
        std::thread::scope(|scope| {
            for seed in 0..LOOPS {
                let (networks, pods, alive, calls, added) = (&networks, &pods, &alive, &calls, &added);
                scope.spawn(move || {
                    let mut random = Random::new(seed);
                    while Instant::now() < end {
                        let place = random.below(2 * NAMES);
                        let (network, pod) = (&networks[place % 2], &pods[place]);
                        let name = format!("shared-{place}");
                        calls.fetch_add(1, Ordering::Relaxed);
                        let alive = &alive[place % 2];
                        if random.below(2) == 0 {
                            let made = alive.add(&name, || network.call("ADD", &name, pod));
                            added.fetch_add(made.into(), Ordering::Relaxed);
                        } else {
                            alive.del(&name, || network.call("DEL", &name, pod));
                        }
                    }
                });
            }
        });
        let (calls, added) = (calls.into_inner(), added.into_inner());
        let compared: usize = alive.iter().map(|alive| alive.state().compared).sum();
        eprintln!("shared names: {calls} calls, {added} ADDs created an attachment, {compared} addresses compared");
        assert!(compared > NAMES, "too few ADDs succeeded without a parallel DEL: {compared} of {added}");
        for (place, pod) in pods.iter().enumerate() {
            networks[place % 2].call("DEL", &format!("shared-{place}"), pod).silent();
        }
        for (network, before) in networks.iter().zip(before) {
            network.map_entries().assert_unchanged(&before, "loops with shared names");
        }
        look().assert_unchanged(&before_all, "loops with shared names");
    });
}

/// All ADDs find an empty host. Each round has a new one.
#[test]
fn parallel_first_adds_create_two_networks() {
    let rounds = if is_long() { 25 } else { 2 };
    for _ in 0..rounds {
        on_host(|network| {
            let networks = [network.config.clone(), other(network)].map(|config| network.by(config));
            let pods: Vec<Pod> = (0..LOOPS).map(|_| network.host.pod()).collect();
            std::thread::scope(|scope| {
                for (place, pod) in pods.iter().enumerate() {
                    let network = &networks[place % 2];
                    scope.spawn(move || {
                        let result = network.call("ADD", &format!("pod-{place}"), pod).result();
                        let config = network.with("prevResult", result);
                        network.plugin.on("CHECK", &config, &format!("pod-{place}"), pod).run().silent();
                        network.call("DEL", &format!("pod-{place}"), pod).silent();
                    });
                }
            });
        });
    }
}

/// The specification forbids this to runtimes, but a restarted runtime does not know about the
/// running ADD.
#[test]
fn a_gc_during_an_add_removes_nothing_of_it() {
    let sweep = Sweep {
        name: "GC within ADD",
        kind: networks::basic,
        faults: faults::kill,
        persistent: false,
        sample_every: 4,
    };
    sweep.run(|network, points| {
        let scenario = Scenario::new(network);
        loop {
            let pod = scenario.pod();
            let gc = scenario.gc();
            let held = points.hold(&scenario.call("ADD", &pod), || gc.run().silent());
            if let Some(held) = &held {
                let result = held.outcome.clone().result();
                // The attachment is complete at this point, and not in the runtime's list.
                if !held.point.contains("write pipe:") {
                    scenario.assert_target_complete(&pod, &result);
                }
            }
            scenario.call("DEL", &pod).run().silent();
            scenario.assert_clean(&pod, "ADD, GC and DEL");
            if held.is_none() {
                break;
            }
        }
        scenario.finish();
    });
}

/// The reverse: an ADD begins and ends while GC lists the leases.
#[test]
fn an_add_while_gc_lists_the_leases_is_not_collected() {
    fn listing(call: &Call) -> Vec<Ruling> {
        let is_listing = ["openat", "getdents64"].contains(&call.name());
        let is_of_leases = call.to_string().contains(&format!("{DATA_DIR}/{NAME}/leases"));
        if is_listing && is_of_leases { vec![Ruling::Continue] } else { Vec::new() }
    }
    let sweep =
        Sweep { name: "ADD within GC", kind: networks::basic, faults: listing, persistent: false, sample_every: 1 };
    sweep.run(|network, points| {
        let scenario = Scenario::new(network);
        loop {
            let (pod, mut result) = (scenario.pod(), None);
            let add = scenario.call("ADD", &pod);
            let held = points.hold(&scenario.gc(), || result = Some(add.run().result()));
            if let Some(held) = &held {
                held.outcome.clone().silent();
                scenario.assert_target_complete(&pod, &result.expect("the ADD ended"));
            }
            scenario.call("DEL", &pod).run().silent();
            scenario.assert_clean(&pod, "GC, ADD and DEL");
            if held.is_none() {
                break;
            }
        }
        scenario.finish();
    });
}

/// The DEL wins, independent of the order.
#[test]
fn a_del_during_an_add_runs_before_or_after_it() {
    let sweep = Sweep {
        name: "DEL within ADD",
        kind: networks::basic,
        faults: faults::kill,
        persistent: false,
        sample_every: 4,
    };
    sweep.run(|network, points| {
        let scenario = Scenario::new(network);
        loop {
            let pod = scenario.pod();
            let del = scenario.call("DEL", &pod);
            let held = points.hold(&scenario.call("ADD", &pod), || del.run().silent());
            if let Some(held) = &held {
                held.outcome.clone().result();
            }
            scenario.call("DEL", &pod).run().silent();
            scenario.assert_clean(&pod, "ADD, DEL and DEL");
            if held.is_none() {
                break;
            }
        }
        scenario.finish();
    });
}

#[test]
fn a_pod_that_ends_during_an_add_leaves_nothing() {
    let sweep = Sweep {
        name: "end of the pod within ADD",
        kind: networks::basic,
        faults: faults::kill,
        persistent: false,
        sample_every: 4,
    };
    sweep.run(|network, points| {
        let scenario = Scenario::new(network);
        let bystander = scenario.pod();
        loop {
            let pod = scenario.pod();
            let add = scenario.call("ADD", &pod);
            let mut pod = Some(pod);
            let held = points.hold(&add, || drop(pod.take()));
            if let Some(held) = &held
                && !held.outcome.status.success()
            {
                assert!(held.outcome.json["code"].is_u64(), "{:#?}", held.outcome);
            }
            scenario.call("DEL", &bystander).without("CNI_NETNS").run().silent();
            scenario.assert_others_work();
            scenario.assert_clean(&bystander, "an ADD for a deleted pod, and DEL");
            if held.is_none() {
                break;
            }
        }
        scenario.finish();
    });
}

/// GC has all names in its list, so it must keep the attachments in any state.
#[test]
fn gc_in_parallel_with_adds_keeps_valid_attachments() {
    on_host(|network| {
        let scenario = Scenario::new(network);
        let pods: Vec<Pod> = (0..NAMES).map(|_| network.host.pod()).collect();
        let names = (0..NAMES).map(|place| format!("pod-{place}")).chain([TARGET.to_owned(), "stays".to_owned()]);
        let valid: Value = names.map(|name| json!({ "containerID": name, "ifname": "eth0" })).collect();
        let mut config = network.with("cniVersion", "1.1.0");
        config["cni.dev/valid-attachments"] = valid;
        let gc = network.plugin.invocation("GC").config(&config);
        let end = Instant::now() + Duration::from_secs(if is_long() { 30 } else { 3 });
        let rounds = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for (place, pod) in pods.iter().enumerate() {
                let rounds = &rounds;
                scope.spawn(move || {
                    while Instant::now() < end {
                        let name = format!("pod-{place}");
                        let result = network.call("ADD", &name, pod).result();
                        let config = network.with("prevResult", result);
                        network.plugin.on("CHECK", &config, &name, pod).run().silent();
                        network.call("DEL", &name, pod).silent();
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let mut collections = 0;
            while Instant::now() < end {
                gc.run().silent();
                collections += 1;
            }
            eprintln!("GC in parallel with ADDs: {collections} collections");
        });
        eprintln!("GC in parallel with ADDs: {} rounds of ADD, CHECK, DEL", rounds.into_inner());
        scenario.assert_clean(&pods[0], "GC in parallel with ADDs");
        scenario.finish();
    });
}
