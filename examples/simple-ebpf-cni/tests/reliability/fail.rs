//! The kernel refuses a call once: the plugin says so and leaves nothing, or does without.

use cnikit_testbed::{Invocation, Pod};

use crate::attachment::Scene;
use crate::faults;
use crate::networks::{self, Kind};
use crate::support::Network;
use crate::sweep::{Points, Sweep};

#[track_caller]
fn fail(name: &'static str, kind: Kind, often: usize, body: impl Fn(&Network, &mut Points) + Sync) {
    Sweep { name, kind, ways: faults::fail, lasting: false, often }.run(body);
}

fn add(network: &Network, points: &mut Points) {
    let scene = Scene::set(network);
    loop {
        let pod = scene.pod();
        let Some(struck) = points.strike(&scene.victim("ADD", &pod)) else {
            scene.victim("DEL", &pod).run().silent();
            break;
        };
        if struck.refused().is_none() {
            scene.victim_is_whole(&pod, &struck.outcome.result());
            scene.victim("DEL", &pod).run().silent();
        } else {
            scene.is_clean_but_for_a_lock(&pod, "a failed ADD");
            scene.victim_is_served(&pod);
        }
        scene.is_clean(&pod, "DEL");
    }
    scene.clear();
}

fn del(network: &Network, points: &mut Points) {
    removal(network, points, "DEL", |scene, pod| scene.victim("DEL", pod));
}

fn gc(network: &Network, points: &mut Points) {
    removal(network, points, "GC", |scene, _| scene.gc());
}

/// A call that removes the victim either says that it failed or has done so; another one finds nothing in its way.
fn removal(network: &Network, points: &mut Points, verb: &str, call: impl Fn(&Scene<'_>, &Pod) -> Invocation) {
    let scene = Scene::set(network);
    loop {
        let pod = scene.attached();
        let struck = points.strike(&call(&scene, &pod));
        if struck.as_ref().is_none_or(|struck| struck.refused().is_none()) {
            scene.is_clean_but_for_a_lock(&pod, verb);
        }
        call(&scene, &pod).run().silent();
        scene.is_clean(&pod, &format!("{verb} and another"));
        if struck.is_none() {
            break;
        }
    }
    scene.clear();
}

/// Nothing can be expected of the call itself. When things are as they should be again, DEL finds all that is left.
fn add_on(network: &Network, points: &mut Points) {
    let scene = Scene::set(network);
    loop {
        let pod = scene.pod();
        let struck = points.strike(&scene.victim("ADD", &pod));
        if let Some(struck) = &struck {
            struck.refused();
        }
        scene.victim("DEL", &pod).run().silent();
        scene.is_clean(&pod, "an ADD under lasting trouble, and DEL");
        if struck.is_none() {
            break;
        }
    }
    scene.clear();
}

#[track_caller]
fn fail_on(name: &'static str, kind: Kind, often: usize, body: impl Fn(&Network, &mut Points) + Sync) {
    Sweep { name, kind, ways: faults::fail_on, lasting: true, often }.run(body);
}

#[test]
fn what_an_add_leaves_under_lasting_trouble_is_removed_by_del() {
    fail_on("fail ADD on and on", networks::basic, 13, add_on);
}

#[test]
fn what_an_add_with_tcx_links_leaves_under_lasting_trouble_is_removed_by_del() {
    fail_on("fail ADD on and on, TCX", networks::tcx, 29, add_on);
}

#[test]
fn a_del_under_lasting_trouble_says_so() {
    fail_on("fail DEL on and on", networks::basic, 13, del);
}

#[test]
fn a_failed_add_leaves_nothing() {
    fail("fail ADD", networks::basic, 3, add);
}

#[test]
fn a_failed_add_of_both_families_masqueraded_leaves_nothing() {
    fail("fail ADD, masqueraded", networks::masqueraded, 23, add);
}

#[test]
fn a_failed_add_with_tcx_links_leaves_nothing() {
    fail("fail ADD, TCX", networks::tcx, 23, add);
}

#[test]
fn a_failed_add_with_a_delegate_leaves_nothing() {
    fail("fail ADD, delegated", networks::delegated, 23, add);
}

#[test]
fn a_failed_del_says_so() {
    fail("fail DEL", networks::basic, 3, del);
}

#[test]
fn a_failed_del_with_tcx_links_says_so() {
    fail("fail DEL, TCX", networks::tcx, 13, del);
}

#[test]
fn a_failed_del_with_a_delegate_says_so() {
    fail("fail DEL, delegated", networks::delegated, 13, del);
}

#[test]
fn a_failed_gc_says_so() {
    fail("fail GC", networks::basic, 11, gc);
}

#[test]
fn a_failed_gc_with_tcx_links_says_so() {
    fail("fail GC, TCX", networks::tcx, 23, gc);
}
