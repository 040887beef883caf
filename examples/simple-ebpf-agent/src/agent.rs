//! The loop of the agent: waits for a change, compares, applies, reports.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use simple_ebpf_cni::agent::{REPORT, Report};
use simple_ebpf_cni::naming;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::collect;
use crate::http::{Pages, seconds_since_1970};
use crate::monitor;
use crate::probe::Prober;
use crate::reconcile::Reconciler;
use crate::settings::Settings;
use crate::watch::{Cluster, NodeApi};

/// The delay after a change, to collect further changes. A pod causes some ten messages of the
/// kernel.
const COLLECT: Duration = Duration::from_millis(200);

/// The time to the next attempt after a step has failed.
const RETRY: Duration = Duration::from_secs(5);

/// The time between two writes of the results of probes to the report.
const REFRESH: Duration = Duration::from_secs(15);

/// The longest time for requests to the API after a comparison. The next repair must not wait for a
/// server that hangs.
const REQUESTS: Duration = Duration::from_secs(5);

/// Applies each change of the cluster and of the kernel. Returns only with an error.
///
/// # Errors
///
/// Fails if the kernel's changes cannot be watched, or if a comparison panics.
pub async fn run(
    settings: Settings,
    api: NodeApi,
    mut clusters: watch::Receiver<Option<Cluster>>,
    pages: Arc<Pages>,
) -> io::Result<()> {
    tokio::spawn(collect::run(collect::Settings::of(&settings)));
    let kernel = monitor::start(naming::datapath(&settings.network))?;
    let resync = settings.resync;
    let prober = Prober::start(Arc::clone(&kernel))?;
    let mut reconciler = Reconciler::new(settings).with_prober(prober);
    let mut last = Report::default();
    let mut is_told = true;
    loop {
        let cluster = clusters.borrow_and_update().clone();
        if let Some(cluster) = cluster {
            let view = cluster.view.clone();
            let (returned, report, took) = spawn_blocking(move || {
                let began = Instant::now();
                let report = reconciler.apply(&view);
                (reconciler, report, began.elapsed())
            })
            .await
            .map_err(io::Error::other)?;
            reconciler = returned;
            pages.took(took);
            let mut report = Report { time: seconds_since_1970(), ..report };
            if !cluster.has_own_node {
                report.problems = vec![format!("the API has no node {}: check --node-name", report.node)];
            }
            pages.show(&report);
            is_told = timeout(REQUESTS, tell(&api, &cluster, &last, &report)).await.unwrap_or(false);
            save(&report);
            last = report;
        }
        let pause = if last.is_ready && is_told { resync } else { resync.min(RETRY) };
        let next = Instant::now() + pause;
        // The agent's own changes wake it once more, and that comparison finds no difference.
        while Instant::now() < next {
            let wait = next.saturating_duration_since(Instant::now()).min(REFRESH);
            let is_woken = tokio::select! {
                changed = clusters.changed() => { changed.map_err(io::Error::other)?; true }
                woken = timeout(wait, kernel.notified()) => woken.is_ok(),
            };
            if is_woken {
                break;
            }
            if reconciler.refresh(&mut last) {
                save(&last);
            }
        }
        sleep(COLLECT).await;
    }
}

/// Logs the new problems of a report, and writes them to the API. Returns whether the condition of
/// the node is right.
async fn tell(api: &NodeApi, cluster: &Cluster, last: &Report, report: &Report) -> bool {
    for problem in report.problems.iter().filter(|problem| !last.problems.contains(problem)) {
        warn!("{problem}");
        if cluster.has_own_node {
            api.warn("NetworkProblem", problem).await;
        }
    }
    if report.is_ready && !last.is_ready {
        info!("the network of node {} is ready", report.node);
    }
    if cluster.has_own_node && cluster.view.own.is_none() && !cluster.is_network_unavailable {
        let message = report.problems.first().map(String::as_str).unwrap_or_default();
        return api.set_network_unavailable(true, "NoPodCIDR", message).await;
    }
    if report.is_ready && cluster.is_network_unavailable {
        return api.set_network_unavailable(false, "NetworkReady", "simple-ebpf-agent has set up the network").await;
    }
    true
}

/// Writes the report for the commands of the plugin.
fn save(report: &Report) {
    if let Err(error) = write_report(Path::new(REPORT), report) {
        warn!("cannot write {REPORT}: {error}");
    }
}

/// Replaces the report.
fn write_report(path: &Path, report: &Report) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, serde_json::to_vec(report)?)?;
    fs::rename(temporary, path)
}
