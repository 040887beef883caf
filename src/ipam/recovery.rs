//! Recovery from killed processes, earlier boots and damaged files.

use std::collections::HashSet;
use std::fs::Metadata;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;

use super::error::{Error, Result};
use super::files;
use super::guard::StoreGuard;
use super::lease::Lease;
use super::quarantine::Quarantined;
use super::store::{Store, parse};
use crate::spec::{AttachmentKey, KubernetesPod};

impl StoreGuard<'_> {
    /// Undoes the pending change, if there is one: an allocation without its commit, or a release
    /// after its commit.
    pub(super) fn recover_pending(&mut self) -> Result<()> {
        if self.settled {
            return Ok(());
        }
        let pending = self.pending_path();
        match files::stat(&pending)? {
            Some(file) => {
                // The content names the addresses, if it was written completely.
                let lease = parse(&pending).ok().flatten();
                self.remove_pending(&file, &lease.map_or_else(Vec::new, |(lease, _)| lease.addresses))?;
            }
            None => self.settled = true,
        }
        Ok(())
    }

    /// Removes the file `pending`, after the links of addresses to it. `named` are the addresses in
    /// its content, usually all of them.
    pub(super) fn remove_pending(&mut self, file: &Metadata, named: &[IpNetwork]) -> Result<()> {
        let is_ours = |found: &Metadata| found.ino() == file.ino();
        let removed = remove_links(named.iter().map(|address| self.address_path(address.ip())), is_ours)?;
        // The link count shows whether more links exist.
        if file.nlink() > removed + 1 {
            remove_links(self.address_files()?, is_ours)?;
        }
        files::remove(&self.pending_path())?;
        self.settled = true;
        Ok(())
    }

    /// Removes all leases of other boots, then marks the directory with this boot.
    pub(super) fn start_new_boot(&mut self) -> Result<()> {
        let leases = self.leases_dir();
        files::create_dir(&leases)?;
        files::create_dir(&self.addresses_dir())?;
        // If only the mark was lost, leases of this boot exist and are kept. Unreadable leases are
        // never of this boot: a power loss left them.
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

    /// Moves a damaged file to the quarantine directory and replaces an older file of the same name
    /// there. A regular file also keeps its own name. A directory cannot have a second name.
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

    /// Removes the address entries of a lease that an operator deleted by hand. A garbage
    /// collection calls this last. The allocator also does this if a pool is exhausted or such an
    /// address is requested.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn remove_orphans(&mut self) -> Result<()> {
        self.recover_pending()?;
        // The link count is no evidence, because the two addresses of a lease keep each other's
        // inode alive. The content is no evidence either: it may be damaged while its owner is
        // alive.
        let owned = self.owned()?;
        remove_links(self.address_files()?, |found| !found.is_dir() && !owned.contains(&found.ino())).map(drop)
    }

    /// The inodes of all lease files, including damaged ones.
    fn owned(&self) -> Result<HashSet<u64>> {
        let dir = self.leases_dir();
        let mut names = Vec::new();
        files::visit_names(&dir, |name| {
            if AttachmentKey::from_file_name(name).is_some() {
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
    /// Reconstructs a lease that cannot be read, from the error of the read. The owner comes from
    /// the file name, the addresses from the hard links. Whether the lease was imported is unknown.
    /// Returns `None` for a file that never was a lease.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn salvage(&self, error: &Error) -> Result<Option<Lease>> {
        let (Error::CorruptLease { path, .. } | Error::Io { path, .. }) = error else {
            return Ok(None);
        };
        let owner = path.file_name().and_then(|name| AttachmentKey::from_file_name(name.to_str()?));
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
        let created = file.modified().map_err(Error::io("examine", path))?;
        Ok(Some(Lease {
            owner,
            addresses,
            boot_id: self.boot_id.clone(),
            created,
            imported: false,
            pod: KubernetesPod::default(),
        }))
    }

    /// Every file in `addresses`.
    fn address_files(&self) -> Result<Vec<PathBuf>> {
        let dir = self.addresses_dir();
        files::list(&dir)?
            .into_iter()
            .flatten()
            .map(|entry| Ok(entry.map_err(Error::io("list", &dir))?.path()))
            .collect()
    }
}

/// Removes the paths that match, and returns how many.
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
