//! Packet filter and address translation: tables, chains, rules, sets and maps of [nft(8)], without
//! running `nft`.
//!
//! A [`Batch`] of changes is atomic, and [`Socket::rules`] lists existing rules. A plugin with a
//! few rules for each network compares their comments at each ADD (0.03 ms), and repairs missing
//! rules:
//!
//! ```no_run
//! use cnikit::netlink::nftables::{
//!     Action, Batch, ChainType, Family, Hook, Match, PortRandomization, Priority, Rule, Socket, Table,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pods = "10.244.1.0/24".parse()?;
//! let rule = Rule::new(Action::Masquerade(PortRandomization::FullyRandom))
//!     .with_match(Match::source(pods))
//!     .with_match(!Match::output_link("cbr0".parse()?));
//! let comment = format!("pods of mynet, {}", rule.digest()?);
//!
//! let table = Table::new(Family::Inet, "my-plugin");
//! let chain = table.chain("masquerade-mynet").hook(ChainType::Nat, Hook::Postrouting, Priority::SRCNAT);
//! let nftables = Socket::open()?;
//! let rules = nftables.rules(&chain)?;
//! if !rules.iter().any(|rule| rule.comment.as_ref() == Some(&comment)) {
//!     let batch = Batch::new().ensure_table(&table).ensure_chain(&chain).flush_chain(&chain);
//!     nftables.commit(&batch.append_rule(&chain, rule.comment(comment)))?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//!
//! | | |
//! |---|---|
//! | families | [`Family`]: `inet`, `ip`, `ip6`, `bridge` |
//! | base chains | [`Chain::hook`], [`Chain::policy`]; types [`filter`, `nat`, `route`](ChainType) |
//! | conditions | [`Match`]: addresses, links, Ethernet addresses, protocols, ports and ranges, `ct state`, `ct status`, marks, local addresses, lookups; `!` negates |
//! | verdicts | [`Action`]: accept, drop, reject, return, jump, goto, verdict maps |
//! | address translation | masquerade, dnat, snat, redirect, dnat to the value of a map |
//! | marks | [`Action::SetMark`], [`Match::mark`] |
//! | sets and maps | [`Set`]: concatenations, intervals, verdicts; [`Batch::add_elements`], [`Socket::elements`] |
//! | single rules | [`Batch::insert_rule`], [`Batch::replace_rule`], [`Socket::delete_rule`], [`Socket::delete_rules_with`] |
//! | rules of other programs | [`Socket::base_chains`]; [`Batch::insert_rule`] and [`Socket::delete_rule`] work in any chain |
//! | all else | [`Expression`]: any expression of the kernel by name |
//!
//! # Port mapping
//!
//! A plugin that maps ports of the host to pods has fixed rules and one element for each port. The
//! comment of an element identifies its container:
//!
//! ```no_run
//! use cnikit::netlink::nftables::{
//!     Action, Batch, ChainType, DataType, Element, Family, Hook, Match, PacketField, Priority, Protocol, Rule,
//!     Socket, Table, Value,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let table = Table::new(Family::Inet, "my-portmap");
//! let ports = table.map("hostports", [DataType::Protocol, DataType::Port], [DataType::Ipv4, DataType::Port]);
//! let to_pod = Action::DnatMap(ports.lookup([PacketField::Protocol, PacketField::DestinationPort]));
//! let rule = Rule::new(to_pod).with_match(Match::destination_is_local());
//! let mut batch = Batch::new().ensure_table(&table).ensure_set(&ports);
//! for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
//!     let chain = table.chain(name).hook(ChainType::Nat, hook, Priority::DSTNAT);
//!     batch = batch.ensure_chain(&chain).flush_chain(&chain).append_rule(&chain, rule.clone());
//! }
//! let element = Element::new([Value::Protocol(Protocol::TCP), Value::Port(8080)])
//!     .data([Value::Address("10.244.1.7".parse()?), Value::Port(80)])
//!     .comment("container 1");
//! let nftables = Socket::open()?;
//! nftables.commit(&batch.add_elements(&ports, [element]))?;
//!
//! // DEL of the container:
//! let mut gone = nftables.elements(&ports)?;
//! gone.retain(|element| element.comment.as_deref() == Some("container 1"));
//! nftables.delete_elements(&ports, &gone)?;
//! # Ok(())
//! # }
//! ```
//!
//! The kernel tracks connections: a changed mapping applies to new connections only. For UDP,
//! [`conntrack`](crate::netlink::conntrack) deletes the tracked ones.
//!
//! # What it does not do
//!
//! The module does not list tables and sets. It reads only the handle and the comment of a
//! rule, and whether the rule drops all packets, because kernel versions encode expressions
//! differently. A [digest](Rule::digest) in the comment identifies the rule. It supports neither the families
//! `arp` and `netdev` nor anonymous sets, timeouts of elements, and named objects.
//!
//! # Kernel
//!
//! Linux 5.2 or later for address translation in tables of the family `inet`, Linux 5.6 for
//! [intervals](Set::intervals) of concatenations. The kernel loads its modules if permitted:
//! `nf_tables`, and for the features that a batch uses `nft_chain_nat`, `nft_masq`, `nft_nat`,
//! `nft_redir`, `nft_ct`, `nft_fib_inet` and `nft_reject_inet`. All operations, also reads, need
//! `CAP_NET_ADMIN`. [nf_tables.h] describes the messages.
//!
//! [nft(8)]: https://man7.org/linux/man-pages/man8/nft.8.html
//! [nf_tables.h]: https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/include/uapi/linux/netfilter/nf_tables.h

mod action;
mod batch;
mod condition;
mod element;
mod error;
mod expression;
mod listing;
mod lookup;
mod message;
mod nat;
mod protocol;
mod raw;
mod rule;
mod set;
mod socket;
mod step;
mod table;
mod uapi;
mod value;

pub use action::{Action, PortRandomization, Verdict};
pub use batch::Batch;
pub use condition::{CtState, CtStatus, Match};
pub use element::Element;
#[cfg(any(test, fuzzing))]
pub(in crate::netlink) use element::elements;
pub use listing::BaseChain;
pub use protocol::{Protocol, UnknownProtocol};
pub use raw::Expression;
pub use rule::{Rule, RuleInfo};
pub use set::{Lookup, PacketField, Set};
pub use socket::Socket;
pub use table::{Chain, ChainType, Family, Hook, Policy, Priority, Table};
pub use value::{DataType, Value};
