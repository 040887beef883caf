use std::time::{Duration, Instant};

use cnikit::netlink::{Blocks, LOOPBACK_INDEX, Netns, Route};

use crate::support::{Bed, pair};

const ROUNDS: usize = 50;

/// What the netlink steps of an ADD and a DEL cost, each on a namespace of its own.
#[test]
#[ignore = "a measurement: --ignored --nocapture, in release mode, on a machine that is idle"]
fn cost_of_the_steps() {
    let Some(bed) = Bed::new() else { return };
    let bridge = bed.bridge();
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
        let on_host = bed.host.socket().expect("open on the host");
        record(start);

        let start = Instant::now();
        let indexes = on_host.create_veth(&pair).expect("create");
        record(start);

        let start = Instant::now();
        on_host.create_clsact(indexes.host, Blocks::default()).expect("clsact");
        record(start);

        let start = Instant::now();
        let inside = pod.socket().expect("open in the pod");
        record(start);

        let start = Instant::now();
        let eth = indexes.peer;
        inside.set_up(LOOPBACK_INDEX).expect("lo");
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
