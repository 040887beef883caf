//! The addresses of a pod: a lease of the network's own pools, or the result of the plugin in
//! `ipam.type`.

use std::net::IpAddr;
use std::time::Duration;

use cnikit::ipam::{self, IpamConfig, LOCK_TIMEOUT, Lease, Range, StoreGuard, Tenant};
use cnikit::plugin::{AddRequest, Context as _, PluginError};
use cnikit::runtime::{self, Delegable, Delegate, Delegated, Prior};
use cnikit::spec::{AddResult, ErrorCode, IpConfig, KubernetesPod, Route};
use ipnetwork::IpNetwork;
use simple_ebpf_cni::config::{Config, Ipam};
use simple_ebpf_cni::network::Network;
use simple_ebpf_cni::veth::{self, already_attached};
use simple_ebpf_cni::{ip, naming};
use tracing::{info_span, warn};

use super::requested;
use super::rollback::Rollback;

/// The maximum time of a delegate's DEL or GC. The kubelet waits 2 minutes for the end of a pod
/// (`runtimeRequestTimeout`). DEL needs the remaining time to remove the pair and the lease, and
/// may wait for locks.
pub(crate) const RELEASE_TIMEOUT: Duration = Duration::from_secs(60);

/// The addresses of a pod during its ADD.
pub(crate) struct Addresses<'a> {
    request: &'a AddRequest<Config>,
    /// In the form of a delegate's result: addresses with their gateways, routes, name servers.
    result: AddResult,
}

impl<'a> Addresses<'a> {
    /// Leases the addresses from the network's own pools, and adds their release to the rollback.
    /// With a delegate, only checks its executable: [`delegate`](Self::delegate) runs it later.
    pub(crate) fn lease(
        request: &'a AddRequest<Config>,
        network: &'a Network<'a>,
        rollback: &mut Rollback<'a>,
    ) -> Result<Self, PluginError> {
        let mut addresses = Self { request, result: AddResult::default() };
        match &request.config.ipam {
            Ipam::Local(ipam) => {
                let _span = info_span!("lease").entered();
                let lease = lease(request, ipam, network).context("lease an address")?;
                let owner = lease.owner.clone();
                rollback.push("free the address", move || {
                    network.leases.lock(LOCK_TIMEOUT).and_then(|mut leases| leases.release(&owner))
                });
                addresses.result = complete(ipam.result(&lease).context("read \"resolvConf\"")?);
            }
            Ipam::Delegated => {
                if let Some(delegate) = delegate(request)? {
                    delegate.executable()?;
                }
            }
            Ipam::RuntimeRanges => {
                let msg = "the runtime passes no range to this ADD, and the configuration has no \"subnet\": have the \
                           runtime pass \"ipRanges\", or write a \"subnet\"";
                return Err(PluginError::new(ErrorCode::INVALID_CONFIG, msg));
            }
        }
        Ok(addresses)
    }

    /// Runs the plugin in `ipam.type`, if there is one. Dropping the result releases the addresses.
    ///
    /// This ADD must have created the pair, and the pair must exist: a delegate that requests an
    /// address from a DHCP server sends through it. Older addresses of the delegate for the
    /// attachment are therefore unused. The release needs the pair, too.
    pub(crate) fn delegate(&mut self) -> Result<Option<Delegated>, PluginError> {
        let Some(delegate) = delegate(self.request)? else {
            return Ok(None);
        };
        let delegated = delegate.add(Prior::Absent)?;
        self.result = from_delegate(delegated.result().clone(), &self.request.config)?;
        Ok(Some(delegated))
    }

    /// The addresses with the prefix lengths of their subnets.
    pub(crate) fn networks(&self) -> Vec<IpNetwork> {
        self.result.ips.iter().map(|ip| ip.address).collect()
    }

    /// The addresses with their gateways, the routes and the name servers.
    pub(crate) fn result(&self) -> &AddResult {
        &self.result
    }
}

/// The plugin in `ipam.type`. `None` if the network has its own pools.
pub(crate) fn delegate<R: Delegable>(request: &R) -> Result<Option<Delegate<'_, R>>, runtime::Error> {
    let delegate = Delegate::ipam(request)?;
    Ok(delegate.filter(|delegate| delegate.plugin_type().as_str() != naming::NAME))
}

/// [`delegate`] with [`RELEASE_TIMEOUT`], for DEL and GC.
pub(crate) fn releasing_delegate<R: Delegable>(request: &R) -> Result<Option<Delegate<'_, R>>, runtime::Error> {
    Ok(delegate(request)?.map(|delegate| delegate.timeout(RELEASE_TIMEOUT)))
}

/// The gateways in a result, with the prefix lengths of their subnets.
pub(crate) fn gateways(ips: &[IpConfig]) -> Vec<IpNetwork> {
    let gateway = |ip: &IpConfig| IpNetwork::new(ip.gateway?, ip.address.prefix()).ok();
    ips.iter().filter_map(gateway).collect()
}

/// Leases one address of each pool. Takes over a lease of the attachment without a pair: an ADD
/// that was killed between the two steps leaves it.
///
/// If a pool is exhausted, reclaims the leases of attachments that no longer exist. A restarted
/// node container, for example, loses its pods without a reboot.
fn lease(request: &AddRequest<Config>, ipam: &IpamConfig, network: &Network<'_>) -> Result<Lease, PluginError> {
    let attachment = &request.attachment;
    let requested = requested::ips(&request.net_conf, &request.args)?;
    let tenant = Tenant::new(attachment.key(), KubernetesPod::from_args(&request.args));
    let mut guard = network.leases.lock(LOCK_TIMEOUT)?;
    let allocate = |guard: &mut StoreGuard, requested: &[IpAddr]| {
        guard.allocate_for(&tenant, ipam.pools(), requested, |lease| network.is_abandoned(lease))
    };
    let mut allocated = allocate(&mut guard, &requested);
    if let Err(ipam::Error::AlreadyLeased { lease }) = &allocated {
        // Nothing shows whether a pod with an imported lease lives: another plugin attached it.
        if lease.imported || veth::host_end(attachment, network.host)?.is_some() {
            return Err(already_attached("it holds an address"));
        }
        let requested = match fits(lease, ipam, &requested) {
            true if tenant.pod.is_unnamed() || lease.pod == tenant.pod => return Ok((**lease).clone()),
            // A new lease with the same addresses, because the old one names another pod, or is of
            // an older build and names none.
            true => lease.addresses.iter().map(IpNetwork::ip).collect(),
            false => requested,
        };
        guard.release(&lease.owner)?;
        allocated = allocate(&mut guard, &requested);
    }
    for damaged in guard.quarantined() {
        warn!("{damaged}");
    }
    Ok(allocated?)
}

/// Whether a lease holds the addresses that an ADD would allocate now.
fn fits(lease: &Lease, ipam: &IpamConfig, requested: &[IpAddr]) -> bool {
    let holds = |wanted: &dyn Fn(IpAddr) -> bool| lease.addresses.iter().any(|address| wanted(address.ip()));
    lease.addresses.len() == ipam.pools().len()
        && ipam.pools().iter().all(|pool| holds(&|address| pool.contains(address)))
        && requested.iter().all(|requested| holds(&|address| address == *requested))
}

/// Completes the result of a delegate. With `isGateway`, a missing gateway is the first address of
/// the subnet.
fn from_delegate(mut result: AddResult, config: &Config) -> Result<AddResult, PluginError> {
    if result.ips.is_empty() {
        let msg = "the plugin in \"ipam\" returned no address: configure it so that it returns one";
        return Err(PluginError::new(ErrorCode::INVALID_CONFIG, msg));
    }
    for ip in &mut result.ips {
        let first = || {
            let range = Range::new(ip::subnet(ip.address), None).ok();
            range.filter(|_| config.is_gateway == Some(true)).map(|range| range.gateway())
        };
        ip.gateway = ip.gateway.or_else(first).filter(|gateway| *gateway != ip.address.ip());
    }
    Ok(complete(result))
}

/// Adds the gateway of its family to each route without one. Without routes, adds the default
/// routes.
fn complete(mut result: AddResult) -> AddResult {
    let gateways: Vec<IpAddr> = result.ips.iter().filter_map(|ip| ip.gateway).collect();
    let gateway = |is_ipv4: bool| gateways.iter().copied().find(|gateway| gateway.is_ipv4() == is_ipv4);
    if result.routes.is_empty() {
        result.routes = [true, false].into_iter().filter_map(gateway).map(Route::default_via).collect();
    }
    for route in &mut result.routes {
        // Any scope except the global one is nearer than a gateway.
        let is_near = route.scope.is_some_and(|scope| scope != 0);
        route.gw = match route.gw {
            // DHCP servers write an on-link destination like this (RFC 3442).
            Some(gw) if gw.is_unspecified() => None,
            None if !is_near => gateway(route.dst.is_ipv4()),
            gw => gw,
        };
    }
    result
}
