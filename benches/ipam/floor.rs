use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use cnikit::ipam::Store;
use cnikit::spec::AttachmentKey;
use fs2::FileExt;

use crate::Keeper;

/// The smallest set of system calls with the same guarantees, in the directories of a store.
///
/// - An atomic lease takes a file, a link and a rename.
/// - Unique addresses take a lock.
/// - The delay before an address is reused takes one read and one write of the search position.
/// - A release takes the content of the lease, which is the only list of its addresses.
///
/// There are no lookups: a failure of these calls could report an existing owner, an existing
/// address or a pending change. There is no JSON either.
pub(crate) struct Floor {
    lock: PathBuf,
    pending: PathBuf,
    lease: PathBuf,
    address: PathBuf,
}

impl Floor {
    pub(crate) fn in_store(store: &Store) -> Self {
        let dir = store.dir();
        Self {
            lock: dir.join("floor-lock"),
            pending: dir.join("floor-pending"),
            lease: dir.join("leases").join("f".repeat(64)),
            address: dir.join("addresses/floor"),
        }
    }

    fn lock(&self) -> File {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.lock)
            .expect("a lock file");
        file.lock_exclusive().expect("the lock");
        file
    }
}

impl Keeper for Floor {
    fn allocate(&mut self, _: &AttachmentKey) -> IpAddr {
        let lock = self.lock();
        let mut hints = [0; 4096];
        let _ = lock.read_at(&mut hints, 0).expect("hints");
        lock.write_all_at(b"last 10.244.1.2\n", 0).expect("room");
        let mut file = OpenOptions::new().write(true).create_new(true).open(&self.pending).expect("a file");
        file.write_all(&[b'x'; 256]).expect("room");
        fs::hard_link(&self.pending, &self.address).expect("a link");
        fs::rename(&self.pending, &self.lease).expect("a rename");
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    }

    fn release(&mut self, _: &AttachmentKey) {
        let _lock = self.lock();
        let mut content = [0; 256];
        File::open(&self.lease).expect("a lease").read_exact(&mut content).expect("its content");
        fs::rename(&self.lease, &self.pending).expect("a rename");
        fs::remove_file(&self.address).expect("a removal");
        fs::remove_file(&self.pending).expect("a removal");
    }
}
