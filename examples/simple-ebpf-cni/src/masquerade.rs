//! Masquerading: what pods send to the world bears the host's address, so that the world can answer.
//!
//! A network has one chain of its own, with a rule for each subnet. It is made by the first ADD and looked at by every
//! other, and outlives the pods.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cnikit::ipam::{LOCK_TIMEOUT, Store};
use cnikit::netlink::nftables::{
    self, Action, Batch, Chain, ChainType, Family, Hook, Match, PortRandomization, Priority, Rule, RuleInfo, Table,
};
use cnikit::netlink::{self, Ipv6Conf, Link, Socket, Sysctl};
use cnikit::plugin::PluginError;
use cnikit::spec::{ErrorCode, IfName, NetConf, NetworkName};
use ipnetwork::IpNetwork;
use tracing::{info_span, warn};

use crate::config::{Addressing, Config};
use crate::network;

/// What masquerades the pods of a network.
pub(crate) struct Masquerade {
    chain: Chain,
    subnets: BTreeSet<IpNetwork>,
    rules: Vec<Commented>,
    /// The subnets are all that the network has, so that other rules are of subnets that it had.
    is_exact: bool,
}

/// A rule, and the comment by which it is known again.
struct Commented {
    comment: String,
    rule: Rule,
}

impl Masquerade {
    /// What the network needs for a pod with these addresses; nothing where it does not masquerade.
    pub(crate) fn of(
        network: &NetworkName,
        net_conf: &NetConf,
        config: &Config,
        addresses: &[IpNetwork],
    ) -> Result<Option<Self>, PluginError> {
        if !net_conf.ip_masq {
            return Ok(None);
        }
        Self::new(network, config, net_conf.runtime_config.ip_ranges.is_empty(), addresses).map(Some)
    }

    /// What a network that masquerades needs for pods with these addresses. Ranges that a runtime names with an ADD may be
    /// others with the next, as may those of another plugin.
    pub(crate) fn new(
        network: &NetworkName,
        config: &Config,
        has_own_ranges_only: bool,
        addresses: &[IpNetwork],
    ) -> Result<Self, PluginError> {
        let is_exact = matches!(config.addressing, Addressing::Own(_)) && has_own_ranges_only;
        let subnets: BTreeSet<IpNetwork> = if is_exact {
            config.ranges().map(|range| range.subnet()).collect()
        } else {
            addresses.iter().copied().map(network::subnet).collect()
        };
        let rules = subnets.iter().map(|subnet| rule(*subnet, &config.bridge)).collect::<Result<_, _>>()?;
        Ok(Self { chain: chain(network), subnets, rules, is_exact })
    }

    /// Makes the rules and turns forwarding on, unless all is as it should be.
    ///
    /// Where the settings cannot be written, pods reach each other and the host all the same, and that is said.
    pub(crate) fn ensure(&self, host: &Socket, leases: &Store) -> Result<(), PluginError> {
        let _span = info_span!("masquerade").entered();
        let nftables = nftables::Socket::open()?;
        if !self.is_in(&nftables.rules(&self.chain)?) {
            // Two that see the same rule missing must not both append it.
            let _turn = leases.lock(LOCK_TIMEOUT)?;
            nftables.commit(&self.repair(&nftables.rules(&self.chain)?))?;
        }
        for family in self.forwarding() {
            if let Err(error) = family.forward(host) {
                warn!("pods do not reach the world: {error}: set {} to 1 by hand", family.setting());
            }
        }
        Ok(())
    }

    /// What CHECK finds amiss.
    pub(crate) fn differences(&self) -> Result<Vec<String>, PluginError> {
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

    /// What is to be done where these rules were found: subnets that others may have are left alone.
    fn repair(&self, found: &[RuleInfo]) -> Batch {
        let batch = Batch::new().ensure_table(&self.chain.table()).ensure_chain(&self.chain);
        let batch = if self.is_exact { batch.flush_chain(&self.chain) } else { batch };
        let missing = self.rules.iter().filter(|rule| self.is_exact || !rule.is_in(found));
        missing.fold(batch, |batch, Commented { comment, rule }| {
            batch.append_rule(&self.chain, rule.clone().comment(comment.as_str()))
        })
    }

    fn forwarding(&self) -> impl Iterator<Item = Forwarding> {
        let any = |is_ipv4: bool| self.subnets.iter().any(|subnet| subnet.is_ipv4() == is_ipv4);
        [Forwarding::Ipv4, Forwarding::Ipv6].into_iter().filter(move |family| any(*family == Forwarding::Ipv4))
    }
}

impl Commented {
    fn is_in(&self, found: &[RuleInfo]) -> bool {
        found.iter().any(|found| found.comment.as_ref() == Some(&self.comment))
    }
}

/// Whether the host could masquerade, and route what it masquerades. Changes nothing.
pub(crate) fn probe(network: &NetworkName, config: &Config) -> Result<(), PluginError> {
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

/// Whether the kernel takes the network's rules, or has taken them. Changes nothing.
pub(crate) fn probe_rules(network: &NetworkName) -> netlink::Result<()> {
    let (nftables, chain) = (nftables::Socket::open()?, chain(network));
    if nftables.rules(&chain)?.is_empty() {
        let batch = Batch::new().ensure_table(&chain.table()).ensure_chain(&chain);
        nftables.check(&batch.append_rule(&chain, Rule::new(MASQUERADE)))?;
    }
    Ok(())
}

/// The settings by which the host routes what pods of the network send.
pub(crate) fn forwarding(config: &Config) -> impl Iterator<Item = Sysctl<'static>> {
    let has_ipv6 = config.ranges().any(|range| range.subnet().is_ipv6());
    // Of subnets that are not known, IPv4 is taken to be among them.
    let has_ipv4 = !has_ipv6 || config.ranges().any(|range| range.subnet().is_ipv4());
    let families = [(Forwarding::Ipv4, has_ipv4), (Forwarding::Ipv6, has_ipv6)].into_iter();
    families.filter_map(|(family, is_needed)| is_needed.then_some(family.setting()))
}

/// Whether pods that are attached go without rules that the next ADD makes, as far as the configuration names the subnets.
pub(crate) fn is_lost(network: &NetworkName, config: &Config) -> netlink::Result<bool> {
    let found = nftables::Socket::open()?.rules(&chain(network))?;
    for range in config.ranges() {
        if !rule(range.subnet(), &config.bridge)?.is_in(&found) {
            return Ok(true);
        }
    }
    Ok(found.is_empty())
}

/// Whether the network has rules.
pub(crate) fn is_there(network: &NetworkName) -> netlink::Result<bool> {
    let rules = nftables::Socket::open().and_then(|nftables| nftables.rules(&chain(network)));
    match rules {
        Err(netlink::Error::Unsupported { .. }) => Ok(false),
        rules => Ok(!rules?.is_empty()),
    }
}

/// Removes the rules of a network. Where it has none, this is success.
pub(crate) fn remove(network: &NetworkName) -> netlink::Result<()> {
    let _span = info_span!("masquerade").entered();
    let chain = chain(network);
    // The table is all networks' of the plugin, and goes with the last.
    let removed = nftables::Socket::open().and_then(|nftables| {
        nftables.delete_chain(&chain)?;
        nftables.delete_empty_table(&chain.table()).map(drop)
    });
    match removed {
        Err(netlink::Error::Unsupported { .. }) => Ok(()),
        removed => removed,
    }
}

/// Connections of several pods that begin at the same moment must not meet on one port of the host's.
const MASQUERADE: Action = Action::Masquerade(PortRandomization::FullyRandom);

/// Behind it, no name of a network is a word that nft(8) keeps for itself.
const PREFIX: &str = "masquerade-";

/// How many bytes the name of a network can have whose pods are masqueraded: that of a chain has 255 at the most.
pub(crate) const LONGEST_NAME: usize = 255 - PREFIX.len();

/// Where the network's rules are. The table is the plugin's own, and all its networks'.
fn chain(network: &NetworkName) -> Chain {
    let table = Table::new(Family::Inet, crate::NAME);
    table.chain(format!("{PREFIX}{network}")).hook(ChainType::Nat, Hook::Postrouting, Priority::SRCNAT)
}

/// The rule for what pods of a subnet send. What they send to the host itself does not get there.
fn rule(subnet: IpNetwork, bridge: &IfName) -> netlink::Result<Commented> {
    let rule = Rule::new(MASQUERADE)
        .matching(Match::source(subnet))
        .matching(!Match::destination(subnet))
        .matching(!Match::destination(multicast(subnet)))
        .matching(!Match::output_link(bridge.clone()));
    Ok(Commented { comment: format!("pods of {subnet} on {bridge}, {}", rule.digest()?), rule })
}

/// The groups of a subnet's family, whose members would take the host for the sender.
fn multicast(subnet: IpNetwork) -> IpNetwork {
    let (group, prefix) = match subnet {
        IpNetwork::V4(_) => (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4),
        IpNetwork::V6(_) => (IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
    };
    IpNetwork::new(group, prefix).unwrap_or(subnet)
}

/// That the host routes packets of a family.
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

    fn forward(self, host: &Socket) -> netlink::Result<()> {
        if self.setting().read()? != 0 {
            return Ok(());
        }
        if self == Self::Ipv6 {
            heed_routers(host)?;
        }
        self.setting().write(1)
    }
}

/// Keeps the host's own way out. As soon as it is a router itself, it forgets the IPv6 routers that it was told of, and
/// hears no others, but on links where that is asked for.
fn heed_routers(host: &Socket) -> netlink::Result<()> {
    for link in host.links()? {
        let accept_ra = Sysctl::Ipv6Conf(&link.name, Ipv6Conf::AcceptRa);
        if leads_out(host, &link)? && accept_ra.read()? == 1 {
            accept_ra.write(2)?;
        }
    }
    Ok(())
}

fn leads_out(host: &Socket, link: &Link) -> netlink::Result<bool> {
    let routes = host.routes(link.index)?;
    Ok(routes.iter().any(|route| route.dst.is_ipv6() && route.dst.prefix() == 0))
}
