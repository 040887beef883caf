//! What is done about the traces of processes that were killed, of earlier boots, and of damage.

use std::collections::HashSet;
use std::fmt;
use std::fs::Metadata;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;

use super::error::{Error, Result};
use super::files;
use super::guard::StoreGuard;
use super::lease::{Lease, Owner};
use super::store::{Store, parse};
use crate::spec::KubernetesPod;

/// A damaged file that stood in the place of a lease, and was put out of the way; see [`StoreGuard::quarantined`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Quarantined {
    /// Where it was.
    pub file: PathBuf,
    /// Where it is kept for a look, until somebody removes it.
    pub kept: PathBuf,
    /// What is wrong with it.
    pub error: Error,
}

impl fmt::Display for Quarantined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was damaged and is now {}: ", self.file.display(), self.kept.display())?;
        // The cause alone: the remedy of the error is no longer needed.
        match &self.error {
            Error::CorruptLease { source, .. } => source.fmt(f),
            Error::Io { source, .. } => source.fmt(f),
            error => error.fmt(f),
        }
    }
}

impl StoreGuard<'_> {
    /// Removes the change that is under way, if there is one: an allocation that did not reach its commit, or a release
    /// that did.
    pub(super) fn recover_pending(&mut self) -> Result<()> {
        if self.settled {
            return Ok(());
        }
        let pending = self.pending_path();
        match files::stat(&pending)? {
            Some(file) => {
                // The content says where to look, as far as it was written.
                let lease = parse(&pending).ok().flatten();
                self.remove_pending(&file, &lease.map_or_else(Vec::new, |(lease, _)| lease.addresses))?;
            }
            None => self.settled = true,
        }
        Ok(())
    }

    /// Removes the file that is now called `pending`, and first the links to it from addresses: mostly those that its
    /// content names.
    pub(super) fn remove_pending(&mut self, file: &Metadata, named: &[IpNetwork]) -> Result<()> {
        let is_ours = |found: &Metadata| found.ino() == file.ino();
        let removed = remove_links(named.iter().map(|address| self.address_path(address.ip())), is_ours)?;
        // The count of links says whether those were all.
        if file.nlink() > removed + 1 {
            remove_links(self.address_files()?, is_ours)?;
        }
        files::remove(&self.pending_path())?;
        self.settled = true;
        Ok(())
    }

    /// Removes all leases but those of this boot, and marks the directory with it.
    pub(super) fn start_new_boot(&mut self) -> Result<()> {
        let leases = self.leases_dir();
        files::create_dir(&leases)?;
        files::create_dir(&self.addresses_dir())?;
        // There are leases of this boot if the mark was lost, but none that cannot be read: those are what was left
        // of an earlier boot when the power was cut.
        let mut kept = HashSet::new();
        for entry in files::list(&leases)?.into_iter().flatten() {
            let path = entry.map_err(Error::io("list", &leases))?.path();
            match parse(&path) {
                Ok(Some((lease, file))) if lease.boot_id == self.boot_id => {
                    kept.insert(file.ino());
                    continue;
                }
                Ok(_) => {}
                Err(error) if error.is_damage() => self.quarantine(&path, error)?,
                Err(error) => return Err(error),
            }
            files::remove(&path)?;
        }
        remove_links(self.address_files()?, |found| !kept.contains(&found.ino()))?;
        self.write_header()
    }

    /// Gives a damaged file a name among the damaged, in place of an older one of that name. Its own name stays, unless
    /// it is a directory and can have but one.
    pub(super) fn quarantine(&mut self, file: &Path, error: Error) -> Result<()> {
        let dir = self.damaged_dir();
        files::create_dir(&dir)?;
        let kept = file.file_name().map_or_else(|| dir.clone(), |name| dir.join(name));
        if files::stat(file)?.is_some_and(|file| file.is_dir()) {
            files::rename(file, &kept)?;
        } else {
            files::remove(&kept)?;
            files::link(file, &kept)?;
        }
        self.quarantined.push(Quarantined { file: file.to_owned(), kept, error });
        Ok(())
    }

    /// Frees addresses whose lease somebody removed by hand: what a garbage collection does last. The allocator does so,
    /// too, when no address is left or one of these is asked for.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn remove_orphans(&mut self) -> Result<()> {
        self.recover_pending()?;
        // The count of links does not tell, because two addresses of one lease keep each other's; nor does the content,
        // which may be damaged while its owner is alive.
        let owned = self.owned()?;
        remove_links(self.address_files()?, |found| !found.is_dir() && !owned.contains(&found.ino())).map(drop)
    }

    /// The inodes that have the name of an owner: those of leases, damaged ones among them.
    fn owned(&self) -> Result<HashSet<u64>> {
        let dir = self.leases_dir();
        let mut names = Vec::new();
        files::visit_names(&dir, |name| {
            if Owner::of_file_name(name).is_some() {
                names.push(dir.join(name));
            }
        })?;
        let mut owned = HashSet::with_capacity(names.len());
        for path in names {
            owned.extend(files::stat(&path)?.map(|file| file.ino()));
        }
        Ok(owned)
    }
}

impl Store {
    /// What can be told of a lease that cannot be read, by the error that said so: its owner by the file's name, its
    /// addresses by their links. Whether it was imported is not known. Nothing is told of a file that never was a lease.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn salvage(&self, error: &Error) -> Result<Option<Lease>> {
        let (Error::CorruptLease { path, .. } | Error::Io { path, .. }) = error else {
            return Ok(None);
        };
        let owner = path.file_name().and_then(|name| Owner::of_file_name(name.to_str()?));
        let (Some(owner), Some(file)) = (owner, files::stat(path)?) else {
            return Ok(None);
        };
        let mut addresses = Vec::new();
        for link in self.address_files()? {
            if files::stat(&link)?.is_some_and(|found| found.ino() == file.ino()) {
                let address: Option<IpAddr> = link.file_name().and_then(|name| name.to_str()?.parse().ok());
                addresses.extend(address.map(IpNetwork::from));
            }
        }
        let created = file.modified().map_err(Error::io("look at", path))?;
        Ok(Some(Lease {
            owner,
            addresses,
            boot_id: self.boot_id.clone(),
            created,
            imported: false,
            pod: KubernetesPod::default(),
        }))
    }

    /// Every file under `addresses`.
    fn address_files(&self) -> Result<Vec<PathBuf>> {
        let dir = self.addresses_dir();
        files::list(&dir)?
            .into_iter()
            .flatten()
            .map(|entry| Ok(entry.map_err(Error::io("list", &dir))?.path()))
            .collect()
    }
}

/// Removes those of `paths` that are wanted gone, and counts them.
fn remove_links(paths: impl IntoIterator<Item = PathBuf>, gone: impl Fn(&Metadata) -> bool) -> Result<u64> {
    let mut removed = 0;
    for path in paths {
        if files::stat(&path)?.is_some_and(|file| gone(&file)) {
            files::remove(&path)?;
            removed += 1;
        }
    }
    Ok(removed)
}
