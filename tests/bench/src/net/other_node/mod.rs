//! Packets between pods of two nodes. Each node is a private host, and a veth pair joins them.

mod node;
mod rules;
mod way;

use std::sync::Arc;
use std::thread::{self, Scope};
use std::time::Duration;

use crate::host_thread::HostThread;
use crate::network::Contestant;
use crate::options::NetOptions;
use crate::report::{Figure, OTHER_NODE};

use self::node::Node;
use self::way::Way;
use super::load::{Ends, Measurement};
use super::path::pair;
use super::{Load, figures, load, rounds};

/// The loads of each path in each round.
const LOADS: [Load; 5] = [
    (load::round_trips, Duration::from_millis(100)),
    (load::round_trips_of_one_thread, Duration::from_millis(100)),
    (load::datagram_round_trips, Duration::from_millis(100)),
    (load::connection_times, Duration::from_millis(100)),
    (load::stream, Duration::from_millis(200)),
];

/// Two nodes with a pod each, or the floor: two pods and no node.
enum Nodes {
    Floor(HostThread<Ends>),
    Joined { nodes: [HostThread<Node>; 2], way: Way },
}

pub(super) fn measure(options: &NetOptions, contestants: &[Contestant]) -> Vec<Figure> {
    thread::scope(|scope| {
        let (mut names, mut all) = (vec![way::FLOOR], vec![Nodes::Floor(HostThread::start(scope, way::FLOOR, pair))]);
        for way in Way::ALL {
            // A missing plugin was reported.
            if let Some(plugin) = contestants.iter().find(|one| one.name == way.contestant()) {
                eprintln!("{}", way.name());
                names.push(way.name());
                all.push(Nodes::join(scope, way, plugin));
            }
        }
        all.iter().for_each(Nodes::assert_path);
        let samples = rounds(&options.common, &names, &LOADS, |at, load| all[at].measure(load));
        all.iter().for_each(Nodes::assert_path);
        samples.iter().flat_map(|samples| figures(samples, OTHER_NODE, 1)).collect()
    })
}

impl Nodes {
    /// Creates two nodes that reach each other's pod.
    fn join<'scope>(scope: &'scope Scope<'scope, '_>, way: Way, plugin: &Contestant) -> Self {
        let nodes = [1, 2].map(|number| {
            let network = way.network(plugin, number);
            HostThread::start(scope, way.name(), move |host| Node::new(host, way, network, number))
        });
        let other = nodes[1].run(|host, _| host.netns());
        nodes[0].run(move |host, _| node::create_underlay(host, &other));
        for node in &nodes {
            node.run(|host, node| node.join(host));
        }
        let (server, address) = nodes[1].run(|_, node| (Arc::clone(node.pod()), node.address()));
        nodes[0].run(move |_, node| node.connect(server, address));
        Self::Joined { nodes, way }
    }

    fn measure(&self, (load, time): Load) -> Vec<Measurement> {
        match self {
            Self::Floor(pods) => pods.run(move |_, ends| load(ends, time)),
            Self::Joined { nodes: [client, _], .. } => client.run(move |_, node| load(node.ends(), time)),
        }
    }

    /// Sends some packets, and reads the counters of both nodes.
    ///
    /// # Panics
    ///
    /// If the packets take another path.
    fn assert_path(&self) {
        let Self::Joined { nodes, way } = self else { return };
        let before = nodes.each_ref().map(|node| node.run(|host, node| node.start_count(host)));
        nodes[0].run(|_, node| node.ends().probe());
        for ((node, before), number) in nodes.iter().zip(before).zip(1..) {
            let counted = node.run(move |host, node| node.end_count(host, before));
            assert!(counted == way.expected(number), "{}, node {number}: {counted:?}", way.name());
        }
    }
}
