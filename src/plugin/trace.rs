use std::fmt;

use tracing::dispatcher::{self, Dispatch};
use tracing::field::{Empty, display};
use tracing::{Span, error, error_span, info};

use super::PluginError;
use crate::spec::{AddResult, Environment, IpConfig, KubernetesPod, RawConfig};

/// A call as [`tracing`] is told of it.
pub(super) struct Trace {
    subscriber: Dispatch,
    /// None as long as nobody knows what the call is about.
    span: Option<Span>,
}

/// Tells the addresses of the call, where a result has some.
pub(super) fn record_addresses(result: &AddResult) {
    if !result.ips.is_empty() {
        Span::current().record("addresses", display(Addresses(&result.ips)));
    }
}

/// Records the pod of the call in the current span, which must have the fields `pod` and `pod_uid`.
///
/// The span of a call has both, and [`dispatch`](super::dispatch) records what `CNI_ARGS` holds. A plugin calls this if it
/// knows the pod from elsewhere, such as from a lease.
pub fn record_pod(pod: &KubernetesPod) {
    let span = Span::current();
    if !pod.is_unnamed() {
        span.record("pod", display(pod));
    }
    if let Some(uid) = &pod.uid {
        span.record("pod_uid", display(uid));
    }
}

struct Addresses<'a>(&'a [IpConfig]);

impl Trace {
    /// A call of which nothing is known yet.
    pub(super) fn unknown() -> Self {
        Self { subscriber: dispatcher::get_default(Dispatch::clone), span: None }
    }

    /// Begins the span of a call. What is wrong with the network's name is said elsewhere.
    pub(super) fn begin(&mut self, subscriber: Option<Dispatch>, environment: &Environment, config: &RawConfig) {
        if let Some(subscriber) = subscriber {
            self.subscriber = subscriber;
        }
        let Environment { command, container_id, ifname, .. } = environment;
        let span = dispatcher::with_default(&self.subscriber, || {
            // Of the level that nobody leaves out, as it says what everything inside is about.
            error_span!(
                "cni",
                %command,
                network = config.name().ok().map(display),
                container = container_id.as_ref().map(display),
                ifname = ifname.as_ref().map(display),
                pod = Empty,
                pod_uid = Empty,
                addresses = Empty
            )
        });
        self.span = Some(span);
        if let Ok(args) = &environment.args {
            self.run(|| record_pod(&KubernetesPod::from_args(args)));
        }
    }

    /// Does a part of the call in its span.
    pub(super) fn run<T>(&self, part: impl FnOnce() -> T) -> T {
        let _told = dispatcher::set_default(&self.subscriber);
        let _inside = self.span.as_ref().map(Span::enter);
        part()
    }

    /// Tells what the call came to.
    pub(super) fn end(&self, failure: Option<&PluginError>) {
        self.run(|| match failure {
            None if self.span.is_some() => info!(result = "ok"),
            // A person was told what this program is.
            None => {}
            Some(failure) => error!(result = "error", code = failure.code.value(), "{failure}"),
        });
    }
}

impl fmt::Display for Addresses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(index, ip)| {
            f.write_str(if index == 0 { "" } else { "," })?;
            fmt::Display::fmt(&ip.address, f)
        })
    }
}
