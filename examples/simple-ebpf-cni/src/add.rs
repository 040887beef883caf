//! ADD: attaches a pod.

use std::net::IpAddr;
use std::slice;

use cnikit::datapath::PodPort;
use cnikit::ipam::{self, LOCK_TIMEOUT, Lease, Store};
use cnikit::netlink::{self, LOOPBACK_INDEX, Link, Netns, Socket, VethEnd, VethIndexes, VethPair};
use cnikit::plugin::{AddRequest, Failure, Step as _};
use cnikit::spec::{AddResult, Attachment, ErrorCode, Interface, IpConfig, MacAddr, Route};
use scopeguard::{ScopeGuard, guard};

use crate::bridge;
use crate::config::Config;
use crate::network;
use crate::rows::Rows;
use crate::wishes;

/// Attaches the pod, or fails and leaves things as they were.
///
/// Each step that makes something of the attachment's own has the guard that undoes it beside it. The network itself
/// stays: the next ADD needs it too.
pub(crate) fn add(request: &AddRequest<Config>) -> Result<AddResult, Failure> {
    let (attachment, config) = (&request.attachment, &request.config);
    wishes::refuse_unsupported(&request.net_conf)?;
    let wish = wishes::mac(&request.net_conf, &request.args)?;
    let ips = wishes::ips(&request.net_conf, &request.args)?;

    let host = Socket::open()?;
    let netns = Netns::open(&request.netns)?;
    refuse_own(&netns)?;
    let leases = network::leases(&config.data_dir, &attachment.network)?;
    let _turn = leases.lock_owner(&network::owner(attachment), LOCK_TIMEOUT)?;
    let pod = netns.socket()?;
    if pod.link_by_name(&attachment.ifname)?.is_some() {
        return Err(already_attached(&format!("{} has an interface {}", request.netns.display(), attachment.ifname)));
    }

    let found = bridge::look(&host, &attachment.network, config)?;
    let datapath = network::datapath(&attachment.network);
    datapath.ensure()?;
    let lease = lease(&leases, attachment, config, &ips, &host).step("lease an address")?;
    let lease = guard(lease, |lease| {
        let freed = leases.lock(LOCK_TIMEOUT).and_then(|mut leases| leases.release(&lease.owner));
        undo("free the address", freed);
    });
    let mac = wish.unwrap_or_else(|| wishes::mac_of(&attachment.network, &lease.addresses));
    let bridge = network::ensure(&host, &attachment.network, config, &leases, &datapath, found)?;

    let veth = create_veth(&host, attachment, mac, config, &bridge, &netns)?;
    let veth = guard(veth, |veth| undo("delete the veth pair", host.delete_link(veth.host)));
    host.create_clsact(veth.host, bridge::blocks(&attachment.network))
        .step("have the eBPF programs run on the veth pair")?;

    let rows = Rows::open(&datapath).step("open the eBPF maps")?;
    let rows = guard(rows, |rows| undo("remove the map rows", rows.remove(&lease.addresses)));
    rows.put(&lease.addresses, PodPort { ifindex: veth.host, mac }).step("put the map rows")?;

    let routes = configure_pod(&pod, veth.peer, &lease, config).step("configure the pod")?;

    ScopeGuard::into_inner(rows);
    ScopeGuard::into_inner(veth);
    let lease = ScopeGuard::into_inner(lease);
    Ok(result(request, mac, &bridge, &lease, &routes))
}

/// A packet that is redirected into the namespace that it comes from is lost: a pod must have one of its own, even where
/// the caller overrides the check.
fn refuse_own(netns: &Netns) -> Result<(), Failure> {
    if netns.id() != Netns::current()?.id() {
        return Ok(());
    }
    let msg = "CNI_NETNS is the host's own namespace, in which no pod can be reached: pass the pod's";
    Err(Failure::new(ErrorCode::INVALID_NETNS, msg))
}

/// Leases an address. A lease that the attachment has already is taken over if its pair does not exist: that is what an
/// ADD leaves which was killed between the two.
fn lease(
    leases: &Store,
    attachment: &Attachment,
    config: &Config,
    ips: &[IpAddr],
    host: &Socket,
) -> Result<Lease, Failure> {
    let owner = network::owner(attachment);
    let mut leases = leases.lock(LOCK_TIMEOUT)?;
    let allocated = leases.allocate(&owner, slice::from_ref(&config.pool), ips);
    for damaged in leases.set_aside() {
        eprintln!("{}: {damaged}", crate::NAME);
    }
    match allocated {
        Err(ipam::Error::AlreadyLeased { lease }) => {
            let fits = lease.addresses.iter().all(|address| config.pool.contains(address.ip()));
            if fits && host.link_by_name(&attachment.host_ifname())?.is_none() {
                return Ok(*lease);
            }
            Err(already_attached("it holds an address"))
        }
        allocated => Ok(allocated?),
    }
}

fn create_veth(
    host: &Socket,
    attachment: &Attachment,
    mac: MacAddr,
    config: &Config,
    bridge: &Link,
    netns: &Netns,
) -> Result<VethIndexes, Failure> {
    let outside = VethEnd { name: attachment.host_ifname(), mac: attachment.host_mac() };
    let inside = VethEnd { name: attachment.ifname.clone(), mac };
    let pair = VethPair::new(outside, inside, netns).mtu(config.mtu).master(bridge.index).host_up();
    match host.create_veth(&pair) {
        Err(netlink::Error::Exists { .. }) => {
            let (outside, inside) = (attachment.host_ifname(), &attachment.ifname);
            Err(already_attached(&format!("there is a link {outside}, or {inside} in the pod")))
        }
        Err(error) => {
            // The kernel may have made the pair and its answer been lost. Nobody else makes one of this name meanwhile.
            undo("delete the veth pair", host.delete_link_by_name(&attachment.host_ifname()));
            Err(Failure::from(error)).step("make the veth pair")
        }
        made => Ok(made?),
    }
}

/// Gives the pod its addresses and the way out, which it reports.
fn configure_pod(pod: &Socket, index: u32, lease: &Lease, config: &Config) -> netlink::Result<Vec<netlink::Route>> {
    pod.set_up(LOOPBACK_INDEX)?;
    for address in &lease.addresses {
        pod.add_address(index, *address)?;
    }
    pod.set_up(index)?;
    let default = netlink::Route::default_via(config.range.gateway(), index);
    match pod.add_route(&default) {
        // A pod of several networks leaves by the first.
        Err(netlink::Error::Exists { .. }) => Ok(Vec::new()),
        added => added.map(|()| vec![default]),
    }
}

/// Interfaces in the order that tools expect of a bridge plugin: bridge, host's end, pod's end.
fn result(
    request: &AddRequest<Config>,
    mac: MacAddr,
    bridge: &Link,
    lease: &Lease,
    routes: &[netlink::Route],
) -> AddResult {
    let (attachment, config) = (&request.attachment, &request.config);
    let mut result = AddResult::default();
    let mut on_bridge = Interface::new(&bridge.name);
    on_bridge.mac = bridge.mac.map(|mac| mac.to_string());
    result.push_interface(on_bridge);
    result
        .push_interface(Interface::new(attachment.host_ifname()).with_mac(attachment.host_mac()).with_mtu(config.mtu));
    let in_pod = result.push_interface(
        Interface::new(&attachment.ifname).with_mac(mac).with_mtu(config.mtu).in_sandbox(&request.netns),
    );
    for address in &lease.addresses {
        let ip = IpConfig::new(*address).on_interface(in_pod);
        result.ips.push(ip.with_gateway(config.range.gateway()));
    }
    for route in routes {
        let mut reported = Route::new(route.dst);
        reported.gw = route.gateway;
        result.routes.push(reported);
    }
    result.with_dns(request.net_conf.dns.clone())
}

fn already_attached(seen: &str) -> Failure {
    Failure::new(
        ErrorCode::INVALID_ENVIRONMENT,
        format!("this attachment exists already ({seen}): DEL it before it is added again"),
    )
}

/// A step back that fails does not stop the others; what it leaves, the runtime's DEL removes.
fn undo<T, E: std::error::Error>(step: &str, undone: Result<T, E>) {
    if let Err(error) = undone {
        eprintln!("{}: cannot undo the failed ADD: {step}: {error}", crate::NAME);
    }
}
