//! The kernel fails one system call: the plugin reports the error and leaves nothing, or works
//! without.

use cnikit_testbed::{Invocation, Pod};

use crate::faults;
use crate::networks::{self, Kind};
use crate::scenario::Scenario;
use crate::support::Network;
use crate::sweep::{Points, Sweep};

#[track_caller]
fn fail(name: &'static str, kind: Kind, sample_every: usize, body: impl Fn(&Network, &mut Points) + Sync) {
    Sweep { name, kind, faults: faults::fail, persistent: false, sample_every }.run(body);
}

fn add(network: &Network, points: &mut Points) {
    let scenario = Scenario::new(network);
    loop {
        let pod = scenario.pod();
        let Some(injected) = points.inject(&scenario.call("ADD", &pod)) else {
            scenario.call("DEL", &pod).run().silent();
            break;
        };
        if injected.assert_error().is_none() {
            scenario.assert_target_complete(&pod, &injected.outcome.result());
            scenario.call("DEL", &pod).run().silent();
        } else {
            scenario.assert_clean_except_lock(&pod, "a failed ADD");
            scenario.assert_target_works(&pod);
        }
        scenario.assert_clean(&pod, "DEL");
    }
    scenario.finish();
}

fn del(network: &Network, points: &mut Points) {
    removal(network, points, "DEL", |scenario, pod| scenario.call("DEL", pod));
}

fn gc(network: &Network, points: &mut Points) {
    removal(network, points, "GC", |scenario, _| scenario.gc());
}

/// A call that removes the target either returns an error or removes everything. The next one
/// succeeds.
fn removal(network: &Network, points: &mut Points, verb: &str, call: impl Fn(&Scenario<'_>, &Pod) -> Invocation) {
    let scenario = Scenario::new(network);
    loop {
        let pod = scenario.attach_target();
        let injected = points.inject(&call(&scenario, &pod));
        if injected.as_ref().is_none_or(|injected| injected.assert_error().is_none()) {
            scenario.assert_clean_except_lock(&pod, verb);
        }
        call(&scenario, &pod).run().silent();
        scenario.assert_clean(&pod, &format!("{verb} and another"));
        if injected.is_none() {
            break;
        }
    }
    scenario.finish();
}

/// The call itself may fail in any way. After the fault has ended, DEL removes all its remains.
fn add_persistently(network: &Network, points: &mut Points) {
    let scenario = Scenario::new(network);
    loop {
        let pod = scenario.pod();
        let injected = points.inject(&scenario.call("ADD", &pod));
        if let Some(injected) = &injected {
            injected.assert_error();
        }
        scenario.call("DEL", &pod).run().silent();
        scenario.assert_clean(&pod, "an ADD under persistent faults, and DEL");
        if injected.is_none() {
            break;
        }
    }
    scenario.finish();
}

#[track_caller]
fn fail_persistently(name: &'static str, kind: Kind, sample_every: usize, body: impl Fn(&Network, &mut Points) + Sync) {
    Sweep { name, kind, faults: faults::fail_persistently, persistent: true, sample_every }.run(body);
}

#[test]
fn del_removes_the_remains_of_an_add_under_persistent_faults() {
    fail_persistently("fail ADD on and on", networks::basic, 13, add_persistently);
}

#[test]
fn del_removes_the_remains_of_an_add_with_tcx_links_under_persistent_faults() {
    fail_persistently("fail ADD on and on, TCX", networks::tcx, 29, add_persistently);
}

#[test]
fn a_del_under_persistent_faults_reports_its_failure() {
    fail_persistently("fail DEL on and on", networks::basic, 13, del);
}

#[test]
fn a_failed_add_leaves_nothing() {
    fail("fail ADD", networks::basic, 3, add);
}

#[test]
fn a_failed_dual_stack_add_with_masquerading_leaves_nothing() {
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
fn a_failed_del_reports_its_failure() {
    fail("fail DEL", networks::basic, 3, del);
}

#[test]
fn a_failed_del_with_tcx_links_reports_its_failure() {
    fail("fail DEL, TCX", networks::tcx, 13, del);
}

#[test]
fn a_failed_del_with_a_delegate_reports_its_failure() {
    fail("fail DEL, delegated", networks::delegated, 13, del);
}

#[test]
fn a_failed_gc_reports_its_failure() {
    fail("fail GC", networks::basic, 11, gc);
}

#[test]
fn a_failed_gc_with_tcx_links_reports_its_failure() {
    fail("fail GC, TCX", networks::tcx, 23, gc);
}
