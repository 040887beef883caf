//! The changes of a batch as messages.

use std::fmt::Display;

use neli::{consts::nl::NlmF, types::Buffer};
use rustix::io::Errno;

use super::{
    error::Invalid,
    message::{message, nest, number},
    rule::Rule,
    table::{Chain, Table},
    uapi::*,
};
use crate::netlink::{
    error::{Error, Result},
    operation::{EncodeError, Operation},
    wire::Attrs,
};

/// The module that provides nf_tables.
pub(super) const NF_TABLES: &str = "nf_tables";

/// One change: its message, and the meaning of the kernel's errors.
///
/// The functions of a batch encode it. A program thus contains only the encoders of the changes
/// that it makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    name: &'static str,
    object: String,
    pub(super) kind: u16,
    pub(super) flags: NlmF,
    /// The encoded message, or the reason why it cannot be encoded.
    message: Result<Vec<u8>, String>,
    /// The kernel module that is missing if the kernel returns `ENOENT`.
    module: Option<&'static str>,
    refusal: Refusal,
}

/// The meaning of an error number that the kernel returns for a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// The number itself.
    Plain,
    /// `EOPNOTSUPP`: the kernel has no nf_tables.
    NoTables,
    /// `EOPNOTSUPP`: another chain has the name.
    OtherChain,
    /// `EBUSY` and `ENOTEMPTY`: the key of a map has another value, or intervals overlap.
    OtherElement,
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

/// A message that cannot be encoded.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unencodable(String);

impl Step {
    /// A change of an object in a table.
    pub(super) fn new(
        name: &'static str,
        object: &dyn Display,
        kind: u16,
        table: &Table,
        attrs: Result<Attrs<u16>, EncodeError>,
    ) -> Self {
        let encoded = attrs.and_then(|attrs| message(table.family.number(), attrs));
        Self {
            name,
            object: object.to_string(),
            kind,
            flags: NlmF::empty(),
            message: encoded.map(|buffer| buffer.as_ref().to_vec()).map_err(|error| error.to_string()),
            module: None,
            refusal: Refusal::Plain,
        }
    }

    pub(super) const fn flags(mut self, flags: NlmF) -> Self {
        self.flags = flags;
        self
    }

    pub(super) fn ensure_table(table: &Table) -> Self {
        let step = Self::of_table("ensure the nftables table", NFT_MSG_NEWTABLE, table);
        step.flags(NlmF::CREATE)
    }

    pub(super) fn delete_table(table: &Table) -> Self {
        Self::of_table("delete the nftables table", NFT_MSG_DELTABLE, table)
    }

    pub(super) fn delete_empty_table(table: &Table) -> Self {
        Self::delete_table(table).flags(NONREC)
    }

    fn of_table(name: &'static str, kind: u16, table: &Table) -> Self {
        let attrs = Attrs::new().put(NFTA_TABLE_NAME, table.name.as_str());
        Self { refusal: Refusal::NoTables, ..Self::new(name, table, kind, table, attrs) }
    }

    pub(super) fn ensure_chain(chain: &Chain) -> Self {
        let step = Self::new("ensure the nftables chain", chain, NFT_MSG_NEWCHAIN, &chain.table, whole_chain(chain));
        // For a type that is invalid at the hook, the kernel returns the same number.
        let refusal = if chain.is_possible() { Refusal::OtherChain } else { Refusal::Plain };
        Self { refusal, module: chain.base.and_then(|base| base.kind.module()), ..step.flags(NlmF::CREATE) }
    }

    pub(super) fn delete_chain(chain: &Chain) -> Self {
        let step = Self::new("delete the nftables chain", chain, NFT_MSG_DELCHAIN, &chain.table, chain_name(chain));
        Self { refusal: Refusal::NoTables, ..step }
    }

    pub(super) fn flush_chain(chain: &Chain) -> Self {
        Self::new("flush the nftables chain", chain, NFT_MSG_DELRULE, &chain.table, rules_of(chain))
    }

    pub(super) fn add_rule(chain: &Chain, rule: &Rule, place: Place) -> Self {
        let (name, object, flags) = match place {
            Place::Last => ("append a rule to the nftables chain", chain.to_string(), NlmF::CREATE.union(NlmF::APPEND)),
            Place::First => ("insert a rule into the nftables chain", chain.to_string(), NlmF::CREATE),
            Place::Before(handle) => {
                ("insert a rule before rule", format!("{handle} of the nftables chain {chain}"), NlmF::CREATE)
            }
            Place::InsteadOf(handle) => {
                ("replace rule", format!("{handle} of the nftables chain {chain}"), NlmF::REPLACE)
            }
        };
        let step = Self::new(name, &object, NFT_MSG_NEWRULE, &chain.table, whole_rule(chain, rule, place));
        // For a missing rule, the kernel returns the same number as for a missing module.
        let module = rule.module().filter(|_| matches!(place, Place::First | Place::Last));
        Self { module, ..step.flags(flags) }
    }

    pub(super) fn delete_rule(chain: &Chain, handle: u64) -> Self {
        let object = format!("{handle} of the nftables chain {chain}");
        Self::new("delete rule", &object, NFT_MSG_DELRULE, &chain.table, rule_name(chain, handle))
    }

    /// `EBUSY` and `ENOTEMPTY` mean that another element exists.
    pub(super) const fn of_elements(mut self) -> Self {
        self.refusal = Refusal::OtherElement;
        self
    }

    pub(super) fn operation(&self) -> Operation {
        Operation::new(self.name, &self.object)
    }

    pub(super) fn message(&self) -> Result<Buffer, EncodeError> {
        match &self.message {
            Ok(bytes) => Ok(Buffer::from(bytes.clone())),
            Err(reason) => Err(EncodeError::new(Unencodable(reason.clone()))),
        }
    }

    /// The meaning of an error of this step. For a missing module, the kernel returns only `ENOENT`
    /// or `EOPNOTSUPP`.
    pub(super) fn explain(&self, error: Error) -> Error {
        let operation = self.operation();
        let is = |errno| error.is(errno);
        match (self.refusal, self.module) {
            (_, Some(module)) if is(Errno::NOENT) => operation.unsupported(module),
            // Newer kernels return this instead of EEXIST.
            (Refusal::OtherChain, _) if is(Errno::OPNOTSUPP) => operation.exists(),
            (Refusal::OtherElement, _) if is(Errno::BUSY) || is(Errno::NOTEMPTY) => operation.exists(),
            (Refusal::NoTables, _) if is(Errno::OPNOTSUPP) => operation.unsupported(NF_TABLES),
            _ => error,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        netlink::nftables::{Action, ChainType, Family, Hook, PortRandomization, Priority},
        spec::{ErrorCode, HasErrorCode as _},
    };

    /// The error of this step, after `explain`.
    #[track_caller]
    fn explained(step: &Step, errno: Errno) -> Error {
        step.explain(step.operation().refused(-errno.raw_os_error(), None))
    }

    #[test]
    fn missing_modules_are_named() {
        let table = Table::new(Family::Inet, "mine");
        let nat = table.chain("nat").hook(ChainType::Nat, Hook::Postrouting, Priority::SRCNAT);
        let masquerade = Rule::new(Action::Masquerade(PortRandomization::Kept));
        let append = |rule| Step::add_rule(&nat, rule, Place::Last);
        for (step, errno, module) in [
            (Step::ensure_table(&table), Errno::OPNOTSUPP, "nf_tables"),
            (Step::ensure_chain(&nat), Errno::NOENT, "nft_chain_nat"),
            (append(&masquerade), Errno::NOENT, "nft_masq"),
        ] {
            let error = explained(&step, errno);
            assert_eq!(error.code(), ErrorCode::PLUGIN_NOT_AVAILABLE);
            assert!(error.to_string().contains(module), "{error}");
        }
        for (step, errno) in [
            (Step::ensure_table(&table), Errno::PERM),
            (Step::delete_table(&table), Errno::NOENT),
            (append(&Rule::new(Action::Drop)), Errno::NOENT),
            (append(&masquerade), Errno::OPNOTSUPP),
        ] {
            assert!(explained(&step, errno).is(errno), "an error without a missing module");
        }
    }
}
