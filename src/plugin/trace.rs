use std::fmt;

use tracing::dispatcher::{self, Dispatch};
use tracing::field::{Empty, display};
use tracing::{Span, error, error_span, info};

use super::PluginError;
use crate::spec::{AddResult, Environment, IpConfig, KubernetesPod, RawConfig};

/// The [`tracing`] span of a call, and its subscriber.
pub(super) struct CallSpan {
    subscriber: Dispatch,
    /// `None` until the parameters of the call are known.
    span: Option<Span>,
}

/// Records the addresses of the call in the current span, if the result has any.
pub(super) fn record_addresses(result: &AddResult) {
    if !result.ips.is_empty() {
        Span::current().record("addresses", display(Addresses(&result.ips)));
    }
}

/// Records the pod of the call in the current span, which must have the fields `pod` and `pod_uid`.
///
/// The span of a call has both, and [`dispatch`](super::dispatch) records the pod that `CNI_ARGS`
/// names. A plugin calls this function if it knows the pod from elsewhere, such as from a lease.
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

impl CallSpan {
    /// A call with unknown parameters.
    pub(super) fn without_span() -> Self {
        Self { subscriber: dispatcher::get_default(Dispatch::clone), span: None }
    }

    /// Begins the span of a call. An invalid network name is omitted; validation reports it.
    pub(super) fn begin(&mut self, subscriber: Option<Dispatch>, environment: &Environment, config: &RawConfig) {
        if let Some(subscriber) = subscriber {
            self.subscriber = subscriber;
        }
        let Environment { command, container_id, ifname, .. } = environment;
        let span = dispatcher::with_default(&self.subscriber, || {
            // The highest level, so that no filter drops the span: it identifies the call of all
            // events inside.
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

    /// Runs a part of the call in its span.
    pub(super) fn run<T>(&self, part: impl FnOnce() -> T) -> T {
        let _subscriber = dispatcher::set_default(&self.subscriber);
        let _entered = self.span.as_ref().map(Span::enter);
        part()
    }

    /// Emits the result of the call.
    pub(super) fn end(&self, error: Option<&PluginError>) {
        self.run(|| match error {
            None if self.span.is_some() => info!(result = "ok"),
            // A user called the program without `CNI_COMMAND`.
            None => {}
            Some(error) => error!(result = "error", code = error.code.value(), "{error}"),
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
