//! /healthz, /readyz and /metrics.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
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
        let mut registry = Registry::with_prefix("simple_ebpf_agent");
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
        Arc::new(Self { report: Mutex::new(None), registry, peers, problems, applies, ready })
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
