//! The kernel refuses a call once: the plugin says so and leaves nothing, or does without.

use crate::attachment::{Scene, VICTIM};
use crate::support::Network;
use crate::sweep::{Points, Sweep};
use crate::{faults, stride};

#[track_caller]
fn fail(name: &'static str, often: usize, body: impl Fn(&Network, &mut Points) + Sync) {
    Sweep { name, ways: faults::fail, stride: stride(often) }.run(body);
}

fn add(network: &Network, points: &mut Points) {
    let scene = Scene::set(network);
    loop {
        let pod = network.host.pod();
        let Some(struck) = points.strike(&scene.victim("ADD", &pod)) else {
            scene.victim("DEL", &pod).run().silent();
            break;
        };
        if struck.refused().is_none() {
            scene.victim_is_whole(&pod, &struck.outcome.result());
            scene.victim("DEL", &pod).run().silent();
        } else {
            scene.is_clean(&pod, "a failed ADD");
            scene.victim_is_served(&pod);
        }
        scene.is_clean(&pod, "DEL");
    }
    scene.strike();
}

fn del(network: &Network, points: &mut Points) {
    let scene = Scene::set(network);
    loop {
        let pod = network.attach(VICTIM).pod;
        let struck = points.strike(&scene.victim("DEL", &pod));
        if struck.as_ref().is_some_and(|struck| struck.refused().is_some()) {
            scene.victim("DEL", &pod).run().silent();
        }
        scene.is_clean(&pod, "DEL");
        if struck.is_none() {
            break;
        }
    }
    scene.strike();
}

fn gc(network: &Network, points: &mut Points) {
    let scene = Scene::set(network);
    loop {
        let pod = network.attach(VICTIM).pod;
        let struck = points.strike(&scene.gc());
        if struck.as_ref().is_some_and(|struck| struck.refused().is_some()) {
            scene.gc().run().silent();
        }
        scene.is_clean(&pod, "GC");
        if struck.is_none() {
            break;
        }
    }
    scene.strike();
}

#[test]
fn a_failed_add_leaves_nothing() {
    fail("fail ADD", 3, add);
}

#[test]
fn a_failed_del_says_so() {
    fail("fail DEL", 3, del);
}

#[test]
fn a_failed_gc_says_so() {
    fail("fail GC", 3, gc);
}
