//! `uninstall`: removes what `install` has written and, where it is wished, all that pods and networks have left.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{self, Path, PathBuf};

use clap::Args;
use cnikit::netlink::{Link, Socket, Sysctl};
use cnikit::plugin::{Context as _, ErrorCollector, PluginError};
use cnikit::runtime::NetworkConfigList;
use cnikit::spec::{Attachment, ErrorCode, NetworkName};
use ipnetwork::IpNetwork;
use serde::Serialize;
use simple_ebpf_cni::config::DEFAULT_DATA_DIR;
use simple_ebpf_cni::endpoints::Endpoints;
use simple_ebpf_cni::{bridge, masquerade, naming};

use super::attached::pods;
use super::manifest::{Found, Manifest, Turn};
use super::network::Network;
use super::node::{self, CONF_DIR, Known};
use super::output::Output;
use super::{Error, chain};

const EXIT_STATUS: &str = "\
Exit status:
  0  all that was to go is gone, or there was nothing; what was left on purpose is told
  1  pods are attached and nothing was removed, or something could not be; it is told what
  2  the command line is wrong";

/// Remove what install has written: the configurations and, with the last of them, the binary.
///
/// Refused while pods are attached. Files that somebody has changed, renamed or written since are left, and the binary with
/// configurations among them. --purge removes what the networks have left on
/// the node as well: veth pairs, masquerade rules, the bridges that the plugin made, pinned programs and maps, leases. Where some of
/// that cannot be removed, what leads to it stays, and the binary too: run it again.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXIT_STATUS)]
pub(crate) struct Options {
    /// Remove this network alone, and leave the binary
    #[arg(long, value_name = "NAME")]
    network: Option<NetworkName>,

    /// Remove what is configured in this directory alone, and leave the binary to what is configured in others
    /// [default: every directory that install has written to, and /etc/cni/net.d]
    #[arg(long, value_name = "DIR")]
    conf_dir: Option<PathBuf>,

    /// Where it is kept what was installed, and leases
    /// [default: /var/lib/cni/simple-ebpf-cni, and for leases where the network's configuration says]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

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
    failures: ErrorCollector,
    /// Whether something could not be removed.
    #[serde(skip)]
    has_failed: bool,
    /// The paths of what is removed, by which a dry run knows the directories that would be empty.
    #[serde(skip)]
    gone: BTreeSet<PathBuf>,
    /// Whether rules for masquerading were removed.
    #[serde(skip)]
    had_masquerading: bool,
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<(), Error> {
    let options = &options.clone().absolute()?;
    let data_dir = options.data_dir.as_deref().unwrap_or(Path::new(DEFAULT_DATA_DIR));
    let had_data_dir = data_dir.exists();
    let _turn = if options.dry_run { None } else { Some(Turn::take(data_dir)?) };
    let mut manifest = Manifest::read(data_dir)?;
    let (networks, mut others) = options.networks(&manifest)?;
    let dirs = options.dirs(&manifest);
    let host = Socket::open()?;
    if !options.force {
        refuse_pods(&networks, &host.links()?)?;
    }
    let mut report = Report { dry_run: options.dry_run, ..Report::default() };
    if !options.dry_run {
        remember_leases(&networks, data_dir, &mut manifest)?;
    }
    // Configurations go first: no runtime is to begin an ADD of what is about to vanish.
    report.remove_configurations(&mut manifest, options)?;
    others.extend(report.left(&dirs, &manifest, options)?);
    if options.purge {
        for known in &networks {
            let purged = report.purge(known, &host, options.force);
            report.note(&known.name, purged);
            report.purge_remembered(known, &mut manifest)?;
        }
        report.remove_empty(Path::new(naming::PINS));
        if report.had_masquerading {
            report.name_forwarding();
        }
    }
    // Last, as it is what does all this.
    report.remove_binaries(&mut manifest, options, &others)?;
    if options.purge && had_data_dir {
        if options.dry_run {
            report.forget_manifest(&manifest, &networks);
        }
        report.remove_empty(data_dir);
    }
    if options.network.is_none() && others.is_empty() && !report.has_failed {
        report.remove_orphan_record();
    }
    if options.json {
        output.json(&report)?
    } else {
        report.write(output)?
    }
    Ok(report.failures.into_result()?)
}

impl Options {
    /// The same from whatever directory it is looked at.
    fn absolute(mut self) -> Result<Self, Error> {
        self.data_dir = self.data_dir.as_deref().map(absolute).transpose()?;
        self.conf_dir = self.conf_dir.as_deref().map(absolute).transpose()?;
        Ok(self)
    }

    /// Whether a file of a network is to be removed.
    fn asks_for(&self, path: &Path, network: &NetworkName) -> bool {
        self.network.as_ref().is_none_or(|asked| asked == network)
            && self.conf_dir.as_ref().is_none_or(|dir| path.parent() == Some(dir))
    }

    /// The directories of configurations that are asked for.
    fn dirs(&self, manifest: &Manifest) -> BTreeSet<PathBuf> {
        self.conf_dir.clone().map_or_else(|| written_dirs(manifest), |dir| BTreeSet::from([dir]))
    }

    /// The networks that are asked for, and those that are configured elsewhere than where is asked for.
    fn networks(&self, manifest: &Manifest) -> Result<(Vec<Known>, BTreeSet<NetworkName>), Error> {
        let mut dirs = written_dirs(manifest);
        let Some(dir) = &self.conf_dir else {
            let dirs: Vec<PathBuf> = dirs.into_iter().collect();
            return Ok((self.known(&dirs, manifest)?, BTreeSet::new()));
        };
        dirs.remove(dir);
        let mut others = BTreeSet::new();
        for file in
            dirs.iter().map(|dir| NetworkConfigList::files(dir)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten()
        {
            others.extend(Network::read(&file).ok().map(|network| network.name));
        }
        let mut networks = self.known(std::slice::from_ref(dir), manifest)?;
        networks.retain(|known| known.configured.is_some() || !others.contains(&known.name));
        Ok((networks, others))
    }

    fn known(&self, conf_dirs: &[PathBuf], manifest: &Manifest) -> Result<Vec<Known>, Error> {
        node::networks(conf_dirs, self.data_dir.as_deref(), manifest.leases(), self.network.as_ref())
    }
}

/// The directories that `install` has written configurations to, and the usual one.
fn written_dirs(manifest: &Manifest) -> BTreeSet<PathBuf> {
    let written = manifest.files().filter(|(_, network)| network.is_some()).filter_map(|(path, _)| path.parent());
    let mut dirs: BTreeSet<PathBuf> = written.map(Path::to_owned).collect();
    dirs.insert(CONF_DIR.into());
    dirs
}

fn absolute(dir: &Path) -> Result<PathBuf, Error> {
    path::absolute(dir).map_err(|source| Error::File { operation: "find", path: dir.to_owned(), source })
}

/// Has the next run find leases that lie where only the configuration says, should this one not come to its end.
fn remember_leases(networks: &[Known], data_dir: &Path, manifest: &mut Manifest) -> Result<(), Error> {
    for known in networks {
        let dir = known.store.dir().parent().filter(|dir| *dir != data_dir && known.store.dir().exists());
        let is_new = !manifest.leases().contains_key(&known.name);
        if let Some(dir) = dir.filter(|_| is_new) {
            manifest.remember_leases(&known.name, dir)?;
        }
    }
    Ok(())
}

fn refuse_pods(networks: &[Known], links: &[Link]) -> Result<(), Error> {
    let mut attached = 0;
    for known in networks {
        attached += pods(known, links)?.iter().filter(|pod| pod.host_interface.is_some()).count();
    }
    if attached == 0 { Ok(()) } else { Err(Error::Attached { pods: attached }) }
}

/// The addresses of the bridge that the programs know for pods' gateways.
fn gateways(known: &Known, bridge: &Link, host: &Socket) -> Result<Vec<IpNetwork>, Error> {
    let Some(maps) = known.maps()? else {
        return Ok(Vec::new());
    };
    let rows = Endpoints::from_maps(&maps)?;
    // The programs answer for it as well, and no pod has it for a gateway.
    let own = bridge.mac.map(|mac| IpAddr::from(mac.link_local()));
    let mut gateways = Vec::new();
    for address in host.addresses(bridge.index)? {
        if Some(address.ip()) != own && rows.is_gateway(address.ip(), bridge.index)? {
            gateways.push(address);
        }
    }
    Ok(gateways)
}

impl Report {
    fn remove_configurations(&mut self, manifest: &mut Manifest, options: &Options) -> Result<(), Error> {
        let files = manifest.files().filter(|(path, network)| network.is_some_and(|of| options.asks_for(path, of)));
        let files: Vec<PathBuf> = files.map(|(path, _)| path.to_owned()).collect();
        files.iter().try_for_each(|path| self.remove_file(path, manifest, options))
    }

    /// Tells of configurations with the plugin that stay, as of one that was renamed, and which networks they are of.
    fn left(
        &mut self,
        dirs: &BTreeSet<PathBuf>,
        manifest: &Manifest,
        options: &Options,
    ) -> Result<BTreeSet<NetworkName>, Error> {
        let mut networks = BTreeSet::new();
        for file in
            dirs.iter().map(|dir| NetworkConfigList::files(dir)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten()
        {
            let Ok(Network { name, .. }) = Network::read(&file) else {
                continue;
            };
            let is_written = manifest.files().any(|(path, _)| path == file);
            let is_spared = || Ok::<_, Error>(!options.force && manifest.look(&file)? == Found::Foreign);
            // What a dry run would remove is there still.
            if is_written && self.dry_run && options.asks_for(&file, &name) && !is_spared()? {
                continue;
            }
            if !is_written {
                self.kept.push(format!("{}: not written by install, which uninstall goes by", file.display()));
            }
            networks.insert(name);
        }
        Ok(networks)
    }

    /// Removes the binary, unless somebody needs it: `others` are networks that are configured still.
    fn remove_binaries(
        &mut self,
        manifest: &mut Manifest,
        options: &Options,
        others: &BTreeSet<NetworkName>,
    ) -> Result<(), Error> {
        let left = manifest.files().filter_map(|(path, network)| network.filter(|of| !options.asks_for(path, of)));
        let served: BTreeSet<&NetworkName> = left.chain(others).collect();
        let served: Vec<String> = served.into_iter().map(ToString::to_string).collect();
        let binaries = manifest.files().filter(|(_, network)| network.is_none());
        let binaries: Vec<PathBuf> = binaries.map(|(path, _)| path.to_owned()).collect();
        for path in &binaries {
            let reason = if self.has_failed {
                "what could not be removed needs it: run it again".to_owned()
            } else if let Some(asked) = &options.network {
                format!("{asked} alone was to be removed")
            } else if !served.is_empty() {
                format!("it serves {}", served.join(", "))
            } else {
                self.remove_file(path, manifest, options)?;
                continue;
            };
            self.kept.push(format!("{}: {reason}", path.display()));
        }
        Ok(())
    }

    fn remove_file(&mut self, path: &Path, manifest: &mut Manifest, options: &Options) -> Result<(), Error> {
        match manifest.look(path)? {
            Found::Foreign if !options.force => {
                self.kept.push(format!("{}: changed since it was installed", path.display()));
                return Ok(());
            }
            Found::Nothing => {}
            Found::Ours | Found::Foreign => {
                self.removed.push(path.display().to_string());
                self.gone.insert(path.to_owned());
            }
        }
        if self.dry_run { Ok(()) } else { manifest.remove(path) }
    }

    /// Removes what a network has left, from what pods use to what they leave, past whatever fails; but nothing that leads
    /// to what is still there, so that the next run finds it.
    fn purge(&mut self, known: &Known, host: &Socket, is_forced: bool) -> Result<(), Error> {
        let links = host.links()?;
        // A bridge that another network has claimed by now is not to lose its ports.
        let bridge = known.bridge(&links).filter(|bridge| known.owns(bridge, host));
        let attached = match pods(known, &links) {
            // The ports of the bridge are known all the same.
            Err(error) if is_forced => {
                self.note(&known.name, Err(error));
                Vec::new()
            }
            attached => attached?,
        };
        let is_ours = |link: &Link| {
            let is_port = bridge.is_some_and(|bridge| link.master == Some(bridge.index));
            let has_pod = attached.iter().any(|pod| pod.host_interface.as_ref() == Some(&link.name));
            has_pod || is_port && Attachment::is_host_ifname(&link.name)
        };
        let mut is_whole = true;
        for link in links.iter().filter(|link| is_ours(link)) {
            is_whole &= self.remove(format!("veth {}", link.name), || Ok(host.delete_link(link.index)?));
        }
        if !is_whole {
            // The bridge knows its ports, the programs hold pods to their addresses, and the leases name both.
            self.kept.push(format!("all else of {}: it leads to the pairs that are left", known.name));
            return Ok(());
        }
        // That it cannot be told whether there are rules is no reason to leave them.
        if masquerade::exists(&known.name).unwrap_or(true) {
            let what = format!("masquerade rules of {}", known.name);
            let is_gone = self.remove(what, || Ok(masquerade::remove(&known.name)?));
            self.had_masquerading |= is_gone;
            is_whole &= is_gone;
        }
        if let Some(bridge) = bridge {
            if bridge::is_made_for(&known.name, bridge) {
                is_whole &= self.remove(format!("bridge {}", bridge.name), || Ok(host.delete_link(bridge.index)?));
            } else {
                is_whole &= self.leave_bridge(known, bridge, host)?;
            }
        }
        let pins = known.datapath.directory();
        let pins = pins.parent().unwrap_or(&pins);
        if is_whole && pins.exists() {
            is_whole = self
                .remove(format!("programs and maps pinned in {}", pins.display()), || Ok(known.datapath.remove()?));
            self.gone.insert(pins.to_owned());
        }
        let leases = known.store.dir();
        if !is_whole {
            self.kept.push(format!("pins and leases of {}: they lead to what is left", known.name));
        } else if known.store.is_written()? {
            self.remove(format!("leases in {}", leases.display()), || Ok(known.store.remove()?));
            self.gone.insert(leases.to_owned());
        }
        Ok(())
    }

    /// Removes the programs and the alias from a bridge that stays. Returns whether they are gone.
    fn leave_bridge(&mut self, known: &Known, bridge: &Link, host: &Socket) -> Result<bool, Error> {
        let (name, index) = (&bridge.name, bridge.index);
        // Before the maps go: they record the addresses that the plugin gave the bridge. Maps that cannot be read do not stop
        // the removal.
        let gateways = gateways(known, bridge, host).unwrap_or_default();
        let mut is_gone = true;
        // A qdisc that names other blocks is another tool's.
        let blocks = naming::shared_blocks(&known.name);
        if host.ingress_qdisc(index)?.is_some_and(|qdisc| qdisc.blocks == blocks) {
            let what = format!("the eBPF programs from bridge {name}, which stays");
            is_gone &= self.remove(what, || Ok(host.delete_clsact(index)?));
        }
        if is_gone && bridge.alias.as_ref().is_some_and(|alias| *alias == naming::bridge_alias(&known.name)) {
            is_gone &= self.remove(format!("the alias of bridge {name}"), || Ok(host.set_alias(index, "")?));
        }
        let mut kept = format!("bridge {name}: the network has not made it, or its MAC was changed since");
        if !gateways.is_empty() {
            let addresses: Vec<String> = gateways.iter().map(ToString::to_string).collect();
            kept += &format!("; it has the gateway's address {} still", addresses.join(", "));
        }
        self.kept.push(kept);
        Ok(is_gone)
    }

    /// Removes the leases that the network had in another place than its configuration names now, and forgets the place when
    /// nothing is left there.
    fn purge_remembered(&mut self, known: &Known, manifest: &mut Manifest) -> Result<(), Error> {
        // They may lead to what is left.
        let remembered = manifest.leases().get(&known.name).filter(|_| !self.has_failed);
        let Some(data_dir) = remembered else { return Ok(()) };
        let store = naming::leases(data_dir, &known.name)?;
        if store.dir() != known.store.dir() && store.is_written()? {
            self.remove(format!("leases in {}", store.dir().display()), || Ok(store.remove()?));
            self.gone.insert(store.dir().to_owned());
        }
        if !self.dry_run && !store.is_written()? {
            manifest.forget_leases(&known.name)?;
        }
        Ok(())
    }

    /// Keeps what went wrong with a network, and goes on.
    fn note(&mut self, network: &NetworkName, outcome: Result<(), Error>) {
        if let Err(error) = outcome {
            self.has_failed = true;
            let failure = PluginError::new(ErrorCode::IO, chain(&error));
            self.failures.push::<()>(Err(failure).context(format_args!("remove all of {network}")));
        }
    }

    /// Removes something, or keeps the reason why it is left. Tells whether it is gone.
    fn remove(&mut self, what: String, remove: impl FnOnce() -> Result<(), PluginError>) -> bool {
        let removed = if self.dry_run { Ok(()) } else { remove() };
        let is_gone = self.failures.push(removed.context(format_args!("remove {what}"))).is_some();
        if is_gone {
            self.removed.push(what);
        }
        self.has_failed |= !is_gone;
        is_gone
    }

    /// Removes the record of the processes that DEL and GC have left behind: no call will read it.
    fn remove_orphan_record(&mut self) {
        let record = Path::new(naming::ORPHANS);
        if record.symlink_metadata().is_ok() {
            self.remove(record.display().to_string(), || Ok(fs::remove_file(record)?));
            self.gone.insert(record.to_owned());
        }
        record.parent().into_iter().for_each(|dir| self.remove_empty(dir));
    }

    /// Removes a directory that nothing lies in any more.
    fn remove_empty(&mut self, dir: &Path) {
        if !dir.exists() {
            return;
        }
        let removed = if self.dry_run { self.would_remove_empty(dir) } else { fs::remove_dir(dir) };
        match removed {
            Ok(()) => self.removed.push(dir.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(error) => {
                self.failures.push::<()>(Err(error).context(format_args!("remove {}", dir.display())));
            }
        }
    }

    /// Notes in a dry run that the manifest goes, if it does: with the last file and the last network.
    fn forget_manifest(&mut self, manifest: &Manifest, networks: &[Known]) {
        let has_files = manifest.files().any(|(path, _)| path.exists() && !self.gone.contains(path));
        let has_leases = manifest.leases().keys().any(|name| networks.iter().all(|known| known.name != *name));
        if !has_files && !has_leases {
            self.gone.insert(manifest.path().to_owned());
        }
    }

    /// What the removal of a directory would return if all was gone that a dry run has listed.
    fn would_remove_empty(&mut self, dir: &Path) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            if !self.gone.contains(&entry?.path()) {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
        }
        self.gone.insert(dir.to_owned());
        Ok(())
    }

    /// Names the settings that the plugin turned on for `ipMasq` and that stay, as others may need them by now.
    fn name_forwarding(&mut self) {
        for setting in [Sysctl::Ipv4Forward, Sysctl::Ipv6Forward] {
            if setting.read().is_ok_and(|value| value != 0) {
                self.kept.push(format!("{setting} on: other programs may need it"));
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
