//! An IPAM plugin like `host-local`: leases the addresses of the ranges in the configuration.
//!
//! ```json
//! {
//!   "cniVersion": "1.1.0", "name": "lan", "type": "macvlan",
//!   "ipam": {
//!     "type": "pool-ipam",
//!     "ranges": [[{ "subnet": "192.0.2.0/24", "rangeStart": "192.0.2.100" }], [{ "subnet": "2001:db8::/64" }]],
//!     "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
//!     "dataDir": "/var/lib/cni/pool-ipam"
//!   }
//! }
//! ```
//!
//! A pod gets one address of each list in `ranges`. `dataDir` is optional. The leases are safe
//! under parallel calls and kills, and leases from before a reboot are free again. The runtime can
//! request addresses: capability `ips`, `args.cni.ips`, or `IP` in `CNI_ARGS`.
//!
//! `examples/macvlan.rs` describes how to try it.

use std::path::Path;
use std::process::ExitCode;

use cnikit::ipam::{IpamConfig, LOCK_TIMEOUT, Store};
use cnikit::plugin::{self, AddRequest, CheckRequest, Context as _, DelRequest, GcRequest, StatusRequest};
use cnikit::plugin::{Plugin, PluginError, PluginInfo, Result};
use cnikit::spec::{AddResult, ErrorCode, NetworkName};
use serde::Deserialize;

const DATA_DIR: &str = "/var/lib/cni/pool-ipam";

/// The code of a CHECK that finds no lease.
const NO_LEASE: ErrorCode = ErrorCode::plugin_specific(100);

struct PoolIpam;

#[derive(Deserialize)]
struct Config {
    ipam: IpamConfig,
}

impl Config {
    fn store(&self, network: &NetworkName) -> Result<Store> {
        let dir = self.ipam.data_dir().unwrap_or(Path::new(DATA_DIR));
        Ok(Store::open(dir.join(network.as_str()))?)
    }
}

impl Plugin for PoolIpam {
    type Config = Config;

    fn info(&self) -> PluginInfo {
        PluginInfo { name: "pool-ipam", version: "1.0.0", summary: "Leases addresses.", docs: "examples/pool-ipam.rs" }
    }

    fn add(&self, request: &AddRequest<Config>) -> Result<AddResult> {
        let (attachment, ipam) = (&request.attachment, &request.config.ipam);
        let requested = request.net_conf.requested_ips(&request.args)?;
        let store = request.config.store(&attachment.network)?;
        let lease = store.lock(LOCK_TIMEOUT)?.allocate(&attachment.key(), ipam.pools(), &requested)?;
        Ok(ipam.result(&lease)?)
    }

    fn del(&self, request: &DelRequest<Config>) -> Result<()> {
        let store = request.config.as_ref()?.store(&request.attachment.network)?;
        store.lock(LOCK_TIMEOUT)?.release(&request.attachment.key())?;
        Ok(())
    }

    fn check(&self, request: &CheckRequest<Config>) -> Result<()> {
        let lease = request.config.store(&request.attachment.network)?.lease(&request.attachment.key())?;
        let leased = lease.map(|lease| lease.addresses).unwrap_or_default();
        let expected = request.prev_result.ips.iter().map(|ip| ip.address);
        if expected.clone().any(|address| leased.contains(&address)) {
            return Ok(());
        }
        let expected: Vec<String> = expected.map(|address| address.to_string()).collect();
        let msg = format!("the pod has no lease of {}: create the pod again", expected.join(", "));
        Err(PluginError::new(NO_LEASE, msg))
    }

    fn gc(&self, request: &GcRequest<Config>) -> Result<()> {
        let Some(valid) = request.valid_attachments.list() else { return Ok(()) };
        let store = request.config.store(&request.net_conf.name)?;
        let mut leases = store.lock(LOCK_TIMEOUT)?;
        for lease in leases.leases()? {
            let owner = lease?.owner;
            if !valid.contains(&owner) {
                leases.release(&owner)?;
            }
        }
        Ok(())
    }

    fn status(&self, request: &StatusRequest<Config>) -> Result<()> {
        let store = request.config.store(&request.net_conf.name)?;
        store.probe()?;
        store.require_free(request.config.ipam.pools()).with_code(ErrorCode::LIMITED_CONNECTIVITY)
    }
}

fn main() -> ExitCode {
    plugin::run(&PoolIpam)
}
