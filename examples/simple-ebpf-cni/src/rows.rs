//! The rows that the maps hold of pods, and of the gateway.

use std::collections::HashSet;
use std::net::IpAddr;

use cnikit::datapath::{self, CounterMap, Datapath, LinkMap, PodLink, PodPort, PortMap};
use cnikit::ipam;
use cnikit::netlink::Socket;
use cnikit::plugin::Failure;
use ipnetwork::IpNetwork;
use tracing::{debug, info_span};

/// The maps with rows for each pod.
pub(crate) struct Rows {
    counters: CounterMap,
    ports: PortMap,
    links: LinkMap,
}

impl Rows {
    pub(crate) fn open(datapath: &Datapath) -> datapath::Result<Self> {
        let _span = info_span!("rows").entered();
        Ok(Self { counters: datapath.counters()?, ports: datapath.ports()?, links: datapath.links()? })
    }

    /// Refuses addresses, and a MAC, that are the gateway's or those of another pod that is there.
    pub(crate) fn refuse_taken(&self, host: &Socket, addresses: &[IpNetwork], port: PodPort) -> Result<(), Failure> {
        let link_local = IpAddr::from(port.mac.link_local());
        for address in addresses.iter().map(IpNetwork::ip).chain([link_local]) {
            let owner = self.ports.read(address)?.filter(|owner| owner.ifindex != port.ifindex);
            let Some(owner) = owner else { continue };
            // The row of a pod that is gone does not count.
            let Some(link) = host.link_by_index(owner.ifindex)? else { continue };
            let what = if address == link_local { format!("MAC {}", port.mac) } else { format!("address {address}") };
            return Err(Failure::new(
                ipam::ADDRESS_TAKEN,
                format!("the {what} is in use at {}: ask for another, or detach who has it first", link.name),
            ));
        }
        Ok(())
    }

    /// Holds a new port to its MAC, to the link-local address that derives from it, and to the addresses that are
    /// [put](Self::put) from now on.
    pub(crate) fn guard(&self, port: PodPort, stack_only: bool) -> datapath::Result<()> {
        let _span = info_span!("rows").entered();
        // The attachment had a pair before, which went without a DEL.
        if self.links.read(port.ifindex)?.is_some() {
            self.remove_ports(&HashSet::from([port.ifindex]))?;
        }
        // This order: the row of the port leads to its link-local address, for who removes what a kill has left.
        self.links.insert(port.ifindex, PodLink { mac: port.mac, stack_only })?;
        // Before any address of the pod is known, and packets for it go directly.
        match self.links.watch_xdp(port.ifindex) {
            Ok(true) => {}
            Ok(false) => debug!("direct delivery bypasses a driver-mode XDP program at link {}", port.ifindex),
            Err(error) => {
                debug!("direct delivery bypasses a driver-mode XDP program at link {}: {error}", port.ifindex);
            }
        }
        self.ports.insert(port.mac.link_local().into(), port)
    }

    /// Has packets for the addresses delivered to the port, lets it send from them, and counts for them from zero.
    pub(crate) fn put(&self, addresses: &[IpNetwork], port: PodPort) -> datapath::Result<()> {
        let _span = info_span!("rows").entered();
        for address in addresses {
            self.ports.insert(address.ip(), port)?;
            self.counters.track(address.ip())?;
        }
        Ok(())
    }

    /// Makes the gateway known under its addresses, unless it is.
    pub(crate) fn ensure_gateway(&self, addresses: &[IpNetwork], bridge: PodPort) -> datapath::Result<()> {
        let link_local = IpAddr::from(bridge.mac.link_local());
        for address in addresses.iter().map(IpNetwork::ip).chain([link_local]) {
            if self.ports.read(address)? != Some(bridge) {
                self.ports.insert(address, bridge)?;
            }
        }
        Ok(())
    }

    /// Removes the rows of addresses that nobody else can have, and those of the ports that they lead to; absent is
    /// success.
    pub(crate) fn remove(&self, addresses: &[IpNetwork], port: Option<u32>) -> datapath::Result<()> {
        let _span = info_span!("rows").entered();
        let mut ports: HashSet<u32> = port.into_iter().collect();
        for address in addresses {
            ports.extend(self.ports.read(address.ip())?.map(|port| port.ifindex));
        }
        for port in ports {
            if let Some(link) = self.links.read(port)? {
                let link_local = link.mac.link_local().into();
                if self.ports.read(link_local)?.is_some_and(|owner| owner.ifindex == port) {
                    self.ports.remove(link_local)?;
                }
            }
            self.links.remove(port)?;
        }
        // Last, as they lead to the ports.
        addresses.iter().try_for_each(|address| self.remove_address(address.ip()))
    }

    /// Removes the rows of ports, and of all addresses that lead to them; absent is success.
    pub(crate) fn remove_ports(&self, ports: &HashSet<u32>) -> datapath::Result<()> {
        let _span = info_span!("rows").entered();
        for address in self.ports.addresses()? {
            if self.ports.read(address)?.is_some_and(|port| ports.contains(&port.ifindex)) {
                self.remove_address(address)?;
            }
        }
        ports.iter().try_for_each(|ifindex| self.links.remove(*ifindex))
    }

    /// Stops to count for addresses that lead to no port, but for those that are to stay.
    pub(crate) fn forget_lost(&self, stays: impl Fn(IpAddr) -> bool) -> datapath::Result<()> {
        for address in self.counters.addresses()?.into_iter().filter(|address| !stays(*address)) {
            if self.ports.read(address)?.is_none() {
                self.counters.forget(address)?;
            }
        }
        Ok(())
    }

    /// The ports that any row is about.
    pub(crate) fn indexes(&self) -> datapath::Result<HashSet<u32>> {
        let mut indexes: HashSet<u32> = self.links.indexes()?.into_iter().collect();
        for address in self.ports.addresses()? {
            indexes.extend(self.ports.read(address)?.map(|port| port.ifindex));
        }
        Ok(indexes)
    }

    /// What a port may do, if anything is known of it.
    pub(crate) fn link(&self, ifindex: u32) -> datapath::Result<Option<PodLink>> {
        self.links.read(ifindex)
    }

    /// What is not as [`put`](Self::put) leaves it.
    pub(crate) fn differences(&self, addresses: &[IpNetwork], expected: PodPort) -> datapath::Result<Vec<String>> {
        let mut differences = Vec::new();
        let link_local = IpAddr::from(expected.mac.link_local());
        for address in addresses.iter().map(IpNetwork::ip).chain([link_local]) {
            match self.ports.read(address)? {
                None => differences.push(format!("the map pod_ifindex has no row for {address}")),
                Some(found) if found != expected => differences.push(format!(
                    "the map pod_ifindex has {address} at link {} with MAC {}, not at link {} with MAC {}",
                    found.ifindex, found.mac, expected.ifindex, expected.mac
                )),
                Some(_) => {}
            }
            if address != link_local && self.counters.read(address)?.is_none() {
                differences.push(format!("the map pkt_count has no row for {address}"));
            }
        }
        match self.links.read(expected.ifindex)? {
            Some(link) if link.mac == expected.mac => {}
            Some(link) => differences.push(format!("the map port_config has MAC {}, not {}", link.mac, expected.mac)),
            None => differences.push(format!("the map port_config has no row for link {}", expected.ifindex)),
        }
        Ok(differences)
    }

    fn remove_address(&self, address: IpAddr) -> datapath::Result<()> {
        // This order: where there is no lease, the port's row tells that the address is to be removed.
        self.counters.forget(address)?;
        self.ports.remove(address)
    }
}
