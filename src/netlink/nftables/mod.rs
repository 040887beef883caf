//! Packet filter and address translation: tables, chains and rules of [nft(8)], without running it.
//!
//! A [`Batch`] of changes is made as a whole or not at all, and [`Socket::rules`] sees what is there. A plugin that keeps
//! a few rules for each network looks at their comments with each ADD (0.03 ms), and repairs what is missing:
//!
//! ```no_run
//! use cnikit::netlink::nftables::{
//!     Action, Batch, ChainType, Family, Hook, Match, Ports, Priority, Rule, Socket, Table,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pods = "10.244.1.0/24".parse()?;
//! let rule = Rule::new(Action::Masquerade(Ports::FullyRandom))
//!     .when(Match::source(pods))
//!     .when(!Match::output_link("cbr0".parse()?));
//! let comment = format!("pods of mynet, {}", rule.digest()?);
//!
//! let table = Table::new(Family::Inet, "my-plugin");
//! let chain = table.chain("masquerade-mynet").on(ChainType::Nat, Hook::Postrouting, Priority::SRCNAT);
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
//! It does not list tables, and of a rule it reads no more than the comment: what a rule does is spelt differently by
//! kernels of different versions. It knows no sets and no named objects.
//!
//! # Kernel
//!
//! Linux 5.2 or later for translation in tables of the family `inet`. Modules are loaded by the kernel where it may:
//! `nf_tables`, `nft_chain_nat` and `nft_masq`. All verbs, looking included, need `CAP_NET_ADMIN`. The messages are
//! described by [nf_tables.h].
//!
//! [nft(8)]: https://man7.org/linux/man-pages/man8/nft.8.html
//! [nf_tables.h]: https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/include/uapi/linux/netfilter/nf_tables.h

mod batch;
mod expression;
mod message;
mod rule;
mod socket;
mod table;
mod uapi;

#[cfg(any(test, fuzzing))]
pub(in crate::netlink) use message::rule as read_rule;

pub use batch::Batch;
pub use rule::{Action, Match, PortRandomization, Rule, RuleInfo};
pub use socket::Socket;
pub use table::{Chain, ChainType, Family, Hook, Priority, Table};
