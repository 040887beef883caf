//! Packet filter and address translation: tables, chains and rules of [nft(8)], without running
//! `nft`.
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
//!     .matching(Match::source(pods))
//!     .matching(!Match::output_link("cbr0".parse()?));
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
//! # What it does not do
//!
//! The module does not list tables. It reads only the comment of a rule, because kernel versions
//! encode the expressions of a rule differently. It supports neither sets nor named objects.
//!
//! # Kernel
//!
//! Linux 5.2 or later for address translation in tables of the family `inet`. The kernel loads its
//! modules if permitted: `nf_tables`, `nft_chain_nat` and `nft_masq`. All operations, also reads,
//! need `CAP_NET_ADMIN`. [nf_tables.h] describes the messages.
//!
//! [nft(8)]: https://man7.org/linux/man-pages/man8/nft.8.html
//! [nf_tables.h]: https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/include/uapi/linux/netfilter/nf_tables.h

mod action;
mod batch;
mod condition;
mod element;
mod error;
mod expression;
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
pub use protocol::{Protocol, UnknownProtocol};
pub use raw::Expression;
pub use rule::{Rule, RuleInfo};
pub use set::{Lookup, PacketField, Set};
pub use socket::Socket;
pub use table::{Chain, ChainType, Family, Hook, Policy, Priority, Table};
pub use value::{DataType, Value};
