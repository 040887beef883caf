//! CHECK: compares an attachment with what its ADD reported and made.

use cnikit::datapath::PodPort;
use cnikit::ipam::Lease;
use cnikit::netlink::{Link, Netns, Socket};
use cnikit::plugin::{CheckRequest, Failure};
use cnikit::spec::{ErrorCode, MacAddr};

use crate::config::Config;
use crate::network;
use crate::rows::Rows;
use crate::wishes;

/// The code of a CHECK that found a difference.
const DIFFERS: ErrorCode = ErrorCode::plugin_specific(110);

/// Fails with everything that differs. What later plugins of a chain have added is theirs and not looked at.
pub(crate) fn check(request: &CheckRequest<Config>) -> Result<(), Failure> {
    let mac = wishes::mac(&request.attachment, &request.net_conf, &request.args)?;
    let mut check = Check { request, host: Socket::open()?, mac, differences: Vec::new() };
    if let Some(lease) = check.lease()? {
        let bridge = check.bridge()?;
        let host_end = check.host_end(bridge.as_ref())?;
        check.pod(&lease)?;
        if let (Some(bridge), Some(host_end)) = (bridge, host_end) {
            check.datapath(&bridge, &host_end, &lease)?;
        }
    }
    if check.differences.is_empty() {
        return Ok(());
    }
    Err(Failure::new(DIFFERS, format!("{}; DEL the attachment and ADD it again", check.differences.join("; "))))
}

struct Check<'a> {
    request: &'a CheckRequest<Config>,
    host: Socket,
    mac: MacAddr,
    differences: Vec<String>,
}

impl Check<'_> {
    /// The lease, and that the result tells its addresses.
    fn lease(&mut self) -> Result<Option<Lease>, Failure> {
        let (attachment, config) = (&self.request.attachment, &self.request.config);
        let store = network::leases(&config.data_dir, &attachment.network)?;
        let lease = store.lease(&network::owner(attachment))?;
        match &lease {
            None => self.differs(format!("no address is leased in {}", store.dir().display())),
            Some(lease) => {
                for address in &lease.addresses {
                    if !self.request.prev_result.ips.iter().any(|ip| ip.address == *address) {
                        self.differs(format!("the lease holds {address}, prevResult does not"));
                    }
                }
            }
        }
        Ok(lease)
    }

    fn bridge(&mut self) -> Result<Option<Link>, Failure> {
        let config = &self.request.config;
        let (name, gateway) = (&config.bridge, config.range.with_prefix(config.range.gateway()));
        let Some(bridge) = self.host.link_by_name(name)? else {
            self.differs(format!("the bridge {name} is missing"));
            return Ok(None);
        };
        if !bridge.up {
            self.differs(format!("the bridge {name} is down"));
        }
        if !self.host.addresses(bridge.index)?.contains(&gateway) {
            self.differs(format!("the bridge {name} lacks the gateway's address {gateway}"));
        }
        Ok(Some(bridge))
    }

    fn host_end(&mut self, bridge: Option<&Link>) -> Result<Option<Link>, Failure> {
        let attachment = &self.request.attachment;
        let name = attachment.host_ifname();
        let Some(link) = self.host.link_by_name(&name)? else {
            self.differs(format!("the host's end {name} of the pair is missing"));
            return Ok(None);
        };
        self.link(&link, attachment.host_mac());
        if let Some(bridge) = bridge
            && link.master != Some(bridge.index)
        {
            self.differs(format!("{name} is no port of the bridge {}", bridge.name));
        }
        Ok(Some(link))
    }

    /// The interface in the pod: link, addresses, and those of its routes that the result tells.
    fn pod(&mut self, lease: &Lease) -> Result<(), Failure> {
        let request = self.request;
        let ifname = &request.attachment.ifname;
        if request.prev_result.interface(ifname.as_str(), Some(&request.netns)).is_none() {
            self.differs(format!("prevResult has no interface {ifname} in {}", request.netns.display()));
        }
        let pod = Netns::open(&request.netns)?.socket()?;
        let Some(link) = pod.link_by_name(ifname)? else {
            self.differs(format!("the pod's end {ifname} of the pair is missing"));
            return Ok(());
        };
        self.link(&link, self.mac);

        let addresses = pod.addresses(link.index)?;
        for address in lease.addresses.iter().filter(|address| !addresses.contains(address)) {
            self.differs(format!("{ifname} lacks the address {address}"));
        }
        let routes = pod.routes(link.index)?;
        // Ours are those by the gateway; a pod of several networks may have its default route elsewhere.
        let gateway = Some(request.config.range.gateway());
        for route in request.prev_result.routes.iter().filter(|route| route.gw == gateway) {
            if !routes.iter().any(|found| (found.dst, found.gateway) == (route.dst, route.gw)) {
                self.differs(format!("the pod has no route to {} by {ifname}", route.dst));
            }
        }
        Ok(())
    }

    /// The programs on the host's end, and what their maps know of the pod.
    fn datapath(&mut self, bridge: &Link, host_end: &Link, lease: &Lease) -> Result<(), Failure> {
        let attachment = &self.request.attachment;
        let datapath = network::datapath(&attachment.network);
        if !datapath.is_complete() {
            self.differs(format!("eBPF programs or maps are missing in {}", datapath.directory().display()));
            return Ok(());
        }
        let blocks = network::blocks(bridge.index);
        for link in [bridge, host_end] {
            let joined = self.host.ingress_qdisc(link.index)?.is_some_and(|qdisc| qdisc.blocks == blocks);
            if !joined {
                self.differs(format!("{} has not joined the blocks of the eBPF programs", link.name));
            }
        }
        for placed in network::programs(&datapath, blocks)? {
            if !placed.is_attached(&self.host)? {
                self.differs(format!("the eBPF program {} is not attached", placed.name()));
            }
        }
        let rows = Rows::open(&datapath)?;
        let port = PodPort { ifindex: host_end.index, mac: self.mac };
        for address in &lease.addresses {
            let differences = rows.differences(address.ip(), port)?;
            self.differences.extend(differences);
        }
        Ok(())
    }

    fn link(&mut self, link: &Link, mac: MacAddr) {
        if !link.up {
            self.differs(format!("{} is down", link.name));
        }
        if link.mac != Some(mac) {
            self.differs(format!("{} has not its MAC {mac}", link.name));
        }
    }

    fn differs(&mut self, what: String) {
        self.differences.push(what);
    }
}
