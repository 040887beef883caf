//! The pods of a network, and what was counted for each.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::ops::AddAssign;
use std::time::SystemTime;

use cnikit::datapath::{CounterMap, DropReason, Drops, MapSet, PodCounters, PortConfigMap};
use cnikit::ipam::{Lease, Owner, Tenant};
use cnikit::netlink::Link;
use cnikit::runtime::ResultCache;
use cnikit::spec::{IfName, KubernetesPod, NetworkName};
use serde::Serialize;
use simple_ebpf_cni::naming;

use super::node::Known;
use super::{Error, text};

/// A pod of a network.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pod {
    pub(crate) network: NetworkName,
    /// Unknown where another plugin gave the addresses and the runtime keeps no results.
    #[serde(flatten)]
    pub(crate) owner: Option<Owner>,
    /// The names that Kubernetes has for the pod, by the lease or by the runtime's cache of results.
    #[serde(flatten)]
    pub(crate) kubernetes: KubernetesPod,
    pub(crate) addresses: Vec<IpAddr>,
    /// The host's end of the pair; none where it is gone, and the lease is all that is left.
    pub(crate) host_interface: Option<IfName>,
    /// None where the programs do not know the pod.
    pub(crate) counters: Option<Counters>,
    /// Packets that were dropped at its port.
    pub(crate) drops: Reasons,
    /// When it was attached, as RFC 3339 text.
    pub(crate) since: Option<String>,
    #[serde(skip)]
    pub(crate) created: Option<SystemTime>,
}

/// Both ways of a pod's traffic.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Counters {
    pub(crate) tx: Way,
    pub(crate) rx: Way,
}

/// One way of a pod's traffic.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Way {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// Of the packets, those that went straight from pod to pod.
    pub(crate) direct: u64,
}

/// Packets that were dropped, by the name of the reason; those without packets are left out.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Reasons {
    /// All but `reflected`: every pod has frames that would only come back to their sender.
    total: u64,
    #[serde(flatten)]
    pub(crate) reasons: BTreeMap<&'static str, u64>,
}

/// The maps of a network, opened.
struct Maps {
    counters: CounterMap,
    links: PortConfigMap,
}

/// The pods of a network: those that hold a lease, then those that only the programs know, as another plugin gave them
/// their addresses. `links` are the host's.
pub(crate) fn pods(known: &Known, links: &[Link]) -> Result<Vec<Pod>, Error> {
    let name = &known.name;
    let by_index: HashMap<u32, &Link> = links.iter().map(|link| (link.index, link)).collect();
    let by_name: HashMap<&IfName, &Link> = links.iter().map(|link| (&link.name, link)).collect();
    let set = known.maps()?;
    let maps = set.as_ref().map(Maps::open).transpose()?;

    // What is damaged holds its address, but tells of no pod: `leases` and `doctor` show it.
    let mut leased = HashSet::new();
    let mut pods = Vec::new();
    let mut cache = CachedTenants::new(name);
    for lease in known.store.leases()?.filter_map(Result::ok) {
        let attachment = naming::attachment(name, lease.owner.clone());
        let link = by_name.get(&attachment.host_ifname()).or_else(|| by_index.get(&attachment.host_ifindex()));
        let addresses: Vec<IpAddr> = lease.addresses.iter().map(|address| address.ip()).collect();
        leased.extend(addresses.iter().copied());
        let (since, created) = (lease.created_rfc3339(), lease.created);
        let tenant = Tenant { pod: cache.pod_of(&lease), owner: lease.owner };
        let pod = Pod::new(known, link.copied(), Some(tenant), addresses, maps.as_ref())?;
        pods.push(Pod { since: Some(since), created: Some(created), ..pod });
    }
    let mut others = set.as_ref().map_or_else(|| Ok(BTreeMap::new()), delivered)?;
    others.retain(|index, addresses| {
        by_index.contains_key(index) && !addresses.iter().any(|address| leased.contains(address))
    });
    for (index, addresses) in others {
        let link = by_index.get(&index).copied();
        let tenant = link.and_then(|link| cache.tenant(&link.name).cloned());
        pods.push(Pod::new(known, link, tenant, addresses, maps.as_ref())?);
    }
    pods.sort_by(|one, other| (&one.addresses, &one.owner).cmp(&(&other.addresses, &other.owner)));
    Ok(pods)
}

/// The names of some pods, for a message: of three at most, and how many more there are.
pub(crate) fn names_of_some(pods: &[&Pod]) -> String {
    const MOST: usize = 3;
    let mut names: Vec<String> = pods.iter().take(MOST).map(|pod| pod.name()).collect();
    if pods.len() > MOST {
        names.push(format!("{} more", pods.len() - MOST));
    }
    names.join(", ")
}

impl Pod {
    /// The pod's name in a message: its name in Kubernetes or, without one, its container id.
    fn name(&self) -> String {
        match &self.owner {
            Some(owner) if self.kubernetes.is_unnamed() => text::short(owner.container_id.as_str()).to_owned(),
            _ => text::pod(&self.kubernetes, false),
        }
    }

    fn new(
        known: &Known,
        link: Option<&Link>,
        tenant: Option<Tenant>,
        addresses: Vec<IpAddr>,
        maps: Option<&Maps>,
    ) -> Result<Self, Error> {
        let mut counters: Option<Counters> = None;
        let mut drops = Reasons::default();
        if let Some(maps) = maps {
            for address in &addresses {
                if let Some(found) = maps.counters.read(*address)? {
                    *counters.get_or_insert_default() += found;
                }
            }
            let dropped = link.map(|link| maps.links.drops(link.index)).transpose()?;
            drops = dropped.flatten().map(Reasons::from).unwrap_or_default();
        }
        let (owner, kubernetes) = tenant.map(|Tenant { owner, pod }| (owner, pod)).unzip();
        Ok(Self {
            network: known.name.clone(),
            owner,
            kubernetes: kubernetes.unwrap_or_default(),
            addresses,
            host_interface: link.map(|link| link.name.clone()),
            counters,
            drops,
            since: None,
            created: None,
        })
    }
}

impl Counters {
    /// Of all packets, how many went straight from pod to pod, in percent.
    pub(crate) fn direct_percent(&self) -> Option<u64> {
        let (direct, packets) = (self.tx.direct + self.rx.direct, self.tx.packets + self.rx.packets);
        direct.saturating_mul(100).checked_div(packets)
    }
}

impl AddAssign<PodCounters> for Counters {
    fn add_assign(&mut self, more: PodCounters) {
        for (way, packets, bytes, direct) in [
            (&mut self.tx, more.tx_packets, more.tx_bytes, more.tx_direct),
            (&mut self.rx, more.rx_packets, more.rx_bytes, more.rx_direct),
        ] {
            way.packets += packets;
            way.bytes += bytes;
            way.direct += direct;
        }
    }
}

impl Reasons {
    /// The packets that were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.total
    }

    /// The same by their reasons.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let reasons = self.reasons.iter().map(|(reason, packets)| (*reason, *packets));
        reasons.filter(|(reason, _)| *reason != DropReason::Reflected.as_str())
    }
}

impl From<Drops> for Reasons {
    fn from(drops: Drops) -> Self {
        let dropped = drops.iter().filter(|(_, packets)| *packets > 0);
        let reasons = dropped.map(|(reason, packets)| (reason.as_str(), packets)).collect();
        let mut reasons = Self { total: 0, reasons };
        reasons.total = reasons.refusals().map(|(_, packets)| packets).sum();
        reasons
    }
}

impl Maps {
    fn open(maps: &MapSet) -> Result<Self, Error> {
        Ok(Self { counters: maps.open_counters()?, links: maps.open_port_configs()? })
    }
}

/// The addresses that the programs deliver to each port, but for the gateway's and those that a port has by its MAC.
fn delivered(maps: &MapSet) -> Result<BTreeMap<u32, Vec<IpAddr>>, Error> {
    let mut addresses: BTreeMap<u32, Vec<IpAddr>> = BTreeMap::new();
    let (ports, bridge) = (maps.open_endpoints()?, maps.config()?.bridge_ifindex);
    for address in ports.addresses()? {
        match ports.read(address)? {
            Some(port) if port.ifindex != bridge && address != IpAddr::from(port.mac.link_local()) => {
                addresses.entry(port.ifindex).or_default().push(address);
            }
            _ => {}
        }
    }
    for addresses in addresses.values_mut() {
        addresses.sort_unstable();
        addresses.dedup();
    }
    Ok(addresses)
}

/// The attachments of a network in the runtime's cache of results, by the name of the host end. The cache is read when it
/// is first needed, and then once.
pub(crate) struct CachedTenants<'a> {
    network: &'a NetworkName,
    tenants: Option<HashMap<IfName, Tenant>>,
}

impl<'a> CachedTenants<'a> {
    pub(crate) fn new(network: &'a NetworkName) -> Self {
        Self { network, tenants: None }
    }

    /// The attachment with this host end, if the runtime caches results as the reference library does.
    pub(crate) fn tenant(&mut self, host_end: &IfName) -> Option<&Tenant> {
        self.tenants.get_or_insert_with(|| read_cache(self.network)).get(host_end)
    }

    /// The pod of a lease: by the lease or, if an older build or an import made that, by the cache.
    pub(crate) fn pod_of(&mut self, lease: &Lease) -> KubernetesPod {
        if !lease.pod.is_unnamed() {
            return lease.pod.clone();
        }
        let attachment = naming::attachment(self.network, lease.owner.clone());
        self.tenant(&attachment.host_ifname()).map_or_else(|| lease.pod.clone(), |tenant| tenant.pod.clone())
    }
}

fn read_cache(network: &NetworkName) -> HashMap<IfName, Tenant> {
    let attachments = ResultCache::new(ResultCache::DEFAULT_DIR).attachments().unwrap_or_default();
    let ours = attachments.into_iter().filter(|cached| cached.network == *network);
    let tenants = ours.map(|cached| {
        let attachment = cached.parameters.attachment(network);
        let pod = KubernetesPod::from_args(&cached.parameters.args);
        (attachment.host_ifname(), Tenant { owner: naming::owner(&attachment), pod })
    });
    tenants.collect()
}
