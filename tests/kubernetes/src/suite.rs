//! Runs the tests on one cluster after another.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::cases::{Bench, CASES, Case, Plugins, SHORT_CONFORMANCE};
use crate::cluster::{Cluster, down};
use crate::layout::Layout;
use crate::output;
use crate::process::{catch_signals, heed_signals, ignore_signals, was_interrupted};
use crate::settings::{ProxyMode, Runtime, Settings};

/// The most characters of a test's name in the name of its namespace, which has at most 63.
const MOST_NAME: usize = 50;

/// Run the tests on clusters with different settings, one after another
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    plugins: Plugins,

    /// Binary of the node agent, for clusters of several nodes and for the short form
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,

    /// One node, and the tests that fit into a few minutes
    #[arg(long)]
    short: bool,

    /// Use the running cluster, and leave it running
    #[arg(long)]
    running: bool,

    /// Only clusters with this text in their summary, such as `nftables` or `containerd 2.2`
    #[arg(long, value_name = "TEXT", default_value = "", conflicts_with = "running")]
    cluster: String,

    /// List the clusters and tests, and run nothing
    #[arg(long)]
    pub(crate) list: bool,

    /// Only tests with one of these texts in their name
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

impl Options {
    /// The selected clusters and tests.
    fn selected(&self) -> Result<(Vec<Settings>, Vec<&'static Case>)> {
        let is_selected = |case: &&Case| {
            (self.names.is_empty() || self.names.iter().any(|name| case.name.contains(name.as_str())))
                && (!self.short || case.is_short)
        };
        let cases: Vec<_> = CASES.iter().filter(is_selected).collect();
        let mut clusters: Vec<_> = clusters()
            .into_iter()
            .map(|cluster| self.with_agent(cluster))
            .filter(|cluster| cluster.summary().contains(&self.cluster))
            .collect();
        if self.short {
            clusters.truncate(1);
        }
        if cases.is_empty() || clusters.is_empty() {
            bail!("no cluster or no test has these texts: scripts/test-kubernetes.sh --list");
        }
        Ok((clusters, cases))
    }

    /// Clusters of several nodes have the agent, and the others the installation without it. The
    /// short form has the agent, because more of it can fail.
    fn with_agent(&self, cluster: Settings) -> Settings {
        let agent = self.agent.clone().filter(|_| cluster.nodes > 1 || self.short);
        Settings { agent, ..cluster }
    }
}

/// The result of a test.
struct Outcome {
    name: String,
    error: Option<String>,
}

/// The clusters of the long form. Each pair of two of their settings occurs: number of nodes, mode
/// of kube-proxy, address families.
fn clusters() -> [Settings; 5] {
    let settings = |nodes, proxy, dual_stack| Settings {
        nodes,
        dual_stack,
        proxy,
        runtime: Runtime::System,
        cni_version: "1.0.0".to_owned(),
        agent: None,
    };
    [
        settings(1, ProxyMode::Iptables, false),
        settings(2, ProxyMode::Nftables, false),
        settings(2, ProxyMode::Iptables, true),
        settings(1, ProxyMode::Nftables, true),
        // The only runtime that calls STATUS.
        Settings {
            runtime: Runtime::Containerd2,
            cni_version: "1.1.0".to_owned(),
            ..settings(1, ProxyMode::Iptables, false)
        },
    ]
}

/// Lists the selected clusters and tests.
pub(crate) fn list(options: &Options) -> Result<()> {
    let (clusters, cases) = options.selected()?;
    clusters.iter().for_each(|cluster| output::line(&format!("cluster: {}", cluster.summary())));
    cases.iter().for_each(|case| output::line(case.name));
    Ok(())
}

/// Runs the tests.
///
/// # Errors
///
/// If a test fails, no test matches, or a cluster does not start.
pub(crate) fn run(layout: &Layout, options: &Options) -> Result<()> {
    let (clusters, cases) = options.selected()?;
    catch_signals()?;
    let started = Instant::now();
    let mut outcomes = Vec::new();
    if options.running {
        outcomes.extend(run_cases(&Cluster::running(layout)?, &cases, options));
    } else {
        for settings in &clusters {
            outcomes.extend(run_cluster(layout, settings, &cases, options)?);
        }
    }
    report(&outcomes, options, started.elapsed())
}

/// Starts a cluster, runs the tests on it, and deletes it.
fn run_cluster(layout: &Layout, settings: &Settings, cases: &[&Case], options: &Options) -> Result<Vec<Outcome>> {
    let cluster = Cluster::claim(layout, settings)?;
    let started = Instant::now();
    output::step(&format!("Cluster: {}", settings.summary()));
    let up = cluster.start(&|_step| {}).and_then(|()| cluster.deploy(&options.plugins.plugin));
    let mut outcomes = match up {
        Ok(()) => {
            output::note(&format!("up after {} s", started.elapsed().as_secs()));
            run_cases(&cluster, cases, options)
        }
        Err(error) => {
            if !was_interrupted() {
                eprintln!("{}", cluster.diagnosis());
            }
            vec![finished("cluster::starts", started, Some(format!("{error:#}")))]
        }
    };
    ignore_signals();
    if let Some(memory) = memory_of_daemons(&cluster) {
        output::note(&format!("the daemons of node-1 had {memory} MB of memory"));
    }
    if outcomes.iter().any(|outcome| outcome.error.is_some()) {
        output::note(&format!("the logs of the daemons are in {}", cluster.keep_logs()?.display()));
    }
    let changes = down(layout).context("cannot delete the cluster")?;
    heed_signals();
    if was_interrupted() {
        bail!("interrupted");
    }
    let error = (!changes.is_empty()).then(|| format!("the machine has changed:\n{}", changes.join("\n")));
    outcomes.push(finished("machine::nothing_of_the_cluster_is_left", started, error));
    Ok(outcomes)
}

fn run_cases(cluster: &Cluster, cases: &[&Case], options: &Options) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for case in cases {
        if !(case.applies)(cluster.settings()) {
            output::note(&format!("NOT RUN {}: it does not apply to {}", case.name, cluster.settings().summary()));
            continue;
        }
        let started = Instant::now();
        let result = run_case(cluster, case, options);
        let has_failed = result.is_err();
        outcomes.push(finished(case.name, started, result.err().map(|error| format!("{error:#}"))));
        if was_interrupted() {
            break;
        }
        // A failed test may leave a node without a daemon or network.
        if has_failed && let Err(error) = cluster.nodes().try_for_each(|node| cluster.start_missing(&node)) {
            outcomes.push(finished("cluster::recovers", started, Some(format!("{error:#}"))));
            break;
        }
    }
    outcomes
}

/// Runs a test in a namespace of its own.
fn run_case(cluster: &Cluster, case: &Case, options: &Options) -> Result<()> {
    // The namespace of an earlier run may still be there.
    let name = case.name.split("::").last().unwrap_or_default().replace('_', "-");
    let name = name.get(..MOST_NAME).unwrap_or(&name).trim_end_matches('-');
    let namespace = format!("{name}-{}", std::process::id());
    let bench = Bench::new(cluster, &namespace, &options.plugins, options.short)?;
    let result = (case.run)(&bench);
    if result.is_err() && !was_interrupted() {
        // Before the namespace is deleted.
        eprintln!("{}", cluster.diagnosis());
    }
    let cleaned = bench.finish();
    result.and(cleaned)
}

/// Prints the result of a test.
fn finished(name: &str, started: Instant, error: Option<String>) -> Outcome {
    let seconds = started.elapsed().as_secs_f32();
    match &error {
        None => output::passed(&format!("{name} ({seconds:.1} s)")),
        Some(error) => output::failed(&format!("{name} ({seconds:.1} s): {error}")),
    }
    Outcome { name: name.to_owned(), error }
}

fn report(outcomes: &[Outcome], options: &Options, elapsed: Duration) -> Result<()> {
    let failed: Vec<_> =
        outcomes.iter().filter(|outcome| outcome.error.is_some()).map(|outcome| outcome.name.as_str()).collect();
    if options.short {
        let left: Vec<_> = CASES.iter().filter(|case| !case.is_short).map(|case| case.name).collect();
        output::note(&format!("NOT RUN, because of --short: {}", left.join(", ")));
        output::note(&format!(
            "NOT RUN, because of --short: two nodes, nftables, dual stack, containerd 2.2, and all [sig-network] tests except {}",
            SHORT_CONFORMANCE.len()
        ));
    }
    output::note(&format!(
        "{} passed, {} failed, {} s",
        outcomes.len() - failed.len(),
        failed.len(),
        elapsed.as_secs()
    ));
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// The resident memory of the daemons of the first node in megabytes.
fn memory_of_daemons(cluster: &Cluster) -> Option<u64> {
    let script = "for file in /run/cluster/*.pid; do grep VmRSS /proc/$(cat $file)/status; done |
        awk '{ sum += $2 } END { print int(sum / 1024) }'";
    cluster.node(1).shell(script).ok()?.trim().parse().ok()
}
