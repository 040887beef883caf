//! A private host for each contestant, so that none has to live with what another did to its own.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, Scope};

use cnikit_testbed::{Host, host};

use crate::interrupt;

/// A host on a thread of its own, which does nothing but what it is told.
pub(crate) struct Site<B> {
    jobs: Sender<Job<B>>,
}

type Job<B> = Box<dyn FnOnce(&Host, &mut B) + Send>;

impl<B: 'static> Site<B> {
    /// Starts a host; `fixture` makes, on it, what jobs work with. It ends with this value.
    pub(crate) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        name: &str,
        fixture: impl FnOnce(&Host) -> B + Send + 'scope,
    ) -> Self {
        let (jobs, queue) = channel::<Job<B>>();
        let work = move || {
            host(|host| {
                // The bridges stay, and the reference plugins leave more. All of it goes with the namespace.
                host.keep("");
                let mut fixture = fixture(host);
                serve(host, &mut fixture, queue);
            });
        };
        Builder::new().name(name.to_owned()).spawn_scoped(scope, work).expect("a thread can be started");
        Self { jobs }
    }

    /// Has something done there, and waits for it.
    ///
    /// # Panics
    ///
    /// If it panicked there; what it said is on standard error.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce(&Host, &mut B) -> T + Send + 'static) -> T {
        interrupt::check();
        let (answer, result) = channel();
        let job: Job<B> = Box::new(move |host, fixture| {
            let _ = answer.send(job(host, fixture));
        });
        let sent = self.jobs.send(job).ok().and_then(|()| result.recv().ok());
        sent.unwrap_or_else(|| {
            interrupt::check();
            panic!("a host has failed: see above")
        })
    }
}

fn serve<B>(host: &Host, fixture: &mut B, queue: Receiver<Job<B>>) {
    for job in queue {
        job(host, fixture);
    }
}
