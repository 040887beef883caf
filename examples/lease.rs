//! Leases addresses, finds a lease by its owner and by its address, and releases it.
//!
//! ```sh
//! cargo run --example lease
//! ```
#![expect(clippy::print_stdout, reason = "an example shows its results; a plugin must write only its result to stdout")]

use std::error::Error;
use std::time::Duration;

use cnikit::ipam::{Pool, Range, Store, Usage};
use cnikit::spec::AttachmentKey;

fn main() -> Result<(), Box<dyn Error>> {
    // One directory per network; a plugin keeps it under /var/lib/cni.
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path().join("podnet"))?;

    // The store never allocates the gateway, which is the subnet's first address.
    let range = Range::new("10.244.1.0/24".parse()?, None)?;
    println!("{} addresses in {}, gateway {}", range.capacity(), range.subnet(), range.gateway());
    // A pool consists of alternative ranges. An attachment gets one address of each pool.
    let pool = Pool::new(vec![range])?;

    // Changes need the lock. It is held only in this block, so that other plugin processes can take
    // it.
    {
        let mut locked = store.lock(Duration::from_secs(5))?;
        for container_id in ["4fe2c9", "81b07d"] {
            let owner = AttachmentKey::new(container_id.parse()?, "eth0".parse()?);
            let lease = locked.allocate(&owner, std::slice::from_ref(&pool), &[])?;
            println!("{} now holds {}", lease.owner, lease.addresses[0]);
        }
    }

    // Reading needs no lock. An unreadable file is an error that names the file; the other leases
    // follow.
    for lease in store.leases()? {
        let lease = lease?;
        let file = store.dir().join("leases").join(format!("{}@{}.json", lease.owner.container_id, lease.owner.ifname));
        println!("{}:\n{}", file.display(), std::fs::read_to_string(&file)?);
    }
    let usage: Usage = store.usage(&pool)?.into_iter().sum();
    println!("{} of {} addresses are taken", usage.used, usage.total);

    // Find the owner of this address, and release its lease.
    if let Some(lease) = store.lease_at("10.244.1.3".parse()?)? {
        let released = store.lock(Duration::from_secs(5))?.release(&lease.owner)?;
        println!("released: {}", released.is_some());
    }
    println!("{} of {} addresses are taken", store.usage(&pool)?[0].used, usage.total);
    Ok(())
}
