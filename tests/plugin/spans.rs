//! The spans and events of a call, as a subscriber receives them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use cnikit::plugin::{AddRequest, CheckRequest, DelRequest, LogLevel, Plugin, PluginError, PluginInfo};
use cnikit::spec::{AddResult, RawConfig};
use serde_json::json;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::with_default;
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

use crate::scripted::{Call, Scripted, error_of};

/// Records each span when it ends and each event, in this order.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Entry>>>);

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    level: Level,
    /// The enclosing spans and, for a span, its own name.
    path: Vec<&'static str>,
    fields: Fields,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Fields(BTreeMap<&'static str, String>);

impl Recorder {
    /// The records of a call.
    fn of(call: impl FnOnce()) -> Vec<Entry> {
        let recorder = Recorder::default();
        with_default(tracing_subscriber::registry().with(recorder.clone()), call);
        let entries = recorder.0.lock().unwrap();
        entries.clone()
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        context.span(id).unwrap().extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        values.record(context.span(id).unwrap().extensions_mut().get_mut::<Fields>().unwrap());
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let spans = context.event_scope(event).into_iter().flat_map(|scope| scope.from_root());
        let path = spans.map(|span| span.name()).collect();
        self.0.lock().unwrap().push(Entry { level: *event.metadata().level(), path, fields });
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).unwrap();
        let path = span.scope().from_root().map(|span| span.name()).collect();
        let fields = span.extensions().get::<Fields>().unwrap().clone();
        self.0.lock().unwrap().push(Entry { level: *span.metadata().level(), path, fields });
    }
}

fn entry<const N: usize>(level: Level, path: &[&'static str], fields: [(&'static str, &str); N]) -> Entry {
    let fields = Fields(fields.into_iter().map(|(key, value)| (key, value.to_owned())).collect());
    Entry { level, path: path.to_vec(), fields }
}

#[test]
fn a_call_is_a_span_that_ends_with_its_result() {
    let records = Recorder::of(|| assert_eq!(Call::new("ADD").run(&Scripted::default()).exit_code, 0));
    let fields = [
        ("command", "ADD"),
        ("network", "dbnet"),
        ("container", "c1"),
        ("ifname", "eth0"),
        ("addresses", "10.1.0.5/16"),
    ];
    let expected = [entry(Level::INFO, &["cni"], [("result", "ok")]), entry(Level::ERROR, &["cni"], fields)];
    assert_eq!(records, expected);
}

#[test]
fn each_omitted_field_of_a_result_is_a_warning() {
    let call = Call::new("ADD").key("table", json!(100)).key("cniVersion", json!("1.0.0"));
    let records = Recorder::of(|| assert_eq!(call.run(&Scripted::default()).exit_code, 0));
    let message = "the result omits routes[0].table 100 (needs cniVersion 1.1.0 or later)";
    assert_eq!(records[0], entry(Level::WARN, &["cni"], [("message", message)]));
    assert_eq!(records.len(), 3, "{records:#?}");
}

#[test]
fn every_verb_has_a_span() {
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"] {
        let records = Recorder::of(|| assert_eq!(Call::new(command).run(&Scripted::default()).exit_code, 0));
        let [result, span] = &records[..] else { panic!("{command}: {records:#?}") };
        assert_eq!(*result, entry(Level::INFO, &["cni"], [("result", "ok")]));
        assert_eq!((span.fields.0["command"].as_str(), span.fields.0["network"].as_str()), (command, "dbnet"));
    }
}

#[test]
fn an_error_and_a_panic_are_recorded_in_the_span() {
    for (key, code, message) in
        [("fails", "11", "the pool is locked: by 42"), ("panics", "999", "the plugin panicked: as scripted")]
    {
        let records = Recorder::of(|| {
            error_of(&Call::new("DEL").key(key, json!(true)).run(&Scripted::default()));
        });
        let [error, span] = &records[..] else { panic!("{records:#?}") };
        let Fields(fields) = &error.fields;
        assert_eq!((error.level, &error.path[..]), (Level::ERROR, &["cni"][..]));
        assert_eq!((fields["result"].as_str(), fields["code"].as_str()), ("error", code));
        assert!(fields["message"].starts_with(message), "{fields:?}");
        assert_eq!(span.fields.0["container"], "c1");
    }
}

#[test]
fn an_unreadable_configuration_is_recorded_without_a_span() {
    let records = Recorder::of(|| {
        error_of(&Call::new("ADD").run_with_stdin(&Scripted::default(), &mut "{".as_bytes()));
    });
    let [error] = &records[..] else { panic!("{records:#?}") };
    assert_eq!((error.level, error.path.len(), error.fields.0["code"].as_str()), (Level::ERROR, 0, "6"));
    assert_eq!(Recorder::of(|| drop(Call::new("").run(&Scripted::default()))), []);
}

/// A plugin with a log of its own.
struct Logging(Recorder);

impl Plugin for Logging {
    type Config = serde::de::IgnoredAny;

    fn info(&self) -> PluginInfo {
        Scripted::default().info()
    }

    fn subscriber(&self, config: &RawConfig) -> Option<Dispatch> {
        config.value("logFile").map(|_| Dispatch::new(tracing_subscriber::registry().with(self.0.clone())))
    }

    fn add(&self, _: &AddRequest<Self::Config>) -> Result<AddResult, PluginError> {
        tracing::info_span!("bridge").in_scope(|| tracing::warn!("it is down"));
        Ok(AddResult::default())
    }

    fn del(&self, _: &DelRequest<Self::Config>) -> Result<(), PluginError> {
        Ok(())
    }

    fn check(&self, _: &CheckRequest<Self::Config>) -> Result<(), PluginError> {
        Ok(())
    }
}

#[test]
fn the_configuration_selects_the_subscriber() {
    let recorder = Recorder::default();
    let plugin = Logging(recorder.clone());
    let others = Recorder::of(|| {
        let call = Call::new("ADD").key("logFile", json!("/var/log/cni.log"));
        assert_eq!(call.run(&plugin).exit_code, 0);
    });
    assert_eq!(others, []);
    let records = recorder.0.lock().unwrap().clone();
    assert_eq!(records[0], entry(Level::WARN, &["cni", "bridge"], [("message", "it is down")]));
    assert_eq!(records[1], entry(Level::INFO, &["cni", "bridge"], []));
    assert_eq!(records.len(), 4, "{records:#?}");

    let others = Recorder::of(|| assert_eq!(Call::new("ADD").run(&plugin).exit_code, 0));
    assert_eq!(others.len(), 4, "{others:#?}");
}

#[test]
fn log_levels_have_aliases() {
    let level = |text: &str| serde_json::from_value::<LogLevel>(json!(text));
    let known = [
        ("error", LogLevel::Error),
        ("warning", LogLevel::Warning),
        ("warn", LogLevel::Warning),
        ("info", LogLevel::Info),
    ];
    for (text, expected) in known {
        assert_eq!(level(text).unwrap(), expected);
    }
    assert_eq!(level("debug").unwrap(), LogLevel::Debug);
    let refusal = level("trace").unwrap_err().to_string();
    assert!(["error", "warning", "info", "debug"].iter().all(|word| refusal.contains(word)), "{refusal}");
}
