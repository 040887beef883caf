use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use tracing::span::Id;
use tracing::{Level, Metadata};

use super::line::{Fields, Line};

/// The open spans. A call has only a few, so linear search suffices.
#[derive(Debug, Default)]
pub(super) struct Spans {
    last: u64,
    open: Vec<Span>,
    /// The entered spans of all threads, innermost last.
    entered: Vec<(ThreadId, Id)>,
}

#[derive(Debug)]
struct Span {
    id: Id,
    metadata: &'static Metadata<'static>,
    parent: Option<Id>,
    started: Instant,
    fields: Fields,
    /// The durations of the steps inside, if this span has no parent.
    steps: Vec<(&'static str, Duration)>,
    handles: usize,
}

impl Spans {
    pub(super) fn begin(&mut self, metadata: &'static Metadata<'static>, parent: Option<Id>, fields: Fields) -> Id {
        self.last += 1;
        let id = Id::from_u64(self.last);
        let (started, steps) = (Instant::now(), Vec::new());
        self.open.push(Span { id: id.clone(), metadata, parent, started, fields, steps, handles: 1 });
        id
    }

    pub(super) fn add(&mut self, span: &Id, fields: &Fields) {
        if let Some(span) = self.find_mut(span) {
            span.fields.append(fields);
        }
    }

    pub(super) fn enter(&mut self, span: &Id) {
        self.entered.push((thread::current().id(), span.clone()));
    }

    pub(super) fn exit(&mut self, span: &Id) {
        let thread = thread::current().id();
        if let Some(at) = self.entered.iter().rposition(|entered| *entered == (thread, span.clone())) {
            self.entered.remove(at);
        }
    }

    pub(super) fn hold(&mut self, span: &Id) {
        if let Some(span) = self.find_mut(span) {
            span.handles += 1;
        }
    }

    /// Drops a handle. Returns whether it was the last.
    pub(super) fn release(&mut self, span: &Id) -> bool {
        self.find_mut(span).is_some_and(|span| {
            span.handles -= 1;
            span.handles == 0
        })
    }

    /// Whether a span has a parent.
    pub(super) fn is_step(&self, span: &Id) -> bool {
        self.find(span).is_some_and(|span| span.parent.is_some())
    }

    /// Removes a span. The duration of a step is added to the span of the call.
    pub(super) fn end(&mut self, span: &Id, ended: Instant) {
        let Some(at) = self.open.iter().position(|open| open.id == *span) else { return };
        let Span { metadata, started, parent, .. } = self.open.remove(at);
        let Some(parent) = parent.filter(|_| *metadata.level() <= Level::INFO) else { return };
        let duration = ended.saturating_duration_since(started);
        // The duration of a step includes nested spans, so only direct children of the call
        // count.
        if let Some(call) = self.find_mut(&parent).filter(|span| span.parent.is_none()) {
            match call.steps.iter_mut().find(|(name, _)| *name == metadata.name()) {
                Some((_, time)) => *time += duration,
                None => call.steps.push((metadata.name(), duration)),
            }
        }
    }

    /// The innermost span of the calling thread.
    pub(super) fn current(&self) -> Option<(Id, &'static Metadata<'static>)> {
        let thread = thread::current().id();
        let (_, id) = self.entered.iter().rfind(|(entered, _)| *entered == thread)?;
        self.find(id).map(|span| (span.id.clone(), span.metadata))
    }

    /// The parent of a span or an event.
    pub(super) fn parent(&self, explicit: Option<&Id>, is_contextual: bool) -> Option<Id> {
        if is_contextual { self.current().map(|(id, _)| id) } else { explicit.cloned() }
    }

    /// Writes the fields of the call, and the step of a span or an event.
    pub(super) fn write_fields(&self, parent: Option<&Id>, line: &mut Line) {
        let path: Vec<&Span> = self.path(parent).collect();
        path.iter().rev().for_each(|span| line.fields(&span.fields));
        let steps: Vec<&str> = path.iter().rev().skip(1).map(|span| span.metadata.name()).collect();
        if !steps.is_empty() {
            line.field("step", &steps.join("/"));
        }
    }

    /// Writes the duration of a span that ends now.
    pub(super) fn write_step(&self, span: &Id, ended: Instant, line: &mut Line) {
        self.write_fields(Some(span), line);
        if let Some(span) = self.find(span) {
            line.time("step", ended.saturating_duration_since(span.started));
        }
    }

    /// Writes the duration of the call until now, and of each of its steps.
    pub(super) fn write_times(&self, parent: Option<&Id>, line: &mut Line) {
        if let Some(root) = self.path(parent).last() {
            line.time("total", root.started.elapsed());
            root.steps.iter().for_each(|(step, time)| line.time(step, *time));
        }
    }

    /// A span and its ancestors, innermost first.
    fn path(&self, innermost: Option<&Id>) -> impl Iterator<Item = &Span> {
        let innermost = innermost.and_then(|id| self.find(id));
        std::iter::successors(innermost, |span| span.parent.as_ref().and_then(|parent| self.find(parent)))
    }

    fn find(&self, span: &Id) -> Option<&Span> {
        self.open.iter().find(|open| open.id == *span)
    }

    fn find_mut(&mut self, span: &Id) -> Option<&mut Span> {
        self.open.iter_mut().find(|open| open.id == *span)
    }
}
