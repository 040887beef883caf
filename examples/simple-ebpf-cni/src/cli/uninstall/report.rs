//! The removed and the kept objects of an `uninstall`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cnikit::plugin::{Context as _, ErrorCollector, PluginError};
use cnikit::spec::{ErrorCode, NetworkName};
use serde::Serialize;

use crate::cli::error::Error;
use crate::cli::output::Output;

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) dry_run: bool,
    pub(super) removed: Vec<String>,
    /// The kept objects, with reasons.
    pub(super) kept: Vec<String>,
    #[serde(skip)]
    pub(super) failures: ErrorCollector,
    /// Whether an object could not be removed.
    #[serde(skip)]
    pub(super) has_failed: bool,
    /// The removed paths. A dry run uses them to find directories that would be empty.
    #[serde(skip)]
    pub(super) gone: BTreeSet<PathBuf>,
    /// Whether masquerade rules were removed.
    #[serde(skip)]
    pub(super) had_masquerading: bool,
}

impl Report {
    /// Removes an object, or records the error. Returns whether it is gone. A dry run only adds the
    /// object to the report.
    pub(super) fn remove(&mut self, object: String, remove: impl FnOnce() -> Result<(), PluginError>) -> bool {
        let result = if self.dry_run { Ok(()) } else { remove() };
        let is_gone = self.failures.push(result.context(format_args!("remove {object}"))).is_some();
        if is_gone {
            self.removed.push(object);
        }
        self.has_failed |= !is_gone;
        is_gone
    }

    /// Records the error of a network. The removal of other networks continues.
    pub(super) fn record(&mut self, network: &NetworkName, result: Result<(), Error>) {
        if let Err(error) = result {
            self.has_failed = true;
            let failure = PluginError::new(ErrorCode::IO, error.to_string());
            self.failures.push::<()>(Err(failure).context(format_args!("remove all of {network}")));
        }
    }

    /// Removes a directory if it is empty.
    pub(super) fn remove_empty(&mut self, dir: &Path) {
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

    /// The result of removing a directory after the planned removals of a dry run.
    fn would_remove_empty(&mut self, dir: &Path) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            if !self.gone.contains(&entry?.path()) {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
        }
        self.gone.insert(dir.to_owned());
        Ok(())
    }

    pub(super) fn write(&self, output: &mut Output) -> Result<(), Error> {
        let removed = if self.dry_run { "would remove" } else { "removed" };
        for object in &self.removed {
            output.line(format_args!("{removed} {object}"))?;
        }
        for object in &self.kept {
            output.line(format_args!("kept {object}"))?;
        }
        if self.removed.is_empty() && self.kept.is_empty() {
            output.line("There is nothing to remove.")?;
        }
        Ok(())
    }
}
