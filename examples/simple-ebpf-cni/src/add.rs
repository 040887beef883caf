//! ADD: attaches a pod.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use cnikit::datapath::{self, Direction, Endpoint, TcxLink};
use cnikit::ipam::{LOCK_TIMEOUT, Store};
use cnikit::netlink::{self, Link, Netns, Socket, VethEnd, VethIndexes, VethPair};
use cnikit::plugin::{AddRequest, Context as _, PluginError};
use cnikit::runtime::Delegated;
use cnikit::spec::{AddResult, Attachment, ErrorCode, Interface, IpConfig, MacAddr, Route};
use ipnetwork::IpNetwork;
use rustix::io::Errno;
use scopeguard::{ScopeGuard, guard};
use tracing::{info_span, warn};

use crate::addresses::{self, Addresses, already_attached};
use crate::bridge;
use crate::config::{Addressing, Attach, Config};
use crate::endpoints::Rows;
use crate::gateway::Gateways;
use crate::masquerade::Masquerade;
use crate::network::{self, undo};
use crate::programs::Programs;
use crate::{container, del, ipv6, requested, resync, siblings};

/// How long the bridge may take to serve a new port.
const PATIENCE: Duration = Duration::from_secs(5);

/// Attaches the pod, or fails and leaves things as they were.
///
/// Each step that makes something of the attachment's own has the guard that undoes it beside it. The network itself
/// stays: the next ADD needs it too.
pub(crate) fn add(request: &AddRequest<Config>) -> Result<AddResult, PluginError> {
    let (attachment, config) = (&request.attachment, &request.config);
    let wish = requested::mac(&request.net_conf, &request.args)?;
    requested::warn_of_invalid_pod(&request.args);
    let stack_only = !requested::direct_forwarding(&request.net_conf, config, &request.args)?;

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
    if config.ranges().any(|range| range.subnet().is_ipv6()) {
        let bridge = found.as_ref().map(|found| &found.bridge);
        ipv6::refuse_unavailable(&attachment.network, &config.bridge, bridge)?;
    }
    let gateways = Gateways::look(&host, config, found.as_ref())?;
    let datapath = network::datapath(&attachment.network);
    let mut programs = Programs::ensure(&host, &datapath, &attachment.network)?;
    // A pod that still has its addresses must not meet another.
    let pair_is_left = Cell::new(false);
    let mut addresses = Addresses::lease(request, &leases, &host, &pair_is_left)?;
    let mac = wish.unwrap_or_else(|| addresses.mac());
    let known_mac = network::known_mac(&datapath).context("read the configuration of the eBPF programs")?;
    let bridge = network::ensure(&host, &attachment.network, config, &leases, &datapath, &mut programs, found)?;
    let rows = Rows::open(&datapath).context("open the eBPF maps")?;
    rows.refuse_taken(&host, &addresses.networks(), Endpoint { ifindex: attachment.host_ifindex(), mac })?;

    // A pair that is made in vain is undone by this name.
    if let Some(link) = host.link_by_name(&attachment.host_ifname())? {
        return Err(already_attached(&format!("there is a link {}", link.name)));
    }
    let mtu = config.mtu.unwrap_or(bridge.mtu);
    let veth = create_veth(&host, attachment, mac, &bridge, mtu, &netns)?;
    let port = Endpoint { ifindex: veth.host, mac };
    let pair = guard(veth, |veth| {
        let _span = info_span!("undo").entered();
        let deleted = host.delete_link(veth.host);
        pair_is_left.set(deleted.is_err());
        // A pod that can still send is held to its addresses.
        if deleted.is_ok() {
            undo("forget the veth pair", del::forget_pair(attachment, &host, Some(veth.host), None));
        }
        undo("delete the veth pair", deleted);
    });
    rows.guard(port, stack_only).context("put the map rows")?;
    if stack_only {
        // The map entry may be lost. No other record of an attachment says this.
        host.set_alias(veth.host, resync::STACK_ONLY)?;
    }
    join(request, &host, &programs, veth.host).context("have the eBPF programs run on the veth pair")?;
    bridge::prepare_port(&host, port, config).context("set up the bridge's port")?;
    // Not before: from here on the pod is heard.
    host.set_up(veth.host)?;

    // After the pair, so that a failure gives the address back while the pair is there.
    let delegated = addresses.delegate().context("ask for an address")?;
    let networks = addresses.networks();
    if networks.iter().any(IpNetwork::is_ipv6) {
        ipv6::ensure(&attachment.network, &bridge, mtu)?;
    }
    let wanted = addresses::gateways(&addresses.given().ips);
    let own = gateways.ensure(&bridge, &wanted)?;
    if let Some(masquerade) = Masquerade::of(&attachment.network, &request.net_conf, config, &networks)? {
        masquerade.ensure(&host, &leases).context("masquerade the pods")?;
    }
    rows.set_gateways(&wanted, &own, network::gateway_port(&bridge)).context("put the gateway's map rows")?;
    if delegated.is_some() {
        wait_for_leaving(&rows, &leases, attachment, &networks)?;
    }
    rows.refuse_taken(&host, &networks, port)?;
    rows.put(&networks, port).context("put the map rows")?;
    // The last pod with the address may live on, and may have asked the host in its name by another interface.
    for address in &networks {
        host.forget_neighbor(bridge.index, address.ip())?;
    }
    siblings::share(&host, &pod, &rows, veth.host).context("share addresses with the pod's other interfaces")?;

    let routes = container::configure(&netns, &pod, &attachment.ifname, veth.peer, addresses.given());
    let routes = routes.context("configure the pod")?;
    wait_running(&host, attachment, &bridge, veth.host)?;
    if known_mac.is_some_and(|known| bridge.mac != Some(known)) {
        bridge::announce(&host, &bridge).context("announce the bridge's MAC")?;
    }
    if wish.is_some() || matches!(config.addressing, Addressing::Delegated) {
        container::announce(&netns, &pod, &attachment.ifname, veth.peer, mac).context("announce the pod")?;
    }

    ScopeGuard::into_inner(pair);
    delegated.map(Delegated::commit);
    let result = result(request, mac, &bridge, addresses.given(), routes);
    addresses.keep();
    Ok(result)
}

/// Waits for calls that are about to remove another pod with one of these addresses. DEL and GC give the addresses back
/// first, so that the plugin in `ipam.type` may give them anew while the pod is still there.
fn wait_for_leaving(
    rows: &Rows,
    leases: &Store,
    attachment: &Attachment,
    addresses: &[IpNetwork],
) -> Result<(), PluginError> {
    const PAUSE: Duration = Duration::from_millis(5);
    let gc_owner = network::gc_owner();
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let ports = rows.owners(addresses)?;
        let is_leaving = |owner| {
            // Which pods a GC removes is not known before it has removed them.
            if owner == gc_owner {
                return true;
            }
            let other = network::attachment(&attachment.network, owner);
            other != *attachment && ports.contains(&other.host_ifindex())
        };
        if ports.is_empty() || !leases.locked_owners()?.into_iter().any(is_leaving) {
            break;
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// A packet that is redirected into the namespace that it comes from is lost: a pod must have one of its own, even where
/// the caller overrides the check.
fn refuse_own(netns: &Netns) -> Result<(), PluginError> {
    if !netns.is_current()? {
        return Ok(());
    }
    let msg = "CNI_NETNS is the host's own namespace, in which no pod can be reached: pass the pod's";
    Err(PluginError::new(ErrorCode::INVALID_NETNS, msg))
}

/// Waits until the bridge serves the port, and the host the bridge: packets that they get before are lost.
fn wait_running(host: &Socket, attachment: &Attachment, bridge: &Link, port: u32) -> Result<(), PluginError> {
    let _span = info_span!("port").entered();
    if !host.wait_running(port, PATIENCE)? {
        let msg = format!("the bridge does not serve {} after {PATIENCE:?}: try again", attachment.host_ifname());
        return Err(PluginError::new(ErrorCode::TRY_AGAIN, msg));
    }
    // Without ports that run, a bridge does not run either, and drops what the host sends.
    if !bridge.running && !host.wait_running(bridge.index, bridge::PATIENCE)? {
        warn!("the bridge {} does not run yet: what the host sends to its first pods may be lost", bridge.name);
    }
    Ok(())
}

fn create_veth(
    host: &Socket,
    attachment: &Attachment,
    mac: MacAddr,
    bridge: &Link,
    mtu: u32,
    netns: &Netns,
) -> Result<VethIndexes, PluginError> {
    let _span = info_span!("pair").entered();
    let outside = VethEnd { name: attachment.host_ifname(), mac: attachment.host_mac() };
    let inside = VethEnd { name: attachment.ifname.clone(), mac };
    let pair = VethPair::new(outside, inside, netns).mtu(mtu).master(bridge.index);
    // A map row that outlives its pair must not lead to a link that the kernel numbers next.
    let made = host.create_veth(&pair.clone().host_index(attachment.host_ifindex()));
    let made = match made {
        Err(netlink::Error::IndexTaken { .. }) => host.create_veth(&pair),
        made => made,
    };
    match made {
        Err(netlink::Error::Exists { .. }) => {
            let (outside, inside) = (attachment.host_ifname(), &attachment.ifname);
            Err(already_attached(&format!("there is a link {outside}, or {inside} in the pod")))
        }
        Err(error) if error.raw_os_error() == Some(Errno::XFULL.raw_os_error()) => Err(bridge::full(&bridge.name)),
        Err(error) => {
            // The kernel may have made the pair and its answer been lost. Nobody else makes one of this name meanwhile.
            undo("delete the veth pair", host.delete_link_by_name(&attachment.host_ifname()));
            Err(PluginError::from(error)).context("make the veth pair")
        }
        made => Ok(made?),
    }
}

/// A pod whose traffic is shaped keeps its clsact slot free for that, where the kernel knows another way.
fn join(request: &AddRequest<Config>, host: &Socket, programs: &Programs, port: u32) -> Result<(), PluginError> {
    let _span = info_span!("join").entered();
    let (attachment, config) = (&request.attachment, &request.config);
    let is_shaped = request.net_conf.runtime_config.bandwidth.is_some();
    let has_tcx = || !matches!(TcxLink::attached(port, Direction::Ingress), Err(datapath::Error::TcxUnsupported));
    let attach = if is_shaped && has_tcx() { Attach::Tcx } else { config.attach };
    Ok(programs.join(host, &attachment.host_ifname(), port, attach)?)
}

/// What the plugins before this one reported, if any, and what this one made: interfaces in the order that tools expect
/// of a bridge plugin, which is bridge, host's end, pod's end.
fn result(
    request: &AddRequest<Config>,
    mac: MacAddr,
    bridge: &Link,
    given: &AddResult,
    routes: Vec<Route>,
) -> AddResult {
    let (attachment, mtu) = (&request.attachment, request.config.mtu.unwrap_or(bridge.mtu));
    let mut result = request.prev_result.clone().unwrap_or_default();
    let mut on_bridge = Interface::new(&bridge.name);
    on_bridge.mac = bridge.mac.map(|mac| mac.to_string());
    result.push_interface(on_bridge);
    let outside = Interface::new(attachment.host_ifname()).with_mac(attachment.host_mac()).with_mtu(mtu);
    result.push_interface(outside);
    let inside = Interface::new(&attachment.ifname).with_mac(mac).with_mtu(mtu).in_sandbox(&request.netns);
    let inside = result.push_interface(inside);
    let on_inside = |ip: &IpConfig| ip.clone().on_interface(inside);
    result.ips.extend(given.ips.iter().map(on_inside));
    result.routes.extend(routes);
    let said = [&request.net_conf.dns, &given.dns].into_iter().find(|dns| !dns.is_empty());
    if let Some(dns) = said {
        result.dns = dns.clone();
    }
    result
}
