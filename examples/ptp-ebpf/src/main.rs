//! A plugin like `ptp` with its own eBPF programs: gives a pod a veth pair without a bridge, and
//! counts its packets. The host routes each address of a pod, and has the gateway address of the
//! range on each host end.
//!
//! ```json
//! { "cniVersion": "1.1.0", "name": "routed", "type": "ptp-ebpf", "ipMasq": true,
//!   "ranges": [[{ "subnet": "10.9.0.0/24" }], [{ "subnet": "fd00:9::/64" }]],
//!   "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] }
//! ```
//!
//! `ranges`, `routes` and `dataDir` are the keys of `host-local`. To try the plugin, build it with
//! `cargo build -p ptp-ebpf` and continue as in `examples/macvlan.rs`. Then print the counters:
//!
//! ```sh
//! bpftool map dump pinned /sys/fs/bpf/ptp-ebpf/routed/v1/packets
//! ```

use std::path::Path;
use std::process::ExitCode;

use cnikit::ipam::{IpamConfig, LOCK_TIMEOUT, Pool, Store};
use cnikit::netlink::nftables::{self, Action, Batch, ChainType, Family, Hook, Match, Priority, Rule};
use cnikit::netlink::{self, Netns, Socket, Sysctl, VethEnd, VethPair};
use cnikit::plugin::{self, AddRequest, CheckRequest, Context as _, DelRequest, GcRequest, StatusRequest};
use cnikit::plugin::{Plugin, PluginInfo, Result};
use cnikit::spec::{AddResult, Attachment, ErrorCode, Interface, NetworkName};

use crate::counters::Counters;

mod counters;

struct Ptp;

#[derive(Clone, serde::Deserialize)]
struct Config {
    #[serde(flatten)]
    ipam: IpamConfig,
}

impl Config {
    fn store(&self, network: &NetworkName) -> Result<Store> {
        let dir = self.ipam.data_dir().unwrap_or(Path::new("/var/lib/cni/ptp-ebpf"));
        Ok(Store::open(dir.join(network.as_str()))?)
    }
}

/// The chain of a network. One batch replaces all its rules, so parallel calls do no harm.
fn masquerade(network: &NetworkName, ipam: &IpamConfig) -> Result<()> {
    let table = nftables::Table::new(Family::Inet, "ptp-ebpf");
    let chain = table.chain(network.as_str()).hook(ChainType::Nat, Hook::Postrouting, Priority::SRCNAT);
    let mut batch = Batch::new().ensure_table(&table).ensure_chain(&chain).flush_chain(&chain);
    for subnet in ipam.pools().iter().flat_map(Pool::ranges).map(|range| range.subnet()) {
        let masquerade = Action::Masquerade(nftables::PortRandomization::FullyRandom);
        let rule = Rule::new(masquerade).with_match(Match::source(subnet));
        batch = batch.append_rule(&chain, rule.with_match(!Match::destination(subnet)));
    }
    Ok(nftables::Socket::open()?.commit(&batch)?)
}

impl Plugin for Ptp {
    type Config = Config;

    fn info(&self) -> PluginInfo {
        PluginInfo { name: "ptp-ebpf", version: "1.0.0", summary: "Routes and counts packets.", docs: "examples/" }
    }

    fn add(&self, request: &AddRequest<Config>) -> Result<AddResult> {
        let (attachment, host, pod) = (&request.attachment, Socket::open()?, Netns::open(&request.netns)?);
        let mac = request.net_conf.requested_mac(&request.args)?.unwrap_or_else(|| attachment.container_mac());
        let outside = VethEnd::new(attachment.host_ifname(), attachment.host_mac());
        let pair = VethPair::new(outside, VethEnd::new(attachment.ifname.clone(), mac), &pod);
        let pair = pair.host_index(attachment.host_ifindex()).host_up();
        let mtu = host.uplink()?.map_or(1500, |uplink| uplink.mtu);
        // A repeated ADD fails here, before it changes anything: the link exists.
        host.create_veth(&pair.mtu(mtu))?;
        attach(request, &host, &pod).map_err(|error| error.rolled_back(self.del(&request.clone().into())))
    }

    fn del(&self, request: &DelRequest<Config>) -> Result<()> {
        detach(request.config.as_ref()?, &request.attachment)
    }

    fn check(&self, request: &CheckRequest<Config>) -> Result<()> {
        let (attachment, host) = (&request.attachment, Socket::open()?);
        Netns::open(&request.netns)?.verify(&attachment.ifname, &request.prev_result)?;
        let host_end = host.require_link(&attachment.host_ifname())?.index;
        Counters::of(&attachment.network).check(&host, host_end)
    }

    fn gc(&self, request: &GcRequest<Config>) -> Result<()> {
        let Some(valid) = request.valid_attachments.list() else { return Ok(()) };
        let (network, store) = (&request.net_conf.name, request.config.store(&request.net_conf.name)?);
        for lease in store.leases()? {
            let owner = lease?.owner;
            if !valid.contains(&owner) {
                detach(&request.config, &owner.in_network(network))?;
            }
        }
        Ok(())
    }

    fn status(&self, request: &StatusRequest<Config>) -> Result<()> {
        let store = request.config.store(&request.net_conf.name)?;
        store.probe()?;
        store.require_free(request.config.ipam.pools()).with_code(ErrorCode::LIMITED_CONNECTIVITY)?;
        Counters::of(&request.net_conf.name).probe()
    }
}

/// Everything of an ADD after the veth pair.
fn attach(request: &AddRequest<Config>, host: &Socket, pod: &Netns) -> Result<AddResult> {
    let (attachment, ipam, index) = (&request.attachment, &request.config.ipam, request.attachment.host_ifindex());
    let requested = request.net_conf.requested_ips(&request.args)?;
    let store = request.config.store(&attachment.network)?;
    let lease = store.lock(LOCK_TIMEOUT)?.allocate(&attachment.key(), ipam.pools(), &requested)?;

    Counters::of(&attachment.network).attach(host, index)?;
    let mut result = ipam.result(&lease)?;
    // The pod has no subnet: all its packets go to the gateway.
    result.ips.iter_mut().for_each(|ip| ip.address = ip.address.ip().into());
    for ip in &result.ips {
        if let Some(gateway) = ip.gateway {
            host.ensure_address(index, gateway.into())?;
        }
        host.add_route(&netlink::Route::new(ip.address, index))?;
        if ip.address.is_ipv4() { Sysctl::Ipv4Forward } else { Sysctl::Ipv6Forward }.ensure(1)?;
    }
    if request.net_conf.ip_masq {
        masquerade(&attachment.network, ipam)?;
    }
    result.routes = pod.configure(&attachment.ifname, &result)?.routes;
    let link = pod.socket()?.require_link(&attachment.ifname)?;
    result.push_interface(Interface::new(attachment.host_ifname()).mac(attachment.host_mac()));
    let eth0 = result.push_interface(Interface::from(&link).sandbox(&request.netns));
    result.assign_ips(eth0);
    Ok(result)
}

/// Deletes everything of an attachment. Needs nothing of the pod.
fn detach(config: &Config, attachment: &Attachment) -> Result<()> {
    Socket::open()?.delete_link_by_name(&attachment.host_ifname())?;
    Counters::of(&attachment.network).forget(attachment.host_ifindex())?;
    config.store(&attachment.network)?.lock(LOCK_TIMEOUT)?.release(&attachment.key())?;
    Ok(())
}

fn main() -> ExitCode {
    plugin::run(&Ptp)
}
