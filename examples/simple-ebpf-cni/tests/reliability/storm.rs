//! SIGKILL at random moments under load. In the sweeps, the call is alone on its host.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cnikit_testbed::{Namespace, Pod};
use serde_json::json;

use crate::is_long;
use crate::random::Random;
use crate::support::{Network, on_host};

/// The number of loops, each like the runtime of a node.
const LOOPS: usize = 6;

/// The maximum time before the kill, in microseconds. It exceeds the time of a call under this
/// load.
const LIFE: usize = 40_000;

/// Kills one ADD or DEL of an attachment. The DEL after it must succeed. Returns whether the call
/// was still running.
fn kill_one(network: &Network, container: &str, pod: &Pod, random: &mut Random) -> bool {
    let mut call = match random.below(4) {
        // A GC without valid attachments would detach the pods of the other loops.
        0 => {
            network.call("ADD", container, pod).result();
            network.plugin.on("DEL", &network.config, container, pod)
        }
        _ => network.plugin.on("ADD", &network.config, container, pod),
    }
    .spawn();
    std::thread::sleep(Duration::from_micros(random.below(LIFE) as u64));
    let was_alive = call.kill();
    if random.below(2) == 0 {
        let another = format!("{container}-another");
        let pod = network.host.pod();
        network.call("ADD", &another, &pod).result();
        network.call("DEL", &another, &pod).silent();
    }
    network.call("DEL", container, pod).silent();
    was_alive
}

#[test]
fn random_kills_under_load_leave_nothing() {
    on_host(|network| {
        let stays = network.attach("stays");
        let first = network.attach("first");
        network.detach(&first);
        let before = network.footprint();
        let wanted = if is_long() { 1_000 } else { 100 };
        let end = Instant::now() + Duration::from_secs(if is_long() { 600 } else { 8 });
        let (killed, missed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for seed in 0..LOOPS {
                let (killed, missed) = (&killed, &missed);
                scope.spawn(move || {
                    let (mut random, pod) = (Random::new(seed), network.host.pod());
                    while killed.load(Ordering::Relaxed) < wanted && Instant::now() < end {
                        let hit = kill_one(network, &format!("storm-{seed}"), &pod, &mut random);
                        if hit { killed } else { missed }.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let (killed, missed) = (killed.into_inner(), missed.into_inner());
        eprintln!("random kills: {killed} calls killed, {missed} had ended before");
        assert!(killed > LOOPS, "too few calls were killed: {killed}; {missed} had ended");
        network.footprint().assert_unchanged(&before, "random kills, each with its DEL");
        assert!(network.host.ping(stays.address(), 1).status.success());
        // GC removes the locks of the killed calls.
        let mut config = network.with("cniVersion", "1.1.0");
        config["cni.dev/valid-attachments"] = json!([{ "containerID": "stays", "ifname": "eth0" }]);
        network.plugin.invocation("GC").config(&config).run().silent();
        network.check(&stays).silent();
        network.detach(&stays);
    });
}
