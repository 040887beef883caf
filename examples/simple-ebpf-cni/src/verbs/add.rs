//! ADD: attaches a pod.

use std::thread;
use std::time::{Duration, Instant};

use cnikit::bpf::{Direction, TcxLink};
use cnikit::datapath::{self, Endpoint};
use cnikit::ipam::LOCK_TIMEOUT;
use cnikit::netlink::{Link, Netns, Socket, VethIndexes};
use cnikit::plugin::{AddRequest, Context as _, PluginError};
use cnikit::runtime::Delegated;
use cnikit::spec::{AddResult, ErrorCode, IfIndex, Interface, IpConfig, MacAddr, Route};
use ipnetwork::IpNetwork;
use simple_ebpf_cni::config::{AttachMode, Config, Ipam};
use simple_ebpf_cni::gateway::Gateways;
use simple_ebpf_cni::masquerade::Masquerade;
use simple_ebpf_cni::network::Network;
use simple_ebpf_cni::setup::{Observed, Shared, gateway_endpoint};
use simple_ebpf_cni::veth::already_attached;
use simple_ebpf_cni::{bridge, ipv6, naming, siblings};
use tracing::{info_span, warn};

use super::addresses::{self, Addresses};
use super::container::PodEnd;
use super::detach::remove_references;
use super::requested::{self, Requested};
use super::rollback::Rollback;

/// The maximum time until the bridge forwards for a new port, and until another call has removed
/// the previous pod of an address.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Attaches the pod. On failure, rolls back.
///
/// Each step that creates an object of the attachment adds its rollback. The shared objects of the
/// network stay: the next ADD needs them too.
pub(crate) fn add(request: &AddRequest<Config>) -> Result<AddResult, PluginError> {
    let (attachment, config) = (&request.attachment, &request.config);
    let requested = Requested::new(&request.net_conf, config, &request.args)?;
    requested::warn_of_invalid_pod(&request.args);

    let host = Socket::open()?;
    let netns = Netns::open(&request.netns)?;
    refuse_host_netns(&netns)?;
    let leases = naming::leases(&config.data_dir, &attachment.network)?;
    let _lock = leases.lock_owner(&attachment.key(), LOCK_TIMEOUT)?;
    let pod = netns.socket()?;
    if pod.link_by_name(&attachment.ifname)?.is_some() {
        return Err(already_attached(&format!("{} has an interface {}", request.netns.display(), attachment.ifname)));
    }

    let network = Network::new(&host, &attachment.network, config, &leases);
    let add = Add { request, requested, network: &network, netns: &netns, pod: &pod };
    let mut rollback = Rollback::default();
    let result = add.run(&mut rollback)?;
    rollback.commit();
    Ok(result)
}

/// The context of one ADD.
struct Add<'a> {
    request: &'a AddRequest<Config>,
    requested: Requested,
    network: &'a Network<'a>,
    netns: &'a Netns,
    /// A socket in the pod's namespace.
    pod: &'a Socket,
}

impl<'a> Add<'a> {
    fn run(&self, rollback: &mut Rollback<'a>) -> Result<AddResult, PluginError> {
        let network = self.network;
        let Observed { bridge: existing, gateways } = network.look(network.config.has_ipv6_ranges())?;
        let programs = network.ensure_programs()?;
        let mut addresses = Addresses::lease(self.request, network, rollback)?;
        let mac = self.requested.mac.unwrap_or_else(|| {
            let attachment = &self.request.attachment;
            network.pod_mac(attachment, &addresses.networks())
        });
        let shared = network.ensure(existing, programs)?;
        let veth = self.create_port(&shared, mac, &addresses, rollback)?;

        // A local variable: on failure, the delegate's DEL runs before the rollback, while the pair
        // exists.
        let delegated = addresses.delegate().context("ask for an address")?;
        let port = Endpoint::new(veth.host, mac);
        self.connect(&shared, &gateways, &addresses, port)?;
        let routes = self.configure_pod(&shared, &addresses, veth, mac)?;
        delegated.map(Delegated::commit);
        Ok(self.result(mac, &shared.bridge, addresses.result(), routes))
    }

    /// Creates the veth pair. Sets its host end up as a port of the bridge, with the programs.
    fn create_port(
        &self,
        shared: &Shared,
        mac: MacAddr,
        addresses: &Addresses<'_>,
        rollback: &mut Rollback<'a>,
    ) -> Result<VethIndexes, PluginError> {
        let Self { network, request, .. } = *self;
        let (host, attachment) = (network.host, &request.attachment);
        let Shared { bridge, endpoints, .. } = shared;
        let planned = Endpoint::new(attachment.host_ifindex(), mac);
        endpoints.check_conflicts(host, &addresses.networks(), planned)?;

        // The rollback deletes the pair by this name.
        if let Some(link) = host.link_by_name(&attachment.host_ifname())? {
            return Err(already_attached(&format!("there is a link {}", link.name)));
        }
        let veth = network.create_veth(attachment, mac, bridge, self.netns)?;
        rollback.push("remove the entries of the veth pair", move || {
            remove_references(attachment, host, Some(veth.host), None)
        });
        // A barrier: a pod that can still send keeps its map entries, which restrict it to its
        // addresses. It also keeps its lease, so that no other pod gets the address.
        rollback.push_barrier("delete the veth pair", move || host.delete_link(veth.host));

        let port = Endpoint::new(veth.host, mac);
        endpoints.register_port(port, self.requested.stack_only).context("add the map entries")?;
        if self.requested.stack_only {
            // The map entry may be lost. No other record of an attachment has this setting.
            host.set_alias(veth.host, naming::STACK_ONLY_ALIAS)?;
        }
        self.attach_programs(shared, veth.host).context("attach the eBPF programs to the veth pair")?;
        network.prepare_port(port).context("set up the bridge's port")?;
        // Last: from here on, the bridge receives frames of the pod.
        host.set_up(veth.host)?;
        Ok(veth)
    }

    /// Attaches the programs. A pod with traffic shaping gets TCX links, if the kernel supports
    /// them: its clsact slot stays free for the shaping plugin.
    fn attach_programs(&self, shared: &Shared, port: IfIndex) -> Result<(), PluginError> {
        let _span = info_span!("join").entered();
        let is_shaped = self.request.net_conf.runtime_config.bandwidth.is_some();
        let has_tcx = || !matches!(TcxLink::attached(port, Direction::Ingress), Err(datapath::Error::TcxUnsupported));
        let mode = if is_shaped && has_tcx() { AttachMode::Tcx } else { self.network.config.attach };
        let host_end = self.request.attachment.host_ifname();
        Ok(shared.programs.attach_port(self.network.host, &host_end, port, mode)?)
    }

    /// Connects the port: gateways, masquerading, and the map entries of its addresses.
    fn connect(
        &self,
        shared: &Shared,
        gateways: &Gateways<'_>,
        addresses: &Addresses<'_>,
        port: Endpoint,
    ) -> Result<(), PluginError> {
        let Self { network, request, pod, .. } = *self;
        let (host, networks) = (network.host, addresses.networks());
        let Shared { bridge, endpoints, .. } = shared;
        if networks.iter().any(IpNetwork::is_ipv6) {
            ipv6::ensure(network.name, bridge, network.mtu(bridge))?;
        }
        let wanted = addresses::gateways(&addresses.result().ips);
        let own = gateways.ensure(bridge, &wanted)?;
        if let Some(masquerade) = Masquerade::for_pod(network, &request.net_conf, &networks)? {
            masquerade.ensure(network).context("masquerade the pods")?;
        }
        let set = endpoints.set_gateways(&wanted, &own, gateway_endpoint(bridge));
        set.context("add the gateways' map entries")?;
        if self.has_delegate() {
            self.wait_for_release(shared, &networks)?;
        }
        endpoints.check_conflicts(host, &networks, port)?;
        endpoints.add_addresses(&networks, port).context("add the map entries")?;
        // The previous pod with the address may still exist, and may have put another interface of
        // the host into its neighbor table.
        for address in &networks {
            host.delete_neighbor(bridge.index, address.ip())?;
        }
        siblings::share(host, pod, endpoints, port.ifindex).context("share addresses with the pod's other interfaces")
    }

    fn has_delegate(&self) -> bool {
        matches!(self.network.config.ipam, Ipam::Delegated)
    }

    /// Waits for calls that remove the previous pod of one of these addresses. DEL and GC first
    /// release the addresses, so the delegate may assign an address while the previous pod exists.
    fn wait_for_release(&self, shared: &Shared, addresses: &[IpNetwork]) -> Result<(), PluginError> {
        const PAUSE: Duration = Duration::from_millis(5);
        let Self { network, request, .. } = *self;
        let gc_owner = naming::gc_owner();
        let start = Instant::now();
        while start.elapsed() < TIMEOUT {
            let ports = shared.endpoints.ports_of(addresses)?;
            let is_removal = |owner| {
                // It is unknown which pods a running GC removes.
                if owner == gc_owner {
                    return true;
                }
                let other = network.attachment(owner);
                other != request.attachment && ports.contains(&other.host_ifindex())
            };
            if ports.is_empty() || !network.leases.locked_owners()?.into_iter().any(is_removal) {
                break;
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Configures the pod end, and waits until packets pass. Returns the routes of the pod.
    fn configure_pod(
        &self,
        shared: &Shared,
        addresses: &Addresses<'_>,
        veth: VethIndexes,
        mac: MacAddr,
    ) -> Result<Vec<Route>, PluginError> {
        let (bridge, ifname) = (&shared.bridge, &self.request.attachment.ifname);
        let pod_end = PodEnd { netns: self.netns, socket: self.pod, ifname, ifindex: veth.peer };
        let routes = pod_end.configure(addresses.result()).context("configure the pod")?;
        self.wait_running(bridge, veth.host)?;
        if shared.former_mac.is_some_and(|former| bridge.mac != Some(former)) {
            bridge::announce(self.network.host, bridge).context("announce the bridge's MAC")?;
        }
        if self.requested.mac.is_some() || self.has_delegate() {
            pod_end.announce(mac).context("announce the pod")?;
        }
        Ok(routes)
    }

    /// Waits until the bridge forwards for the port, and the host for the bridge: earlier packets
    /// are lost.
    fn wait_running(&self, bridge: &Link, port: IfIndex) -> Result<(), PluginError> {
        let _span = info_span!("port").entered();
        let host = self.network.host;
        if !host.wait_running(port, TIMEOUT)? {
            let host_end = self.request.attachment.host_ifname();
            let msg = format!("the bridge does not forward for {host_end} after {TIMEOUT:?}: try again");
            return Err(PluginError::new(ErrorCode::TRY_AGAIN, msg));
        }
        // A bridge without running ports does not run either, and drops packets of the host.
        if !bridge.running && !host.wait_running(bridge.index, bridge::RUNNING_TIMEOUT)? {
            warn!("the bridge {} does not run yet: packets of the host to its first pods may be lost", bridge.name);
        }
        Ok(())
    }

    /// The result of previous plugins, if any, and of this one. The interfaces have the usual order
    /// of a bridge plugin: bridge, host end, pod end.
    fn result(&self, mac: MacAddr, bridge: &Link, pod: &AddResult, routes: Vec<Route>) -> AddResult {
        let Self { network, request, .. } = *self;
        let (attachment, mtu) = (&request.attachment, network.mtu(bridge));
        let mut result = request.prev_result.clone().unwrap_or_default();
        let mut bridge_interface = Interface::new(&bridge.name);
        bridge_interface.mac = bridge.mac.map(|mac| mac.to_string());
        result.push_interface(bridge_interface);
        let host_end = Interface::new(attachment.host_ifname()).mac(attachment.host_mac()).mtu(mtu);
        result.push_interface(host_end);
        let pod_end = Interface::new(&attachment.ifname).mac(mac).mtu(mtu).sandbox(&request.netns);
        let pod_end = result.push_interface(pod_end);
        let on_pod_end = |ip: &IpConfig| ip.clone().interface(pod_end);
        result.ips.extend(pod.ips.iter().map(on_pod_end));
        result.routes.extend(routes);
        let dns = [&request.net_conf.dns, &pod.dns].into_iter().find(|dns| !dns.is_empty());
        if let Some(dns) = dns {
            result.dns = dns.clone();
        }
        result
    }
}

/// Refuses the host's own namespace, even if the caller overrides the library's check: a packet
/// that is redirected into its own namespace is lost.
fn refuse_host_netns(netns: &Netns) -> Result<(), PluginError> {
    if !netns.is_current()? {
        return Ok(());
    }
    let msg = "CNI_NETNS is the host's own namespace, and no pod is reachable there: pass the pod's namespace";
    Err(PluginError::new(ErrorCode::INVALID_NETNS, msg))
}
