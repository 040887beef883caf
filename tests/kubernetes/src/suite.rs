//! Runs the tests on one cluster after another.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::cases::{Bench, CASES, Case, Plugins, SHORT_CONFORMANCE};
use crate::cluster::{Cluster, down};
use crate::layout::Layout;
use crate::output;
use crate::process::{catch_signals, forget_signals, was_interrupted};
use crate::settings::{ProxyMode, Runtime, Settings};

/// Run the tests on clusters with different settings, one after another
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    plugins: Plugins,

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
    list: bool,

    /// Only tests with one of these texts in their name
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

impl Options {
    /// Whether nothing is run.
    pub(crate) fn is_list(&self) -> bool {
        self.list
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

/// Runs the tests.
///
/// # Errors
///
/// If a test fails, no test matches, or a cluster does not start.
pub(crate) fn run(layout: &Layout, options: &Options) -> Result<()> {
    let is_selected = |case: &&Case| {
        (options.names.is_empty() || options.names.iter().any(|name| case.name.contains(name.as_str())))
            && (!options.short || case.is_short)
    };
    let cases: Vec<_> = CASES.iter().filter(is_selected).collect();
    let mut clusters: Vec<_> =
        clusters().into_iter().filter(|cluster| cluster.summary().contains(&options.cluster)).collect();
    if options.short {
        clusters.truncate(1);
    }
    if cases.is_empty() || clusters.is_empty() {
        bail!("no test has one of these names: cluster test --list");
    }
    if options.list {
        clusters.iter().for_each(|cluster| output::line(&format!("cluster: {}", cluster.summary())));
        cases.iter().for_each(|case| output::line(case.name));
        return Ok(());
    }
    catch_signals()?;
    let started = Instant::now();
    let mut outcomes = Vec::new();
    if options.running {
        outcomes.extend(run_cases(&Cluster::running(layout)?, &cases, options)?);
    } else {
        for settings in &clusters {
            outcomes.extend(run_cluster(layout, settings, &cases, options)?);
        }
    }
    report(&outcomes, options, started.elapsed())
}

/// Starts a cluster, runs the tests on it, and deletes it.
fn run_cluster(layout: &Layout, settings: &Settings, cases: &[&Case], options: &Options) -> Result<Vec<Outcome>> {
    let started = Instant::now();
    output::step(&format!("Cluster: {}", settings.summary()));
    let tested = start(layout, settings, &options.plugins.plugin).and_then(|cluster| {
        output::note(&format!("up after {} s", started.elapsed().as_secs()));
        run_cases(&cluster, cases, options)
    });
    let memory = memory_of_daemons(layout);
    let interrupted = was_interrupted();
    forget_signals();
    let changes = down(layout).context("cannot delete the cluster")?;
    let mut outcomes = tested?;
    if interrupted {
        bail!("interrupted");
    }
    if let Some(memory) = memory {
        output::note(&format!("the daemons of node-1 had {memory} MB of memory"));
    }
    let error = (!changes.is_empty()).then(|| format!("the machine has changed:\n{}", changes.join("\n")));
    outcomes.push(finished("machine::nothing_of_the_cluster_is_left", started, error));
    Ok(outcomes)
}

fn start(layout: &Layout, settings: &Settings, plugin: &Path) -> Result<Cluster> {
    let cluster = Cluster::up(layout, settings, &|_step| {})?;
    if let Err(error) = cluster.deploy(plugin) {
        eprintln!("{}", cluster.diagnosis());
        return Err(error);
    }
    Ok(cluster)
}

fn run_cases(cluster: &Cluster, cases: &[&Case], options: &Options) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for case in cases {
        if !(case.applies)(cluster.settings()) {
            output::note(&format!("NOT RUN {}: this cluster's runtime or CNI version does not call STATUS", case.name));
            continue;
        }
        let started = Instant::now();
        let namespace = format!("test-{}", case.name.split("::").last().unwrap_or_default().replace('_', "-"));
        let namespace = namespace.get(..60).unwrap_or(&namespace).trim_end_matches('-').to_owned();
        let bench = Bench::new(cluster, &namespace, &options.plugins, options.short)?;
        let result = (case.run)(&bench);
        if result.is_err() && !was_interrupted() {
            // Before the namespace is deleted.
            eprintln!("{}", cluster.diagnosis());
        }
        let cleaned = bench.finish();
        let error = result.and(cleaned).err().map(|error| format!("{error:#}"));
        let has_failed = error.is_some();
        outcomes.push(finished(case.name, started, error));
        if was_interrupted() {
            break;
        }
        // A failed test may leave a node without a daemon or network.
        if has_failed {
            cluster.nodes().try_for_each(|node| cluster.start_missing(&node))?;
        }
    }
    Ok(outcomes)
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
fn memory_of_daemons(layout: &Layout) -> Option<u64> {
    let cluster = Cluster::running(layout).ok()?;
    let script = "for file in /run/cluster/*.pid; do grep VmRSS /proc/$(cat $file)/status; done | awk '{ sum += $2 } END { print int(sum / 1024) }'";
    cluster.node(1).shell(script).ok()?.trim().parse().ok()
}
