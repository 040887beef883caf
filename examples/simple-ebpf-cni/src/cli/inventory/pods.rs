//! The pods of a network, with their counters.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::ops::AddAssign;
use std::time::SystemTime;

use cnikit::datapath::{CounterMap, DropReason, Drops, MapSet, PodCounters, PortConfigMap};
use cnikit::ipam::Tenant;
use cnikit::netlink::Link;
use cnikit::spec::{AttachmentKey, IfIndex, IfName, KubernetesPod, NetworkName};
use serde::Serialize;

use super::{CachedTenants, NodeNetwork};
use crate::cli::error::Error;
use crate::cli::format;

/// A pod of a network.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pod {
    pub(crate) network: NetworkName,
    /// Unknown if another plugin assigned the addresses and the runtime has no result cache.
    #[serde(flatten, serialize_with = "format::owner_keys")]
    pub(crate) owner: Option<AttachmentKey>,
    /// The pod's names in Kubernetes, from the lease or from the runtime's result cache.
    #[serde(flatten)]
    pub(crate) kubernetes: KubernetesPod,
    pub(crate) addresses: Vec<IpAddr>,
    /// The host end of the veth pair. `None` if the pair is gone and only the lease is left.
    pub(crate) host_interface: Option<IfName>,
    /// `None` if the maps have no entry of the pod.
    pub(crate) counters: Option<Counters>,
    /// Packets that were dropped at the pod's port.
    pub(crate) drops: DropCounts,
    /// The time of the ADD, in RFC 3339 format.
    pub(crate) since: Option<String>,
    #[serde(skip)]
    pub(crate) created: Option<SystemTime>,
}

/// The counters of a pod, for both directions.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Counters {
    pub(crate) tx: DirectionCounters,
    pub(crate) rx: DirectionCounters,
}

/// The counters of a pod for one direction.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct DirectionCounters {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// The packets that were forwarded directly from pod to pod.
    pub(crate) direct: u64,
}

/// The numbers of dropped packets, keyed by reason. Reasons without packets are left out.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct DropCounts {
    /// Excludes `reflected`: each pod has frames that would only return to their sender.
    total: u64,
    #[serde(flatten)]
    pub(crate) reasons: BTreeMap<&'static str, u64>,
}

/// The open maps of a network.
struct Maps {
    counters: CounterMap,
    ports: PortConfigMap,
}

/// The pods of a network. Pods with a lease come first. Pods with addresses from another plugin
/// follow, because only the maps know them. `links` are the host's links.
pub(crate) fn pods(network: &NodeNetwork, links: &[Link]) -> Result<Vec<Pod>, Error> {
    let name = &network.name;
    let by_index: HashMap<IfIndex, &Link> = links.iter().map(|link| (link.index, link)).collect();
    let by_name: HashMap<&IfName, &Link> = links.iter().map(|link| (&link.name, link)).collect();
    let set = network.maps()?;
    let maps = set.as_ref().map(Maps::open).transpose()?;

    // A damaged lease keeps its address and does not name a pod. `leases` and `doctor` report it.
    let mut leased = HashSet::new();
    let mut pods = Vec::new();
    let mut cache = CachedTenants::new(name);
    for lease in network.store.leases()?.filter_map(Result::ok) {
        let attachment = lease.owner.clone().in_network(name);
        let link = by_name.get(&attachment.host_ifname()).or_else(|| by_index.get(&attachment.host_ifindex()));
        let addresses: Vec<IpAddr> = lease.addresses.iter().map(|address| address.ip()).collect();
        leased.extend(addresses.iter().copied());
        let (since, created) = (lease.created_rfc3339(), lease.created);
        let pod = cache.pod_of(&lease);
        let tenant = Tenant::new(lease.owner, pod);
        let pod = Pod::new(network, link.copied(), Some(tenant), addresses, maps.as_ref())?;
        pods.push(Pod { since: Some(since), created: Some(created), ..pod });
    }
    let mut others = set.as_ref().map_or_else(|| Ok(BTreeMap::new()), addresses_by_port)?;
    others.retain(|index, addresses| {
        by_index.contains_key(index) && !addresses.iter().any(|address| leased.contains(address))
    });
    for (index, addresses) in others {
        let link = by_index.get(&index).copied();
        let tenant = link.and_then(|link| cache.tenant(&link.name).cloned());
        pods.push(Pod::new(network, link, tenant, addresses, maps.as_ref())?);
    }
    pods.sort_unstable_by(|a, b| (&a.addresses, &a.owner).cmp(&(&b.addresses, &b.owner)));
    Ok(pods)
}

/// The names of at most three pods for a message, with the number of the others.
pub(crate) fn some_names(pods: &[&Pod]) -> String {
    const MAX: usize = 3;
    let mut names: Vec<String> = pods.iter().take(MAX).map(|pod| pod.name()).collect();
    if pods.len() > MAX {
        names.push(format!("{} more", pods.len() - MAX));
    }
    names.join(", ")
}

impl Pod {
    /// The pod's name in a message: its name in Kubernetes, otherwise its container id.
    fn name(&self) -> String {
        match &self.owner {
            Some(owner) if self.kubernetes.is_unnamed() => format::short(owner.container_id.as_str()).to_owned(),
            _ => format::pod(&self.kubernetes, false),
        }
    }

    fn new(
        network: &NodeNetwork,
        link: Option<&Link>,
        tenant: Option<Tenant>,
        addresses: Vec<IpAddr>,
        maps: Option<&Maps>,
    ) -> Result<Self, Error> {
        let mut counters: Option<Counters> = None;
        let mut drops = DropCounts::default();
        if let Some(maps) = maps {
            for address in &addresses {
                if let Some(found) = maps.counters.read(*address)? {
                    *counters.get_or_insert_default() += found;
                }
            }
            let dropped = link.map(|link| maps.ports.drops(link.index)).transpose()?;
            drops = dropped.flatten().map(DropCounts::from).unwrap_or_default();
        }
        let (owner, kubernetes) = tenant.map(|Tenant { owner, pod, .. }| (owner, pod)).unzip();
        Ok(Self {
            network: network.name.clone(),
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
    /// The share of packets that were forwarded directly, in percent.
    pub(crate) fn direct_percent(&self) -> Option<u64> {
        let (direct, packets) = (self.tx.direct + self.rx.direct, self.tx.packets + self.rx.packets);
        direct.saturating_mul(100).checked_div(packets)
    }
}

impl AddAssign<PodCounters> for Counters {
    fn add_assign(&mut self, more: PodCounters) {
        for (sum, packets, bytes, direct) in [
            (&mut self.tx, more.tx_packets, more.tx_bytes, more.tx_direct),
            (&mut self.rx, more.rx_packets, more.rx_bytes, more.rx_direct),
        ] {
            sum.packets += packets;
            sum.bytes += bytes;
            sum.direct += direct;
        }
    }
}

impl DropCounts {
    /// The number of dropped packets without `reflected`.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The reasons without `reflected`.
    pub(crate) fn by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let reasons = self.reasons.iter().map(|(reason, packets)| (*reason, *packets));
        reasons.filter(|(reason, _)| *reason != DropReason::Reflected.as_str())
    }
}

impl From<Drops> for DropCounts {
    fn from(drops: Drops) -> Self {
        let dropped = drops.iter().filter(|(_, packets)| *packets > 0);
        let reasons = dropped.map(|(reason, packets)| (reason.as_str(), packets)).collect();
        let mut counts = Self { total: 0, reasons };
        counts.total = counts.by_reason().map(|(_, packets)| packets).sum();
        counts
    }
}

impl Maps {
    fn open(maps: &MapSet) -> Result<Self, Error> {
        Ok(Self { counters: maps.open_counters()?, ports: maps.open_port_configs()? })
    }
}

/// The addresses of each port in the maps, without gateways and link-local addresses of MACs.
fn addresses_by_port(maps: &MapSet) -> Result<BTreeMap<IfIndex, Vec<IpAddr>>, Error> {
    let mut addresses: BTreeMap<IfIndex, Vec<IpAddr>> = BTreeMap::new();
    let (endpoints, bridge) = (maps.open_endpoints()?, maps.config()?.bridge_ifindex);
    for address in endpoints.addresses()? {
        match endpoints.read(address)? {
            Some(endpoint)
                if Some(endpoint.ifindex) != bridge && address != IpAddr::from(endpoint.mac.link_local()) =>
            {
                addresses.entry(endpoint.ifindex).or_default().push(address);
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
