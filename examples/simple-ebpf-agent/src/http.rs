//! /healthz, /readyz and /metrics.

use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use simple_ebpf_cni::agent::{Report, Way};
use tokio::net::TcpListener;

/// The state that the pages show.
#[derive(Debug)]
pub struct Pages {
    /// `None` until the first comparison with the kernel.
    report: Mutex<Option<Report>>,
    registry: Registry,
    peers: Family<WayLabels, Gauge>,
    problems: Gauge,
    applies: Counter,
    ready: Gauge,
    durations: Histogram,
    watched: Gauge,
}

/// The upper limits of the buckets for comparisons, in seconds.
const DURATIONS: [f64; 8] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// The time of the processor and the memory of this process.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        // Ticks of user and system time are the 12th and 13th field behind the name.
        let ticks = fs::read_to_string("/proc/self/stat").ok().and_then(|text| {
            let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
            Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
        });
        if let Some(ticks) = ticks {
            let seconds = ConstCounter::new(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
            let help = "Time of the processor";
            let metric = encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), seconds.metric_type())?;
            seconds.encode(metric)?;
        }
        let statm = fs::read_to_string("/proc/self/statm");
        let pages = statm.ok().and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
        if let Some(pages) = pages {
            let bytes = ConstGauge::new((pages * rustix::param::page_size() as u64) as i64);
            let help = "Resident memory";
            let metric =
                encoder.encode_descriptor("process_resident_memory", help, Some(&Unit::Bytes), bytes.metric_type())?;
            bytes.encode(metric)?;
        }
        Ok(())
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WayLabels {
    way: &'static str,
    family: &'static str,
}

impl Pages {
    /// Pages without a report yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let mut root = Registry::default();
        root.register_collector(Box::new(Process));
        let registry = root.sub_registry_with_prefix("simple_ebpf_agent");
        let (durations, watched) = (Histogram::new(DURATIONS), Gauge::default());
        let (peers, problems) = (Family::<WayLabels, Gauge>::default(), Gauge::default());
        let (applies, ready) = (Counter::default(), Gauge::default());
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version of the agent", version);
        registry.register("peers", "Pod CIDRs of other nodes by way", peers.clone());
        registry.register("problems", "Steps that fail", problems.clone());
        registry.register("reconciliations", "Comparisons with the kernel", applies.clone());
        registry.register("ready", "1 if the network of the node is set up", ready.clone());
        let started = Gauge::<i64>::default();
        started.set(seconds_since_1970().try_into().unwrap_or(i64::MAX));
        registry.register_with_unit("start_time", "Start of the agent since 1970", Unit::Seconds, started);
        let help = "Time of a comparison with the kernel and of its changes";
        registry.register_with_unit("reconciliation_duration", help, Unit::Seconds, durations.clone());
        let help = "Last message of the API about nodes, since 1970";
        registry.register_with_unit("watch_time", help, Unit::Seconds, watched.clone());
        Arc::new(Self { report: Mutex::new(None), registry: root, peers, problems, applies, ready, durations, watched })
    }

    /// Records a message of the API.
    pub fn saw_event(&self) {
        self.watched.set(seconds_since_1970().try_into().unwrap_or(i64::MAX));
    }

    /// Records the time of a comparison.
    pub fn took(&self, time: Duration) {
        self.durations.observe(time.as_secs_f64());
    }

    /// Shows a new report.
    pub fn show(&self, report: &Report) {
        self.applies.inc();
        self.problems.set(report.problems.len().try_into().unwrap_or(i64::MAX));
        self.ready.set(report.is_ready.into());
        self.peers.clear();
        for peer in &report.peers {
            let way = match peer.way {
                Way::Direct => "direct",
                Way::Vxlan => "vxlan",
                Way::Routed => "routed",
                Way::None => "none",
            };
            let family = if peer.pod_cidr.is_ipv4() { "ipv4" } else { "ipv6" };
            self.peers.get_or_create(&WayLabels { way, family }).inc();
        }
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report.clone());
    }

    fn readiness(&self) -> (StatusCode, String) {
        match &*self.report.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(report) if report.is_ready => (StatusCode::OK, "ready\n".to_owned()),
            Some(report) => (StatusCode::SERVICE_UNAVAILABLE, report.problems.join("\n") + "\n"),
            None => (StatusCode::SERVICE_UNAVAILABLE, "the API has not answered yet\n".to_owned()),
        }
    }
}

/// Serves the pages.
///
/// # Errors
///
/// Fails if the address cannot be used.
pub async fn serve(address: SocketAddr, pages: Arc<Pages>) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(|State(pages): State<Arc<Pages>>| async move { pages.readiness() }))
        .route("/metrics", get(metrics))
        .with_state(pages);
    axum::serve(listener, router).await
}

async fn metrics(State(pages): State<Arc<Pages>>) -> impl IntoResponse {
    let mut text = String::new();
    if let Err(error) = encode(&mut text, &pages.registry) {
        // The text is incomplete without its last line, and a scraper refuses it.
        let _ = writeln!(text, "# {error}");
    }
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}

/// The time, in seconds since 1970.
#[must_use]
pub fn seconds_since_1970() -> u64 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs())
}
