//! Measures a round trip between two pods, with both ends on one CPU:
//!
//! ```sh
//! cargo test --test datapath round_trips -- --ignored --nocapture
//! ```

use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use cnikit_testbed::{Namespace, host};
use rustix::thread::{CpuSet, Pid, sched_setaffinity};

use crate::fixture::{Fixture, addresses};

const ROUNDS: usize = 30_000;

#[test]
#[ignore = "a measurement"]
fn round_trips() {
    host(|host| {
        let fixture = Fixture::new(host);
        for address in [0, 1].map(|family| addresses(1)[family]) {
            let pings = |what: &str| eprintln!("{:>6.1} us  {address} {what}", median(&fixture, address));
            pings("direct");
            fixture.configure(|config| config.spoof_check = false);
            pings("direct, spoof check off");
            fixture.configure(|config| (config.direct_forwarding, config.spoof_check) = (false, true));
            pings("bridge, spoof check on");
            fixture.configure(|config| config.bridge_ifindex = None);
            pings("bridge, unconfigured programs");
            host.command("sysctl")
                .words("-q -w net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0")
                .run();
            pings("bridge, unconfigured programs, no br_netfilter");
            host.command("sysctl")
                .words("-q -w net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1")
                .run();
            let bridge = crate::fixture::index(host, "cbr0");
            fixture.configure(|config| (config.bridge_ifindex, config.direct_forwarding) = (Some(bridge), true));
        }
        fixture.end(host);
    });
}

/// The median round trip from the first pod to an address of the second pod, in microseconds.
fn median(fixture: &Fixture, to: std::net::IpAddr) -> f64 {
    let (from, timeout) = (addresses(0)[usize::from(to.is_ipv6())], Some(Duration::from_secs(1)));
    let server = fixture.pods[1].enter(|| UdpSocket::bind((to, 0)).expect("bind"));
    let client = fixture.pods[0].enter(|| UdpSocket::bind((from, 0)).expect("bind"));
    client.connect(server.local_addr().expect("an address")).expect("connect");
    server.connect(client.local_addr().expect("an address")).expect("connect");
    for socket in [&client, &server] {
        socket.set_read_timeout(timeout).expect("a timeout");
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

/// Pins the thread to the first CPU. Otherwise the result includes the wake-up of another CPU.
fn pin() {
    let mut first = CpuSet::new();
    first.set(0);
    sched_setaffinity(None::<Pid>, &first).expect("a CPU");
}
