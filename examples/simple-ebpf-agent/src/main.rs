//! `simple-ebpf-agent`: connects the pods of this node to the pods of other nodes.

#[cfg(no_backtraces)]
#[path = "../../simple-ebpf-cni/src/stack_walk.rs"]
mod stack_walk;

use std::error::Error;
use std::process::ExitCode;

use cnikit::netlink::Sysctl;
use dlmalloc::GlobalDlmalloc;
use kube::Client;
use simple_ebpf_agent::agent;
use simple_ebpf_agent::http::{self, Pages};
use simple_ebpf_agent::settings::{LogFormat, Settings};
use simple_ebpf_agent::watch::NodeApi;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Keeps freed pages, unlike the allocator of musl. Returns large blocks, unlike glibc.
#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

fn main() -> ExitCode {
    let settings = Settings::of_process();
    start_log(&settings);
    // The first call, so it cannot fail.
    let _ = Sysctl::set_net_directory(&settings.sysctl_dir);
    let ran = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Into::into);
    match ran.and_then(|runtime| runtime.block_on(run(settings))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs until a signal. Everything that the agent has set up stays.
async fn run(settings: Settings) -> Result<(), Box<dyn Error>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let client = Client::try_default().await?;
    let api = NodeApi::new(client, &settings.node_name, &settings.pod_cidr);
    let (sender, receiver) = watch::channel(None);
    let pages = Pages::new();
    let (listen, watching) = (settings.listen, api.clone());
    info!("started on node {}", settings.node_name);
    tokio::select! {
        ended = agent::run(settings, api, receiver, pages.clone()) => ended.map_err(Into::into),
        never = watching.watch(sender, pages.clone()) => match never {},
        served = http::serve(listen, pages) => served.map_err(|error| format!("cannot serve on {listen}: {error}; choose another address with --listen").into()),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// Sends log lines to standard error, which the runtime collects.
fn start_log(settings: &Settings) {
    // Libraries below kube log each request.
    let own = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("simple_ebpf", settings.log_level)
        .with_target("cnikit", settings.log_level);
    let lines = match settings.log_format {
        LogFormat::Logfmt => tracing_logfmt::builder().with_target(false).layer().with_writer(std::io::stderr).boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(own)).init();
}
