//! `uninstall`: removes what `install` has written and, where it is wished, all that pods and networks have left.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use cnikit::netlink::{Link, Socket};
use cnikit::plugin::{Failure, Failures, Step as _};
use cnikit::spec::Attachment;
use serde::Serialize;

use super::Error;
use super::attached::pods;
use super::manifest::{Found, Manifest, Turn};
use super::node::{Known, Scope};
use super::output::Output;
use crate::config::DEFAULT_DATA_DIR;
use crate::{bridge, masquerade, network};

/// Remove what install has written: the configuration and, unless one network is named, the binary.
///
/// Refused while pods are attached. Files that somebody has changed since are left. --purge removes what the networks have left on
/// the node as well: veth pairs, pinned programs and maps, the bridges that the plugin made, leases.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    scope: Scope,

    /// Remove what the networks have left on the node as well
    #[arg(long)]
    purge: bool,

    /// Remove although pods are attached, and files that were changed
    #[arg(long)]
    force: bool,

    /// Say what would be done, and change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,

    /// Print all there is as JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    dry_run: bool,
    removed: Vec<String>,
    /// What is left, and why.
    kept: Vec<String>,
    #[serde(skip)]
    failures: Failures,
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<(), Error> {
    let Options { scope, .. } = options;
    let data_dir = scope.data_dir.clone().unwrap_or_else(|| DEFAULT_DATA_DIR.into());
    let _turn = if options.dry_run || !data_dir.exists() { None } else { Some(Turn::take(&data_dir)?) };
    let mut manifest = Manifest::read(&data_dir)?;
    let networks = scope.networks()?;
    let host = Socket::open()?;
    if !options.force {
        refuse_pods(&networks, &host.links()?)?;
    }
    let mut report = Report { dry_run: options.dry_run, ..Report::default() };
    // Configurations go first: no runtime is to begin an ADD of what is about to vanish.
    report.remove_files(&mut manifest, options)?;
    if options.purge {
        for known in &networks {
            report.purge(known, &host)?;
        }
        for dir in [Path::new(network::PINS), &data_dir] {
            report.remove_empty(dir);
        }
    }
    if options.json {
        output.json(&report)?
    } else {
        report.write(output)?
    }
    Ok(report.failures.into_result()?)
}

fn refuse_pods(networks: &[Known], links: &[Link]) -> Result<(), Error> {
    let mut attached = 0;
    for known in networks {
        attached += pods(known, links)?.iter().filter(|pod| pod.host_interface.is_some()).count();
    }
    if attached == 0 { Ok(()) } else { Err(Error::Attached { pods: attached }) }
}

impl Report {
    fn remove_files(&mut self, manifest: &mut Manifest, options: &Options) -> Result<(), Error> {
        let asked = |network| options.scope.network.is_none() || options.scope.network.as_ref() == network;
        let files = manifest.files().filter(|(_, network)| asked(*network));
        let mut files: Vec<(PathBuf, bool)> =
            files.map(|(path, network)| (path.to_owned(), network.is_none())).collect();
        files.sort_by_key(|(_, is_binary)| *is_binary);
        for (path, _) in files {
            match manifest.look(&path)? {
                Found::Foreign if !options.force => {
                    self.kept.push(format!("{}: changed since it was installed", path.display()));
                    continue;
                }
                Found::Nothing => {}
                Found::Ours | Found::Foreign => self.removed.push(path.display().to_string()),
            }
            if !self.dry_run {
                manifest.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Removes what a network has left, from what pods use to what they leave, past whatever fails.
    fn purge(&mut self, known: &Known, host: &Socket) -> Result<(), Error> {
        let links = host.links()?;
        // A bridge that another network has claimed by now is not to lose its ports.
        let bridge = known.bridge(&links).filter(|bridge| known.owns(bridge, host));
        let attached = pods(known, &links)?;
        let is_ours = |link: &Link| {
            let is_port = bridge.is_some_and(|bridge| link.master == Some(bridge.index));
            let has_pod = attached.iter().any(|pod| pod.host_interface.as_ref() == Some(&link.name));
            has_pod || is_port && Attachment::is_host_ifname(&link.name)
        };
        for link in links.iter().filter(|link| is_ours(link)) {
            self.remove(format!("veth {}", link.name), || Ok(host.delete_link(link.index)?));
        }
        if masquerade::is_there(&known.name) {
            self.remove(format!("masquerade rules of {}", known.name), || Ok(masquerade::remove(&known.name)?));
        }
        if let Some(bridge) = bridge {
            if bridge::is_made_for(&known.name, bridge) {
                self.remove(format!("bridge {}", bridge.name), || Ok(host.delete_link(bridge.index)?));
            } else {
                self.kept
                    .push(format!("bridge {}: the network has not made it, or its MAC was changed since", bridge.name));
            }
        }
        let pins = known.datapath.directory();
        let pins = pins.parent().unwrap_or(&pins);
        if pins.exists() {
            self.remove(format!("programs and maps pinned in {}", pins.display()), || Ok(known.datapath.remove()?));
        }
        let leases = known.store.dir();
        if leases.exists() {
            self.remove(format!("leases in {}", leases.display()), || Ok(fs::remove_dir_all(leases)?));
        }
        Ok(())
    }

    fn remove(&mut self, what: String, remove: impl FnOnce() -> Result<(), Failure>) {
        let removed = if self.dry_run { Ok(()) } else { remove() };
        if self.failures.note(removed.step(format_args!("remove {what}"))).is_some() {
            self.removed.push(what);
        }
    }

    /// Removes a directory that nothing lies in any more.
    fn remove_empty(&mut self, dir: &Path) {
        if self.dry_run || !dir.exists() {
            return;
        }
        match fs::remove_dir(dir) {
            Ok(()) => self.removed.push(dir.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(error) => {
                self.failures.note::<()>(Err(error).step(format_args!("remove {}", dir.display())));
            }
        }
    }

    fn write(&self, output: &mut Output) -> Result<(), Error> {
        let removed = if self.dry_run { "would remove" } else { "removed" };
        for what in &self.removed {
            output.line(format_args!("{removed} {what}"))?;
        }
        for what in &self.kept {
            output.line(format_args!("left {what}"))?;
        }
        if self.removed.is_empty() && self.kept.is_empty() {
            output.line("There is nothing to remove.")?;
        }
        Ok(())
    }
}
