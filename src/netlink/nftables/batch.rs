use neli::{consts::nl::NlmF, types::Buffer};

use super::{
    message::{message, nest, number},
    rule::Rule,
    table::{Chain, Table},
    uapi::*,
};
use crate::netlink::{
    attrs::Attrs,
    error::{EncodeError, Operation, Result},
};

/// An atomic set of changes: all are applied or none, and no packet sees only a part.
///
/// The steps run in the order of their addition. See
/// [`Socket::commit`](super::Socket::commit).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    pub(super) steps: Vec<Step>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    EnsureTable(Table),
    EnsureChain(Chain),
    FlushChain(Chain),
    AppendRule(Chain, Rule),
    DeleteTable(Table),
    DeleteEmptyTable(Table),
    DeleteChain(Chain),
}

/// `NLM_F_NONREC`: the deletion fails instead of deleting the content.
const NONREC: NlmF = NlmF::from_bits_retain(0x100);

impl Batch {
    /// An empty batch.
    #[must_use]
    pub const fn new() -> Self {
        Self { steps: Vec::new() }
    }

    /// Creates the table, unless it exists.
    #[must_use]
    pub fn ensure_table(self, table: &Table) -> Self {
        self.then(Step::EnsureTable(table.clone()))
    }

    /// Creates the chain, unless it exists. If a chain with another type, hook or priority exists,
    /// the batch fails with [`Error::Exists`](crate::netlink::Error::Exists).
    #[must_use]
    pub fn ensure_chain(self, chain: &Chain) -> Self {
        self.then(Step::EnsureChain(chain.clone()))
    }

    /// Deletes all rules of the chain.
    #[must_use]
    pub fn flush_chain(self, chain: &Chain) -> Self {
        self.then(Step::FlushChain(chain.clone()))
    }

    /// Appends the rule to the chain.
    #[must_use]
    pub fn append_rule(self, chain: &Chain, rule: Rule) -> Self {
        self.then(Step::AppendRule(chain.clone(), rule))
    }

    pub(super) fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

impl Step {
    pub(super) fn operation(&self) -> Operation {
        match self {
            Self::EnsureTable(table) => Operation::new("ensure the nftables table", table),
            Self::EnsureChain(chain) => Operation::new("ensure the nftables chain", chain),
            Self::FlushChain(chain) => Operation::new("flush the nftables chain", chain),
            Self::AppendRule(chain, _) => Operation::new("append a rule to the nftables chain", chain),
            Self::DeleteTable(table) | Self::DeleteEmptyTable(table) => {
                Operation::new("delete the nftables table", table)
            }
            Self::DeleteChain(chain) => Operation::new("delete the nftables chain", chain),
        }
    }

    pub(super) const fn kind(&self) -> u16 {
        match self {
            Self::EnsureTable(_) => NFT_MSG_NEWTABLE,
            Self::EnsureChain(_) => NFT_MSG_NEWCHAIN,
            Self::FlushChain(_) => NFT_MSG_DELRULE,
            Self::AppendRule(..) => NFT_MSG_NEWRULE,
            Self::DeleteTable(_) | Self::DeleteEmptyTable(_) => NFT_MSG_DELTABLE,
            Self::DeleteChain(_) => NFT_MSG_DELCHAIN,
        }
    }

    pub(super) fn flags(&self) -> NlmF {
        match self {
            Self::EnsureTable(_) | Self::EnsureChain(_) => NlmF::CREATE,
            Self::AppendRule(..) => NlmF::CREATE | NlmF::APPEND,
            Self::DeleteEmptyTable(_) => NONREC,
            Self::FlushChain(_) | Self::DeleteTable(_) | Self::DeleteChain(_) => NlmF::empty(),
        }
    }

    /// The kernel module that is missing if the kernel returns ENOENT.
    pub(super) fn module(&self) -> Option<&'static str> {
        match self {
            Self::EnsureChain(chain) => chain.base?.kind.module(),
            Self::AppendRule(_, rule) => rule.module(),
            _ => None,
        }
    }

    pub(super) fn message(&self) -> Result<Buffer, EncodeError> {
        match self {
            Self::EnsureTable(table) | Self::DeleteTable(table) | Self::DeleteEmptyTable(table) => {
                message(table.family.number(), Attrs::new().put(NFTA_TABLE_NAME, table.name.as_str())?)
            }
            Self::EnsureChain(chain) => message(chain.table.family.number(), whole_chain(chain)?),
            Self::DeleteChain(chain) => message(chain.table.family.number(), chain_name(chain)?),
            Self::FlushChain(chain) => message(chain.table.family.number(), rules_of(chain)?),
            Self::AppendRule(chain, rule) => {
                let family = chain.table.family;
                let expressions = rule.expressions(family)?.into_attrs();
                let attrs = nest(rules_of(chain)?, NFTA_RULE_EXPRESSIONS, expressions)?;
                message(family.number(), attrs.put_some(NFTA_RULE_USERDATA, rule.user_data().as_deref())?)
            }
        }
    }
}

/// The attributes that identify the rules of a chain.
pub(super) fn rules_of(chain: &Chain) -> Result<Attrs<u16>, EncodeError> {
    let table = Attrs::new().put(NFTA_RULE_TABLE, chain.table.name.as_str())?;
    table.put(NFTA_RULE_CHAIN, chain.name.as_str())
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
    nest(attrs, NFTA_CHAIN_HOOK, hook)?.put(NFTA_CHAIN_TYPE, base.kind.name())
}
