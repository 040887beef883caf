use std::collections::HashSet;
use std::fs::{self, File};
use std::net::IpAddr;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use ipnetwork::IpNetwork;

use super::error::{Error, Result};
use super::lease::{Lease, Owner};
use super::range::Range;
use super::store::{NAME_MAX, Store, parse};
use super::{files, timestamp};

/// A [`Store`] whose lock is held, so that it can be changed; made by [`Store::lock`].
///
/// ```
/// # use std::time::Duration;
/// # use cnikit::ipam::Store;
/// # let dir = tempfile::tempdir()?;
/// # let store = Store::open(dir.path())?;
/// // What a garbage collection does: free what is not wanted any more.
/// let mut locked = store.lock(Duration::from_secs(5))?;
/// for lease in locked.leases()?.flatten() {
///     locked.release(&lease.owner)?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Locked<'a> {
    store: &'a Store,
    _lock: File,
}

impl<'a> Locked<'a> {
    pub(super) fn new(store: &'a Store, lock: File) -> Result<Self> {
        let mut locked = Self { store, _lock: lock };
        locked.undo_pending()?;
        if !store.is_of_this_boot() {
            locked.begin_boot()?;
        }
        Ok(locked)
    }

    /// Gives `owner` one address of each range: of all of them or, on an error, of none.
    ///
    /// The search starts after the address handed out last. Its time does not depend on the leases held, but for one
    /// look at each taken address that it meets.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyLeased`] with the lease that `owner` holds, [`Error::CorruptLease`] when it holds one that cannot
    /// be read, [`Error::PoolExhausted`], [`Error::NameTooLong`], [`Error::Io`].
    pub fn allocate(&mut self, owner: &Owner, ranges: &[Range]) -> Result<Lease> {
        self.undo_pending()?;
        let file = self.owner_path(owner).ok_or_else(|| name_too_long(owner))?;
        if let Some(lease) = self.read(&file)? {
            return Err(Error::AlreadyLeased { lease: Box::new(lease) });
        }
        let addresses = self.free_addresses(ranges)?;
        // Before the lease and not after it: a disk that is full is then told of while nothing is committed.
        self.remember_last(&addresses)?;

        let lease = Lease { owner: owner.clone(), addresses, boot_id: self.boot_id.clone(), created: timestamp::now() };
        let pending = self.pending_path();
        let mut text =
            serde_json::to_vec_pretty(&lease).map_err(|error| Error::io("encode", &pending)(error.into()))?;
        text.push(b'\n');
        files::create(&pending, &text)?;
        for address in &lease.addresses {
            files::link(&pending, &self.address_path(address.ip()))?;
        }
        files::rename(&pending, &file)?;
        Ok(lease)
    }

    /// Frees the addresses of `owner` and returns its lease; there being none is a success.
    ///
    /// A lease that cannot be read is freed too. Nothing is returned of it, for what it held is not known.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn release(&mut self, owner: &Owner) -> Result<Option<Lease>> {
        self.undo_pending()?;
        let Some(file) = self.owner_path(owner) else {
            return Ok(None);
        };
        let lease = match self.read(&file) {
            Ok(Some(lease)) => Some(lease),
            Ok(None) => return Ok(None),
            Err(Error::CorruptLease { .. }) => None,
            Err(error) => return Err(error),
        };
        files::rename(&file, &self.pending_path())?;
        self.undo_pending()?;
        Ok(lease)
    }

    /// A free address of each range, with its prefix length.
    fn free_addresses(&self, ranges: &[Range]) -> Result<Vec<IpNetwork>> {
        let last = self.last();
        let mut found: Vec<IpNetwork> = Vec::with_capacity(ranges.len());
        for range in ranges {
            let cursor = last.iter().copied().find(|address| range.contains(*address));
            let mut used = 0;
            let mut free = None;
            for address in range.after(cursor) {
                let taken = found.iter().any(|found| found.ip() == address) || self.is_taken(address)?;
                if !taken {
                    free = Some(range.with_prefix(address));
                    break;
                }
                used += 1;
            }
            let (subnet, total) = (range.subnet(), range.capacity());
            found.push(free.ok_or(Error::PoolExhausted { subnet, used, total })?);
        }
        Ok(found)
    }

    /// Whether a lease holds `address`. A file with no name but that of the address lost its lease: somebody removed
    /// that by hand. It is taken out of the way.
    fn is_taken(&self, address: IpAddr) -> Result<bool> {
        let path = self.address_path(address);
        match files::stat(&path)? {
            None => Ok(false),
            Some(file) if file.nlink() == 1 => files::remove(&path).map(|()| false),
            Some(_) => Ok(true),
        }
    }

    /// The addresses handed out last. It is a hint: whatever cannot be read is left out.
    fn last(&self) -> Vec<IpAddr> {
        let text = fs::read_to_string(self.last_path()).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    fn remember_last(&self, addresses: &[IpNetwork]) -> Result<()> {
        let text: String = addresses.iter().map(|address| format!("{}\n", address.ip())).collect();
        files::overwrite(&self.last_path(), text.as_bytes())
    }

    /// Removes the change that is under way, if there is one: an allocation that did not reach its commit, or a release
    /// that did.
    fn undo_pending(&mut self) -> Result<()> {
        let pending = self.pending_path();
        let Some(file) = files::stat(&pending)? else {
            return Ok(());
        };
        let inode = file.ino();
        // The content says where to look. It may be half-written, so the count of links says whether that was all.
        let named = parse(&pending).ok().flatten().map_or_else(Vec::new, |(lease, _)| lease.addresses);
        let named: Vec<_> = named.iter().map(|address| self.address_path(address.ip())).collect();
        let removed = remove_links(named, |found| found == inode)?;
        if file.nlink() > removed + 1 {
            remove_links(self.address_files()?, |found| found == inode)?;
        }
        files::remove(&pending)
    }

    /// Removes all leases but those of this boot, and marks the directory with it.
    fn begin_boot(&mut self) -> Result<()> {
        let leases = self.leases_dir();
        files::create_dir(&leases)?;
        files::create_dir(&self.addresses_dir())?;
        // There are leases of this boot if the mark was lost, but none that cannot be read: those are what was left
        // of an earlier boot when the power was cut.
        let mut kept = HashSet::new();
        for entry in files::list(&leases)?.into_iter().flatten() {
            let path = entry.map_err(Error::io("list", &leases))?.path();
            match parse(&path) {
                Ok(Some((lease, inode))) if lease.boot_id == self.boot_id => {
                    kept.insert(inode);
                }
                Ok(_) | Err(Error::CorruptLease { .. }) => files::remove(&path)?,
                Err(error) => return Err(error),
            }
        }
        remove_links(self.address_files()?, |inode| !kept.contains(&inode))?;
        files::overwrite(&self.boot_id_path(), self.boot_id.as_str().as_bytes())
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

impl Deref for Locked<'_> {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.store
    }
}

/// Removes those of `paths` whose inode is wanted gone, and counts them.
fn remove_links(paths: Vec<PathBuf>, gone: impl Fn(u64) -> bool) -> Result<u64> {
    let mut removed = 0;
    for path in paths {
        if files::stat(&path)?.is_some_and(|file| gone(file.ino())) {
            files::remove(&path)?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn name_too_long(owner: &Owner) -> Error {
    Error::NameTooLong { owner: Box::new(owner.clone()), length: owner.file_name().len(), limit: NAME_MAX }
}
