use neli::{
    consts::{nl::NlmF, socket::NlFamily},
    types::Buffer,
};
use rustix::{io::Errno, net::sockopt::set_socket_send_buffer_size_force};

use super::{
    batch::Batch,
    element::{Element, elements, elements_of},
    message::{delimiter, message, truncated},
    rule::RuleInfo,
    set::Set,
    step::{Step, rules_of},
    table::{Chain, Table},
    uapi::{NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETSETELEM},
};
use crate::netlink::{
    error::{Error, Result},
    operation::Operation,
    socket::{self, encode},
    wire::Attrs,
};

/// The size of batches in bytes that fits the send buffer of all hosts.
const DEFAULT_SEND_BUFFER: usize = 64 * 1024;

/// The module that provides nf_tables.
const NF_TABLES: &str = "nf_tables";

/// A netfilter netlink socket.
///
/// The socket works in the namespace where it was opened.
/// [`Netns::run`](crate::netlink::Netns::run) opens one elsewhere.
#[doc(alias = "NETLINK_NETFILTER")]
#[derive(Debug)]
pub struct Socket {
    netlink: socket::Socket,
}

impl Socket {
    /// Opens a socket in the namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the kernel has no netfilter netlink, [`Error::Socket`] if the
    /// socket cannot be opened.
    pub fn open() -> Result<Self> {
        let operation = Operation::new("open", "a netfilter netlink socket");
        match socket::Socket::connect(&operation, NlFamily::Netfilter) {
            Err(error) if error.is(Errno::PROTONOSUPPORT) => Err(operation.unsupported(NF_TABLES)),
            socket => Ok(Self { netlink: socket? }),
        }
    }

    /// Applies all changes of the batch, or none.
    ///
    /// # Errors
    ///
    /// The error of the first step that the kernel refused. [`Error::Unsupported`] if the kernel
    /// has no nf_tables, or no module for a chain type, a condition or an action. The kernel
    /// answers the same if the chain of a rule or the table of a chain is missing, so
    /// [ensure](Batch::ensure_table) both first. [`Error::Exists`] if a different chain, set or
    /// element exists. [`Error::Message`] if an element or a lookup does not fit its set.
    /// [`Error::Kernel`] otherwise: `EPERM` without `CAP_NET_ADMIN`, `ERANGE` for a name that is
    /// too long. `EOPNOTSUPP` for an action or a chain type that is invalid at the chain's hook.
    pub fn commit(&self, batch: &Batch) -> Result<()> {
        self.transact(batch, true)
    }

    /// Lets the kernel validate the batch without applying it. The kernel loads the modules that
    /// the batch needs. Only [`Socket::commit`] checks whether an action is valid at a chain's
    /// hook.
    ///
    /// # Errors
    ///
    /// As for [`Socket::commit`].
    pub fn check(&self, batch: &Batch) -> Result<()> {
        // The kernel rolls back a batch without an end message.
        self.transact(batch, false)
    }

    /// The rules of a chain, in their order; empty if the chain does not exist.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the kernel has no nf_tables, [`Error::Kernel`] with `EPERM`
    /// without `CAP_NET_ADMIN`.
    #[doc(alias = "NFT_MSG_GETRULE")]
    pub fn rules(&self, chain: &Chain) -> Result<Vec<RuleInfo>> {
        let operation = Operation::new("list the rules of the nftables chain", chain);
        let request = || message(chain.table.family.number(), rules_of(chain)?);
        match self.netlink.dump::<_, Buffer>(&operation, NFT_MSG_GETRULE, request) {
            Err(error) if error.is(Errno::INVAL) => Err(operation.unsupported(NF_TABLES)),
            rules => Ok(rules?.iter().map(|message| RuleInfo::decode(message.as_ref())).collect()),
        }
    }

    /// The names of the chains of a table; empty if the table does not exist. A plugin with a chain
    /// for each container finds leftover chains by their names.
    ///
    /// # Errors
    ///
    /// As for [`Socket::rules`].
    #[doc(alias = "NFT_MSG_GETCHAIN")]
    pub fn chains(&self, table: &Table) -> Result<Vec<String>> {
        let operation = Operation::new("list the chains of the nftables table", table);
        let request = || message(table.family.number(), Attrs::new());
        match self.netlink.dump::<_, Buffer>(&operation, NFT_MSG_GETCHAIN, request) {
            Err(error) if error.is(Errno::INVAL) => Err(operation.unsupported(NF_TABLES)),
            messages => Ok(messages?.iter().filter_map(|message| Chain::name_in(table, message.as_ref())).collect()),
        }
    }

    /// The elements of a set or map, in any order; empty if the set does not exist. Prefixes and
    /// ranges have their shortest form: a prefix of one address is that address.
    ///
    /// # Errors
    ///
    /// As for [`Socket::rules`].
    #[doc(alias = "NFT_MSG_GETSETELEM")]
    pub fn elements(&self, set: &Set) -> Result<Vec<Element>> {
        let operation = Operation::new("list the elements of the nftables set", set);
        let request = || message(set.table.family.number(), elements_of(set)?);
        match self.netlink.dump::<_, Buffer>(&operation, NFT_MSG_GETSETELEM, request) {
            Err(error) if error.is(Errno::INVAL) => Err(operation.unsupported(NF_TABLES)),
            Err(error) if error.is(Errno::NOENT) => Ok(Vec::new()),
            messages => Ok(elements(set, messages?.iter().map(|message| message.as_ref()))),
        }
    }

    /// Deletes those elements of a set or map that have the key of one of `gone`.
    ///
    /// # Errors
    ///
    /// As for [`Socket::commit`]. `ENOENT` if other programs delete the same elements at the same
    /// time, repeatedly.
    pub fn delete_elements(&self, set: &Set, gone: &[Element]) -> Result<()> {
        let operation = Operation::new("delete elements of the nftables set", set);
        let bounds = |element: &Element| element.bounds(set).map_err(|error| operation.malformed(error));
        let gone = gone.iter().map(bounds).collect::<Result<Vec<_>>>()?;
        self.retry_absent(|| {
            let found = self.elements(set)?;
            let found = found.into_iter().filter(|found| found.bounds(set).is_ok_and(|key| gone.contains(&key)));
            self.commit(&Batch::new().delete_elements(set, found))
        })
    }

    /// Deletes the rule with this handle. Succeeds if the rule or its chain is absent.
    ///
    /// # Errors
    ///
    /// As for [`Socket::commit`].
    #[doc(alias = "NFT_MSG_DELRULE")]
    pub fn delete_rule(&self, chain: &Chain, handle: u64) -> Result<()> {
        self.delete(Step::DeleteRule(chain.clone(), handle))
    }

    /// Deletes all rules of the chain that have this comment. Succeeds if there are none.
    ///
    /// A comment is truncated as by [`Rule::comment`](super::Rule::comment), so two comments with
    /// the same first 127 bytes are equal.
    ///
    /// # Errors
    ///
    /// As for [`Socket::commit`]. `ENOENT` if other programs delete the same rules at the same
    /// time, repeatedly.
    pub fn delete_rules_with(&self, chain: &Chain, comment: &str) -> Result<()> {
        let comment = truncated(comment.to_owned());
        self.retry_absent(|| {
            let rules = self.rules(chain)?;
            let gone = rules.iter().filter(|rule| rule.comment.as_ref() == Some(&comment));
            self.commit(&gone.fold(Batch::new(), |batch, rule| batch.delete_rule(chain, rule.handle)))
        })
    }

    /// Deletes a set or map with its elements. Succeeds if the set is absent.
    ///
    /// # Errors
    ///
    /// As for [`Socket::commit`]; `EBUSY` if rules refer to it.
    #[doc(alias = "NFT_MSG_DELSET")]
    pub fn delete_set(&self, set: &Set) -> Result<()> {
        self.delete(Step::DeleteSet(set.clone()))
    }

    /// Deletes a table with its content. Succeeds if the table is absent.
    ///
    /// # Errors
    ///
    /// As for [`Socket::commit`].
    #[doc(alias = "NFT_MSG_DELTABLE")]
    pub fn delete_table(&self, table: &Table) -> Result<()> {
        self.delete(Step::DeleteTable(table.clone()))
    }

    /// Deletes a table if it is empty. Returns whether the table is gone.
    ///
    /// # Errors
    ///
    /// As for [`Socket::commit`].
    pub fn delete_empty_table(&self, table: &Table) -> Result<bool> {
        match self.delete(Step::DeleteEmptyTable(table.clone())) {
            Err(error) if error.is(Errno::BUSY) => Ok(false),
            deleted => deleted.map(|()| true),
        }
    }

    /// Deletes a chain with its rules. Succeeds if the chain is absent.
    ///
    /// # Errors
    ///
    /// As for [`Socket::commit`]; `EBUSY` if rules of other chains jump to it.
    #[doc(alias = "NFT_MSG_DELCHAIN")]
    pub fn delete_chain(&self, chain: &Chain) -> Result<()> {
        self.delete(Step::DeleteChain(chain.clone()))
    }

    fn delete(&self, step: Step) -> Result<()> {
        match self.commit(&Batch::new().then(step)) {
            Err(error) if error.is(Errno::NOENT) => Ok(()),
            deleted => deleted,
        }
    }

    /// Repeats a deletion of listed objects if one of them was deleted since.
    fn retry_absent(&self, delete: impl Fn() -> Result<()>) -> Result<()> {
        const RETRIES: u32 = 8;
        for _ in 0..RETRIES {
            match delete() {
                Err(error) if error.is(Errno::NOENT) => (),
                deleted => return deleted,
            }
        }
        delete()
    }

    fn transact(&self, batch: &Batch, is_final: bool) -> Result<()> {
        let numbered = |step: &Step| (step.operation(), self.netlink.next_sequence());
        let exchanges: Vec<_> = batch.steps.iter().map(numbered).collect();
        let Some(((first, begin), (last, end))) = exchanges.first().zip(exchanges.last()) else {
            return Ok(());
        };
        // The kernel reports an error of the whole batch for its begin message. The begin message
        // has the sequence number of the first step, so that the error is received.
        let mut requests = delimit(first, *begin, NFNL_MSG_BATCH_BEGIN)?;
        for (step, (operation, sequence)) in batch.steps.iter().zip(&exchanges) {
            // One acknowledgement for each step would overflow the socket's buffer for large
            // batches.
            let ack = if sequence == end { NlmF::ACK } else { NlmF::empty() };
            requests.extend(encode(operation, *sequence, step.kind(), step.flags() | ack, step.message())?);
        }
        if is_final {
            requests.extend(delimit(last, self.netlink.next_sequence(), NFNL_MSG_BATCH_END)?);
        }
        if requests.len() > DEFAULT_SEND_BUFFER {
            // Needs a capability in the initial user namespace. Without it, the send fails.
            let _ = set_socket_send_buffer_size_force(self.netlink.fd(), requests.len());
        }
        self.netlink.send_encoded(first, &requests)?;
        self.netlink
            .wait_acks(&exchanges)
            .map_err(|(index, error)| explain(error, &batch.steps[index], &exchanges[index].0))
    }
}

fn delimit(operation: &Operation, sequence: u32, kind: u16) -> Result<Vec<u8>> {
    encode(operation, sequence, kind, NlmF::empty(), Ok(delimiter()))
}

/// For a missing module, the kernel returns only ENOENT or EOPNOTSUPP.
fn explain(error: Error, step: &Step, operation: &Operation) -> Error {
    match (step, step.module()) {
        (_, Some(module)) if error.is(Errno::NOENT) => operation.unsupported(module),
        // The kernel returns the same for a type that is invalid at the hook.
        (Step::EnsureChain(chain), _) if error.is(Errno::OPNOTSUPP) && !chain.is_possible() => error,
        // Newer kernels return this instead of EEXIST.
        (Step::EnsureChain(_), _) if error.is(Errno::OPNOTSUPP) => operation.exists(),
        // The key of a map has another value, or intervals overlap.
        (Step::AddElements(..), _) if error.is(Errno::BUSY) || error.is(Errno::NOTEMPTY) => operation.exists(),
        (Step::EnsureTable(_) | Step::DeleteTable(_) | Step::DeleteEmptyTable(_) | Step::DeleteChain(_), _)
            if error.is(Errno::OPNOTSUPP) =>
        {
            operation.unsupported(NF_TABLES)
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        netlink::nftables::{Action, ChainType, Family, Hook, PortRandomization, Priority, Rule, step::Place},
        spec::{ErrorCode, HasErrorCode as _},
    };

    /// The error of this step, after `explain`.
    #[track_caller]
    fn explained(step: Step, errno: Errno) -> Error {
        let operation = step.operation();
        explain(operation.refused(-errno.raw_os_error(), None), &step, &operation)
    }

    #[test]
    fn missing_modules_are_named() {
        let table = Table::new(Family::Inet, "mine");
        let nat = table.chain("nat").hook(ChainType::Nat, Hook::Postrouting, Priority::SRCNAT);
        let masquerade = Rule::new(Action::Masquerade(PortRandomization::Kept));
        let append = |chain: &Chain, rule| Step::AddRule(chain.clone(), rule, Place::Last);
        for (step, errno, module) in [
            (Step::EnsureTable(table.clone()), Errno::OPNOTSUPP, "nf_tables"),
            (Step::EnsureChain(nat.clone()), Errno::NOENT, "nft_chain_nat"),
            (append(&nat, masquerade.clone()), Errno::NOENT, "nft_masq"),
        ] {
            let error = explained(step, errno);
            assert_eq!(error.code(), ErrorCode::PLUGIN_NOT_AVAILABLE);
            assert!(error.to_string().contains(module), "{error}");
        }
        for (step, errno) in [
            (Step::EnsureTable(table.clone()), Errno::PERM),
            (Step::DeleteTable(table), Errno::NOENT),
            (append(&nat, Rule::new(Action::Drop)), Errno::NOENT),
            (append(&nat, masquerade), Errno::OPNOTSUPP),
        ] {
            assert!(explained(step, errno).is(errno), "an error without a missing module");
        }
    }
}
