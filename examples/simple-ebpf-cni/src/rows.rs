//! An attachment's rows in the maps.

use std::net::IpAddr;

use cnikit::datapath::{CounterMap, Datapath, PodPort, PortMap, Result};
use cnikit::spec::{Attachment, MacAddr};
use ipnetwork::IpNetwork;

/// The rows of one attachment. The MAC of the pod's end tells them from those of other attachments.
pub(crate) struct Rows {
    counters: CounterMap,
    ports: PortMap,
    mac: MacAddr,
}

impl Rows {
    pub(crate) fn open(datapath: &Datapath, attachment: &Attachment) -> Result<Self> {
        Ok(Self { counters: datapath.counters()?, ports: datapath.ports()?, mac: attachment.container_mac() })
    }

    /// Counts for the addresses, from zero, and has packets for them delivered to the port.
    pub(crate) fn put(&self, addresses: &[IpNetwork], ifindex: u32) -> Result<()> {
        for address in addresses {
            self.counters.track(address.ip())?;
            self.ports.insert(address.ip(), PodPort { ifindex, mac: self.mac })?;
        }
        Ok(())
    }

    /// Removes the rows of `addresses`, and leaves those that are another attachment's by now.
    pub(crate) fn remove(&self, addresses: &[IpNetwork]) -> Result<()> {
        for address in addresses.iter().map(IpNetwork::ip) {
            if self.ports.read(address)?.is_none_or(|port| port.mac == self.mac) {
                self.ports.remove(address)?;
                self.counters.forget(address)?;
            }
        }
        Ok(())
    }

    /// The addresses with a row of the attachment, for when no lease tells them.
    pub(crate) fn addresses(&self) -> Result<Vec<IpNetwork>> {
        let mut found = Vec::new();
        for address in self.ports.addresses() {
            if self.ports.read(address)?.is_some_and(|port| port.mac == self.mac) {
                found.push(address.into());
            }
        }
        Ok(found)
    }

    /// What is not as [`put`](Self::put) leaves it.
    pub(crate) fn differences(&self, address: IpAddr, ifindex: u32) -> Result<Vec<String>> {
        let mut differences = Vec::new();
        let expected = PodPort { ifindex, mac: self.mac };
        match self.ports.read(address)? {
            None => differences.push(format!("the map pod_ifindex has no row for {address}")),
            Some(port) if port != expected => differences.push(format!(
                "the map pod_ifindex has {address} at link {} with MAC {}, not at link {ifindex} with \
                 MAC {}",
                port.ifindex, port.mac, self.mac
            )),
            Some(_) => {}
        }
        if self.counters.read(address)?.is_none() {
            differences.push(format!("the map pkt_count has no row for {address}"));
        }
        Ok(differences)
    }
}
