//! The collection of pods that the container runtime does not know any more.
//!
//! The agent runs the command `gc` of the installed plugin. Only the command has rules for the
//! collection, and the agent needs no client of the runtime. The command never removes a pod if the
//! runtime does not answer, nor a pod with an interface.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use simple_ebpf_cni::naming::NAME;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

/// The options of the collection.
#[derive(Clone, Debug)]
pub struct Settings {
    plugin: PathBuf,
    config_dir: PathBuf,
    network: String,
    runtime_endpoint: Option<PathBuf>,
    /// `None` if there are no collections.
    interval: Option<Duration>,
}

impl Settings {
    /// The options of an agent.
    #[must_use]
    pub fn of(settings: &crate::settings::Settings) -> Self {
        Self {
            plugin: settings.plugin_dir.join(NAME),
            config_dir: settings.conflist.parent().unwrap_or(Path::new("/")).to_owned(),
            network: settings.network.to_string(),
            runtime_endpoint: settings.runtime_endpoint.clone(),
            interval: Some(settings.collect_interval).filter(|seconds| *seconds > 0).map(Duration::from_secs),
        }
    }

    /// The command that collects.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.plugin);
        command.arg("gc").arg("--network").arg(&self.network).arg("--conf-dir").arg(&self.config_dir);
        if let Some(endpoint) = &self.runtime_endpoint {
            command.arg("--runtime-endpoint").arg(endpoint);
        }
        command
    }
}

/// Collects in intervals. A failure is logged when it begins.
pub async fn run(settings: Settings) {
    let Some(interval) = settings.interval else { return };
    let mut has_failed = false;
    loop {
        // Not at the start: the runtime may list its pods later than the kubelet starts the agent.
        sleep(interval).await;
        let mut command = settings.command();
        let collected = spawn_blocking(move || command.output()).await;
        let failure = match collected {
            Ok(Ok(output)) => report(&output),
            Ok(Err(error)) => Some(format!("cannot run {}: {error}", settings.plugin.display())),
            Err(error) => Some(error.to_string()),
        };
        if let Some(failure) = failure.as_ref().filter(|_| !has_failed) {
            warn!("pods that the runtime does not know any more are not collected: {failure}");
        }
        has_failed = failure.is_some();
    }
}

/// Logs the output of the command. Returns the reason of a failure.
fn report(output: &Output) -> Option<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        info!("gc: {line}");
    }
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
