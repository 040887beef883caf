//! Operations that a host and a pod have in common.

use std::ffi::OsStr;

use serde_json::Value;

use crate::{Command, Output};

/// A network namespace that runs commands and lists its links, addresses and routes.
///
/// The state comes from `ip -j` and `tc -j`, so it comes from the kernel and not from the code
/// under test.
pub trait Namespace {
    /// A command that will run in this namespace.
    ///
    /// # Panics
    ///
    /// If there is no such program.
    fn command(&self, program: impl AsRef<OsStr>) -> Command;

    /// Runs `ip` with the words of `line`. Returns its JSON output, or `null` if it printed
    /// nothing.
    ///
    /// # Panics
    ///
    /// If `ip` fails.
    #[track_caller]
    fn ip(&self, line: &str) -> Value {
        self.command("ip").args(["-j", "-d"]).words(line).json()
    }

    /// Runs `tc` with the words of `line`, as [`ip`](Self::ip).
    ///
    /// # Panics
    ///
    /// If `tc` fails.
    #[track_caller]
    fn tc(&self, line: &str) -> Value {
        self.command("tc").arg("-j").words(line).json()
    }

    /// All links.
    #[track_caller]
    fn links(&self) -> Vec<Value> {
        list(self.ip("link show"))
    }

    /// One link, by name.
    #[track_caller]
    fn link(&self, name: &str) -> Option<Value> {
        self.links().into_iter().find(|link| link["ifname"] == name)
    }

    /// The addresses of a link with their prefix lengths, without link-local addresses:
    /// `10.244.0.2/24`.
    #[track_caller]
    fn addresses(&self, link: &str) -> Vec<String> {
        list(self.ip(&format!("address show dev {link}"))).iter().flat_map(addresses_of).collect()
    }

    /// The IPv4 routes of the main table.
    #[track_caller]
    fn routes(&self) -> Vec<Value> {
        list(self.ip("-4 route show"))
    }

    /// Sends `count` pings, 10 ms apart. Returns the exit status of `ping`.
    #[track_caller]
    fn ping(&self, target: &str, count: u32) -> Output {
        let count = count.to_string();
        self.command("ping").args(["-n", "-q", "-i", "0.01", "-W", "1", "-c", &count, target]).output()
    }
}

/// The elements of an array. The tools print nothing for an empty array.
pub(crate) fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(elements) => elements,
        _ => Vec::new(),
    }
}

/// A string without quotation marks; any other value as JSON.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The addresses in the output of `ip address show` for a link, without link-local addresses.
pub(crate) fn addresses_of(link: &Value) -> Vec<String> {
    list(link["addr_info"].clone())
        .iter()
        .filter(|address| address["scope"] != "link")
        .map(|address| format!("{}/{}", text(&address["local"]), address["prefixlen"]))
        .collect()
}
