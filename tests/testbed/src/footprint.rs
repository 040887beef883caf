//! All state that a plugin can leave on a host, as lines that can be compared and subtracted.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};

use crate::Namespace;
use crate::namespace::{addresses_of, list, text};

/// A set of lines. Each line is one fact: a link, an address, a route, a pin, a file.
///
/// ```text
/// link cbr0 index 2 mtu 1500 mac 5a:... master - up true
/// address cbr0 10.244.0.1/24
/// route 10.244.0.0/24 via - dev cbr0
/// pin /sys/fs/bpf/example/map
/// file /var/lib/cni/example/lease {"address":"10.244.0.2"}
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Footprint(BTreeSet<String>);

impl Footprint {
    /// The links of a namespace except `lo`, with their addresses and routes.
    ///
    /// Values that change by themselves are omitted: counters, timers, the carrier, link-local
    /// addresses.
    #[track_caller]
    #[must_use]
    pub fn of_network(namespace: &impl Namespace) -> Self {
        let mut lines = BTreeSet::new();
        // One listing for links and addresses: a link may disappear at any moment, together with
        // its pod.
        let links = list(namespace.ip("address show"));
        for link in links.iter().filter(|link| link["ifname"] != "lo") {
            let name = text(&link["ifname"]);
            let up = list(link["flags"].clone()).iter().any(|flag| flag == "UP");
            let [index, mtu, mac] = ["ifindex", "mtu", "address"].map(|key| text(&link[key]));
            let master = link["master"].as_str().unwrap_or("-");
            lines.insert(format!("link {name} index {index} mtu {mtu} mac {mac} master {master} up {up}"));
            lines.extend(addresses_of(link).iter().map(|address| format!("address {name} {address}")));
        }
        for route in namespace.routes() {
            let via = route["gateway"].as_str().unwrap_or("-");
            lines.insert(format!("route {} via {via} dev {}", text(&route["dst"]), text(&route["dev"])));
        }
        Self(lines)
    }

    /// Every file below a folder, with its text.
    ///
    /// # Panics
    ///
    /// If a file or folder below the folder cannot be read. A missing folder counts as empty.
    #[track_caller]
    #[must_use]
    pub fn of_files(folder: impl AsRef<Path>) -> Self {
        let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        files(folder.as_ref())
            .map(|path| format!("file {} {}", path.display(), text(&path)).trim_end().to_owned())
            .collect()
    }

    /// Every pin below a folder of a bpffs, without its content, because counters change by
    /// themselves.
    ///
    /// # Panics
    ///
    /// As [`of_files`](Self::of_files).
    #[track_caller]
    #[must_use]
    pub fn of_pins(folder: impl AsRef<Path>) -> Self {
        files(folder.as_ref()).map(|path| format!("pin {}", path.display())).collect()
    }

    /// The union of both.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// The lines that are not in `other`, except lines that start with one of `tolerated`.
    #[must_use]
    pub fn beyond(&self, other: &Self, tolerated: &[String]) -> Self {
        let news = self.0.difference(&other.0);
        Self(news.filter(|line| !tolerated.iter().any(|start| line.starts_with(start.as_str()))).cloned().collect())
    }

    /// Whether there are no lines.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lines, sorted.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Fails unless both are equal. The message lists added and removed lines.
    ///
    /// # Panics
    ///
    /// If they differ.
    #[track_caller]
    pub fn assert_unchanged(&self, before: &Self, what: &str) {
        let (came, went) = (self.beyond(before, &[]), before.beyond(self, &[]));
        assert!(came.is_empty() && went.is_empty(), "{what} changed the state\nadded:\n{came}removed:\n{went}");
    }
}

impl FromIterator<String> for Footprint {
    fn from_iter<I: IntoIterator<Item = String>>(lines: I) -> Self {
        Self(lines.into_iter().collect())
    }
}

impl Display for Footprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(formatter, "  {line}"))
    }
}

/// The files below a folder and its subfolders.
#[track_caller]
fn files(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry.unwrap_or_else(|error| panic!("cannot list {}: {error}", folder.display()));
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                // Deleted since the listing, or a socket.
                _ => {}
            }
        }
    }
    found.into_iter()
}
