//! Where a pod's addresses come from: the network's own leases, or the plugin in `ipam.type`.

use std::cell::Cell;
use std::net::IpAddr;
use std::time::Duration;

use cnikit::ipam::{self, IpamConfig, LOCK_TIMEOUT, Lease, Owner, Range, Store, StoreGuard, Tenant};
use cnikit::netlink::Socket;
use cnikit::plugin::{AddRequest, Context as _, PluginError};
use cnikit::runtime::{self, Delegable, Delegate, Delegated, Prior};
use cnikit::spec::{AddResult, Attachment, ErrorCode, IpConfig, KubernetesPod, MacAddr, NetworkName, Route};
use ipnetwork::IpNetwork;
use tracing::{info_span, warn};

use crate::config::{Addressing, Config};
use crate::{del, network, requested};

/// How long the plugin in `ipam.type` may take to release addresses. The kubelet waits 2 minutes for the end of a pod
/// (`runtimeRequestTimeout`); DEL needs the rest of that time to remove the pair and the lease, and may wait for locks.
pub(crate) const RELEASE_LIMIT: Duration = Duration::from_secs(60);

/// The addresses of a pod that is being attached. Those of the network's own leases are given back when this is dropped,
/// unless they were [kept](Self::keep).
pub(crate) struct Addresses<'a> {
    request: &'a AddRequest<Config>,
    /// In the form of an address plugin's result: addresses with their gateways, routes, name servers.
    given: AddResult,
    leases: &'a Store,
    leased: Option<Owner>,
    pair_is_left: &'a Cell<bool>,
}

impl<'a> Addresses<'a> {
    /// Leases the pod's addresses where the network gives them itself. Where another plugin does, it is
    /// [asked](Self::delegate) later.
    ///
    /// They are kept, too, when the pair is left: a pod that still has its addresses must not meet another.
    pub(crate) fn lease(
        request: &'a AddRequest<Config>,
        leases: &'a Store,
        host: &Socket,
        pair_is_left: &'a Cell<bool>,
    ) -> Result<Self, PluginError> {
        let given = AddResult::default();
        let mut addresses = Self { request, given, leases, leased: None, pair_is_left };
        match &request.config.addressing {
            Addressing::Own(ipam) => {
                let _span = info_span!("lease").entered();
                let lease = lease(request, ipam, leases, host).context("lease an address")?;
                addresses.leased = Some(lease.owner.clone());
                addresses.given = of_lease(&lease, ipam)?;
            }
            Addressing::Delegated => {
                if let Some(delegate) = delegate(request)? {
                    delegate.executable()?;
                }
            }
            Addressing::Untold => {
                let msg = "the runtime names no range with this ADD, and the configuration no \"subnet\": have it pass \
                           \"ipRanges\", or write a \"subnet\"";
                return Err(PluginError::new(ErrorCode::INVALID_CONFIG, msg));
            }
        }
        Ok(addresses)
    }

    /// Asks the plugin in `ipam.type`, where there is one. Dropping the returned value gives the addresses back.
    ///
    /// The pair must have been made by this ADD and be there: a plugin that asks a DHCP server does so by way of it. So
    /// whatever the plugin holds for the attachment from before is of no use to anybody. The addresses, too, must be given
    /// back while the pair is there.
    pub(crate) fn delegate(&mut self) -> Result<Option<Delegated>, PluginError> {
        let Some(delegate) = delegate(self.request)? else {
            return Ok(None);
        };
        let delegated = delegate.add(Prior::Absent)?;
        self.given = of_delegate(delegated.result().clone(), &self.request.config)?;
        Ok(Some(delegated))
    }

    /// The MAC of a pod that asked for none. It derives from the pod's address, not from the container, where that is
    /// known in time: others keep the pair of both in their neighbour tables, and the next pod with the address is
    /// reached by it too.
    pub(crate) fn mac(&self) -> MacAddr {
        mac(&self.request.attachment, &self.request.config, &self.networks())
    }

    /// The addresses with the prefix lengths of their subnets.
    pub(crate) fn networks(&self) -> Vec<IpNetwork> {
        self.given.ips.iter().map(|ip| ip.address).collect()
    }

    /// The addresses with their gateways, the routes and the name servers.
    pub(crate) fn given(&self) -> &AddResult {
        &self.given
    }

    /// Leaves the addresses to the pod.
    pub(crate) fn keep(mut self) {
        self.leased = None;
    }
}

impl Drop for Addresses<'_> {
    fn drop(&mut self) {
        // A pair that is left still has them: the runtime's DEL gives them back.
        if let Some(owner) = self.leased.take().filter(|_| !self.pair_is_left.get()) {
            let _span = info_span!("undo").entered();
            let freed = self.leases.lock(LOCK_TIMEOUT).and_then(|mut leases| leases.release(&owner));
            network::undo("free the address", freed);
        }
    }
}

/// The plugin that gives the network's pods their addresses; none where the network does that itself.
pub(crate) fn delegate<R: Delegable>(request: &R) -> Result<Option<Delegate<'_, R>>, runtime::Error> {
    let delegate = Delegate::ipam(request)?;
    Ok(delegate.filter(|delegate| delegate.plugin_type().as_str() != crate::NAME))
}

/// The same with [`RELEASE_LIMIT`], for DEL and GC.
pub(crate) fn releasing_delegate<R: Delegable>(request: &R) -> Result<Option<Delegate<'_, R>>, runtime::Error> {
    Ok(delegate(request)?.map(|delegate| delegate.with_timeout(RELEASE_LIMIT)))
}

/// The MAC of a pod that asked for none and has these addresses.
pub(crate) fn mac(attachment: &Attachment, config: &Config, addresses: &[IpNetwork]) -> MacAddr {
    match (&config.addressing, addresses.first()) {
        (Addressing::Own(_), Some(first)) => MacAddr::derived_from(&format!("{}/{}", attachment.network, first.ip())),
        _ => attachment.container_mac(),
    }
}

/// The addresses that the bridge has for the subnets of these.
pub(crate) fn gateways(ips: &[IpConfig]) -> Vec<IpNetwork> {
    let gateway = |ip: &IpConfig| IpNetwork::new(ip.gateway?, ip.address.prefix()).ok();
    ips.iter().filter_map(gateway).collect()
}

/// Says of an attachment that it cannot be added, as something of it is there.
pub(crate) fn already_attached(seen: &str) -> PluginError {
    PluginError::new(
        ErrorCode::INVALID_ENVIRONMENT,
        format!("this attachment exists already ({seen}): DEL it before it is added again"),
    )
}

/// Leases addresses, one of each pool. A lease that the attachment has already is taken over if its pair does not exist:
/// that is what an ADD leaves which was killed between the two.
///
/// Where a pool has run dry, the leases of attachments that are provably gone are given up: a node container that was
/// restarted takes its pods with it, but not the boot.
fn lease(request: &AddRequest<Config>, ipam: &IpamConfig, leases: &Store, host: &Socket) -> Result<Lease, PluginError> {
    let attachment = &request.attachment;
    let requested = requested::ips(&request.net_conf, &request.args)?;
    let tenant = Tenant { owner: network::owner(attachment), pod: KubernetesPod::from_args(&request.args) };
    let network = &attachment.network;
    let mut locked = leases.lock(LOCK_TIMEOUT)?;
    let allocate = |locked: &mut StoreGuard, requested: &[IpAddr]| {
        let is_gone = |lease: &Lease| is_gone(network, lease, leases, host);
        locked.allocate_for(&tenant, ipam.pools(), requested, is_gone)
    };
    let mut allocated = allocate(&mut locked, &requested);
    if let Err(ipam::Error::AlreadyLeased { lease }) = &allocated {
        // Of a pod that another plugin attached, nothing here tells whether it lives.
        if lease.imported || del::host_end(attachment, host)?.is_some() {
            return Err(already_attached("it holds an address"));
        }
        let requested = match fits(lease, ipam, &requested) {
            true if tenant.pod.is_unnamed() || lease.pod == tenant.pod => return Ok((**lease).clone()),
            // Made anew with the same addresses, because it names another pod, or none as an older build leaves it.
            true => lease.addresses.iter().map(IpNetwork::ip).collect(),
            false => requested,
        };
        locked.release(&lease.owner)?;
        allocated = allocate(&mut locked, &requested);
    }
    for damaged in locked.quarantined() {
        warn!("{damaged}");
    }
    Ok(allocated?)
}

/// Whether a lease holds what an ADD would give now.
fn fits(lease: &Lease, ipam: &IpamConfig, requested: &[IpAddr]) -> bool {
    let holds = |wanted: &dyn Fn(IpAddr) -> bool| lease.addresses.iter().any(|address| wanted(address.ip()));
    lease.addresses.len() == ipam.pools().len()
        && ipam.pools().iter().all(|pool| holds(&|address| pool.contains(address)))
        && requested.iter().all(|wish| holds(&|address| address == *wish))
}

/// Whether the attachment of a lease is provably gone: it has no pair, and nobody is about to make it one.
pub(crate) fn is_gone(network: &NetworkName, lease: &Lease, leases: &Store, host: &Socket) -> bool {
    let attachment = network::attachment(network, lease.owner.clone());
    let turn = leases.lock_owner(&lease.owner, Duration::ZERO);
    turn.is_ok_and(|_turn| matches!(del::host_end(&attachment, host), Ok(None)))
}

fn of_lease(lease: &Lease, ipam: &IpamConfig) -> Result<AddResult, PluginError> {
    let mut given = AddResult::default().with_dns(ipam.dns().context("read \"resolvConf\"")?.unwrap_or_default());
    for address in &lease.addresses {
        let mut ip = IpConfig::new(*address);
        ip.gateway = ipam.gateway_of(address.ip());
        given.ips.push(ip);
    }
    given.routes = ipam.routes().to_vec();
    Ok(complete(given))
}

/// A gateway that the plugin does not name is the subnet's first address if the configuration asks for one.
fn of_delegate(mut given: AddResult, config: &Config) -> Result<AddResult, PluginError> {
    if given.ips.is_empty() {
        let msg = "the plugin in \"ipam\" gave no address: configure it so that it gives one";
        return Err(PluginError::new(ErrorCode::INVALID_CONFIG, msg));
    }
    for ip in &mut given.ips {
        let first = || {
            let range = Range::new(network::subnet(ip.address), None).ok();
            range.filter(|_| config.is_gateway == Some(true)).map(|range| range.gateway())
        };
        ip.gateway = ip.gateway.or_else(first).filter(|gateway| *gateway != ip.address.ip());
    }
    Ok(complete(given))
}

/// The routes that were asked for, each by the gateway of its family where it names none; without any, the way out.
fn complete(mut given: AddResult) -> AddResult {
    let gateways: Vec<IpAddr> = given.ips.iter().filter_map(|ip| ip.gateway).collect();
    let gateway = |is_ipv4: bool| gateways.iter().copied().find(|gateway| gateway.is_ipv4() == is_ipv4);
    if given.routes.is_empty() {
        given.routes = [true, false].into_iter().filter_map(gateway).map(Route::default_via).collect();
    }
    for route in &mut given.routes {
        // Any scope but the global one is nearer than a gateway.
        let is_near = route.scope.is_some_and(|scope| scope != 0);
        route.gw = match route.gw {
            // How DHCP servers write a destination on the link itself (RFC 3442).
            Some(gw) if gw.is_unspecified() => None,
            None if !is_near => gateway(route.dst.is_ipv4()),
            gw => gw,
        };
    }
    given
}
