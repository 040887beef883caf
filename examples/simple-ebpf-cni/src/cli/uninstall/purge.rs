//! Removal of a network's state: veth pairs, masquerade rules, bridge, pins, leases.

use std::net::IpAddr;

use cnikit::netlink::{Link, Socket, Sysctl};
use cnikit::spec::Attachment;
use ipnetwork::IpNetwork;

use super::report::Report;
use crate::cli::error::Error;
use crate::cli::inventory::NodeNetwork;
use crate::cli::inventory::pods::pods;
use crate::cli::manifest::Manifest;
use simple_ebpf_cni::endpoints::Endpoints;
use simple_ebpf_cni::{bridge, masquerade, naming};

impl Report {
    /// Removes the state of a network, and continues after errors. If an object remains, the
    /// objects that lead to it stay, so that the next run finds it.
    pub(super) fn purge(&mut self, network: &NodeNetwork, host: &Socket, is_forced: bool) -> Result<(), Error> {
        let name = &network.name;
        let links = host.links()?;
        // The ports of a bridge that another network has claimed stay.
        let bridge = network.bridge(&links).filter(|bridge| network.owns(bridge, host));
        let attached = match pods(network, &links) {
            // The bridge still shows its ports.
            Err(error) if is_forced => {
                self.record(name, Err(error));
                Vec::new()
            }
            attached => attached?,
        };
        let is_ours = |link: &Link| {
            let is_port = bridge.is_some_and(|bridge| link.master == Some(bridge.index));
            let has_pod = attached.iter().any(|pod| pod.host_interface.as_ref() == Some(&link.name));
            has_pod || is_port && Attachment::is_host_ifname(&link.name)
        };
        let mut is_clean = true;
        for link in links.iter().filter(|link| is_ours(link)) {
            is_clean &= self.remove(format!("veth {}", link.name), || Ok(host.delete_link(link.index)?));
        }
        if !is_clean {
            // The bridge shows its ports, the programs restrict pods to their addresses, and leases
            // name both.
            self.kept.push(format!("all other objects of {name}: they lead to the remaining veth pairs"));
            return Ok(());
        }
        // If the rules cannot be listed, the removal is tried.
        if masquerade::exists(name).unwrap_or(true) {
            let is_gone = self.remove(format!("masquerade rules of {name}"), || Ok(masquerade::remove(name)?));
            self.had_masquerading |= is_gone;
            is_clean &= is_gone;
        }
        if let Some(bridge) = bridge {
            if bridge::is_made_for(name, bridge) {
                is_clean &= self.remove(format!("bridge {}", bridge.name), || Ok(host.delete_link(bridge.index)?));
            } else {
                is_clean &= self.release_bridge(network, bridge, host)?;
            }
        }
        let pins = network.datapath.directory();
        let pins = pins.parent().unwrap_or(&pins);
        if is_clean && pins.exists() {
            let object = format!("programs and maps pinned in {}", pins.display());
            is_clean = self.remove(object, || Ok(network.datapath.remove()?));
            self.gone.insert(pins.to_owned());
        }
        let leases = network.store.dir();
        if !is_clean {
            self.kept.push(format!("pins and leases of {name}: they lead to the remaining objects"));
        } else if network.store.is_written()? {
            self.remove(format!("leases in {}", leases.display()), || Ok(network.store.remove()?));
            self.gone.insert(leases.to_owned());
        }
        Ok(())
    }

    /// Removes the programs and the alias from a bridge that stays. Returns whether they are gone.
    fn release_bridge(&mut self, network: &NodeNetwork, bridge: &Link, host: &Socket) -> Result<bool, Error> {
        let (name, index) = (&bridge.name, bridge.index);
        // Read before the maps are removed: they contain the addresses that the plugin added to the
        // bridge. An error does not stop the removal.
        let gateways = gateways(network, bridge, host).unwrap_or_default();
        let mut is_gone = true;
        // A qdisc with other blocks belongs to another tool.
        let blocks = naming::shared_blocks(&network.name);
        if host.ingress_qdisc(index)?.is_some_and(|qdisc| qdisc.blocks == blocks) {
            let object = format!("the eBPF programs from bridge {name}, which stays");
            is_gone &= self.remove(object, || Ok(host.delete_clsact(index)?));
        }
        if is_gone && bridge.alias.as_ref().is_some_and(|alias| *alias == naming::bridge_alias(&network.name)) {
            is_gone &= self.remove(format!("the alias of bridge {name}"), || Ok(host.set_alias(index, "")?));
        }
        let mut kept = format!("bridge {name}: the plugin did not create it, or its MAC was changed since");
        if !gateways.is_empty() {
            let addresses: Vec<String> = gateways.iter().map(ToString::to_string).collect();
            kept += &format!("; it still has the gateway's address {}", addresses.join(", "));
        }
        self.kept.push(kept);
        Ok(is_gone)
    }

    /// Removes leases in a directory that the network's configuration no longer names. Removes the
    /// manifest's entry when they are gone.
    pub(super) fn purge_remembered(&mut self, network: &NodeNetwork, manifest: &mut Manifest) -> Result<(), Error> {
        // After a failure, the leases may lead to a remaining object.
        let remembered = manifest.leases().get(&network.name).filter(|_| !self.has_failed);
        let Some(data_dir) = remembered else { return Ok(()) };
        let store = naming::leases(data_dir, &network.name)?;
        if store.dir() != network.store.dir() && store.is_written()? {
            self.remove(format!("leases in {}", store.dir().display()), || Ok(store.remove()?));
            self.gone.insert(store.dir().to_owned());
        }
        if !self.dry_run && !store.is_written()? {
            manifest.forget_leases(&network.name)?;
        }
        Ok(())
    }

    /// Lists the settings that the plugin turned on for `ipMasq`. They stay, because other programs
    /// may need them.
    pub(super) fn mention_forwarding(&mut self) {
        for setting in [Sysctl::Ipv4Forward, Sysctl::Ipv6Forward] {
            if setting.read().is_ok_and(|value| value != 0) {
                self.kept.push(format!("{setting} on: other programs may need it"));
            }
        }
    }
}

/// The addresses of the bridge that are gateways in the maps.
fn gateways(network: &NodeNetwork, bridge: &Link, host: &Socket) -> Result<Vec<IpNetwork>, Error> {
    let Some(maps) = network.maps()? else {
        return Ok(Vec::new());
    };
    let entries = Endpoints::from_maps(&maps)?;
    // The bridge's link-local address has an entry too, and is no gateway.
    let own = bridge.mac.map(|mac| IpAddr::from(mac.link_local()));
    let mut gateways = Vec::new();
    for address in host.addresses(bridge.index)? {
        if Some(address.ip()) != own && entries.is_gateway(address.ip(), Some(bridge.index))? {
            gateways.push(address);
        }
    }
    Ok(gateways)
}
