use neli::{
    consts::{nl::NlmF, socket::NlFamily},
    types::Buffer,
};
use rustix::{io::Errno, net::sockopt::set_socket_send_buffer_size_force};

use super::{
    batch::{Batch, delete_set},
    element::{Element, elements, elements_of},
    listing::BaseChain,
    message::{delimiter, message, truncated},
    rule::RuleInfo,
    set::Set,
    step::{NF_TABLES, Step, rules_of},
    table::{Chain, Table},
    uapi::{
        NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NFPROTO_UNSPEC, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETSETELEM,
    },
};
use crate::netlink::{
    error::Result,
    operation::Operation,
    socket::{self, encode},
    wire::Attrs,
};

/// The size of batches in bytes that fits the send buffer of all hosts.
const DEFAULT_SEND_BUFFER: usize = 64 * 1024;

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
    /// [`Error::Unsupported`](crate::netlink::Error::Unsupported) if the kernel has no netfilter
    /// netlink, [`Error::Socket`](crate::netlink::Error::Socket) if the socket cannot be opened.
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
    /// The error of the first step that the kernel refused.
    /// [`Error::Unsupported`](crate::netlink::Error::Unsupported) if the kernel has no nf_tables,
    /// or no module for a chain type, a condition or an action. The kernel answers the same if the
    /// chain of a rule or the table of a chain is missing, so [ensure](Batch::ensure_table) both
    /// first. [`Error::Exists`](crate::netlink::Error::Exists) if a different chain, set or element
    /// exists. [`Error::Message`](crate::netlink::Error::Message) if an element or a lookup does
    /// not fit its set. [`Error::Kernel`](crate::netlink::Error::Kernel) otherwise: `EPERM` without
    /// `CAP_NET_ADMIN`, `ERANGE` for a name that is too long. `EOPNOTSUPP` for an action or a chain
    /// type that is invalid at the chain's hook.
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
    /// [`Error::Unsupported`](crate::netlink::Error::Unsupported) if the kernel has no nf_tables,
    /// [`Error::Kernel`](crate::netlink::Error::Kernel) with `EPERM` without `CAP_NET_ADMIN`.
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

    /// The base chains of all programs, in the families that [`Family`](super::Family) has.
    ///
    /// # Errors
    ///
    /// As for [`Socket::rules`].
    #[doc(alias = "NFT_MSG_GETCHAIN")]
    pub fn base_chains(&self) -> Result<Vec<BaseChain>> {
        let operation = Operation::new("list", "the nftables base chains");
        let request = || message(NFPROTO_UNSPEC, Attrs::new());
        match self.netlink.dump::<_, Buffer>(&operation, NFT_MSG_GETCHAIN, request) {
            Err(error) if error.is(Errno::INVAL) => Err(operation.unsupported(NF_TABLES)),
            messages => Ok(messages?.iter().filter_map(|message| BaseChain::decode(message.as_ref())).collect()),
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
        self.delete(Step::delete_rule(chain, handle))
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
        self.delete(delete_set(set))
    }

    /// Deletes a table with its content. Succeeds if the table is absent.
    ///
    /// # Errors
    ///
    /// As for [`Socket::commit`].
    #[doc(alias = "NFT_MSG_DELTABLE")]
    pub fn delete_table(&self, table: &Table) -> Result<()> {
        self.delete(Step::delete_table(table))
    }

    /// Deletes a table if it is empty. Returns whether the table is gone.
    ///
    /// # Errors
    ///
    /// As for [`Socket::commit`].
    pub fn delete_empty_table(&self, table: &Table) -> Result<bool> {
        match self.delete(Step::delete_empty_table(table)) {
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
        self.delete(Step::delete_chain(chain))
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
            requests.extend(encode(operation, *sequence, step.kind, step.flags | ack, step.message())?);
        }
        if is_final {
            requests.extend(delimit(last, self.netlink.next_sequence(), NFNL_MSG_BATCH_END)?);
        }
        if requests.len() > DEFAULT_SEND_BUFFER {
            // Needs a capability in the initial user namespace. Without it, the send fails.
            let _ = set_socket_send_buffer_size_force(self.netlink.fd(), requests.len());
        }
        self.netlink.send_encoded(first, &requests)?;
        self.netlink.wait_acks(&exchanges).map_err(|(index, error)| batch.steps[index].explain(error))
    }
}

fn delimit(operation: &Operation, sequence: u32, kind: u16) -> Result<Vec<u8>> {
    encode(operation, sequence, kind, NlmF::empty(), Ok(delimiter()))
}
