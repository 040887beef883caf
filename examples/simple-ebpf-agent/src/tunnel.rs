//! The tunnel device: packets to nodes that are not on-link.
//!
//! One VXLAN device serves all nodes, because routes and programs set VNI and destination of each
//! packet ([`Tunnel::encap`]). The device has no forwarding entries and no neighbors.

use std::net::IpAddr;

use cnikit::netlink::{
    self, AddrGenMode, Address, AddressSpec, Ipv4Conf, Ipv6Conf, Link, LinkKind, LinkSpec, Socket, Sysctl, TunnelEncap,
    Vxlan,
};
use cnikit::spec::{IfIndex, IfName, MacAddr};
use ipnetwork::IpNetwork;
use simple_ebpf_cni::agent::NAME;

/// The TTL of packets between nodes, whatever the default of a node is.
const TTL: u8 = 64;

/// `rp_filter`: a source address must have a route, through any link. A value of 1 for all links
/// would drop packets of a node that has a direct route in the other direction.
const LOOSE: i32 = 2;

/// The tunnel device of a node.
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// The name of the device.
    pub link: IfName,
    /// The VXLAN network identifier of all nodes.
    pub vni: u32,
    /// The UDP port of all nodes.
    pub port: u16,
    /// The MAC of the device.
    pub mac: MacAddr,
}

/// A failure to set up or remove the tunnel device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A link of another owner has the name of the device.
    #[error("link {link} (kind {kind}) does not belong to {NAME}: rename it, or run `ip link delete {link}`")]
    Foreign {
        /// The name.
        link: IfName,
        /// The kind of the link.
        kind: String,
    },

    /// Another socket has the UDP port.
    #[error(
        "cannot set up the tunnel {link}: {} uses UDP port {port}; remove it, or choose another port on all nodes with \
         --vxlan-port",
        user(other.as_ref())
    )]
    PortTaken {
        /// The name of the device.
        link: IfName,
        /// The port.
        port: u16,
        /// The VXLAN link that has the port. `None` if no link of this network namespace has it.
        other: Option<IfName>,
    },

    /// The kernel refused a request.
    #[error("cannot {operation} the tunnel {link}: {error}")]
    Netlink {
        /// The operation.
        operation: &'static str,
        /// The name of the device.
        link: IfName,
        /// The reason.
        error: netlink::Error,
    },
}

impl Tunnel {
    /// The tunnel of the node with this name. The MAC derives from the name of the node.
    #[must_use]
    pub fn new(node: &str, link: IfName, vni: u32, port: u16) -> Self {
        Self { mac: MacAddr::derived_from(&format!("{node}/tunnel")), link, vni, port }
    }

    /// The tunnel header for packets to the node with this address.
    #[must_use]
    pub fn encap(&self, node: IpAddr) -> TunnelEncap {
        TunnelEncap::new(self.vni.into(), node).ttl(TTL)
    }

    /// Creates the device, or repairs it. Returns its index. A correct device is not changed.
    ///
    /// The device has each gateway as an address of one host, and no other address. With a gateway
    /// as the source, a masqueraded packet of the node gets an answer through the tunnel. A device
    /// with another port is replaced, which deletes the routes through it.
    ///
    /// # Errors
    ///
    /// [`Error::Foreign`] if another owner has a link of this name. [`Error::PortTaken`] if another
    /// socket has the UDP port. [`Error::Netlink`] if the kernel refuses a request.
    pub fn ensure(&self, host: &Socket, mtu: u32, gateways: &[IpAddr]) -> Result<IfIndex, Error> {
        let (link, is_new) = match self.existing(host)? {
            Some(link) => (link, false),
            None => (self.create(host, mtu)?, true),
        };
        self.repair(host, &link, mtu).map_err(self.failed("repair"))?;
        self.set_addresses(host, &link, gateways).map_err(self.failed("set the addresses of"))?;
        // Last: the device then has all settings that apply when it comes up.
        if !link.up
            && let Err(error) = host.set_up(link.index)
        {
            if is_new {
                host.delete_link(link.index).map_err(self.failed("remove"))?;
            }
            return Err(self.explain(host, "bring up", error));
        }
        Ok(link.index)
    }

    /// The device of this node, if it has the settings that cannot change. Deletes a device that
    /// does not have them.
    fn existing(&self, host: &Socket) -> Result<Option<Link>, Error> {
        let Some(link) = host.link_by_name(&self.link).map_err(self.failed("look up"))? else {
            return Ok(None);
        };
        if !self.is_ours(&link) {
            let kind = link.kind.unwrap_or_else(|| "none".to_owned());
            return Err(Error::Foreign { link: self.link.clone(), kind });
        }
        if self.has_kind(&link) {
            return Ok(Some(link));
        }
        host.delete_link(link.index).map_err(self.failed("replace"))?;
        Ok(None)
    }

    /// The kernel sets no alias at the creation. A device without one, but with our MAC and kind,
    /// is the remains of a killed agent.
    fn is_ours(&self, link: &Link) -> bool {
        match link.alias.as_deref() {
            Some(alias) => alias == NAME,
            None => link.mac == Some(self.mac) && self.has_kind(link),
        }
    }

    fn has_kind(&self, link: &Link) -> bool {
        let wanted = self.kind();
        let Some(LinkKind::Vxlan(found)) = link.details() else { return false };
        (found.external, found.port, found.learning, found.udp_checksum, found.parent, found.local)
            == (wanted.external, wanted.port, wanted.learning, wanted.udp_checksum, None, None)
    }

    fn kind(&self) -> Vxlan {
        // The header of each packet decides about the checksum. This setting shows the same value.
        Vxlan::external().port(self.port).udp_checksum(false)
    }

    fn create(&self, host: &Socket, mtu: u32) -> Result<Link, Error> {
        let spec = LinkSpec::new(self.link.clone(), self.kind()).mac(self.mac).mtu(mtu).no_arp();
        let index = host.create_link(&spec).map_err(|error| self.explain(host, "create", error))?;
        host.set_alias(index, NAME).map_err(self.failed("set the alias of"))?;
        host.require_link(&self.link).map_err(self.failed("look up"))
    }

    fn repair(&self, host: &Socket, link: &Link, mtu: u32) -> netlink::Result<()> {
        if link.alias.is_none() {
            host.set_alias(link.index, NAME)?;
        }
        if link.mac != Some(self.mac) {
            host.set_mac(link.index, self.mac)?;
        }
        if link.mtu != mtu {
            host.set_mtu(link.index, mtu)?;
        }
        // ARP requests have no metadata, so the device would drop them.
        if link.arp {
            host.set_arp(link.index, false)?;
        }
        // Each change of the mode is an event, which wakes the agent.
        let mode = link.ipv6_conf(Ipv6Conf::AddrGenMode);
        if mode.is_some_and(|mode| mode != AddrGenMode::None as i32) {
            host.set_addr_gen_mode(link.index, AddrGenMode::None)?;
        }
        Sysctl::Ipv4Conf(&self.link, Ipv4Conf::RpFilter).ensure(LOOSE).map(drop)
    }

    fn set_addresses(&self, host: &Socket, link: &Link, gateways: &[IpAddr]) -> netlink::Result<()> {
        let wanted: Vec<IpNetwork> = gateways.iter().copied().map(IpNetwork::from).collect();
        let is_disabled = link.ipv6_conf(Ipv6Conf::DisableIpv6).is_some_and(|value| value != 0);
        if is_disabled && gateways.iter().any(IpAddr::is_ipv6) {
            Sysctl::Ipv6Conf(&self.link, Ipv6Conf::DisableIpv6).write(0)?;
        }
        let is_wanted = |found: &Address| wanted.contains(&found.address) && found.peer.is_none();
        let found: Vec<Address> =
            host.all_addresses()?.into_iter().filter(|found| found.ifindex == link.index).collect();
        for other in found.iter().filter(|found| !is_wanted(found)) {
            let spec = AddressSpec::new(other.address);
            let spec = other.peer.into_iter().fold(spec, AddressSpec::peer);
            host.delete_address_with(link.index, &spec)?;
        }
        for address in wanted {
            host.ensure_address(link.index, address)?;
        }
        Ok(())
    }

    /// The error of a request that may need the UDP port.
    fn explain(&self, host: &Socket, operation: &'static str, error: netlink::Error) -> Error {
        if error.raw_os_error() != Some(rustix::io::Errno::ADDRINUSE.raw_os_error()) {
            return self.failed(operation)(error);
        }
        let has_port = |link: &Link| match link.details() {
            Some(LinkKind::Vxlan(vxlan)) => vxlan.port == self.port && link.name != self.link,
            _ => false,
        };
        let links = host.links().unwrap_or_default();
        // Only a link that is up has a socket.
        let mut others: Vec<Link> = links.into_iter().filter(has_port).collect();
        others.sort_by_key(|other| !other.up);
        let other = others.into_iter().next().map(|other| other.name);
        Error::PortTaken { link: self.link.clone(), port: self.port, other }
    }

    fn failed(&self, operation: &'static str) -> impl Fn(netlink::Error) -> Error + use<> {
        failed(operation, &self.link)
    }
}

/// Deletes the device with this name, if it belongs to the agent.
///
/// # Errors
///
/// [`Error::Netlink`] if the kernel refuses a request.
pub fn remove(link: &IfName) -> Result<(), Error> {
    let remove = || {
        let host = Socket::open()?;
        match host.link_by_name(link)? {
            Some(found) if found.alias.as_deref() == Some(NAME) => host.delete_link(found.index),
            _ => Ok(()),
        }
    };
    remove().map_err(failed("remove", link))
}

fn failed(operation: &'static str, link: &IfName) -> impl Fn(netlink::Error) -> Error + use<> {
    let link = link.clone();
    move |error| Error::Netlink { operation, link: link.clone(), error }
}

/// The user of the port, for the text of an error.
fn user(other: Option<&IfName>) -> String {
    match other {
        Some(other) => format!("the VXLAN link {other}"),
        None => "another program, or a link in another network namespace,".to_owned(),
    }
}
