//! State that a plugin can leave behind, as comparable lines.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ipnetwork::IpNetwork;

use crate::netlink::{IfIndex, Link, Socket};

/// A set of lines with one fact each: `link cni0 (bridge)`, `address cni0 10.1.0.1/16`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// The links of a namespace except `lo`, with their addresses and routes.
    ///
    /// Omits values that change by themselves: indexes, states, link-local addresses and hardware
    /// addresses. A bridge takes the hardware address of one of its ports.
    pub(super) fn of_network(socket: &Socket) -> crate::netlink::Result<Self> {
        let mut lines = BTreeSet::new();
        for link in socket.links()?.iter().filter(|link| link.index != IfIndex::LOOPBACK) {
            lines.insert(format!("link {} ({})", link.name, link.kind.as_deref().unwrap_or("no kind")));
            lines.extend(addresses(socket, link).iter().map(|address| format!("address {address} on {}", link.name)));
            for route in socket.routes(link.index).unwrap_or_default() {
                if is_link_local(route.dst) {
                    continue;
                }
                let via = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
                lines.insert(format!("route {}{via} by {}", route.dst, link.name));
            }
        }
        Ok(Self(lines))
    }

    /// Removes the links with a name prefix. Their addresses and routes stay.
    pub(super) fn remove_links(&mut self, prefix: &str) {
        self.0.retain(|line| !line.strip_prefix("link ").is_some_and(|name| name.starts_with(prefix)));
    }

    /// The path of every file below a directory. The content is private to the plugin.
    pub(super) fn of_files(directory: &str) -> Self {
        let mut found = BTreeSet::new();
        let mut directories = vec![PathBuf::from(directory)];
        while let Some(directory) = directories.pop() {
            // A file that disappears during the listing was not left behind.
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                    Ok(_) => _ = found.insert(format!("file {}", entry.path().display())),
                    Err(_) => {}
                }
            }
        }
        Self(found)
    }

    /// The tables, chains and rules of the packet filter, without counters. `None` if no tool can
    /// list them.
    pub(super) fn of_firewall() -> Option<Self> {
        const TOOLS: [(&str, &[&str]); 2] = [("nft", &["list", "ruleset"]), ("iptables-save", &[])];
        const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
        let candidates = TOOLS.iter().flat_map(|tool| DIRECTORIES.map(|directory| (Path::new(directory), tool)));
        let (program, arguments) = candidates
            .map(|(directory, (name, arguments))| (directory.join(name), arguments))
            .find(|(program, _)| program.is_file())?;
        let listed = Command::new(program).args(*arguments).stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        listed.status.success().then(|| text.lines().filter_map(firewall_line).collect())
    }

    /// The union of both.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// The lines that are not in `other`.
    pub(super) fn minus(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).cloned().collect())
    }

    /// Whether there is no line.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<String> for Snapshot {
    fn from_iter<I: IntoIterator<Item = String>>(lines: I) -> Self {
        Self(lines.into_iter().collect())
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<&str> = self.0.iter().map(String::as_str).collect();
        f.write_str(&lines.join("; "))
    }
}

/// The addresses of a link except link-local ones. Empty if the link has disappeared since the
/// listing.
pub(super) fn addresses(socket: &Socket, link: &Link) -> Vec<IpNetwork> {
    let mut addresses = socket.addresses(link.index).unwrap_or_default();
    addresses.retain(|address| !is_link_local(*address));
    addresses
}

/// The kernel adds and removes such addresses and routes by itself.
fn is_link_local(network: IpNetwork) -> bool {
    match network {
        IpNetwork::V4(v4) => v4.ip().is_link_local(),
        IpNetwork::V6(v6) => v6.ip().is_unicast_link_local() || v6.ip().is_multicast(),
    }
}

/// A line of a listing, without comments and counters.
fn firewall_line(line: &str) -> Option<String> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    if words.first().is_none_or(|word| word.starts_with('#') || *word == "}") {
        return None;
    }
    if let Some(at) = words.iter().position(|word| *word == "counter") {
        words.drain(at..words.len().min(at + 5));
    }
    words.retain(|word| !word.starts_with('['));
    Some(format!("firewall {}", words.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_not_part_of_a_firewall_rule() {
        let line = |text| firewall_line(text).unwrap();
        assert_eq!(
            line("\t\tip saddr 10.1.0.2 counter packets 7 bytes 588 jump X"),
            "firewall ip saddr 10.1.0.2 jump X"
        );
        assert_eq!(line(":POSTROUTING ACCEPT [3:180]"), "firewall :POSTROUTING ACCEPT");
        assert_eq!(firewall_line("# Generated by iptables-save"), None);
    }

    #[test]
    fn lines_from_before_are_not_leaked() {
        let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Snapshot>();
        let left = lines("a b c").minus(&lines("a c d"));
        assert_eq!(left.to_string(), "b");
        assert!(lines("a").minus(&lines("a b")).is_empty());
    }
}
