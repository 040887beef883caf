//! The changes of a batch as messages.

use neli::{consts::nl::NlmF, types::Buffer};

use super::{
    element::{Element, element_list, elements_of},
    error::Invalid,
    message::{message, nest, number},
    rule::Rule,
    set::Set,
    table::{Chain, Table},
    uapi::*,
};
use crate::netlink::{
    error::Result,
    operation::{EncodeError, Operation},
    wire::Attrs,
};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    EnsureTable(Table),
    EnsureChain(Chain),
    EnsureSet(Set),
    FlushChain(Chain),
    FlushSet(Set),
    AddRule(Chain, Rule, Place),
    AddElements(Set, Vec<Element>),
    DeleteTable(Table),
    DeleteEmptyTable(Table),
    DeleteChain(Chain),
    DeleteSet(Set),
    DeleteRule(Chain, u64),
    DeleteElements(Set, Vec<Element>),
}

/// The place of a new rule in its chain. A number is the handle of another rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    First,
    Last,
    Before(u64),
    InsteadOf(u64),
}

/// `NLM_F_NONREC`: the deletion fails instead of deleting the content.
const NONREC: NlmF = NlmF::from_bits_retain(0x100);

impl Step {
    pub(super) fn operation(&self) -> Operation {
        match self {
            Self::EnsureTable(table) => Operation::new("ensure the nftables table", table),
            Self::EnsureChain(chain) => Operation::new("ensure the nftables chain", chain),
            Self::EnsureSet(set) => Operation::new("ensure the nftables set", set),
            Self::FlushChain(chain) => Operation::new("flush the nftables chain", chain),
            Self::FlushSet(set) => Operation::new("flush the nftables set", set),
            Self::AddRule(chain, _, Place::Last) => Operation::new("append a rule to the nftables chain", chain),
            Self::AddRule(chain, _, Place::First) => Operation::new("insert a rule into the nftables chain", chain),
            Self::AddRule(chain, _, Place::Before(handle)) => {
                Operation::new("insert a rule before rule", format_args!("{handle} of the nftables chain {chain}"))
            }
            Self::AddRule(chain, _, Place::InsteadOf(handle)) => {
                Operation::new("replace rule", format_args!("{handle} of the nftables chain {chain}"))
            }
            Self::AddElements(set, _) => Operation::new("add elements to the nftables set", set),
            Self::DeleteTable(table) | Self::DeleteEmptyTable(table) => {
                Operation::new("delete the nftables table", table)
            }
            Self::DeleteChain(chain) => Operation::new("delete the nftables chain", chain),
            Self::DeleteSet(set) => Operation::new("delete the nftables set", set),
            Self::DeleteRule(chain, handle) => {
                Operation::new("delete rule", format_args!("{handle} of the nftables chain {chain}"))
            }
            Self::DeleteElements(set, _) => Operation::new("delete elements of the nftables set", set),
        }
    }

    pub(super) const fn kind(&self) -> u16 {
        match self {
            Self::EnsureTable(_) => NFT_MSG_NEWTABLE,
            Self::EnsureChain(_) => NFT_MSG_NEWCHAIN,
            Self::EnsureSet(_) => NFT_MSG_NEWSET,
            Self::FlushChain(_) | Self::DeleteRule(..) => NFT_MSG_DELRULE,
            Self::FlushSet(_) | Self::DeleteElements(..) => NFT_MSG_DELSETELEM,
            Self::AddRule(..) => NFT_MSG_NEWRULE,
            Self::AddElements(..) => NFT_MSG_NEWSETELEM,
            Self::DeleteTable(_) | Self::DeleteEmptyTable(_) => NFT_MSG_DELTABLE,
            Self::DeleteChain(_) => NFT_MSG_DELCHAIN,
            Self::DeleteSet(_) => NFT_MSG_DELSET,
        }
    }

    pub(super) fn flags(&self) -> NlmF {
        match self {
            Self::EnsureTable(_) | Self::EnsureChain(_) | Self::EnsureSet(_) | Self::AddElements(..) => NlmF::CREATE,
            Self::AddRule(_, _, Place::Last) => NlmF::CREATE | NlmF::APPEND,
            Self::AddRule(_, _, Place::First | Place::Before(_)) => NlmF::CREATE,
            Self::AddRule(_, _, Place::InsteadOf(_)) => NlmF::REPLACE,
            Self::DeleteEmptyTable(_) => NONREC,
            Self::FlushChain(_)
            | Self::FlushSet(_)
            | Self::DeleteTable(_)
            | Self::DeleteChain(_)
            | Self::DeleteSet(_)
            | Self::DeleteRule(..)
            | Self::DeleteElements(..) => NlmF::empty(),
        }
    }

    /// The kernel module that is missing if the kernel returns ENOENT.
    pub(super) fn module(&self) -> Option<&'static str> {
        match self {
            Self::EnsureChain(chain) => chain.base?.kind.module(),
            Self::AddRule(_, rule, Place::First | Place::Last) => rule.module(),
            _ => None,
        }
    }

    pub(super) fn message(&self) -> Result<Buffer, EncodeError> {
        match self {
            Self::EnsureTable(table) | Self::DeleteTable(table) | Self::DeleteEmptyTable(table) => {
                message(table.family.number(), Attrs::new().put(NFTA_TABLE_NAME, table.name.as_str())?)
            }
            Self::EnsureChain(chain) => in_table(&chain.table, whole_chain(chain)?),
            Self::DeleteChain(chain) => in_table(&chain.table, chain_name(chain)?),
            Self::FlushChain(chain) => in_table(&chain.table, rules_of(chain)?),
            Self::AddRule(chain, rule, place) => in_table(&chain.table, whole_rule(chain, rule, *place)?),
            Self::DeleteRule(chain, handle) => in_table(&chain.table, rule_name(chain, *handle)?),
            Self::EnsureSet(set) => in_table(&set.table, set.attrs()?),
            Self::DeleteSet(set) => in_table(&set.table, set.name_attrs()?),
            Self::FlushSet(set) => in_table(&set.table, elements_of(set)?),
            Self::AddElements(set, elements) => in_table(&set.table, element_list(set, elements, false)?),
            Self::DeleteElements(set, elements) => in_table(&set.table, element_list(set, elements, true)?),
        }
    }
}

fn in_table(table: &Table, attrs: Attrs<u16>) -> Result<Buffer, EncodeError> {
    message(table.family.number(), attrs)
}

/// The attributes that identify the rules of a chain.
pub(super) fn rules_of(chain: &Chain) -> Result<Attrs<u16>, EncodeError> {
    let table = Attrs::new().put(NFTA_RULE_TABLE, chain.table.name.as_str())?;
    table.put(NFTA_RULE_CHAIN, chain.name.as_str())
}

fn rule_name(chain: &Chain, handle: u64) -> Result<Attrs<u16>, EncodeError> {
    rules_of(chain)?.put(NFTA_RULE_HANDLE, &handle.to_be_bytes()[..])
}

fn whole_rule(chain: &Chain, rule: &Rule, place: Place) -> Result<Attrs<u16>, EncodeError> {
    if rule.references().any(|table| *table != chain.table) {
        return Err(Invalid::OtherTable("chain or set of the rule").into());
    }
    let attrs = match place {
        Place::First | Place::Last => rules_of(chain)?,
        Place::Before(handle) => rules_of(chain)?.put(NFTA_RULE_POSITION, &handle.to_be_bytes()[..])?,
        Place::InsteadOf(handle) => rule_name(chain, handle)?,
    };
    let expressions = rule.expressions(chain.table.family)?.into_attrs();
    let attrs = nest(attrs, NFTA_RULE_EXPRESSIONS, expressions)?;
    attrs.put_some(NFTA_RULE_USERDATA, rule.user_data().as_deref())
}

fn chain_name(chain: &Chain) -> Result<Attrs<u16>, EncodeError> {
    let table = Attrs::new().put(NFTA_CHAIN_TABLE, chain.table.name.as_str())?;
    table.put(NFTA_CHAIN_NAME, chain.name.as_str())
}

fn whole_chain(chain: &Chain) -> Result<Attrs<u16>, EncodeError> {
    let attrs = chain_name(chain)?;
    let Some(base) = chain.base else {
        return Ok(attrs);
    };
    let hook = number(Attrs::new(), NFTA_HOOK_HOOKNUM, base.hook.number())?;
    let hook = number(hook, NFTA_HOOK_PRIORITY, base.priority.0.cast_unsigned())?;
    let attrs = nest(attrs, NFTA_CHAIN_HOOK, hook)?.put(NFTA_CHAIN_TYPE, base.kind.name())?;
    match chain.policy {
        Some(policy) => number(attrs, NFTA_CHAIN_POLICY, policy.number()),
        None => Ok(attrs),
    }
}
