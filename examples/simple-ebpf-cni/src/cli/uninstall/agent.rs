//! Removal of the objects of the node agent: its network configuration, routes and rules.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cnikit::netlink::nftables::{self, Family, Table};
use cnikit::netlink::{self, Route, Socket};
use simple_ebpf_cni::agent::{MANAGED_BY, NAME, REPORT, ROUTE_PROTOCOL, forward, underlay_objects};

use super::options::{Options, configuration_files};
use super::report::Report;
use crate::cli::error::Error;
use crate::cli::inventory::ConfiguredNetwork;

impl Report {
    /// Removes the configurations that the agent has written.
    pub(super) fn remove_agent_configurations(
        &mut self,
        dirs: &BTreeSet<PathBuf>,
        options: &Options,
    ) -> Result<(), Error> {
        for path in configuration_files(dirs)? {
            let is_selected = ConfiguredNetwork::read(&path).is_ok_and(|network| options.selects(&path, &network.name));
            if is_selected && is_of_agent(&path) {
                self.remove(path.display().to_string(), || Ok(fs::remove_file(&path)?));
                self.gone.insert(path);
            }
        }
        Ok(())
    }

    /// Removes the agent's routes, programs, tunnels, rules and report.
    pub(super) fn purge_agent(&mut self, host: &Socket) -> Result<(), Error> {
        let routes = host.routes_of(Route::MAIN_TABLE)?;
        for route in routes.iter().filter(|route| route.protocol == Some(ROUTE_PROTOCOL)) {
            self.remove(format!("route {route}"), || Ok(host.delete_route(route)?));
        }
        // A listing that fails does not stop the removal of the rest.
        match underlay_objects(host) {
            Ok(objects) => {
                for (object, delete) in objects {
                    self.remove(object, || Ok(delete()?));
                }
            }
            Err(error) => {
                self.remove("eBPF programs at the links between nodes".to_owned(), || Err(error.into()));
            }
        }
        let table = Table::new(Family::Inet, NAME);
        let has_chains = match nftables::Socket::open().and_then(|nftables| nftables.chains(&table)) {
            // A kernel without nftables has no table.
            Err(netlink::Error::Unsupported { .. }) => false,
            // If the chains cannot be listed, the removal is tried.
            chains => chains.map_or(true, |chains| !chains.is_empty()),
        };
        if has_chains {
            self.remove(format!("nftables table {table}"), || Ok(nftables::Socket::open()?.delete_table(&table)?));
        }
        if let Err(error) = self.purge_forward_rules() {
            self.remove("rules for pods in nftables chains of other programs".to_owned(), || Err(error.into()));
        }
        let report = Path::new(REPORT);
        if report.exists() {
            self.remove(report.display().to_string(), || Ok(fs::remove_file(report)?));
            self.gone.insert(report.to_owned());
            report.parent().into_iter().for_each(|dir| self.remove_empty(dir));
        }
        Ok(())
    }

    /// Removes the agent's rules from the chains of other programs.
    fn purge_forward_rules(&mut self) -> netlink::Result<()> {
        let nftables = match nftables::Socket::open() {
            Err(netlink::Error::Unsupported { .. }) => return Ok(()),
            socket => socket?,
        };
        for chain in forward::chains(&nftables)? {
            if let Some(batch) = chain.changes(&[]) {
                let object = format!("rules for pods in the nftables chain {chain}");
                self.remove(object, || Ok(nftables.commit(&batch)?));
            }
        }
        Ok(())
    }
}

/// Whether the agent has written a configuration.
fn is_of_agent(path: &Path) -> bool {
    let list: Option<serde_json::Value> = fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
    list.is_some_and(|list| list[MANAGED_BY] == NAME)
}
