use std::{
    cell::Cell,
    thread,
    time::{Duration, Instant},
};

use cnikit::netlink::{IfIndex, Netns, OrphanRecord, Result, Route, SharedBlocks, Socket};

use crate::support::{Fixture, pair};

const ROUNDS: usize = 50;

/// The cost of the netlink steps of an ADD and a DEL, each with its own namespaces.
#[test]
#[ignore = "a measurement: --ignored --nocapture, in release mode, on a machine that is idle"]
fn cost_of_the_steps() {
    let Some(fixture) = Fixture::new() else { return };
    let bridge = fixture.bridge();
    let mut steps: [(&str, Vec<Duration>); 7] =
        ["host socket", "create_veth", "clsact", "pod socket", "inside", "link_by_name", "delete"]
            .map(|step| (step, Vec::with_capacity(ROUNDS)));
    for _ in 0..ROUNDS {
        let pod = Netns::create().expect("create a pod's namespace");
        let pair = pair(1, &pod).mtu(1450).master(bridge).host_up();
        let mut times = steps.iter_mut().map(|(_, times)| times);
        let mut record = |start: Instant| {
            times.next().expect("a step").push(start.elapsed());
        };

        let start = Instant::now();
        let on_host = fixture.host.socket().expect("open on the host");
        record(start);

        let start = Instant::now();
        let indexes = on_host.create_veth(&pair).expect("create");
        record(start);

        let start = Instant::now();
        on_host.create_clsact(indexes.host, SharedBlocks::default()).expect("clsact");
        record(start);

        let start = Instant::now();
        let inside = pod.socket().expect("open in the pod");
        record(start);

        let start = Instant::now();
        let eth = indexes.peer;
        inside.set_up(IfIndex::LOOPBACK).expect("lo");
        inside.set_up(eth).expect("eth");
        inside.add_address(eth, "10.22.0.5/24".parse().expect("address")).expect("add");
        let default = Route::default_via("10.22.0.1".parse().expect("address"), eth);
        inside.add_route(&default).expect("add");
        record(start);

        let start = Instant::now();
        on_host.link_by_name(&pair.host.name).expect("look up").expect("link");
        record(start);

        let start = Instant::now();
        on_host.delete_link(indexes.host).expect("delete");
        record(start);
    }
    for (step, mut times) in steps {
        times.sort();
        eprintln!("{step:>12}: p50 {:?}, p90 {:?}", times[ROUNDS / 2], times[ROUNDS * 9 / 10]);
    }
}

/// The wait of a DEL with either method.
#[test]
#[ignore = "a measurement: --ignored --nocapture, in release mode, on a machine that is idle"]
fn cost_of_a_deletion() {
    let Some(fixture) = Fixture::new() else { return };
    let bridge = fixture.bridge();
    let dir = tempfile::tempdir().expect("a directory");
    let records = Cell::new(0);
    // Each deletion has its own record, because the measurement must not depend on the reaper here.
    let in_background = |socket: &Socket, index| {
        let record = OrphanRecord::new(dir.path().join(records.replace(records.get() + 1).to_string()));
        socket.delete_link_nowait(index, &record)
    };
    type Delete<'d> = &'d dyn Fn(&Socket, IfIndex) -> Result<()>;
    let verbs: [(&str, Delete<'_>); 2] =
        [("delete_link", &Socket::delete_link), ("delete_link_nowait", &in_background)];
    for (verb, delete) in verbs {
        let mut times: Vec<_> = (0..ROUNDS)
            .map(|_| {
                let indexes = fixture.veth(1, Some(bridge));
                fixture.on_host.create_clsact(indexes.host, SharedBlocks::default()).expect("clsact");
                fixture.in_pod.set_up(indexes.peer).expect("bring the peer up");
                let start = Instant::now();
                delete(&fixture.on_host, indexes.host).expect("delete");
                let time = start.elapsed();
                // The kernel still works on the last deletion.
                thread::sleep(Duration::from_millis(40));
                time
            })
            .collect();
        times.sort();
        eprintln!("{verb:>18}: p50 {:?}, p90 {:?}", times[ROUNDS / 2], times[ROUNDS * 9 / 10]);
    }
}
