//! The rows that the maps hold of pods.

use std::net::IpAddr;

use cnikit::datapath::{CounterMap, Datapath, PodPort, PortMap, Result};
use ipnetwork::IpNetwork;

/// The maps with a row for each pod address.
pub(crate) struct Rows {
    counters: CounterMap,
    ports: PortMap,
}

impl Rows {
    pub(crate) fn open(datapath: &Datapath) -> Result<Self> {
        Ok(Self { counters: datapath.counters()?, ports: datapath.ports()? })
    }

    /// Counts for the addresses, from zero, and has packets for them delivered to the port.
    pub(crate) fn put(&self, addresses: &[IpNetwork], port: PodPort) -> Result<()> {
        for address in addresses {
            self.counters.track(address.ip())?;
            self.ports.insert(address.ip(), port)?;
        }
        Ok(())
    }

    pub(crate) fn remove(&self, address: IpAddr) -> Result<()> {
        self.ports.remove(address)?;
        self.counters.forget(address)
    }

    /// Removes the rows whose port is one of those meant.
    pub(crate) fn remove_where(&self, meant: impl Fn(PodPort) -> bool) -> Result<()> {
        // Collected first: an iteration whose current row is removed starts over.
        let addresses: Vec<IpAddr> = self.ports.addresses().collect();
        for address in addresses {
            if self.ports.read(address)?.is_some_and(&meant) {
                self.remove(address)?;
            }
        }
        Ok(())
    }

    /// What is not as [`put`](Self::put) leaves it.
    pub(crate) fn differences(&self, address: IpAddr, expected: PodPort) -> Result<Vec<String>> {
        let mut differences = Vec::new();
        match self.ports.read(address)? {
            None => differences.push(format!("the map pod_ifindex has no row for {address}")),
            Some(found) if found != expected => differences.push(format!(
                "the map pod_ifindex has {address} at link {} with MAC {}, not at link {} with MAC {}",
                found.ifindex, found.mac, expected.ifindex, expected.mac
            )),
            Some(_) => {}
        }
        if self.counters.read(address)?.is_none() {
            differences.push(format!("the map pkt_count has no row for {address}"));
        }
        Ok(differences)
    }
}
