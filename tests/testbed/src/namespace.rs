//! What can be asked of a host and of a pod alike.

use std::ffi::OsStr;

use serde_json::Value;

use crate::{Command, Output};

/// A network namespace in which commands run and whose links, addresses and routes can be read.
///
/// The state is read through `ip -j` and `tc -j`, so that it is the kernel that is asked and not the code under test.
pub trait Namespace {
    /// A command that will run in this namespace.
    ///
    /// # Panics
    ///
    /// If there is no such program.
    fn command(&self, program: impl AsRef<OsStr>) -> Command;

    /// Runs `ip` with the words of `line` and returns what it printed as JSON; `null` if it printed nothing.
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

    /// One link by its name.
    #[track_caller]
    fn link(&self, name: &str) -> Option<Value> {
        self.links().into_iter().find(|link| link["ifname"] == name)
    }

    /// The addresses of a link with their prefix lengths, link-local ones left out: `10.244.0.2/24`.
    #[track_caller]
    fn addresses(&self, link: &str) -> Vec<String> {
        list(self.ip(&format!("address show dev {link}"))).iter().flat_map(addresses_of).collect()
    }

    /// The IPv4 routes of the main table.
    #[track_caller]
    fn routes(&self) -> Vec<Value> {
        list(self.ip("-4 route show"))
    }

    /// Sends `count` pings ten milliseconds apart and returns how `ping` fared.
    #[track_caller]
    fn ping(&self, target: &str, count: u32) -> Output {
        let count = count.to_string();
        self.command("ping").args(["-n", "-q", "-i", "0.01", "-W", "1", "-c", &count, target]).output()
    }
}

/// The elements of an array; the tools print nothing at all for an empty one.
pub(crate) fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(elements) => elements,
        _ => Vec::new(),
    }
}

/// A string without its quotation marks, anything else as JSON.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The addresses in what `ip address show` says of a link, but link-local ones.
pub(crate) fn addresses_of(link: &Value) -> Vec<String> {
    list(link["addr_info"].clone())
        .iter()
        .filter(|address| address["scope"] != "link")
        .map(|address| format!("{}/{}", text(&address["local"]), address["prefixlen"]))
        .collect()
}
