use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::IpAddr;

use cnikit::ipam::Pool;
use cnikit::spec::AttachmentKey;
use fs2::FileExt;
use tempfile::TempDir;

use crate::{Keeper, owner};

/// All leases in one JSON file.
pub(crate) struct OneFile {
    dir: TempDir,
    pool: Pool,
}

type Leases = (BTreeMap<IpAddr, AttachmentKey>, Option<IpAddr>);

impl OneFile {
    pub(crate) fn holding(held: usize, pool: &Pool) -> Self {
        let one_file = Self { dir: tempfile::tempdir().expect("a directory"), pool: pool.clone() };
        one_file.change(|(leases, last)| {
            leases.extend(pool.iter_from(None).zip((0..held).map(owner)));
            *last = leases.keys().max().copied();
        });
        one_file
    }

    /// Reads, changes and replaces the file while a lock is held.
    fn change<T>(&self, change: impl FnOnce(&mut Leases) -> T) -> T {
        let lock = File::create(self.dir.path().join("lock")).expect("a lock file");
        lock.lock_exclusive().expect("the lock");
        let file = self.dir.path().join("leases.json");
        let mut leases: Leases = match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).expect("leases"),
            Err(_) => Leases::default(),
        };
        let result = change(&mut leases);
        let new = self.dir.path().join("leases.json.new");
        fs::write(&new, serde_json::to_vec(&leases).expect("text")).expect("room");
        fs::rename(new, file).expect("a rename");
        result
    }
}

impl Keeper for OneFile {
    fn allocate(&mut self, owner: &AttachmentKey) -> IpAddr {
        self.change(|(leases, last)| {
            assert!(!leases.values().any(|held| held == owner));
            let free =
                self.pool.iter_from(*last).find(|address| !leases.contains_key(address)).expect("a free address");
            leases.insert(free, owner.clone());
            *last = Some(free);
            free
        })
    }

    fn release(&mut self, owner: &AttachmentKey) {
        self.change(|(leases, _)| leases.retain(|_, of| of != owner));
    }
}
