//! A private host for each contestant, so that no contestant affects another.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, Scope};

use cnikit_testbed::{Host, host};

use crate::interrupt;

/// A host on its own thread, which runs jobs.
pub(crate) struct HostThread<B> {
    jobs: Sender<Job<B>>,
}

type Job<B> = Box<dyn FnOnce(&Host, &mut B) + Send>;

impl<B: 'static> HostThread<B> {
    /// Starts a host. `fixture` creates the objects for the jobs on it. The host ends with this
    /// value.
    pub(crate) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        name: &str,
        fixture: impl FnOnce(&Host) -> B + Send + 'scope,
    ) -> Self {
        let (jobs, queue) = channel::<Job<B>>();
        let work = move || {
            host(|host| {
                // The bridges stay, and the reference plugins leave more objects. All of them
                // disappear with the namespace.
                host.keep("");
                let mut fixture = fixture(host);
                serve(host, &mut fixture, queue);
            });
        };
        Builder::new().name(name.to_owned()).spawn_scoped(scope, work).expect("a thread can be started");
        Self { jobs }
    }

    /// Runs a job there and waits for its end.
    ///
    /// # Panics
    ///
    /// If the job panicked; its message is on standard error.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce(&Host, &mut B) -> T + Send + 'static) -> T {
        interrupt::check();
        let (answer, result) = channel();
        let job: Job<B> = Box::new(move |host, fixture| {
            let _ = answer.send(job(host, fixture));
        });
        let sent = self.jobs.send(job).ok().and_then(|()| result.recv().ok());
        sent.unwrap_or_else(|| {
            interrupt::check();
            panic!("a private host failed; see the messages above")
        })
    }
}

fn serve<B>(host: &Host, fixture: &mut B, queue: Receiver<Job<B>>) {
    for job in queue {
        job(host, fixture);
    }
}
