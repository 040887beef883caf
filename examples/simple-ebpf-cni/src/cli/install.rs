//! `install`: copies this binary to the runtime's plugin directory, links `loopback` to it if the
//! name is free, and writes a configuration.

use std::fs::{self, Metadata};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{self, Path, PathBuf};
use std::slice;

use clap::Args;
use cnikit::netlink::Socket;
use cnikit::runtime::{self, NetworkConfigList};
use cnikit::spec::{IfName, NetworkName, PluginType, Version};
use ipnetwork::IpNetwork;
use serde::Serialize;
use serde_json::json;
use simple_ebpf_cni::config::DEFAULT_DATA_DIR;

use super::doctor::addresses::Place;
use super::doctor::binary::{is_configured, leads_to_binary, unusable_loopback};
use super::doctor::config::{Environment, forwarding, requirements, state};
use super::doctor::diagnostic::{self, Diagnostic, Verdict, failures};
use super::doctor::node::node;
use super::error::Error;
use super::inventory::ConfiguredNetwork;
use super::manifest::{FileState, InstallLock, Manifest};
use super::optional::without;
use super::output::{DIM, Output};
use super::paths::{BIN_DIR, CONF_DIR, LOOPBACK, ORDERS, PORTMAP, numbered};
use crate::NAME;

const EXIT_STATUS: &str = "\
Exit status:
  0  everything is installed, or would be with --dry-run; checks may have warned
  1  a check failed and nothing was installed, or a file could not be written
  2  the command line is invalid";

/// Install this binary as a plugin and, with --subnet or --config, a network configuration.
///
/// If the plugin directory has no `loopback`, install links that name to the binary, which serves
/// it too. With --subnet, the configuration has `portmap` if the plugin directory has it.
///
/// A failed or killed install leaves no partial file. Install does not replace files that it did
/// not write, or that were changed since. --force overrides this, except for `loopback`. If a check
/// of `doctor` fails, nothing is installed.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXIT_STATUS)]
pub(crate) struct Options {
    /// Directory of the runtime for plugins
    #[arg(long, value_name = "DIR", default_value = BIN_DIR)]
    bin_dir: PathBuf,

    /// Directory of the runtime for network configurations
    #[arg(long, value_name = "DIR", default_value = CONF_DIR)]
    conf_dir: PathBuf,

    /// Directory for state (leases, install manifest)
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,

    /// Name of the network
    #[arg(long, value_name = "NAME", default_value = "podnet", conflicts_with = "config")]
    network: NetworkName,

    /// Subnet from which each pod gets an address; can be repeated
    #[arg(long, value_name = "PREFIX", value_parser = prefix, conflicts_with = "config")]
    subnet: Vec<IpNetwork>,

    /// Bridge of the network
    #[arg(long, value_name = "NAME", default_value = "cbr0", conflicts_with = "config")]
    bridge: IfName,

    /// Configuration file to install; it must contain this plugin
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Plugin that install leaves out of the list in --config if the plugin directory does not have
    /// it; can be repeated
    #[arg(long, value_name = "TYPE", requires = "config", conflicts_with = "subnet")]
    optional: Vec<PluginType>,

    /// Number before the name of the configuration file, from 0 to 99. Runtimes use the file that
    /// sorts first [default: 10, or less if 10 would not sort first]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(i64::from(*ORDERS.start())..=i64::from(*ORDERS.end())))]
    order: Option<u8>,

    /// Install even if checks fail
    #[arg(long)]
    ignore_checks: bool,

    /// Overwrite files that install did not write or that were changed, except a `loopback`. Also
    /// write the configuration if another file already configures the network
    #[arg(long)]
    force: bool,

    /// Print the changes without making them
    #[arg(long, short = 'n')]
    dry_run: bool,

    /// Output JSON
    #[arg(long)]
    json: bool,
}

/// The requested configuration.
struct Configuration {
    network: Option<(ConfiguredNetwork, NetworkConfigList)>,
    /// The optional plugins that the node does not have.
    left_out: Vec<PluginType>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    dry_run: bool,
    /// The checks with a warning or failure.
    checks: Vec<Diagnostic>,
    files: Vec<File>,
    /// The optional plugins that the node does not have.
    left_out: Vec<PluginType>,
    /// Whether this install or an earlier one has written a configuration.
    #[serde(skip)]
    is_configured: bool,
}

/// A file to write or remove.
#[derive(Debug, Serialize)]
struct File {
    path: PathBuf,
    action: Action,
    #[serde(skip)]
    content: Content,
    #[serde(skip)]
    network: Option<NetworkName>,
}

#[derive(Debug)]
enum Content {
    Bytes { bytes: Vec<u8>, mode: u32 },
    LinkTo(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Create,
    Replace,
    Keep,
    /// The file of another program stays, and serves the same purpose.
    Foreign,
    /// The report has another file with the content.
    Remove,
}

pub(crate) fn run(options: &Options, versions: &[Version], output: &mut Output) -> Result<(), Error> {
    let options = &options.clone().absolute()?;
    let Configuration { network, left_out } = options.configuration()?;
    let _lock = if options.dry_run { None } else { Some(InstallLock::acquire(&options.data_dir)?) };
    let mut manifest = Manifest::read(&options.data_dir)?;
    let loopback = options.loopback(&manifest)?;
    let unusable = options.unusable_loopback(&loopback, network.is_some());
    let mut files = vec![options.binary(&manifest)?, loopback];
    if let Some((network, list)) = &network {
        files.extend(options.conflist(network, list.as_bytes(), &manifest)?);
    }
    let mut checks = options.checks(network.as_ref(), versions)?;
    checks.extend(unusable);
    if let Some((_, list)) = &network {
        checks.extend(files.iter().filter_map(|file| file.lost_plugins(list)));
    }
    let failures = failures(&checks);
    let is_configured = network.is_some() || manifest.files().any(|(path, network)| network.is_some() && path.exists());
    let report = Report { dry_run: options.dry_run, checks, files, left_out, is_configured };
    let stopped = failures > 0 && !options.ignore_checks;
    if !stopped && !options.dry_run {
        for File { path, action, content, network } in &report.files {
            match (action, content) {
                (Action::Remove, _) => manifest.remove(path)?,
                // `uninstall` must not find an entry of a file that is not ours any more.
                (Action::Foreign, _) => manifest.forget(path)?,
                (_, Content::Bytes { bytes, mode }) => manifest.write(path, bytes, *mode, network.as_ref())?,
                (_, Content::LinkTo(target)) => manifest.link(path, Path::new(target))?,
            }
        }
    }
    if options.json {
        output.json(&report)?
    } else {
        report.write(stopped, options, output)?
    }
    if stopped { Err(Error::Problems(failures)) } else { Ok(()) }
}

impl Options {
    /// The checks of the node and of the new configuration with a warning or failure.
    fn checks(
        &self,
        network: Option<&(ConfiguredNetwork, NetworkConfigList)>,
        versions: &[Version],
    ) -> Result<Vec<Diagnostic>, Error> {
        let mut checks = node();
        if let Some((network, list)) = network
            && failures(&checks) == 0
        {
            let host = Socket::open()?;
            let links = host.links()?;
            let (bin_dir, place) = (self.bin_dir.as_path(), Place::MaybeContainer);
            let environment = Environment { host: &host, links: &links, bin_dir, versions, place };
            checks.extend(requirements(network, list, &environment)?);
            // A container has no write access to these settings, and the runtime's plugins have.
            checks.extend(forwarding(network, &links).filter(|check| !check.has_failed()));
            let data_dir = network.data_dir(None);
            if data_dir == self.data_dir || data_dir.exists() {
                checks.extend(state(&network.name, &network.store(&data_dir)?));
            }
        }
        checks.retain(|check| check.verdict != Verdict::Ok);
        if self.config.is_none() {
            checks.iter_mut().for_each(mention_config_option);
        }
        Ok(checks)
    }

    /// The options with absolute paths, because `uninstall` may run in another working directory.
    fn absolute(mut self) -> Result<Self, Error> {
        for dir in [&mut self.bin_dir, &mut self.conf_dir, &mut self.data_dir] {
            let absolute = path::absolute(&*dir);
            *dir = absolute.map_err(|source| Error::File { operation: "resolve", path: dir.clone(), source })?;
        }
        Ok(self)
    }

    /// The requested network, the list that configures it, and the plugins left out of the list.
    fn configuration(&self) -> Result<Configuration, Error> {
        let (text, path) = match &self.config {
            Some(path) => {
                let read = fs::read(path);
                (read.map_err(|source| Error::File { operation: "read", path: path.clone(), source })?, path.as_path())
            }
            None if self.subnet.is_empty() => return Ok(Configuration { network: None, left_out: Vec::new() }),
            None => (self.own_list()?, Path::new("the new configuration")),
        };
        let unusable = |source: cnikit::runtime::Error| Error::Config { path: path.to_owned(), source: source.into() };
        let list = NetworkConfigList::parse(text).map_err(unusable)?;
        let is_missing = |plugin: &&PluginType| {
            // In a container, a link of the node may lead nowhere.
            plugin.as_str() != NAME && !self.has(plugin) && !self.bin_dir.join(plugin.as_str()).is_symlink()
        };
        let missing: Vec<&PluginType> = self.optional.iter().filter(is_missing).collect();
        let (list, left_out) = without(list, &missing).map_err(unusable)?;
        Ok(Configuration { network: Some((ConfiguredNetwork::from_list(&list, path)?, list)), left_out })
    }

    /// The list of the options, with `portmap` if the node has it.
    fn own_list(&self) -> Result<Vec<u8>, Error> {
        let mut plugin = json!({ "type": NAME, "bridge": self.bridge });
        match self.subnet.as_slice() {
            [subnet] => plugin["subnet"] = json!(subnet),
            subnets => plugin["subnets"] = json!(subnets),
        }
        let mut plugins = vec![plugin];
        if PORTMAP.parse().is_ok_and(|portmap| self.has(&portmap)) {
            plugins.push(json!({ "type": PORTMAP, "capabilities": { "portMappings": true } }));
        }
        let list = json!({ "cniVersion": "1.0.0", "name": self.network, "plugins": plugins });
        let mut text = serde_json::to_vec_pretty(&list)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Whether the plugin directory has an executable plugin.
    fn has(&self, plugin: &PluginType) -> bool {
        runtime::find(plugin, slice::from_ref(&self.bin_dir)).is_ok()
    }

    fn binary(&self, manifest: &Manifest) -> Result<File, Error> {
        // The path of the binary may name another file by now.
        let exe = Path::new("/proc/self/exe");
        let content = fs::read(exe).map_err(|source| Error::File { operation: "read", path: exe.into(), source })?;
        self.file(manifest, self.bin_dir.join(NAME), content, 0o755, None)
    }

    /// The link to the binary, if the name is free. The target is relative, because the directory
    /// may have another path in a container, and so that the link follows an upgrade.
    fn loopback(&self, manifest: &Manifest) -> Result<File, Error> {
        let path = self.bin_dir.join(LOOPBACK);
        let action = if fs::read_link(&path).is_ok_and(|target| target == Path::new(NAME)) {
            Action::Keep
        } else {
            match manifest.state(&path)? {
                FileState::Absent => Action::Create,
                // --force must not replace the plugin of another package, which serves as well.
                FileState::Ours | FileState::Foreign => Action::Foreign,
            }
        };
        Ok(File { path, action, content: Content::LinkTo(NAME), network: None })
    }

    /// Reports a foreign `loopback` that no runtime can execute.
    fn unusable_loopback(&self, loopback: &File, has_network: bool) -> Option<Diagnostic> {
        // A link to the binary works as soon as the binary is installed.
        if loopback.action != Action::Foreign || leads_to_binary(&self.bin_dir) {
            return None;
        }
        unusable_loopback(&self.bin_dir, has_network || is_configured(&self.conf_dir), "run the same install again")
    }

    fn conflist(&self, network: &ConfiguredNetwork, content: &[u8], manifest: &Manifest) -> Result<Vec<File>, Error> {
        let name = &network.name;
        let existing = manifest.files().find(|(path, of)| *of == Some(name) && path.parent() == Some(&self.conf_dir));
        let mut others = NetworkConfigList::files(&self.conf_dir)?;
        let path = match existing {
            Some((path, _)) if self.order.is_none() => path.to_owned(),
            _ => self.new_path(name, &others)?,
        };
        // An unchanged file of an earlier install is moved. A changed file stays.
        let moved = existing.map(|(existing, _)| existing.to_owned()).filter(|existing| *existing != path);
        let moved = match moved {
            Some(moved) if manifest.state(&moved)? == FileState::Ours => Some(moved),
            _ => None,
        };
        others.retain(|other| *other != path && Some(other) != moved.as_ref());
        let same =
            others.into_iter().find(|other| NetworkConfigList::load_file(other).is_ok_and(|list| list.name == *name));
        if let Some(other) = same.filter(|_| !self.force) {
            return Err(Error::Configured { network: name.clone(), path: other });
        }
        let mut files = vec![self.file(manifest, path, content.to_owned(), 0o644, Some(name))?];
        let network = Some(name.clone());
        let content = Content::Bytes { bytes: Vec::new(), mode: 0 };
        files.extend(moved.map(|path| File { path, action: Action::Remove, content, network }));
        Ok(files)
    }

    /// The path of a new configuration: with the requested number, otherwise a number that sorts
    /// first.
    fn new_path(&self, network: &NetworkName, others: &[PathBuf]) -> Result<PathBuf, Error> {
        const DEFAULT: u8 = 10;
        let numbered = |number| numbered(&self.conf_dir, number, network);
        if let Some(order) = self.order {
            return Ok(numbered(order));
        }
        let is_first = |path: &PathBuf| others.iter().all(|other| path <= other);
        let path = (0..=DEFAULT).rev().map(numbered).find(is_first);
        path.ok_or_else(|| Error::NotFirst { first: others.first().cloned().unwrap_or_default() })
    }

    fn file(
        &self,
        manifest: &Manifest,
        path: PathBuf,
        content: Vec<u8>,
        mode: u32,
        network: Option<&NetworkName>,
    ) -> Result<File, Error> {
        let is_same = fs::read(&path).is_ok_and(|existing| existing == content);
        let has_mode = |existing: Metadata| existing.permissions().mode() & 0o7777 == mode;
        let action = if is_same && fs::metadata(&path).is_ok_and(has_mode) {
            Action::Keep
        } else if is_same {
            Action::Replace
        } else {
            match manifest.state(&path)? {
                FileState::Absent => Action::Create,
                FileState::Foreign if !self.force => return Err(Error::Foreign { path }),
                FileState::Ours | FileState::Foreign => Action::Replace,
            }
        };
        Ok(File { path, action, content: Content::Bytes { bytes: content, mode }, network: network.cloned() })
    }
}

impl File {
    /// Reports plugins of the existing list that the new list leaves out. A DEL does not call them.
    fn lost_plugins(&self, new: &NetworkConfigList) -> Option<Diagnostic> {
        let is_replaced = matches!(self.action, Action::Replace | Action::Remove);
        self.network.as_ref().filter(|_| is_replaced)?;
        let old = NetworkConfigList::load_file(&self.path).ok()?;
        let is_lost = |plugin: &&PluginType| new.plugins.iter().all(|kept| kept.plugin_type != **plugin);
        let lost = old.plugins.iter().map(|plugin| &plugin.plugin_type).filter(is_lost);
        let lost: Vec<&str> = lost.map(PluginType::as_str).collect();
        if lost.is_empty() {
            return None;
        }
        let lost = lost.join(", ");
        let found = format!(
            "the new list does not have {lost}, and {} has: a DEL leaves what {lost} created for a pod",
            self.path.display()
        );
        let remedy = format!("delete the pods before; or install {lost}, and run the same install again");
        Some(Diagnostic::warn("plugins", found, remedy))
    }
}

/// Adds `--config` to the fix of a check that names a key without a command line option.
fn mention_config_option(check: &mut Diagnostic) {
    const OPTIONS: [&str; 3] = ["bridge", "subnet", "subnets"];
    let text = format!("{} {}", check.found, check.remedy.as_deref().unwrap_or_default());
    // Every second part is in quotes.
    if text.split('"').skip(1).step_by(2).any(|key| !OPTIONS.contains(&key)) {
        let hint = "(these keys need a configuration: install it with --config FILE)";
        check.remedy = Some(check.remedy.take().map_or_else(|| hint.into(), |remedy| format!("{remedy} {hint}")));
    }
}

impl Report {
    fn write(&self, stopped: bool, options: &Options, output: &mut Output) -> Result<(), Error> {
        diagnostic::write(&self.checks, output)?;
        if stopped {
            return output.line("Nothing was installed: fix the failed checks above, or use --ignore-checks.");
        }
        for File { path, action, .. } in &self.files {
            let (done, planned) = match action {
                Action::Create => ("wrote", "would write"),
                Action::Replace => ("replaced", "would replace"),
                Action::Keep => ("unchanged", "unchanged"),
                Action::Foreign if self.checks.iter().any(|check| check.check == LOOPBACK) => {
                    ("kept the unusable", "would keep the unusable")
                }
                Action::Foreign => ("using the existing", "would use the existing"),
                Action::Remove => ("removed", "would remove"),
            };
            output.line(format_args!("{} {}", if self.dry_run { planned } else { done }, path.display()))?;
        }
        for plugin in &self.left_out {
            let effect = if plugin.as_str() == PORTMAP { ", and hostPort of pods has no effect" } else { "" };
            let dir = options.bin_dir.display();
            output.line(format_args!(
                "{plugin} is not in {dir}: it is not in the list{effect}; install {plugin}, then run install again"
            ))?;
        }
        if !self.is_configured {
            output.styled(DIM, "no configuration: --subnet or --config writes one")?;
        }
        Ok(())
    }
}

fn prefix(text: &str) -> Result<IpNetwork, String> {
    text.parse().map_err(|error| format!("{error}; expected a subnet, such as 10.244.1.0/24"))
}
