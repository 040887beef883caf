use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use cnikit::ipam::{Owner, Store};
use fs2::FileExt;

use crate::Keeper;

/// The system calls without which a lease does not appear and disappear as a whole, in the directories of a store.
pub(crate) struct Floor {
    lock: PathBuf,
    last: PathBuf,
    pending: PathBuf,
    lease: PathBuf,
    address: PathBuf,
}

impl Floor {
    pub(crate) fn in_store(store: &Store) -> Self {
        let dir = store.dir();
        Self {
            lock: dir.join("floor-lock"),
            last: dir.join("floor-last"),
            pending: dir.join("floor-pending"),
            lease: dir.join("leases").join("f".repeat(64)),
            address: dir.join("addresses/floor"),
        }
    }

    fn lock(&self) -> File {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&self.lock).expect("a lock file");
        file.lock_exclusive().expect("the lock");
        file
    }
}

impl Keeper for Floor {
    fn allocate(&mut self, _: &Owner) -> IpAddr {
        let _lock = self.lock();
        let mut last = OpenOptions::new().write(true).create(true).truncate(false).open(&self.last).expect("a file");
        last.write_all(b"10.244.1.2\n").expect("room");
        let mut file = OpenOptions::new().write(true).create_new(true).open(&self.pending).expect("a file");
        file.write_all(&[b'x'; 256]).expect("room");
        fs::hard_link(&self.pending, &self.address).expect("a link");
        fs::rename(&self.pending, &self.lease).expect("a rename");
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    }

    fn release(&mut self, _: &Owner) {
        let _lock = self.lock();
        fs::rename(&self.lease, &self.pending).expect("a rename");
        fs::remove_file(&self.address).expect("a removal");
        fs::remove_file(&self.pending).expect("a removal");
    }
}
