//! The context of one call for one network.
//!
//! [`Network`] holds what most steps need. The other modules add the steps as methods.

use std::collections::HashSet;

use cnikit::datapath::Datapath;
use cnikit::ipam::{self, Store};
use cnikit::netlink::{Link, Socket};
use cnikit::spec::{Attachment, AttachmentKey, MacAddr, NetworkName};
use ipnetwork::IpNetwork;

use crate::config::{Config, Ipam};
use crate::naming;

/// A network, its configuration, and the places of its state.
#[derive(Debug)]
pub struct Network<'a> {
    /// A socket in the host's network namespace.
    pub host: &'a Socket,
    /// The network's name.
    pub name: &'a NetworkName,
    /// The checked configuration.
    pub config: &'a Config,
    /// The network's lease store.
    pub leases: &'a Store,
    /// The network's programs and maps.
    pub datapath: Datapath,
}

impl<'a> Network<'a> {
    /// The network `name`. Does no I/O.
    #[must_use]
    pub fn new(host: &'a Socket, name: &'a NetworkName, config: &'a Config, leases: &'a Store) -> Self {
        Self { host, name, config, leases, datapath: naming::datapath(name) }
    }

    /// The attachment of a lease owner in this network.
    #[must_use]
    pub fn attachment(&self, owner: AttachmentKey) -> Attachment {
        owner.in_network(self.name)
    }

    /// The attachments that other calls, and this one, attach or detach.
    ///
    /// # Errors
    ///
    /// See [`Store::locked_owners`].
    pub fn in_progress(&self) -> ipam::Result<HashSet<Attachment>> {
        Ok(self.leases.locked_owners()?.into_iter().map(|owner| self.attachment(owner)).collect())
    }

    /// The MTU of a veth pair, in bytes.
    #[must_use]
    pub fn mtu(&self, bridge: &Link) -> u32 {
        self.config.mtu.unwrap_or(bridge.mtu)
    }

    /// The MAC of a pod with these addresses that requested no MAC.
    ///
    /// It derives from the pod's first address, if the network assigns addresses itself. Neighbor
    /// tables then stay valid: the next pod with the address has the same MAC. A delegate's
    /// addresses are not known in time, so the MAC derives from the container id instead.
    #[must_use]
    pub fn pod_mac(&self, attachment: &Attachment, addresses: &[IpNetwork]) -> MacAddr {
        match (&self.config.ipam, addresses.first()) {
            (Ipam::Local(_), Some(first)) => MacAddr::derived_from(&format!("{}/{}", attachment.network, first.ip())),
            _ => attachment.container_mac(),
        }
    }
}
