//! The first ADD of a network, on a new host each time.

use std::thread;
use std::time::Duration;

use cnikit_testbed::{Host, Namespace as _, eventually};

use crate::add::Setup;
use crate::host_thread::HostThread;
use crate::network::{Case, Contestant, Network, peers_of};
use crate::options::AddOptions;
use crate::report::Figure;

/// The timeout for the kernel to remove the namespaces of earlier measurements.
const TOO_LONG: Duration = Duration::from_secs(120);

/// Measures all cases. In one round, each contestant runs one first ADD on a new host in each case.
pub(crate) fn measure(options: &AddOptions, setup: &Setup) -> Vec<Figure> {
    let mut entries: Vec<(Case, &Contestant, Vec<f64>)> = Vec::new();
    for case in Case::ALL {
        entries.extend(peers_of(case, &setup.contestants).map(|contestant| (case, contestant, Vec::new())));
    }
    let rounds = options.common.rounds(3, 25);
    eprintln!("first ADDs on new hosts, {rounds} rounds");
    for round in 0..rounds {
        let count = entries.len();
        for place in 0..count {
            let (case, contestant, times) = &mut entries[(round + place) % count];
            let network = contestant.network(*case, &setup.disk.0);
            times.push(first(contestant.name, network));
        }
    }
    let figure = |(case, contestant, times): &(Case, &Contestant, Vec<f64>)| {
        Figure::of("first ADD", case.name(), 0, contestant.name, "ms", times)
    };
    entries.iter().map(figure).collect()
}

/// The milliseconds of one first ADD.
fn first(name: &'static str, network: Network) -> f64 {
    thread::scope(|scope| {
        let host_thread = HostThread::start(scope, name, |_| network);
        host_thread.run(|host, network: &mut Network| {
            wait_for_cleanup(host);
            let add = network.call_times(host).add;
            network.settle();
            add.as_secs_f64() * 1e3
        })
    })
}

/// Waits until the kernel has removed the namespaces of earlier measurements. The kernel removes
/// them one by one and holds the RTNL lock meanwhile. An ADD would wait for the removal of a
/// thousand pods.
fn wait_for_cleanup(host: &Host) {
    let pod = host.pod();
    host.ip(&format!("link add last type veth peer name eth0 netns {}", pod.netns().display()));
    drop(pod);
    eventually("the end of earlier namespaces", TOO_LONG, || host.link("last").is_none());
}
