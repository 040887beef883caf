//! The plugin is killed before each call that changes something: what is left, DEL removes, and it is in nobody's way.

use cnikit_testbed::{Invocation, Namespace as _, Pod};

use crate::attachment::Scene;
use crate::faults;
use crate::networks::{self, Kind};
use crate::support::Network;
use crate::sweep::{Points, Sweep};

#[track_caller]
fn kill(name: &'static str, kind: Kind, often: usize, body: impl Fn(&Network, &mut Points) + Sync) {
    Sweep { name, kind, ways: faults::kill, lasting: false, often }.run(body);
}

fn add(network: &Network, points: &mut Points) {
    let scene = Scene::set(network);
    loop {
        let pod = scene.pod();
        let Some(struck) = points.strike(&scene.victim("ADD", &pod)) else {
            scene.victim("DEL", &pod).run().silent();
            break;
        };
        struck.killed();
        scene.others_are_served();
        // Some runtimes come again without a DEL: that works, or they are told to send one.
        if points.tried().is_multiple_of(2) {
            let again = scene.victim("ADD", &pod).run();
            if again.status.success() {
                scene.victim_is_whole(&pod, &again.result());
            } else {
                let message = again.error(4);
                assert!(message.contains("already"), "{message}");
            }
        }
        scene.victim("DEL", &pod).run().silent();
        scene.is_clean(&pod, "a killed ADD and DEL");
    }
    scene.clear();
}

/// The victim's ADD sees another BPF file system than all calls before, and pins the maps in use there.
fn adopt(network: &Network, points: &mut Points) {
    let scene = Scene::set(network);
    loop {
        let (pod, elsewhere) = (scene.pod(), network.host.scratch());
        network.host.command("mount").words("-t bpf bpf").arg(&elsewhere).run();
        network.host.command("mount").arg("--bind").arg(&elsewhere).arg("/sys/fs/bpf").run();
        let struck = points.strike(&scene.victim("ADD", &pod));
        if let Some(struck) = &struck {
            struck.killed();
            scene.others_are_served();
        }
        network.host.command("umount").arg("/sys/fs/bpf").run();
        network.host.command("umount").arg(&elsewhere).run();
        scene.others_are_served();
        scene.victim("DEL", &pod).run().silent();
        scene.is_clean(&pod, "a killed ADD that pins the maps in use");
        if struck.is_none() {
            break;
        }
    }
    scene.clear();
}

fn del(network: &Network, points: &mut Points) {
    removal(network, points, "DEL", |scene, pod| scene.victim("DEL", pod));
}

fn gc(network: &Network, points: &mut Points) {
    removal(network, points, "GC", |scene, _| scene.gc());
}

/// What a call that removes the victim leaves when it is killed, another one removes.
fn removal(network: &Network, points: &mut Points, verb: &str, call: impl Fn(&Scene<'_>, &Pod) -> Invocation) {
    let scene = Scene::set(network);
    loop {
        let pod = scene.attached();
        let struck = points.strike(&call(&scene, &pod));
        if let Some(struck) = &struck {
            struck.killed();
            scene.others_are_served();
        }
        call(&scene, &pod).run().silent();
        scene.is_clean(&pod, &format!("a killed {verb} and another"));
        if struck.is_none() {
            break;
        }
    }
    scene.clear();
}

#[test]
fn a_killed_add_is_removed_by_del() {
    kill("kill ADD", networks::basic, 1, add);
}

#[test]
fn a_killed_add_of_both_families_masqueraded_is_removed_by_del() {
    kill("kill ADD, masqueraded", networks::masqueraded, 5, add);
}

#[test]
fn a_killed_add_with_tcx_links_is_removed_by_del() {
    kill("kill ADD, TCX", networks::tcx, 5, add);
}

#[test]
fn a_killed_add_with_a_delegate_is_removed_by_del() {
    kill("kill ADD, delegated", networks::delegated, 5, add);
}

#[test]
fn a_killed_add_that_pins_the_maps_in_use_is_removed_by_del() {
    kill("kill ADD, other pins", networks::basic, 3, adopt);
}

#[test]
fn a_killed_del_is_finished_by_the_next() {
    kill("kill DEL", networks::basic, 1, del);
}

#[test]
fn a_killed_del_with_tcx_links_is_finished_by_the_next() {
    kill("kill DEL, TCX", networks::tcx, 5, del);
}

#[test]
fn a_killed_del_with_a_delegate_is_finished_by_the_next() {
    kill("kill DEL, delegated", networks::delegated, 5, del);
}

#[test]
fn a_killed_gc_is_finished_by_the_next() {
    kill("kill GC", networks::basic, 2, gc);
}

#[test]
fn a_killed_gc_with_tcx_links_is_finished_by_the_next() {
    kill("kill GC, TCX", networks::tcx, 7, gc);
}
