//! Masquerading: packets of pods to other networks get the host's address as their source.
//!
//! Each network has one chain with a rule for each subnet. The first ADD creates the chain, and
//! each ADD checks it. The chain outlives the pods.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cnikit::ipam::LOCK_TIMEOUT;
use cnikit::netlink::nftables::{
    self, Action, Batch, Chain, ChainType, Family, Hook, Match, PortRandomization, Priority, Rule, RuleInfo, Table,
};
use cnikit::netlink::{self, Ipv6Conf, Link, Socket, Sysctl};
use cnikit::plugin::PluginError;
use cnikit::spec::{ErrorCode, IfName, NetConf, NetworkName};
use ipnetwork::IpNetwork;
use tracing::{info_span, warn};

use crate::config::{Config, Ipam};
use crate::ip;
use crate::naming::{CHAIN_PREFIX, NAME};
use crate::network::Network;

/// Random source ports, so that simultaneous connections of several pods do not get the same port
/// of the host.
const MASQUERADE: Action = Action::Masquerade(PortRandomization::FullyRandom);

/// The masquerading rules of a network.
#[derive(Debug)]
pub struct Masquerade {
    chain: Chain,
    subnets: BTreeSet<IpNetwork>,
    rules: Vec<CommentedRule>,
    /// Whether `subnets` are all subnets of the network, so that other rules are obsolete.
    is_exact: bool,
}

/// A rule, and its comment, which identifies it in a listing.
#[derive(Debug)]
struct CommentedRule {
    comment: String,
    rule: Rule,
}

impl Masquerade {
    /// The rules for a pod with these addresses. `None` if the network does not masquerade.
    ///
    /// # Errors
    ///
    /// Fails if a rule cannot be encoded.
    pub fn for_pod(
        network: &Network<'_>,
        net_conf: &NetConf,
        addresses: &[IpNetwork],
    ) -> Result<Option<Self>, PluginError> {
        if !net_conf.ip_masq {
            return Ok(None);
        }
        Self::new(network, net_conf.runtime_config.ip_ranges.is_empty(), addresses).map(Some)
    }

    /// The rules for pods with these addresses. Ranges that a runtime passes to an ADD, and the
    /// ranges of a delegate, may differ in the next ADD.
    pub(crate) fn new(
        network: &Network<'_>,
        has_configured_ranges_only: bool,
        addresses: &[IpNetwork],
    ) -> Result<Self, PluginError> {
        let config = network.config;
        let is_exact = matches!(config.ipam, Ipam::Local(_)) && has_configured_ranges_only;
        let subnets: BTreeSet<IpNetwork> = if is_exact {
            config.ranges().map(|range| range.subnet()).collect()
        } else {
            addresses.iter().copied().map(ip::subnet).collect()
        };
        let rules = subnets.iter().map(|subnet| rule(*subnet, &config.bridge)).collect::<Result<_, _>>()?;
        Ok(Self { chain: chain(network.name), subnets, rules, is_exact })
    }

    /// Creates missing rules, and turns forwarding on. If the setting cannot be written, pods still
    /// reach each other and the host, and a warning reports it.
    ///
    /// # Errors
    ///
    /// Fails if the kernel refuses the rules, or if the store's lock is not free in time.
    pub fn ensure(&self, network: &Network<'_>) -> Result<(), PluginError> {
        let _span = info_span!("masquerade").entered();
        let nftables = nftables::Socket::open()?;
        if !self.is_in(&nftables.rules(&self.chain)?) {
            // Two callers that see the same rule missing must not both append it.
            let _lock = network.leases.lock(LOCK_TIMEOUT)?;
            nftables.commit(&self.repair(&nftables.rules(&self.chain)?))?;
        }
        for family in self.forwarding() {
            if let Err(error) = family.enable(network.host) {
                warn!("pods do not reach the world: {error}; set {} to 1 by hand", family.setting());
            }
        }
        Ok(())
    }

    /// A message for each missing rule or setting.
    ///
    /// # Errors
    ///
    /// Fails if the rules or the settings cannot be read.
    pub fn differences(&self) -> Result<Vec<String>, PluginError> {
        let mut differences = Vec::new();
        if !self.is_in(&nftables::Socket::open()?.rules(&self.chain)?) {
            differences.push(format!("the nftables chain {} does not masquerade the network's subnets", self.chain));
        }
        for family in self.forwarding() {
            if family.setting().read()? == 0 {
                differences.push(format!("pods do not reach the world: {} is 0", family.setting()));
            }
        }
        Ok(differences)
    }

    fn is_in(&self, found: &[RuleInfo]) -> bool {
        (!self.is_exact || found.len() == self.rules.len()) && self.rules.iter().all(|rule| rule.is_in(found))
    }

    /// The changes for a chain with the rules `found`. Keeps rules of subnets that other pods may
    /// have.
    fn repair(&self, found: &[RuleInfo]) -> Batch {
        let batch = Batch::new().ensure_table(&self.chain.table()).ensure_chain(&self.chain);
        let batch = if self.is_exact { batch.flush_chain(&self.chain) } else { batch };
        let missing = self.rules.iter().filter(|rule| self.is_exact || !rule.is_in(found));
        missing.fold(batch, |batch, CommentedRule { comment, rule }| {
            batch.append_rule(&self.chain, rule.clone().comment(comment.as_str()))
        })
    }

    fn forwarding(&self) -> impl Iterator<Item = Forwarding> {
        let any = |is_ipv4: bool| self.subnets.iter().any(|subnet| subnet.is_ipv4() == is_ipv4);
        [Forwarding::Ipv4, Forwarding::Ipv6].into_iter().filter(move |family| any(*family == Forwarding::Ipv4))
    }
}

impl CommentedRule {
    fn is_in(&self, found: &[RuleInfo]) -> bool {
        found.iter().any(|found| found.comment.as_ref() == Some(&self.comment))
    }
}

/// Checks whether the host can masquerade and route. Changes nothing.
///
/// # Errors
///
/// Fails if the kernel refuses the rules, or if forwarding is off and cannot be turned on.
pub fn probe(network: &NetworkName, config: &Config) -> Result<(), PluginError> {
    let _span = info_span!("masquerade").entered();
    probe_rules(network)?;
    for setting in forwarding(config) {
        if setting.read()? == 0 && !setting.is_writable() {
            let msg = format!("pods would not reach the world: {setting} is 0 and cannot be written: set it to 1");
            return Err(PluginError::new(ErrorCode::PLUGIN_NOT_AVAILABLE, msg));
        }
    }
    Ok(())
}

/// Checks whether the kernel accepts the network's rules. Changes nothing.
///
/// # Errors
///
/// Fails if the kernel refuses the rules.
pub fn probe_rules(network: &NetworkName) -> netlink::Result<()> {
    let (nftables, chain) = (nftables::Socket::open()?, chain(network));
    if nftables.rules(&chain)?.is_empty() {
        let batch = Batch::new().ensure_table(&chain.table()).ensure_chain(&chain);
        nftables.check(&batch.append_rule(&chain, Rule::new(MASQUERADE)))?;
    }
    Ok(())
}

/// The forwarding settings that the network needs.
pub fn forwarding(config: &Config) -> impl Iterator<Item = Sysctl<'static>> {
    let has_ipv6 = config.has_ipv6_ranges();
    // Unknown subnets are assumed to include IPv4.
    let has_ipv4 = !has_ipv6 || config.ranges().any(|range| range.subnet().is_ipv4());
    let families = [(Forwarding::Ipv4, has_ipv4), (Forwarding::Ipv6, has_ipv6)].into_iter();
    families.filter_map(|(family, is_needed)| is_needed.then_some(family.setting()))
}

/// Whether rules of attached pods are missing, for the subnets in the configuration. The next ADD
/// creates them.
///
/// # Errors
///
/// Fails if the rules cannot be listed.
pub fn is_incomplete(network: &NetworkName, config: &Config) -> netlink::Result<bool> {
    let found = nftables::Socket::open()?.rules(&chain(network))?;
    for range in config.ranges() {
        if !rule(range.subnet(), &config.bridge)?.is_in(&found) {
            return Ok(true);
        }
    }
    Ok(found.is_empty())
}

/// Whether the network has rules.
///
/// # Errors
///
/// Fails if the rules cannot be listed.
pub fn exists(network: &NetworkName) -> netlink::Result<bool> {
    let rules = nftables::Socket::open().and_then(|nftables| nftables.rules(&chain(network)));
    match rules {
        Err(netlink::Error::Unsupported { .. }) => Ok(false),
        rules => Ok(!rules?.is_empty()),
    }
}

/// Removes the rules of a network, if there are any.
///
/// # Errors
///
/// Fails if the kernel refuses the removal.
pub fn remove(network: &NetworkName) -> netlink::Result<()> {
    let _span = info_span!("masquerade").entered();
    let chain = chain(network);
    // All networks of the plugin share the table, so it goes with the last chain.
    let removed = nftables::Socket::open().and_then(|nftables| {
        nftables.delete_chain(&chain)?;
        nftables.delete_empty_table(&chain.table()).map(drop)
    });
    match removed {
        Err(netlink::Error::Unsupported { .. }) => Ok(()),
        removed => removed,
    }
}

/// The chain of the network, in the plugin's own table.
fn chain(network: &NetworkName) -> Chain {
    let table = Table::new(Family::Inet, NAME);
    table.chain(format!("{CHAIN_PREFIX}{network}")).hook(ChainType::Nat, Hook::Postrouting, Priority::SRCNAT)
}

/// The rule for packets from pods of a subnet. Packets to the host itself do not pass this hook.
fn rule(subnet: IpNetwork, bridge: &IfName) -> netlink::Result<CommentedRule> {
    let rule = Rule::new(MASQUERADE)
        .with_match(Match::source(subnet))
        .with_match(!Match::destination(subnet))
        .with_match(!Match::destination(multicast(subnet)))
        .with_match(!Match::output_link(bridge.clone()));
    Ok(CommentedRule { comment: format!("pods of {subnet} on {bridge}, {}", rule.digest()?), rule })
}

/// The multicast range of a subnet's family. Group members must see the pod as the sender.
fn multicast(subnet: IpNetwork) -> IpNetwork {
    let (group, prefix) = match subnet {
        IpNetwork::V4(_) => (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4),
        IpNetwork::V6(_) => (IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
    };
    IpNetwork::new(group, prefix).unwrap_or(subnet)
}

/// The forwarding of packets between the host's links, for one family.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Forwarding {
    Ipv4,
    Ipv6,
}

impl Forwarding {
    const fn setting(self) -> Sysctl<'static> {
        match self {
            Self::Ipv4 => Sysctl::Ipv4Forward,
            Self::Ipv6 => Sysctl::Ipv6Forward,
        }
    }

    fn enable(self, host: &Socket) -> netlink::Result<()> {
        if self.setting().read()? != 0 {
            return Ok(());
        }
        if self == Self::Ipv6 {
            preserve_accept_ra(host)?;
        }
        self.setting().write(1)
    }
}

/// Keeps the host's own default routes. A host that forwards IPv6 drops the routers that it learned
/// from advertisements, and ignores further ones, except on links with `accept_ra` 2.
fn preserve_accept_ra(host: &Socket) -> netlink::Result<()> {
    for link in host.links()? {
        let accept_ra = Sysctl::Ipv6Conf(&link.name, Ipv6Conf::AcceptRa);
        if has_default_route(host, &link)? && accept_ra.read()? == 1 {
            accept_ra.write(2)?;
        }
    }
    Ok(())
}

fn has_default_route(host: &Socket, link: &Link) -> netlink::Result<bool> {
    let routes = host.routes(link.index)?;
    Ok(routes.iter().any(|route| route.dst.is_ipv6() && route.dst.prefix() == 0))
}
