//! What a subscriber of the user's own is told of a call.

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

/// Remembers each span when it ends and each event, in the order in which they do.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<Told>>>);

#[derive(Debug, Clone, PartialEq)]
struct Told {
    level: Level,
    /// The spans around it and, if it is one itself, its own name.
    path: Vec<&'static str>,
    fields: Fields,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Fields(BTreeMap<&'static str, String>);

impl Memory {
    /// What is told of a call.
    fn of(call: impl FnOnce()) -> Vec<Told> {
        let memory = Memory::default();
        with_default(tracing_subscriber::registry().with(memory.clone()), call);
        let told = memory.0.lock().unwrap();
        told.clone()
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

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Memory {
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
        self.0.lock().unwrap().push(Told { level: *event.metadata().level(), path, fields });
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).unwrap();
        let path = span.scope().from_root().map(|span| span.name()).collect();
        let fields = span.extensions().get::<Fields>().unwrap().clone();
        self.0.lock().unwrap().push(Told { level: *span.metadata().level(), path, fields });
    }
}

fn told<const N: usize>(level: Level, path: &[&'static str], fields: [(&'static str, &str); N]) -> Told {
    let fields = Fields(fields.into_iter().map(|(key, value)| (key, value.to_owned())).collect());
    Told { level, path: path.to_vec(), fields }
}

#[test]
fn a_call_is_a_span_that_ends_with_its_result() {
    let heard = Memory::of(|| assert_eq!(Call::new("ADD").run(&Scripted::default()).exit_code, 0));
    let fields = [
        ("command", "ADD"),
        ("network", "dbnet"),
        ("container", "c1"),
        ("ifname", "eth0"),
        ("addresses", "10.1.0.5/16"),
    ];
    let expected = [told(Level::INFO, &["cni"], [("result", "ok")]), told(Level::ERROR, &["cni"], fields)];
    assert_eq!(heard, expected);
}

#[test]
fn every_verb_is_told_of() {
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"] {
        let heard = Memory::of(|| assert_eq!(Call::new(command).run(&Scripted::default()).exit_code, 0));
        let [result, span] = &heard[..] else { panic!("{command}: {heard:#?}") };
        assert_eq!(*result, told(Level::INFO, &["cni"], [("result", "ok")]));
        assert_eq!((span.fields.0["command"].as_str(), span.fields.0["network"].as_str()), (command, "dbnet"));
    }
}

#[test]
fn a_failure_and_a_panic_are_told_in_the_span() {
    for (key, code, message) in
        [("fails", "11", "the pool is locked: by 42"), ("panics", "999", "the plugin panicked: as the script says")]
    {
        let heard = Memory::of(|| {
            error_of(&Call::new("DEL").key(key, json!(true)).run(&Scripted::default()));
        });
        let [failure, span] = &heard[..] else { panic!("{heard:#?}") };
        let Fields(fields) = &failure.fields;
        assert_eq!((failure.level, &failure.path[..]), (Level::ERROR, &["cni"][..]));
        assert_eq!((fields["result"].as_str(), fields["code"].as_str()), ("error", code));
        assert!(fields["message"].starts_with(message), "{fields:?}");
        assert_eq!(span.fields.0["container"], "c1");
    }
}

#[test]
fn what_cannot_be_read_is_told_without_a_span() {
    let heard = Memory::of(|| {
        error_of(&Call::new("ADD").run_with_stdin(&Scripted::default(), &mut "{".as_bytes()));
    });
    let [failure] = &heard[..] else { panic!("{heard:#?}") };
    assert_eq!((failure.level, failure.path.len(), failure.fields.0["code"].as_str()), (Level::ERROR, 0, "6"));
    assert_eq!(Memory::of(|| drop(Call::new("").run(&Scripted::default()))), []);
}

/// A plugin whose log is its own.
struct Logging(Memory);

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
fn the_configuration_chooses_who_is_told() {
    let memory = Memory::default();
    let plugin = Logging(memory.clone());
    let others = Memory::of(|| {
        let call = Call::new("ADD").key("logFile", json!("/var/log/cni.log"));
        assert_eq!(call.run(&plugin).exit_code, 0);
    });
    assert_eq!(others, []);
    let heard = memory.0.lock().unwrap().clone();
    assert_eq!(heard[0], told(Level::WARN, &["cni", "bridge"], [("message", "it is down")]));
    assert_eq!(heard[1], told(Level::INFO, &["cni", "bridge"], []));
    assert_eq!(heard.len(), 4, "{heard:#?}");

    let others = Memory::of(|| assert_eq!(Call::new("ADD").run(&plugin).exit_code, 0));
    assert_eq!(others.len(), 4, "{others:#?}");
}

#[test]
fn levels_are_read_as_people_write_them() {
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
