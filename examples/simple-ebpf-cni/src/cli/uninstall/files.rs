//! Removal of files: configurations, the binary, the manifest, the record of orphans.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cnikit::spec::NetworkName;

use super::options::{Options, configuration_files};
use super::report::Report;
use crate::cli::error::Error;
use crate::cli::inventory::{ConfiguredNetwork, NodeNetwork};
use crate::cli::manifest::{FileState, Manifest};
use crate::cli::paths::{BIN_DIR, CONF_DIR, LOOPBACK};
use simple_ebpf_cni::naming;

impl Report {
    pub(super) fn remove_configurations(&mut self, manifest: &mut Manifest, options: &Options) -> Result<(), Error> {
        let files = manifest.files().filter(|(path, network)| network.is_some_and(|of| options.selects(path, of)));
        let files: Vec<PathBuf> = files.map(|(path, _)| path.to_owned()).collect();
        files.iter().try_for_each(|path| self.remove_file(path, manifest, options))
    }

    /// The networks of configurations that stay, such as a renamed file. The report lists these
    /// files.
    pub(super) fn remaining_networks(
        &mut self,
        dirs: &BTreeSet<PathBuf>,
        manifest: &Manifest,
        options: &Options,
    ) -> Result<BTreeSet<NetworkName>, Error> {
        let mut networks = BTreeSet::new();
        for file in configuration_files(dirs)?.into_iter().filter(|file| !self.gone.contains(file)) {
            let Ok(ConfiguredNetwork { name, .. }) = ConfiguredNetwork::read(&file) else {
                continue;
            };
            let is_written = manifest.files().any(|(path, _)| path == file);
            let is_kept = || Ok::<_, Error>(!options.force && manifest.state(&file)? == FileState::Foreign);
            // A dry run has not removed the file.
            if is_written && self.dry_run && options.selects(&file, &name) && !is_kept()? {
                continue;
            }
            if !is_written {
                self.kept.push(format!("{}: not written by install", file.display()));
            }
            networks.insert(name);
        }
        Ok(networks)
    }

    /// Removes the binary and `loopback`, unless a configuration needs them. `others` are networks
    /// that keep their configuration. `dirs` may have configurations of other plugins, and their
    /// runtime needs a `loopback`.
    pub(super) fn remove_binaries(
        &mut self,
        manifest: &mut Manifest,
        options: &Options,
        others: &BTreeSet<NetworkName>,
        dirs: &BTreeSet<PathBuf>,
    ) -> Result<(), Error> {
        let remaining = manifest.files().filter_map(|(path, network)| network.filter(|of| !options.selects(path, of)));
        let served: BTreeSet<&NetworkName> = remaining.chain(others).collect();
        let served: Vec<String> = served.into_iter().map(ToString::to_string).collect();
        let binaries = manifest.files().filter(|(_, network)| network.is_none());
        let binaries: Vec<PathBuf> = binaries.map(|(path, _)| path.to_owned()).collect();
        for path in &binaries {
            let loopback = path.with_file_name(LOOPBACK);
            let is_needed =
                !options.force && binaries.contains(&loopback) && manifest.state(&loopback)? == FileState::Ours;
            let foreign = if is_needed { foreign_configuration(dirs, &loopback)? } else { None };
            let reason = if self.has_failed {
                "an object could not be removed: run uninstall again".to_owned()
            } else if let Some(selected) = &options.network {
                format!("only {selected} is removed")
            } else if !served.is_empty() {
                format!("it serves {}", served.join(", "))
            } else if let Some(foreign) = foreign {
                let use_of_it = if *path == loopback { "" } else { "loopback leads to it, and " };
                format!(
                    "{use_of_it}the runtime of {} needs a loopback; replace {} by another one, then run uninstall \
                     again, or use --force",
                    foreign.display(),
                    loopback.display()
                )
            } else {
                self.remove_file(path, manifest, options)?;
                continue;
            };
            self.kept.push(format!("{}: {reason}", path.display()));
        }
        Ok(())
    }

    fn remove_file(&mut self, path: &Path, manifest: &mut Manifest, options: &Options) -> Result<(), Error> {
        match manifest.state(path)? {
            // Another package has replaced the link, and other networks may need its plugin.
            FileState::Foreign if path.file_name() == Some(LOOPBACK.as_ref()) => {
                self.kept.push(format!("{}: not written by install", path.display()));
                self.gone.insert(path.to_owned());
                return if self.dry_run { Ok(()) } else { manifest.forget(path) };
            }
            FileState::Foreign if !options.force => {
                self.kept.push(format!("{}: changed since install", path.display()));
                return Ok(());
            }
            FileState::Absent => {}
            FileState::Ours | FileState::Foreign => {
                self.removed.push(path.display().to_string());
                self.gone.insert(path.to_owned());
            }
        }
        if self.dry_run { Ok(()) } else { manifest.remove(path) }
    }

    /// In a dry run, plans the removal of the manifest if its last entry would be removed.
    pub(super) fn plan_manifest_removal(&mut self, manifest: &Manifest, networks: &[NodeNetwork]) {
        let has_files = manifest.files().any(|(path, _)| path.exists() && !self.gone.contains(path));
        let has_leases = manifest.leases().keys().any(|name| networks.iter().all(|network| network.name != *name));
        if !has_files && !has_leases {
            self.gone.insert(manifest.path().to_owned());
        }
    }

    /// Removes the record of orphan processes of DEL and GC. No later call reads it.
    pub(super) fn remove_orphan_record(&mut self) {
        let record = Path::new(naming::ORPHANS);
        if record.symlink_metadata().is_ok() {
            self.remove(record.display().to_string(), || Ok(fs::remove_file(record)?));
            self.gone.insert(record.to_owned());
        }
        record.parent().into_iter().for_each(|dir| self.remove_empty(dir));
    }
}

/// A configuration of other plugins. Its runtime uses `loopback`. The default directory of
/// configurations belongs to the default directory of plugins.
fn foreign_configuration(dirs: &BTreeSet<PathBuf>, loopback: &Path) -> Result<Option<PathBuf>, Error> {
    let is_default = loopback.parent() == Some(BIN_DIR.as_ref());
    let dirs = dirs.iter().filter(|dir| is_default || **dir != Path::new(CONF_DIR)).cloned().collect();
    let is_foreign = |file: &PathBuf| matches!(ConfiguredNetwork::read(file), Err(Error::NotOurs { .. }));
    Ok(configuration_files(&dirs)?.into_iter().find(is_foreign))
}
