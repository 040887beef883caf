//! What a round trip between two pods takes, both ends on one CPU:
//!
//! ```sh
//! cargo test --test datapath round_trips -- --ignored --nocapture
//! ```

use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use cnikit_testbed::{Namespace, host};
use rustix::thread::{CpuSet, Pid, sched_setaffinity};

use crate::bed::{Bed, addresses};

const ROUNDS: usize = 30_000;

#[test]
#[ignore = "a measurement"]
fn round_trips() {
    host(|host| {
        let bed = Bed::new(host);
        for address in [0, 1].map(|family| addresses(1)[family]) {
            let pings = |what: &str| eprintln!("{:>6.1} us  {address} {what}", median(&bed, address));
            pings("direct");
            bed.configure(|config| config.spoof_check = false);
            pings("direct, guard off");
            bed.configure(|config| (config.direct_forwarding, config.spoof_check) = (false, true));
            pings("bridge, guard on");
            bed.configure(|config| config.bridge_ifindex = 0);
            pings("bridge, programs that do nothing");
            host.command("sysctl")
                .words("-q -w net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0")
                .run();
            pings("bridge, programs that do nothing, netfilter not called");
            host.command("sysctl")
                .words("-q -w net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1")
                .run();
            let bridge = crate::bed::index(host, "cbr0");
            bed.configure(|config| (config.bridge_ifindex, config.direct_forwarding) = (bridge, true));
        }
        bed.end(host);
    });
}

/// The median of a round trip from the first pod to an address of the second, in microseconds.
fn median(bed: &Bed, to: std::net::IpAddr) -> f64 {
    let (from, limit) = (addresses(0)[usize::from(to.is_ipv6())], Some(Duration::from_secs(1)));
    let server = bed.pods[1].enter(|| UdpSocket::bind((to, 0)).expect("bind"));
    let client = bed.pods[0].enter(|| UdpSocket::bind((from, 0)).expect("bind"));
    client.connect(server.local_addr().expect("an address")).expect("connect");
    server.connect(client.local_addr().expect("an address")).expect("connect");
    for socket in [&client, &server] {
        socket.set_read_timeout(limit).expect("a limit");
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            pin();
            let mut byte = [0];
            while server.recv(&mut byte).is_ok() {
                server.send(&byte).expect("send");
            }
        });
        pin();
        let mut byte = [0];
        let mut times: Vec<Duration> = (0..ROUNDS)
            .map(|_| {
                let start = Instant::now();
                client.send(&byte).expect("send");
                client.recv(&mut byte).expect("an answer");
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        times[ROUNDS / 2].as_nanos() as f64 / 1_000.0
    })
}

/// Keeps the thread on the first CPU, or the times are those of waking up another.
fn pin() {
    let mut first = CpuSet::new();
    first.set(0);
    sched_setaffinity(None::<Pid>, &first).expect("a CPU");
}
