//! Resynchronizes the map entries of attached pods.
//!
//! The maps may be new, because the pins and programs were lost. They may have been in use by calls
//! with another BPF file system, or an older build kept fewer entries in them. Without an entry,
//! the bridge serves a port, but the spoof check does not apply to its pod. An entry that outlives
//! its pod leads nowhere. Leases, ports and the bridge determine the correct entries.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use cnikit::datapath::{Endpoint, PortConfig};
use cnikit::ipam::Lease;
use cnikit::netlink::{FdbEntry, FdbState, Link};
use cnikit::plugin::PluginError;
use cnikit::spec::{Attachment, IfIndex, IfName};
use ipnetwork::IpNetwork;
use tracing::{info_span, warn};

use crate::config::AttachMode;
use crate::endpoints::Endpoints;
use crate::naming::STACK_ONLY_ALIAS;
use crate::network::Network;
use crate::programs::{self, Programs};
use crate::{bridge, siblings};

impl Network<'_> {
    /// Adds the entries of all pods with a lease and a port of the bridge, and removes entries of
    /// ports that do not exist. Attaches the programs to ports that lost them.
    ///
    /// The caller attaches the programs to the blocks afterwards. Until then, the next ADD resyncs
    /// again.
    pub(crate) fn resync(&self, programs: &Programs, bridge: &Link) -> Result<(), PluginError> {
        let _span = info_span!("resync").entered();
        let endpoints = Endpoints::open(&self.datapath)?;
        // Other calls, and this one, add or remove the entries of their own attachments.
        let in_progress = self.in_progress()?;
        let spared = in_progress.iter().map(Attachment::host_ifindex).collect();
        let links = endpoints.remove_stale_ports(self.host, &spared)?;
        siblings::prune(self.host, &endpoints, &links)?;
        let ports = bridge::pod_ports(bridge, &links);
        let mut ports: HashMap<&IfName, &Link> = ports.map(|link| (&link.name, link)).collect();
        for attachment in &in_progress {
            ports.remove(&attachment.host_ifname());
        }
        if ports.is_empty() {
            return Ok(());
        }
        let resync = Resync { network: self, programs, known: endpoints.addresses_by_port()?, endpoints: &endpoints };
        for lease in self.leases.leases()?.filter_map(Result::ok) {
            let attachment = self.attachment(lease.owner.clone());
            let Some(port) = ports.get(&attachment.host_ifname()) else { continue };
            let Ok(_lock) = self.leases.lock_owner(&lease.owner, Duration::ZERO) else { continue };
            let resynced = resync.pod(&attachment, &lease, port);
            // A pod that was deleted in the meantime needs no entries.
            if resynced.is_err() && self.host.link_by_index(port.index)?.is_none() {
                endpoints.remove(&lease.addresses, Some(port.index))?;
                continue;
            }
            resynced?;
        }
        siblings::share_all(self.host, &endpoints, &links, bridge)?;
        // Read the locks again, after the links: an ADD with a delegate that has started since then
        // attaches the programs to its own port.
        for attachment in self.in_progress()? {
            ports.remove(&attachment.host_ifname());
        }
        for port in ports.into_values() {
            let config = endpoints.port_config(port.index)?;
            if config.is_some() {
                let attached = resync.attach_port(port, config);
                if attached.is_err() && self.host.link_by_index(port.index)?.is_some() {
                    attached?;
                }
            } else if self.host.link_by_index(port.index)?.is_some() {
                // A delegate assigned the address, or the lease is also lost.
                warn!(
                    "the spoof check does not apply to the pod at {}, because it has no map entry and no lease: \
                     attach it anew",
                    port.name
                );
            }
        }
        programs::unpin_dead_links(&self.datapath)?;
        Ok(())
    }
}

/// The inputs for the resync of one pod.
struct Resync<'a> {
    network: &'a Network<'a>,
    programs: &'a Programs,
    endpoints: &'a Endpoints,
    /// The addresses of all entries at the start, by port.
    known: HashMap<IfIndex, Vec<IpAddr>>,
}

impl Resync<'_> {
    fn pod(&self, attachment: &Attachment, lease: &Lease, port: &Link) -> Result<(), PluginError> {
        let host = self.network.host;
        // With `spoofCheck`, the bridge has a forwarding entry for a MAC that the pod requested.
        let static_mac = |entry: &FdbEntry| (entry.state == FdbState::Static).then_some(entry.mac);
        let static_mac = host.fdb(port.index)?.iter().find_map(static_mac);
        let config = self.endpoints.port_config(port.index)?;
        let config_mac = config.map(|config| config.mac);
        let derived_mac = || self.network.pod_mac(attachment, &lease.addresses);
        let mac = static_mac.or(config_mac).unwrap_or_else(derived_mac);
        let has_clsact = self.programs.uses_shared_blocks(host, port.index)?;
        let pod = Endpoint::new(port.index, mac);
        // Without the entry, it is unknown whether the port has TCX links because of bandwidth
        // limits. Direct forwarding would bypass the limits.
        let may_be_shaped = config.is_none() && !has_clsact;
        let stack_only = may_be_shaped || port.alias.as_deref() == Some(STACK_ONLY_ALIAS);
        self.endpoints.ensure_endpoint(&lease.addresses, pod, stack_only)?;
        let valid: Vec<IpAddr> = lease.addresses.iter().map(IpNetwork::ip).chain([mac.link_local().into()]).collect();
        let known = self.known.get(&port.index).into_iter().flatten();
        self.endpoints.remove_addresses(known.filter(|address| !valid.contains(address)), port.index)?;
        self.attach_port(port, config)
    }

    /// Attaches the programs to a port that lost them. `config` is the port's entry before the
    /// resync.
    fn attach_port(&self, port: &Link, config: Option<PortConfig>) -> Result<(), PluginError> {
        let Network { host, config: network_config, datapath, .. } = self.network;
        if self.programs.run_on(host, datapath, port.index)? {
            return Ok(());
        }
        // A plugin that shapes the pod's traffic may own the clsact slot, even if it is empty now.
        let is_free = host.ingress_qdisc(port.index)?.is_none();
        let had_clsact = config.is_some_and(|config| !config.stack_only) && network_config.attach == AttachMode::Clsact;
        let mode = if is_free && had_clsact { AttachMode::Clsact } else { AttachMode::Tcx };
        if let Err(failure) = self.programs.attach_port(host, &port.name, port.index, mode) {
            warn!("the eBPF programs do not run at {}: {failure}", port.name);
        }
        Ok(())
    }
}
