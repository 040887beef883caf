//! Calls that race: of shared names, of two networks, and each step of an ADD with a GC, a DEL and the end of the pod.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use cnikit_testbed::{Call, Footprint, Outcome, Pod, Ruling};
use serde_json::{Value, json};

use crate::attachment::{Scene, VICTIM};
use crate::chance::Chance;
use crate::support::{DATA_DIR, NAME, Network, on_host};
use crate::sweep::Sweep;
use crate::{faults, is_long, networks};

/// How many loops there are.
const LOOPS: usize = 32;

/// How many names they share, in each of the two networks.
const NAMES: usize = 8;

/// Another network beside the one of the tests, with a bridge of its own.
fn other(network: &Network) -> Value {
    for line in ["link cbr1 ", "address cbr1 ", "route 10.98.0.0/24 ", "file /var/lib/cni/simple-ebpf-cni/other/lock"] {
        network.host.keep(line);
    }
    let mut config = network.with("name", "other");
    config["subnet"] = "10.98.0.0/24".into();
    config["bridge"] = "cbr1".into();
    config
}

/// What lives for sure, in one of the networks: attachments that no DEL was called for since their ADD.
#[derive(Default)]
struct Alive(Mutex<State>);

#[derive(Default)]
struct State {
    /// The attachments by their address.
    holders: HashMap<String, String>,
    /// How many DELs of each name were called, and how many of these are over.
    dels: HashMap<String, (usize, usize)>,
    /// How many addresses were compared.
    compared: usize,
}

impl Alive {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics in here")
    }

    /// Calls ADD. An address that another one has who lives for sure was given twice.
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
            assert_eq!(holder, None, "{address} was given twice, the second time to {name}");
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

/// Two ADDs of one name, or its ADD and its DEL, race all the time.
#[test]
fn loops_over_shared_names_in_two_networks_leave_nothing() {
    on_host(|network| {
        let networks = [network.config.clone(), other(network)].map(|config| network.by(config));
        let before = networks.each_ref().map(|network| {
            let first = network.attach("first");
            network.detach(&first);
            network.rows()
        });
        // The lock of the other network, and what it remembers, is not among what the tests know of theirs.
        let look = || network.footprint().beyond(&Footprint::default(), &[format!("file {DATA_DIR}/other/lock ")]);
        let before_all = look();
        let pods: Vec<Pod> = (0..2 * NAMES).map(|_| network.host.pod()).collect();
        let (alive, calls, added) = ([Alive::default(), Alive::default()], AtomicUsize::new(0), AtomicUsize::new(0));
        let end = Instant::now() + Duration::from_secs(if is_long() { 60 } else { 4 });
        std::thread::scope(|scope| {
            for seed in 0..LOOPS {
                let (networks, pods, alive, calls, added) = (&networks, &pods, &alive, &calls, &added);
                scope.spawn(move || {
                    let mut chance = Chance::new(seed);
                    while Instant::now() < end {
                        let place = chance.below(2 * NAMES);
                        let (network, pod) = (&networks[place % 2], &pods[place]);
                        let name = format!("shared-{place}");
                        calls.fetch_add(1, Ordering::Relaxed);
                        let alive = &alive[place % 2];
                        if chance.below(2) == 0 {
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
        eprintln!("shared names: {calls} calls, {added} ADDs made an attachment, {compared} addresses compared");
        assert!(compared > NAMES, "hardly any ADD got through undisturbed: {compared} of {added}");
        for (place, pod) in pods.iter().enumerate() {
            networks[place % 2].call("DEL", &format!("shared-{place}"), pod).silent();
        }
        for (network, before) in networks.iter().zip(before) {
            network.rows().assert_unchanged(&before, "loops over shared names");
        }
        look().assert_unchanged(&before_all, "loops over shared names");
    });
}

/// All find nothing there, on a new host each time.
#[test]
fn first_adds_of_two_networks_at_once_make_two() {
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

/// The specification forbids it to runtimes, and one that was restarted does not know that it does it.
#[test]
fn a_gc_in_the_middle_of_an_add_frees_nothing_of_it() {
    let sweep = Sweep { name: "GC within ADD", kind: networks::basic, ways: faults::kill, lasting: false, often: 4 };
    sweep.run(|network, points| {
        let scene = Scene::set(network);
        loop {
            let pod = scene.pod();
            let gc = scene.gc();
            let held = points.hold(&scene.victim("ADD", &pod), || gc.run().silent());
            if let Some(held) = &held {
                let result = held.outcome.clone().result();
                // What it makes is whole by then, and not in the runtime's list.
                if !held.at.contains("write pipe:") {
                    scene.victim_is_whole(&pod, &result);
                }
            }
            scene.victim("DEL", &pod).run().silent();
            scene.is_clean(&pod, "ADD, GC and DEL");
            if held.is_none() {
                break;
            }
        }
        scene.clear();
    });
}

/// The other way round: what is attached while GC looks at the leases began after GC did.
#[test]
fn an_add_while_gc_lists_the_leases_is_not_collected() {
    fn listing(call: &Call) -> Vec<Ruling> {
        let is_listing = ["openat", "getdents64"].contains(&call.name());
        let is_of_leases = call.to_string().contains(&format!("{DATA_DIR}/{NAME}/leases"));
        if is_listing && is_of_leases { vec![Ruling::Continue] } else { Vec::new() }
    }
    let sweep = Sweep { name: "ADD within GC", kind: networks::basic, ways: listing, lasting: false, often: 1 };
    sweep.run(|network, points| {
        let scene = Scene::set(network);
        loop {
            let (pod, mut result) = (scene.pod(), None);
            let add = scene.victim("ADD", &pod);
            let held = points.hold(&scene.gc(), || result = Some(add.run().result()));
            if let Some(held) = &held {
                held.outcome.clone().silent();
                scene.victim_is_whole(&pod, &result.expect("the ADD came to its end"));
            }
            scene.victim("DEL", &pod).run().silent();
            scene.is_clean(&pod, "GC, ADD and DEL");
            if held.is_none() {
                break;
            }
        }
        scene.clear();
    });
}

/// Whichever comes first, the last word is the DEL's.
#[test]
fn a_del_in_the_middle_of_an_add_comes_before_or_after_it() {
    let sweep = Sweep { name: "DEL within ADD", kind: networks::basic, ways: faults::kill, lasting: false, often: 4 };
    sweep.run(|network, points| {
        let scene = Scene::set(network);
        loop {
            let pod = scene.pod();
            let del = scene.victim("DEL", &pod);
            let held = points.hold(&scene.victim("ADD", &pod), || del.run().silent());
            if let Some(held) = &held {
                held.outcome.clone().result();
            }
            scene.victim("DEL", &pod).run().silent();
            scene.is_clean(&pod, "ADD, DEL and DEL");
            if held.is_none() {
                break;
            }
        }
        scene.clear();
    });
}

#[test]
fn a_pod_that_ends_in_the_middle_of_an_add_leaves_nothing() {
    let sweep = Sweep {
        name: "end of the pod within ADD",
        kind: networks::basic,
        ways: faults::kill,
        lasting: false,
        often: 4,
    };
    sweep.run(|network, points| {
        let scene = Scene::set(network);
        let bystander = scene.pod();
        loop {
            let pod = scene.pod();
            let add = scene.victim("ADD", &pod);
            let mut pod = Some(pod);
            let held = points.hold(&add, || drop(pod.take()));
            if let Some(held) = &held
                && !held.outcome.status.success()
            {
                assert!(held.outcome.json["code"].is_u64(), "{:#?}", held.outcome);
            }
            scene.victim("DEL", &bystander).without("CNI_NETNS").run().silent();
            scene.others_are_served();
            scene.is_clean(&bystander, "ADD for a pod that ended, and DEL");
            if held.is_none() {
                break;
            }
        }
        scene.clear();
    });
}

/// GC knows all names, so it must spare them whatever state they are in.
#[test]
fn gc_beside_adds_frees_nothing_that_is_valid() {
    on_host(|network| {
        let scene = Scene::set(network);
        let pods: Vec<Pod> = (0..NAMES).map(|_| network.host.pod()).collect();
        let names = (0..NAMES).map(|place| format!("pod-{place}")).chain([VICTIM.to_owned(), "stays".to_owned()]);
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
            eprintln!("GC beside ADDs: {collections} collections");
        });
        eprintln!("GC beside ADDs: {} rounds of ADD, CHECK, DEL", rounds.into_inner());
        scene.is_clean(&pods[0], "GC beside ADDs");
        scene.clear();
    });
}
