//! Puts right the map entries of pods that are attached.
//!
//! The maps are new because the pins and programs are gone, or they were in use by calls that saw another BPF file system,
//! or an older build kept fewer entries in them. A port without an entry is served by the bridge, but its pod is not held
//! to its addresses. An entry that outlives its pod leads nowhere. Leases, ports and the bridge say what entries there
//! must be.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use cnikit::datapath::{Datapath, Endpoint, PortConfig};
use cnikit::ipam::{Lease, Owner, Store};
use cnikit::netlink::{FdbEntry, FdbState, Link, Socket};
use cnikit::plugin::PluginError;
use cnikit::spec::{Attachment, IfName, NetworkName};
use ipnetwork::IpNetwork;
use tracing::{info_span, warn};

use crate::config::{Attach, Config};
use crate::endpoints::Rows;
use crate::programs::{self, Programs};
use crate::{addresses, bridge, network, siblings};

/// The alias of the host end of a pair whose packets are never delivered directly.
pub(crate) const STACK_ONLY: &str = "simple-ebpf-cni:stack-only";

/// What an ADD needs to put the entries right, in the pinned maps.
pub(crate) struct Restore<'a> {
    pub(crate) host: &'a Socket,
    pub(crate) network: &'a NetworkName,
    pub(crate) config: &'a Config,
    pub(crate) leases: &'a Store,
    pub(crate) datapath: &'a Datapath,
    pub(crate) programs: &'a Programs,
    pub(crate) bridge: &'a Link,
}

impl Restore<'_> {
    /// Puts the entries of all pods that hold a lease and are ports of the bridge, and removes entries of ports that do
    /// not exist. Has the programs run on ports that have lost them. The programs are attached afterwards: until then, the next ADD does this again.
    pub(crate) fn run(&self) -> Result<(), PluginError> {
        let _span = info_span!("restore").entered();
        let rows = Rows::open(self.datapath)?;
        // Calls at work, such as this one, put the entries of their attachments, or remove them.
        let at_work: HashSet<Attachment> =
            self.leases.locked_owners()?.into_iter().map(|owner| self.of(owner)).collect();
        let links = rows.remove_lost(self.host, &at_work.iter().map(Attachment::host_ifindex).collect())?;
        let ports = bridge::pod_ports(self.bridge, &links);
        let mut ports: HashMap<&IfName, &Link> = ports.map(|link| (&link.name, link)).collect();
        for attachment in &at_work {
            ports.remove(&attachment.host_ifname());
        }
        if ports.is_empty() {
            return Ok(());
        }
        let known = rows.addresses()?;
        for lease in self.leases.leases()?.filter_map(Result::ok) {
            let attachment = self.of(lease.owner.clone());
            let Some(port) = ports.get(&attachment.host_ifname()) else { continue };
            let Ok(_turn) = self.leases.lock_owner(&lease.owner, Duration::ZERO) else { continue };
            let restored = self.pod(&rows, &attachment, &lease, port, &known);
            // A pod whose namespace has ended meanwhile needs none.
            if restored.is_err() && self.host.link_by_index(port.index)?.is_none() {
                rows.remove(&lease.addresses, Some(port.index))?;
                continue;
            }
            restored?;
        }
        siblings::share_all(self.host, &rows, &links, self.bridge)?;
        // Again, after the look at the links: an ADD of another plugin's addresses that has begun since joins its own port.
        for owner in self.leases.locked_owners()? {
            ports.remove(&self.of(owner).host_ifname());
        }
        for port in ports.into_values() {
            let link = rows.link(port.index)?;
            if link.is_some() {
                let joined = self.join(port, link);
                if joined.is_err() && self.host.link_by_index(port.index)?.is_some() {
                    joined?;
                }
            } else if self.host.link_by_index(port.index)?.is_some() {
                // Another plugin gave it the address, or its lease is lost, too.
                warn!("nothing is known of the pod at {}, which is not guarded: attach it anew", port.name);
            }
        }
        programs::sweep_links(self.datapath)?;
        Ok(())
    }

    fn pod(
        &self,
        rows: &Rows,
        attachment: &Attachment,
        lease: &Lease,
        port: &Link,
        known: &HashMap<u32, Vec<IpAddr>>,
    ) -> Result<(), PluginError> {
        // The MAC that the pod asked for stands with the bridge, unless that learns it.
        let of_bridge = |entry: &FdbEntry| (entry.state == FdbState::Static).then_some(entry.mac);
        let of_bridge = self.host.fdb(port.index)?.iter().find_map(of_bridge);
        let link = rows.link(port.index)?;
        let of_entry = link.map(|link| link.mac);
        let derived = || addresses::mac(attachment, self.config, &lease.addresses);
        let mac = of_bridge.or(of_entry).unwrap_or_else(derived);
        let has_clsact = self.programs.share_blocks_with(self.host, port.index)?;
        let pod = Endpoint { ifindex: port.index, mac };
        // Without the entry, it is not known whether limits were the reason for links of TCX: they are kept to.
        let may_be_shaped = link.is_none() && !has_clsact;
        let stack_only = may_be_shaped || port.alias.as_deref() == Some(STACK_ONLY);
        rows.put_missing(&lease.addresses, pod, stack_only)?;
        let stays: Vec<IpAddr> = lease.addresses.iter().map(IpNetwork::ip).chain([mac.link_local().into()]).collect();
        let known = known.get(&port.index).into_iter().flatten();
        rows.remove_addresses(known.filter(|address| !stays.contains(address)), port.index)?;
        self.join(port, link)
    }

    /// Has the programs run on a port that has lost them. `known` is its entry, before anything was put.
    fn join(&self, port: &Link, known: Option<PortConfig>) -> Result<(), PluginError> {
        if self.programs.run_on(self.host, self.datapath, port.index)? {
            return Ok(());
        }
        // The clsact slot may belong to a plugin that shapes the pod's traffic, even if it is empty now.
        let is_free = self.host.ingress_qdisc(port.index)?.is_none();
        let had_clsact = known.is_some_and(|link| !link.stack_only) && self.config.attach == Attach::Clsact;
        let attach = if is_free && had_clsact { Attach::Clsact } else { Attach::Tcx };
        if let Err(failure) = self.programs.join(self.host, &port.name, port.index, attach) {
            warn!("the eBPF programs do not run at {}: {failure}", port.name);
        }
        Ok(())
    }

    fn of(&self, owner: Owner) -> Attachment {
        network::attachment(self.network, owner)
    }
}
