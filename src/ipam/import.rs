//! Imports the leases of another plugin.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::mem;
use std::net::IpAddr;
use std::path::Path;

use ipnetwork::IpNetwork;
use serde::Deserialize;

use super::error::{Error, Result};
use super::guard::{StoreGuard, name_too_long};
use super::lease::Lease;
use super::pool::Pool;
use super::range::Range;
use super::store::Store;
use super::timestamp;
use crate::spec::{self, AttachmentKey, IfName, KubernetesPod};

/// Leases of another plugin, read but not imported yet.
///
/// The files do not show whether an attachment is alive. Garbage collection removes the dead ones
/// later. The other plugin must not run any more, because the import does not see its later leases.
#[derive(Debug, Default)]
pub struct ForeignLeases {
    held: BTreeMap<AttachmentKey, Vec<IpAddr>>,
    last: Vec<IpAddr>,
    skipped: Vec<Skipped>,
}

/// The result of an import; see [`StoreGuard::import`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Import {
    /// The created leases.
    pub leases: Vec<Lease>,
    /// The entries that were not imported.
    pub skipped: Vec<Skipped>,
}

/// An entry that was not imported.
#[derive(Debug)]
#[non_exhaustive]
pub struct Skipped {
    /// The name of the file or the key of the table, usually an address.
    pub name: String,
    /// The reason.
    pub reason: SkipReason,
}

/// The reason why an entry was not imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SkipReason {
    /// The name is not an address.
    #[error("its name is not an address")]
    NotAnAddress,

    /// The file is empty, for example after a crash. The address has no holder.
    #[error("it is empty")]
    Empty,

    /// The holder is not a valid container id and interface name.
    #[error("its holder is not a container id and interface name: {0}")]
    NoOwner(spec::Error),

    /// The address is not in the pools, or it is a gateway of one of them.
    #[error("it is not an address of the configured ranges")]
    NotInPools,

    /// A lease already holds the address.
    #[error("it is already held by a lease{}", .0.as_ref().map_or_else(String::new, |owner| format!(" of {}", owner.described())))]
    Taken(Option<Box<AttachmentKey>>),

    /// The holder already has a lease.
    #[error("{} has a lease already", .0.described())]
    AlreadyLeased(Box<AttachmentKey>),

    /// The file cannot be read, or the lease cannot be created.
    #[error(transparent)]
    Failed(Error),
}

/// The table of a plugin that keeps all leases in one file.
#[derive(Deserialize)]
struct OneFile {
    allocated: BTreeMap<String, String>,
}

impl ForeignLeases {
    /// Reads a directory with [`from_host_local`](Self::from_host_local), and a file with
    /// [`from_table`](Self::from_table).
    ///
    /// # Errors
    ///
    /// As for these functions.
    pub fn read(path: &Path, ifname: &IfName) -> Result<Self> {
        if path.is_dir() { Self::from_host_local(path, ifname) } else { Self::from_table(path, ifname) }
    }

    /// Reads a file of the form `{"allocated": {"10.244.1.2": "<container id>"}, ...}`. The file
    /// has no interface names, so `ifname` is used for every lease.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file cannot be read, [`Error::NotATable`] if it has another form.
    pub fn from_table(path: &Path, ifname: &IfName) -> Result<Self> {
        let text = fs::read(path).map_err(Error::io("read", path))?;
        let table: OneFile =
            serde_json::from_slice(&text).map_err(|source| Error::NotATable { path: path.to_owned(), source })?;
        let mut leases = Self::default();
        for (name, holder) in table.allocated {
            leases.note(name, &holder, ifname);
        }
        Ok(leases)
    }

    /// Reads the directory of a network that [host-local] keeps. Each address is a file with the
    /// container id and the interface name on two lines. Other files hold the last allocated
    /// addresses.
    ///
    /// Files of old versions contain only the container id; `ifname` is used for these leases.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the directory cannot be listed.
    ///
    /// [host-local]: https://www.cni.dev/plugins/current/ipam/host-local/
    pub fn from_host_local(dir: &Path, ifname: &IfName) -> Result<Self> {
        let mut leases = Self::default();
        for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
            let path = entry.map_err(Error::io("list", dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name == "lock" {
                continue;
            }
            let is_hint = name.starts_with("last_reserved_ip.");
            if !is_hint && name.parse::<IpAddr>().is_err() {
                leases.skip(name, SkipReason::NotAnAddress);
                continue;
            }
            match fs::read_to_string(&path) {
                Ok(text) if is_hint => leases.last.extend(text.trim().parse::<IpAddr>()),
                Ok(text) => leases.note(name, &text, ifname),
                Err(error) => leases.skip(name, SkipReason::Failed(Error::io("read", &path)(error))),
            }
        }
        Ok(leases)
    }

    /// Records the holder of an address: a container id and, on a second line, an interface name.
    fn note(&mut self, name: String, holder: &str, ifname: &IfName) {
        let Ok(address) = name.parse::<IpAddr>() else {
            return self.skip(name, SkipReason::NotAnAddress);
        };
        match owner(holder, ifname) {
            Ok(Some(owner)) => self.held.entry(owner).or_default().push(address),
            Ok(None) => self.skip(name, SkipReason::Empty),
            Err(error) => self.skip(name, SkipReason::NoOwner(error)),
        }
    }

    fn skip(&mut self, name: String, reason: SkipReason) {
        self.skipped.push(Skipped { name, reason });
    }
}

impl Store {
    /// Returns the result that [`StoreGuard::import`] would have now. Creates nothing, not even the
    /// directory.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn preview_import(&self, foreign: ForeignLeases, pools: &[Pool]) -> Result<Import> {
        let ForeignLeases { held, mut skipped, .. } = foreign;
        let mut leases = Vec::new();
        // A table can contain one address twice, in two spellings.
        let mut promised = HashSet::new();
        for (owner, mut addresses) in held {
            // Directory entries have no defined order.
            addresses.sort_unstable();
            if let Some(reason) = self.refusal(&owner)? {
                skipped.push(Skipped { name: names(addresses), reason });
                continue;
            }
            let mut free = Vec::new();
            for address in addresses {
                match self.importable(address, pools)? {
                    Ok(_) if !promised.insert(address) => {
                        skipped.push(Skipped { name: address.to_string(), reason: SkipReason::Taken(None) });
                    }
                    Ok(address) => free.push(address),
                    Err(reason) => skipped.push(Skipped { name: address.to_string(), reason }),
                }
            }
            if !free.is_empty() {
                let (boot_id, created) = (self.boot_id.clone(), timestamp::now());
                leases.push(Lease {
                    owner,
                    addresses: free,
                    boot_id,
                    created,
                    imported: true,
                    pod: KubernetesPod::default(),
                });
            }
        }
        Ok(Import { leases, skipped })
    }

    /// The reason why `owner` cannot get a lease, if any.
    fn refusal(&self, owner: &AttachmentKey) -> Result<Option<SkipReason>> {
        if self.owner_path(owner).is_none() {
            return Ok(Some(SkipReason::Failed(name_too_long(owner))));
        }
        match self.lease(owner) {
            Ok(None) => Ok(None),
            Ok(Some(_)) => Ok(Some(SkipReason::AlreadyLeased(Box::new(owner.clone())))),
            Err(error) if error.is_damage() => Ok(Some(SkipReason::Failed(error))),
            Err(error) => Err(error),
        }
    }

    /// The address with its prefix length for a lease, or the reason why it cannot be imported.
    fn importable(&self, address: IpAddr, pools: &[Pool]) -> Result<Result<IpNetwork, SkipReason>> {
        let Some(range) = pools.iter().find_map(|pool| pool.range_of(address)) else {
            return Ok(Err(SkipReason::NotInPools));
        };
        if pools.iter().flat_map(Pool::ranges).map(Range::gateway).any(|gateway| gateway == address) {
            return Ok(Err(SkipReason::NotInPools));
        }
        match self.lease_at(address) {
            Ok(None) => Ok(Ok(range.with_prefix(address))),
            Ok(Some(lease)) => Ok(Err(SkipReason::Taken(Some(Box::new(lease.owner))))),
            Err(error) if error.is_damage() => Ok(Err(SkipReason::Taken(None))),
            Err(error) => Err(error),
        }
    }
}

impl StoreGuard<'_> {
    /// Creates leases with the same addresses as the leases of another plugin, and returns the
    /// skipped entries.
    ///
    /// The source files stay unchanged. A second import skips every lease that exists. Only a
    /// [release](Self::release) frees the new leases, because they are marked as
    /// [imported](Lease::imported).
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn import(&mut self, mut foreign: ForeignLeases, pools: &[Pool]) -> Result<Import> {
        self.remove_orphans()?;
        let last = mem::take(&mut foreign.last);
        let Import { leases, mut skipped } = self.preview_import(foreign, pools)?;
        if !last.is_empty() {
            self.hints.last = last;
        }
        self.write_header()?;
        let mut made = Vec::with_capacity(leases.len());
        for lease in leases {
            match self.commit(&lease) {
                Ok(()) => made.push(lease),
                // A file that was changed by hand can hold an address without being a readable
                // lease.
                Err(Error::AddressTaken { .. }) => {
                    let name = names(lease.addresses.iter().map(IpNetwork::ip));
                    skipped.push(Skipped { name, reason: SkipReason::Taken(None) });
                    self.recover_pending()?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Import { leases: made, skipped })
    }
}

/// The addresses, separated by commas.
fn names(addresses: impl IntoIterator<Item = IpAddr>) -> String {
    addresses.into_iter().map(|address| address.to_string()).collect::<Vec<_>>().join(", ")
}

/// Parses the holder as `host-local` writes it; `None` if the text is empty.
fn owner(text: &str, ifname: &IfName) -> Result<Option<AttachmentKey>, spec::Error> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let Some(container_id) = lines.next() else {
        return Ok(None);
    };
    let ifname = lines.next().map_or_else(|| Ok(ifname.clone()), str::parse)?;
    Ok(Some(AttachmentKey { container_id: container_id.parse()?, ifname }))
}
