//! `install`: puts this binary where runtimes look for it, and a configuration beside others.

use std::fs::{self, Metadata};
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{self, Path, PathBuf};

use clap::Args;
use cnikit::netlink::Socket;
use cnikit::runtime::NetworkConfigList;
use cnikit::spec::{IfName, NetworkName};
use ipnetwork::IpNetwork;
use serde::Serialize;
use serde_json::json;
use simple_ebpf_cni::config::DEFAULT_DATA_DIR;

use super::Error;
use super::check::{self, Check, Verdict};
use super::doctor::{self, BIN_DIR};
use super::manifest::{Found, Manifest, Turn};
use super::network::Network;
use super::node::CONF_DIR;
use super::output::{Output, VOID};
use crate::NAME;

const EXIT_STATUS: &str = "\
Exit status:
  0  all is installed, or would be; checks may have warned
  1  a check has failed and nothing was installed, or a file could not be written; it is told which
  2  the command line is wrong";

/// Install this binary as a plugin and, with --subnet or --config, the configuration of a network.
///
/// Files appear whole or not at all. What this command has not written itself, or what somebody has changed since, it leaves alone. A
/// node on which `doctor` finds a failure is left as it is.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXIT_STATUS)]
pub(crate) struct Options {
    /// Where the runtime finds plugins
    #[arg(long, value_name = "DIR", default_value = BIN_DIR)]
    bin_dir: PathBuf,

    /// Where the runtime finds the configurations of networks
    #[arg(long, value_name = "DIR", default_value = CONF_DIR)]
    conf_dir: PathBuf,

    /// Where it is kept what was installed
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,

    /// The name of the network
    #[arg(long, value_name = "NAME", default_value = "podnet", conflicts_with = "config")]
    network: NetworkName,

    /// A subnet that pods get an address of each; can be given several times
    #[arg(long, value_name = "PREFIX", value_parser = prefix, conflicts_with = "config")]
    subnet: Vec<IpNetwork>,

    /// The bridge, which serves one network
    #[arg(long, value_name = "NAME", default_value = "cbr0", conflicts_with = "config")]
    bridge: IfName,

    /// Install this configuration, with this plugin in it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The number that the file of the configuration begins with, from 0 to 99: runtimes take the file that sorts first
    /// [default: 10 or, where that would not be first, less]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(i64::from(*ORDERS.start())..=i64::from(*ORDERS.end())))]
    order: Option<u8>,

    /// Install although checks fail
    #[arg(long)]
    ignore_checks: bool,

    /// Overwrite files of others and changed ones, and configure a network that another file configures
    #[arg(long)]
    force: bool,

    /// Say what would be done, and change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,

    /// Print all there is as JSON, for programs
    #[arg(long)]
    json: bool,
}

/// The numbers that the file of a configuration can begin with.
pub(crate) const ORDERS: RangeInclusive<u8> = 0..=99;

/// The file of a network's configuration with a number before its name.
pub(crate) fn numbered(conf_dir: &Path, number: u8, network: &NetworkName) -> PathBuf {
    conf_dir.join(format!("{number:02}-{network}.conflist"))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    dry_run: bool,
    /// Those that have not passed.
    checks: Vec<Check>,
    files: Vec<File>,
    /// Whether a network has been configured by this command, now or before.
    #[serde(skip)]
    is_configured: bool,
}

/// A file to be, and what it takes the place of.
#[derive(Debug, Serialize)]
struct File {
    path: PathBuf,
    action: Action,
    #[serde(skip)]
    content: Vec<u8>,
    #[serde(skip)]
    mode: u32,
    #[serde(skip)]
    network: Option<NetworkName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Create,
    Replace,
    Keep,
    /// Its content lies in another file of the report.
    Remove,
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<(), Error> {
    let options = &options.clone().absolute()?;
    let network = options.configuration()?;
    let _turn = if options.dry_run { None } else { Some(Turn::take(&options.data_dir)?) };
    let mut manifest = Manifest::read(&options.data_dir)?;
    let mut files = vec![options.binary(&manifest)?];
    if let Some((network, list)) = &network {
        files.extend(options.conflist(network, list.as_bytes(), &manifest)?);
    }
    let checks = options.checks(network.as_ref())?;
    let failures = doctor::failures(&checks);
    let is_configured = network.is_some() || manifest.files().any(|(path, network)| network.is_some() && path.exists());
    let report = Report { dry_run: options.dry_run, checks, files, is_configured };
    let stopped = failures > 0 && !options.ignore_checks;
    if !stopped && !options.dry_run {
        for File { path, action, content, mode, network } in &report.files {
            match action {
                Action::Remove => manifest.remove(path)?,
                _ => manifest.write(path, content, *mode, network.as_ref())?,
            }
        }
    }
    if options.json {
        output.json(&report)?
    } else {
        report.write(stopped, output)?
    }
    if stopped { Err(Error::Problems(failures)) } else { Ok(()) }
}

impl Options {
    /// What is wrong with the node, or with what is wished for.
    fn checks(&self, network: Option<&(Network, NetworkConfigList)>) -> Result<Vec<Check>, Error> {
        let mut checks = check::node();
        if let Some((network, list)) = network
            && doctor::failures(&checks) == 0
        {
            let host = Socket::open()?;
            let links = host.links()?;
            checks.extend(check::wished(network, list, &self.bin_dir, &host, &links)?);
            // An image installs from a container. What that may not write, or was not given of the node, says nothing of
            // the runtime's plugins.
            checks.extend(check::forwarding(network, &links).filter(|check| check.verdict != Verdict::Fail));
            let data_dir = network.data_dir(None);
            if data_dir == self.data_dir || data_dir.exists() {
                checks.extend(check::state(&network.name, &network.store(&data_dir)?));
            }
        }
        checks.retain(|check| check.verdict != Verdict::Ok);
        if self.config.is_none() {
            checks.iter_mut().for_each(name_config);
        }
        Ok(checks)
    }

    /// The same from whatever directory it is looked at: `uninstall` may run in another.
    fn absolute(mut self) -> Result<Self, Error> {
        for dir in [&mut self.bin_dir, &mut self.conf_dir, &mut self.data_dir] {
            let absolute = path::absolute(&*dir);
            *dir = absolute.map_err(|source| Error::File { operation: "find", path: dir.clone(), source })?;
        }
        Ok(self)
    }

    /// The network to configure and the list that does, if one is wished for.
    fn configuration(&self) -> Result<Option<(Network, NetworkConfigList)>, Error> {
        if let Some(path) = &self.config {
            let text =
                fs::read(path).map_err(|source| Error::File { operation: "read", path: path.clone(), source })?;
            let unusable = |source| Error::NoList { path: path.clone(), source };
            let list = NetworkConfigList::parse(text).map_err(unusable)?;
            return Ok(Some((Network::of(&list, path)?, list)));
        }
        let subnets = match self.subnet.as_slice() {
            [] => return Ok(None),
            [subnet] => json!({ "subnet": subnet }),
            subnets => json!({ "subnets": subnets }),
        };
        let mut plugin = json!({ "type": NAME, "bridge": self.bridge });
        if let (Some(plugin), Some(subnets)) = (plugin.as_object_mut(), subnets.as_object()) {
            plugin.extend(subnets.clone());
        }
        let list = json!({ "cniVersion": "1.0.0", "name": self.network, "plugins": [plugin] });
        let mut text = serde_json::to_vec_pretty(&list)?;
        text.push(b'\n');
        let list = NetworkConfigList::parse(text)?;
        Ok(Some((Network::of(&list, Path::new("a configuration"))?, list)))
    }

    fn binary(&self, manifest: &Manifest) -> Result<File, Error> {
        // Not by its path, under which another may lie since it was started.
        let this = Path::new("/proc/self/exe");
        let content = fs::read(this).map_err(|source| Error::File { operation: "read", path: this.into(), source })?;
        self.file(manifest, self.bin_dir.join(NAME), content, 0o755, None)
    }

    fn conflist(&self, network: &Network, content: &[u8], manifest: &Manifest) -> Result<Vec<File>, Error> {
        let name = &network.name;
        let known = manifest.files().find(|(path, of)| *of == Some(name) && path.parent() == Some(&self.conf_dir));
        let mut others = NetworkConfigList::files(&self.conf_dir)?;
        let path = match known {
            Some((path, _)) if self.order.is_none() => path.to_owned(),
            _ => self.place(name, &others)?,
        };
        // A file of ours gives up its place for another. What somebody has changed is not ours to move.
        let moved = known.map(|(known, _)| known.to_owned()).filter(|known| *known != path);
        let moved = match moved {
            Some(known) if manifest.look(&known)? == Found::Ours => Some(known),
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
        files.extend(moved.map(|path| File { path, action: Action::Remove, content: Vec::new(), mode: 0, network }));
        Ok(files)
    }

    /// Where a new configuration goes among others: where it is wished or, else, where it sorts first.
    fn place(&self, network: &NetworkName, others: &[PathBuf]) -> Result<PathBuf, Error> {
        const USUAL: u8 = 10;
        let numbered = |number| numbered(&self.conf_dir, number, network);
        if let Some(order) = self.order {
            return Ok(numbered(order));
        }
        let is_first = |path: &PathBuf| others.iter().all(|other| path <= other);
        let place = (0..=USUAL).rev().map(numbered).find(is_first);
        place.ok_or_else(|| Error::NotFirst { first: others.first().cloned().unwrap_or_default() })
    }

    fn file(
        &self,
        manifest: &Manifest,
        path: PathBuf,
        content: Vec<u8>,
        mode: u32,
        network: Option<&NetworkName>,
    ) -> Result<File, Error> {
        let is_same = fs::read(&path).is_ok_and(|there| there == content);
        let has_mode = |there: Metadata| there.permissions().mode() & 0o7777 == mode;
        let action = if is_same && fs::metadata(&path).is_ok_and(has_mode) {
            Action::Keep
        } else if is_same {
            Action::Replace
        } else {
            match manifest.look(&path)? {
                Found::Nothing => Action::Create,
                Found::Foreign if !self.force => return Err(Error::Foreign { path }),
                Found::Ours | Found::Foreign => Action::Replace,
            }
        };
        Ok(File { path, action, content, mode, network: network.cloned() })
    }
}

/// Adds to a check how to set the keys that it names, if no flag does.
fn name_config(check: &mut Check) {
    const FLAGS: [&str; 3] = ["bridge", "subnet", "subnets"];
    let text = format!("{} {}", check.found, check.remedy.as_deref().unwrap_or_default());
    // Every second part is between quotes.
    if text.split('"').skip(1).step_by(2).any(|key| !FLAGS.contains(&key)) {
        let place = "(these keys are in a configuration: install it with --config FILE)";
        check.remedy = Some(check.remedy.take().map_or_else(|| place.into(), |remedy| format!("{remedy} {place}")));
    }
}

impl Report {
    fn write(&self, stopped: bool, output: &mut Output) -> Result<(), Error> {
        doctor::write(&self.checks, output)?;
        if stopped {
            return output.line("Nothing was installed: see above what to do; --ignore-checks installs all the same.");
        }
        for File { path, action, .. } in &self.files {
            let (is, would) = match action {
                Action::Create => ("wrote", "would write"),
                Action::Replace => ("replaced", "would replace"),
                Action::Keep => ("there already:", "there already:"),
                Action::Remove => ("removed", "would remove"),
            };
            output.line(format_args!("{} {}", if self.dry_run { would } else { is }, path.display()))?;
        }
        if !self.is_configured {
            output.styled(VOID, "no configuration: --subnet or --config writes one")?;
        }
        Ok(())
    }
}

fn prefix(text: &str) -> Result<IpNetwork, String> {
    text.parse().map_err(|error| format!("{error}; write a subnet, such as 10.244.1.0/24"))
}
