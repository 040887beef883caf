//! The files in the runtime's configuration directory.

use std::fs;
use std::path::Path;

use cnikit::ipam::Range;
use cnikit::runtime::NetworkConfigList;

use super::config::{self, Environment};
use super::diagnostic::Diagnostic;
use crate::NAME;
use crate::cli::error::Error;
use crate::cli::inventory::{ConfiguredNetwork, Selector};
use crate::cli::manifest::{FileState, Manifest};
use crate::cli::paths::{ORDERS, numbered};
use simple_ebpf_cni::config::DEFAULT_DATA_DIR;
use simple_ebpf_cni::ip;

const CHECK: &str = "config";

/// Checks the files that a runtime finds in its configuration directory.
pub(crate) fn configurations(selector: &Selector, environment: &Environment) -> Result<Vec<Diagnostic>, Error> {
    let dir = selector.conf_dir.display();
    let manifest = manifest(selector);
    let files = match NetworkConfigList::files(&selector.conf_dir) {
        Ok(files) => files,
        Err(error) => {
            return Ok(vec![Diagnostic::fail(CHECK, error.to_string(), format!("make {dir} a directory of files"))]);
        }
    };
    let mut checks = Vec::new();
    let mut first = None;
    let mut has_unusable = false;
    let mut known: Vec<ConfiguredNetwork> = Vec::new();
    for file in &files {
        let list = match NetworkConfigList::load_file(file) {
            Ok(list) => list,
            Err(error) => {
                let check = unusable(file, &error.into(), manifest.as_ref(), selector);
                has_unusable |= check.has_failed();
                checks.push(check);
                continue;
            }
        };
        let is_ours = list.plugins.iter().any(|plugin| plugin.plugin_type.as_str() == NAME);
        first.get_or_insert((file, is_ours));
        if !is_ours {
            continue;
        }
        let network = match ConfiguredNetwork::from_list(&list, file) {
            Ok(network) => network,
            Err(error) => {
                checks.push(unusable(file, &error, manifest.as_ref(), selector));
                has_unusable = true;
                continue;
            }
        };
        let is_selected =
            |network: &ConfiguredNetwork| selector.network.as_ref().is_none_or(|selected| *selected == network.name);
        let others = known.iter().filter(|other| is_selected(other) || is_selected(&network));
        let conflicts: Vec<Diagnostic> = others.filter_map(|other| conflict(other, &network)).collect();
        if let Some(before) = known.iter().find(|other| other.name == network.name) {
            let (file, before) = (file.display(), before.file().display());
            let found = format!("{file} configures {} too, and runtimes use {before}", network.name);
            checks.push(Diagnostic::warn(CHECK, found, "remove one of the two files"));
            continue;
        }
        if is_selected(&network) {
            checks.push(Diagnostic::ok(CHECK, format!("{} configures {}", file.display(), network.name)));
            let store = network.store(&network.data_dir(selector.data_dir.as_deref()))?;
            let mut found = config::requirements(&network, &list, environment)?;
            found.extend(config::state(&network.name, &store));
            found.extend(config::forwarding(&network, environment.links));
            found.extend(config::log(&network));
            let is_installed =
                manifest.as_ref().is_some_and(|manifest| manifest.files().any(|(written, _)| written == file));
            found.extend(config::published_ports(&list, file, environment.bin_dir, is_installed));
            for check in found {
                // Several networks can have the same diagnostic. Print it once.
                if !checks.contains(&check) {
                    checks.push(check);
                }
            }
        }
        checks.extend(conflicts);
        known.push(network);
    }
    match first {
        _ if known.is_empty() && has_unusable => {}
        _ if known.is_empty() => {
            let found = if selector.conf_dir.exists() {
                format!("no file in {dir} has a plugin {NAME}")
            } else {
                format!("there is no {dir}")
            };
            checks.push(Diagnostic::warn(
                CHECK,
                found,
                format!("{NAME} install --subnet PREFIX{}", selector.directories(None)),
            ));
        }
        Some((first, false)) => {
            let found = format!("{} sorts first, so a runtime with one network uses that file", first.display());
            let command = manifest.as_ref().and_then(|manifest| {
                known.iter().find_map(|ours| reorder_command(first, ours, manifest, selector, environment.bin_dir))
            });
            let remedy = match command {
                Some(command) => format!("remove it, or run {command}"),
                None => "remove it, or rename one of the two files".to_owned(),
            };
            checks.push(Diagnostic::warn(CHECK, found, remedy));
        }
        _ => {}
    }
    Ok(checks)
}

/// The manifest of `install`, if it can be read.
pub(super) fn manifest(selector: &Selector) -> Option<Manifest> {
    Manifest::read(selector.data_dir.as_deref().unwrap_or(Path::new(DEFAULT_DATA_DIR))).ok()
}

/// The configurations with this plugin that no runtime can use.
pub(crate) fn unusable_configurations(selector: &Selector) -> Result<Vec<Diagnostic>, Error> {
    let manifest = manifest(selector);
    let files = NetworkConfigList::files(&selector.conf_dir)?;
    let checks = files.iter().filter_map(|file| match ConfiguredNetwork::read(file) {
        Ok(_) | Err(Error::NotOurs { .. }) => None,
        Err(error) => Some(unusable(file, &error, manifest.as_ref(), selector)),
    });
    Ok(checks.filter(Diagnostic::has_failed).collect())
}

/// A file that cannot be used. It fails the check if it belongs to this plugin: the manifest has
/// it, or its text has the plugin's name.
fn unusable(file: &Path, error: &Error, manifest: Option<&Manifest>, selector: &Selector) -> Diagnostic {
    let written = manifest.and_then(|manifest| manifest.files().find(|(path, _)| *path == file)?.1);
    if let Some(network) = written {
        let options = selector.directories(None);
        let command = format!("{NAME} install --network {network} --subnet PREFIX --force{options}");
        return Diagnostic::fail(CHECK, error.to_string(), format!("correct the file, or replace it: {command}"));
    }
    if mentions_plugin(file) {
        Diagnostic::fail(CHECK, error.to_string(), "correct the file")
    } else {
        Diagnostic::warn(CHECK, error.to_string(), "correct or remove the file")
    }
}

/// Whether the text of a file has the plugin's name in quotes. The file may be invalid JSON.
pub(super) fn mentions_plugin(file: &Path) -> bool {
    fs::read(file).is_ok_and(|text| String::from_utf8_lossy(&text).contains(&format!("\"{NAME}\"")))
}

/// The command that makes a configuration sort before the file `before`, if `install` wrote the
/// configuration and it is unchanged.
fn reorder_command(
    before: &Path,
    network: &ConfiguredNetwork,
    manifest: &Manifest,
    selector: &Selector,
    bin_dir: &Path,
) -> Option<String> {
    let file = network.file();
    let is_written = manifest.files().any(|(path, _)| path == file) && manifest.state(file).ok()? == FileState::Ours;
    let sorts_before = |order: &u8| numbered(&selector.conf_dir, *order, &network.name).as_path() < before;
    let order = ORDERS.rev().find(sorts_before).filter(|_| is_written)?;
    let options = selector.directories(Some(bin_dir));
    Some(format!("{NAME} install --order {order} --config {}{options}", file.display()))
}

/// Reports two networks that use the same bridge or overlapping addresses.
fn conflict(a: &ConfiguredNetwork, b: &ConfiguredNetwork) -> Option<Diagnostic> {
    let common = |range: &Range| b.config().ranges().find(|other| ip::overlap(range.subnet(), other.subnet()));
    let found = if a.bridge() == b.bridge() {
        format!("{} and {} both have the bridge {}, which serves one network", a.name, b.name, a.bridge())
    } else {
        let (range, other) = a.config().ranges().find_map(|range| Some((range, common(range)?)))?;
        format!("{} of {} overlaps with {} of {}", range.subnet(), a.name, other.subnet(), b.name)
    };
    Some(Diagnostic::fail(CHECK, found, "change one of the two configurations"))
}
