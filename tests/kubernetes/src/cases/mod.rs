//! The tests on a running cluster.

mod agent;
mod basic;
mod bench;
mod churn;
mod conformance;
mod objects;
mod probes;
mod restarts;
mod services;
mod status;
mod upgrade;

use anyhow::Result;

pub(crate) use bench::{Bench, Plugins};
pub(crate) use conformance::SHORT_CONFORMANCE;

use crate::settings::{Runtime, Settings};

/// A test on a running cluster, in its own namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Part of the short form.
    pub(crate) is_short: bool,
    pub(crate) run: fn(&Bench) -> Result<()>,
    /// The settings with which the test has a meaning.
    pub(crate) applies: fn(&Settings) -> bool,
}

const fn short(name: &'static str, run: fn(&Bench) -> Result<()>) -> Case {
    Case { name, is_short: true, run, applies: |_| true }
}

const fn long(name: &'static str, run: fn(&Bench) -> Result<()>) -> Case {
    Case { name, is_short: false, run, applies: |_| true }
}

impl Case {
    const fn with(mut self, applies: fn(&Settings) -> bool) -> Self {
        self.applies = applies;
        self
    }
}

/// All tests, in their order.
pub(crate) static CASES: [Case; 28] = [
    short("article::two_pods_ping_and_the_counters_are_exact", basic::article),
    short("pods::every_pair_of_nodes_connects", basic::every_pair_of_nodes),
    short("pods::names_resolve_on_every_node", basic::names_resolve),
    short("services::cluster_ip_reaches_all_backends", services::cluster_ip),
    short("services::a_backend_reaches_itself", services::hairpin),
    short("services::udp", services::udp),
    short("services::node_port", services::node_port),
    long("services::node_port_with_local_policy_keeps_the_client", services::node_port_local),
    long("services::headless_names_resolve_to_pods", services::headless),
    long("services::affinity_keeps_the_backend", services::affinity),
    short("services::host_port", services::host_port),
    long("probes::http_tcp_and_grpc_probes_pass", probes::pass),
    long("probes::a_failed_probe_restarts_the_container", probes::restart),
    short("churn::many_pods_leave_nothing", churn::many_pods),
    short("agent::nodes_lists_the_ways", agent::nodes).with(has_agent),
    short("agent::repairs_the_node", agent::repairs).with(has_agent),
    long("agent::killed_under_traffic", agent::killed).with(has_agent),
    long("agent::changes_ways_under_traffic", agent::changes_ways).with(has_agent_and_peers),
    long("restarts::kubelet", restarts::kubelet),
    long("restarts::containerd", restarts::containerd),
    long("restarts::daemonset_deleted_and_back", restarts::daemonset),
    long("upgrade::other_programs_under_traffic", upgrade::under_traffic),
    long("gc::frees_a_forgotten_pod", churn::forgotten_pod),
    long("status::a_full_pool_makes_the_node_unready", status::full_pool).with(calls_status),
    long("status::an_unwritable_state_makes_the_node_unready", status::unwritable_state).with(calls_status),
    short("machine::doctor_finds_no_problem", basic::doctor),
    short("conformance::sig_network", conformance::sig_network),
    // The last one: in its container, the agent sees the boot id of the machine.
    long("restarts::node", restarts::node),
];

/// Whether the nodes have the agent.
fn has_agent(settings: &Settings) -> bool {
    settings.agent.is_some()
}

/// Whether the nodes have the agent and each other.
fn has_agent_and_peers(settings: &Settings) -> bool {
    settings.agent.is_some() && settings.nodes > 1
}

/// Whether the runtime asks the plugin for its status: containerd 2.2, with CNI 1.1.0.
fn calls_status(settings: &Settings) -> bool {
    settings.runtime == Runtime::Containerd2 && settings.cni_version == "1.1.0"
}
