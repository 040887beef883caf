//! The rows that the maps hold of pods.

use std::collections::HashSet;
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

    /// Removes the rows of addresses; absent is success.
    pub(crate) fn remove(&self, addresses: &[IpNetwork]) -> Result<()> {
        addresses.iter().try_for_each(|address| self.remove_one(address.ip()))
    }

    /// Where an address is delivered to.
    pub(crate) fn port(&self, address: IpAddr) -> Result<Option<PodPort>> {
        self.ports.read(address)
    }

    /// Removes the rows of all addresses but those that are to stay.
    pub(crate) fn retain(&self, stays: impl Fn(IpAddr, Option<PodPort>) -> bool) -> Result<()> {
        // Collected first: an iteration whose current row is removed starts over.
        let all: HashSet<IpAddr> = self.ports.addresses().chain(self.counters.addresses()).collect();
        for address in all {
            if !stays(address, self.ports.read(address)?) {
                self.remove_one(address)?;
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

    fn remove_one(&self, address: IpAddr) -> Result<()> {
        self.ports.remove(address)?;
        self.counters.forget(address)
    }
}
