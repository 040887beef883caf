//! SIGKILL before each system call with a side effect: DEL removes the remains, and they have no
//! effect on other calls.

use cnikit_testbed::{Invocation, Namespace as _, Pod};

use crate::faults;
use crate::networks::{self, Kind};
use crate::scenario::Scenario;
use crate::support::Network;
use crate::sweep::{Points, Sweep};

#[track_caller]
fn kill(name: &'static str, kind: Kind, sample_every: usize, body: impl Fn(&Network, &mut Points) + Sync) {
    Sweep { name, kind, faults: faults::kill, persistent: false, sample_every }.run(body);
}

fn add(network: &Network, points: &mut Points) {
    let scenario = Scenario::new(network);
    loop {
        let pod = scenario.pod();
        let Some(injected) = points.inject(&scenario.call("ADD", &pod)) else {
            scenario.call("DEL", &pod).run().silent();
            break;
        };
        injected.assert_killed();
        scenario.assert_others_work();
        // Some runtimes repeat the ADD without a DEL. This works, or the error requests a DEL.
        if points.tried().is_multiple_of(2) {
            let again = scenario.call("ADD", &pod).run();
            if again.status.success() {
                scenario.assert_target_complete(&pod, &again.result());
            } else {
                let message = again.error(4);
                assert!(message.contains("already"), "{message}");
            }
        }
        scenario.call("DEL", &pod).run().silent();
        scenario.assert_clean(&pod, "a killed ADD and DEL");
    }
    scenario.finish();
}

/// The target's ADD sees another BPF file system than all calls before, and pins the maps in use
/// there.
fn adopt(network: &Network, points: &mut Points) {
    let scenario = Scenario::new(network);
    loop {
        let (pod, elsewhere) = (scenario.pod(), network.host.scratch());
        network.host.command("mount").words("-t bpf bpf").arg(&elsewhere).run();
        network.host.command("mount").arg("--bind").arg(&elsewhere).arg("/sys/fs/bpf").run();
        let injected = points.inject(&scenario.call("ADD", &pod));
        if let Some(injected) = &injected {
            injected.assert_killed();
            scenario.assert_others_work();
        }
        network.host.command("umount").arg("/sys/fs/bpf").run();
        network.host.command("umount").arg(&elsewhere).run();
        scenario.assert_others_work();
        scenario.call("DEL", &pod).run().silent();
        scenario.assert_clean(&pod, "a killed ADD that pins the maps in use");
        if injected.is_none() {
            break;
        }
    }
    scenario.finish();
}

fn del(network: &Network, points: &mut Points) {
    removal(network, points, "DEL", |scenario, pod| scenario.call("DEL", pod));
}

fn gc(network: &Network, points: &mut Points) {
    removal(network, points, "GC", |scenario, _| scenario.gc());
}

/// A second call removes the remains of a killed DEL or GC.
fn removal(network: &Network, points: &mut Points, verb: &str, call: impl Fn(&Scenario<'_>, &Pod) -> Invocation) {
    let scenario = Scenario::new(network);
    loop {
        let pod = scenario.attach_target();
        let injected = points.inject(&call(&scenario, &pod));
        if let Some(injected) = &injected {
            injected.assert_killed();
            scenario.assert_others_work();
        }
        call(&scenario, &pod).run().silent();
        scenario.assert_clean(&pod, &format!("a killed {verb} and another"));
        if injected.is_none() {
            break;
        }
    }
    scenario.finish();
}

#[test]
fn a_killed_add_is_removed_by_del() {
    kill("kill ADD", networks::basic, 1, add);
}

#[test]
fn a_killed_dual_stack_add_with_masquerading_is_removed_by_del() {
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
fn a_killed_del_is_completed_by_the_next() {
    kill("kill DEL", networks::basic, 1, del);
}

#[test]
fn a_killed_del_with_tcx_links_is_completed_by_the_next() {
    kill("kill DEL, TCX", networks::tcx, 5, del);
}

#[test]
fn a_killed_del_with_a_delegate_is_completed_by_the_next() {
    kill("kill DEL, delegated", networks::delegated, 5, del);
}

#[test]
fn a_killed_gc_is_completed_by_the_next() {
    kill("kill GC", networks::basic, 2, gc);
}

#[test]
fn a_killed_gc_with_tcx_links_is_completed_by_the_next() {
    kill("kill GC, TCX", networks::tcx, 7, gc);
}
