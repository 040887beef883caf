//! The qdisc in the ingress slot of a link, and shared blocks.

use std::{fmt, num::NonZeroU32};

use neli::{
    consts::{
        nl::NlmF,
        rtnl::{Rtm, Tca},
    },
    rtnl::Tcmsg,
};
use rustix::io::Errno;

use super::message::{INGRESS_HANDLE, INGRESS_SLOT, header, number_of};
use crate::netlink::{
    error::{Error, Result},
    operation::{EncodeError, Operation},
    socket::Socket,
    wire::{Attrs, number, text},
};
use crate::spec::IfIndex;

const CLSACT: &str = "clsact";
const TCA_INGRESS_BLOCK: u16 = 13;
const TCA_EGRESS_BLOCK: u16 = 14;

/// A set of filters that several qdiscs share, identified by its number in the namespace.
///
/// The block exists while a qdisc refers to it. One filter in the block serves all links with a
/// qdisc that refers to the block.
///
/// ```
/// use cnikit::netlink::SharedBlock;
///
/// assert_eq!(SharedBlock::new(7).map(SharedBlock::index), Some(7));
/// assert_eq!(SharedBlock::new(0), None, "the kernel has no block 0");
/// ```
#[doc(alias = "TCA_INGRESS_BLOCK")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharedBlock(NonZeroU32);

/// The shared blocks of a qdisc. `None` gives a direction its own filters.
///
/// Closed: a qdisc has these two directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SharedBlocks {
    /// The block for packets that arrive at the link.
    pub ingress: Option<SharedBlock>,
    /// The block for packets that leave through the link.
    pub egress: Option<SharedBlock>,
}

/// The qdisc in the ingress slot of a link (handle `ffff:`). A link has at most one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IngressQdisc {
    /// `clsact`, or `ingress` if another program (for example the `bandwidth` plugin) took the
    /// slot.
    pub kind: String,
    /// The shared blocks that the qdisc refers to.
    pub blocks: SharedBlocks,
}

impl SharedBlock {
    /// The block with this number; `None` for 0.
    #[must_use]
    pub const fn new(index: u32) -> Option<Self> {
        match NonZeroU32::new(index) {
            Some(index) => Some(Self(index)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0.get()
    }
}

impl SharedBlocks {
    /// A pair of blocks with numbers derived from a text, such as the name of a network.
    ///
    /// The creator of a block chooses its number. These numbers lie between 2^30 and 2^31, far from
    /// the small numbers in manual use. Two texts collide with a probability of 1 in 2^29.
    #[must_use]
    pub fn from_name(text: &str) -> Self {
        let first = number_of(text) & !1;
        Self { ingress: SharedBlock::new(first), egress: SharedBlock::new(first + 1) }
    }
}

impl fmt::Display for SharedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}", self.0)
    }
}

impl Socket {
    /// Creates the `clsact` qdisc of a link, which holds the filters of both directions. A shared
    /// block is created if it does not exist.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](crate::netlink::Error::Exists) if the slot already holds a qdisc of any
    /// kind; [`Socket::ingress_qdisc`] returns it. Only its creator may delete the qdisc, because
    /// the deletion removes all its filters. [`Error::Kernel`](crate::netlink::Error::Kernel)
    /// otherwise: `ENODEV` if the link is gone, `ENOENT` if the kernel has no `sch_ingress`,
    /// `EPERM` without `CAP_NET_ADMIN`.
    ///
    /// # Kernel
    ///
    /// Linux 4.5; shared blocks 4.16.
    pub fn create_clsact(&self, ifindex: IfIndex, blocks: SharedBlocks) -> Result<()> {
        let operation = Operation::on_link("create the clsact qdisc of", ifindex);
        let flags = NlmF::CREATE | NlmF::EXCL;
        self.change(&operation, Rtm::Newqdisc, flags, new_clsact(ifindex, blocks))
    }

    /// Creates the `clsact` qdisc of a link with these blocks, unless the link already has it. A
    /// port joins the shared blocks of an anchor this way, and several tools can put filters on one
    /// link.
    ///
    /// # Errors
    ///
    /// [`Error::QdiscConflict`](crate::netlink::Error::QdiscConflict) if the slot holds an
    /// `ingress` qdisc, or a `clsact` qdisc with other blocks. Otherwise as for
    /// [`Socket::create_clsact`].
    ///
    /// # Kernel
    ///
    /// As for [`Socket::create_clsact`].
    pub fn ensure_clsact(&self, ifindex: IfIndex, blocks: SharedBlocks) -> Result<()> {
        let exists = match self.create_clsact(ifindex, blocks) {
            Err(error @ Error::Exists { .. }) => error,
            created => return created,
        };
        match self.ingress_qdisc(ifindex)? {
            Some(qdisc) if qdisc.kind == CLSACT && qdisc.blocks == blocks => Ok(()),
            Some(qdisc) => Err(Operation::on_link("ensure the clsact qdisc of", ifindex).qdisc_conflict(qdisc.kind)),
            // Another program deleted the qdisc since the failed creation.
            None => Err(exists),
        }
    }

    /// Deletes the `clsact` qdisc of a link with its filters. If the qdisc refers to shared blocks,
    /// the link leaves the blocks. Succeeds if the qdisc or the link is absent, or if the slot
    /// holds an `ingress` qdisc, which stays.
    ///
    /// [`Socket::ingress_qdisc`] shows whether the qdisc belongs to the caller.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `EPERM` without `CAP_NET_ADMIN`.
    pub fn delete_clsact(&self, ifindex: IfIndex) -> Result<()> {
        let operation = Operation::on_link("delete the clsact qdisc of", ifindex);
        let request = Attrs::new().put(Tca::Kind, CLSACT).and_then(|attrs| {
            Ok(header(ifindex.get(), INGRESS_HANDLE, INGRESS_SLOT).rtattrs(attrs.into_buffer()).build()?)
        });
        match self.change(&operation, Rtm::Delqdisc, NlmF::empty(), request) {
            Err(error) if error.is(Errno::NOENT) || error.is(Errno::NODEV) => Ok(()),
            // The kernel returns EINVAL for an `ingress` qdisc and for a slot that is empty again,
            // but also for other errors.
            Err(error) if error.is(Errno::INVAL) => match self.ingress_qdisc(ifindex)? {
                Some(qdisc) if qdisc.kind == CLSACT => Err(error),
                _ => Ok(()),
            },
            deleted => deleted,
        }
    }

    /// The qdisc in the ingress slot of a link, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `ENODEV` if the link is gone.
    pub fn ingress_qdisc(&self, ifindex: IfIndex) -> Result<Option<IngressQdisc>> {
        let operation = Operation::on_link("look up the ingress qdisc of", ifindex);
        let request = header(ifindex.get(), 0, INGRESS_SLOT).build().map_err(EncodeError::from);
        // The answer is a notification, which the kernel sends to the requester only as an echo.
        let found: Option<Tcmsg> = match self.request(&operation, Rtm::Getqdisc, NlmF::ECHO, request) {
            // A slot that was never used returns ENOENT. A slot that is empty again returns EINVAL
            // or, on newer kernels, no answer.
            Err(error) if error.is(Errno::NOENT) || error.is(Errno::INVAL) => None,
            found => found?,
        };
        Ok(found.as_ref().map(IngressQdisc::decode))
    }
}

impl IngressQdisc {
    pub(in crate::netlink) fn decode(message: &Tcmsg) -> Self {
        let mut qdisc = Self { kind: String::new(), blocks: SharedBlocks::default() };
        for attr in message.rtattrs().iter() {
            let bytes: &[u8] = attr.rta_payload().as_ref();
            match u16::from(*attr.rta_type()) {
                TCA_INGRESS_BLOCK => qdisc.blocks.ingress = number(bytes).and_then(SharedBlock::new),
                TCA_EGRESS_BLOCK => qdisc.blocks.egress = number(bytes).and_then(SharedBlock::new),
                kind if kind == u16::from(Tca::Kind) => qdisc.kind = text(bytes),
                _ => (),
            }
        }
        qdisc
    }
}

fn new_clsact(ifindex: IfIndex, blocks: SharedBlocks) -> Result<Tcmsg, EncodeError> {
    let attrs = Attrs::new()
        .put(Tca::Kind, CLSACT)?
        .put_some(TCA_INGRESS_BLOCK.into(), blocks.ingress.map(SharedBlock::index))?
        .put_some(TCA_EGRESS_BLOCK.into(), blocks.egress.map(SharedBlock::index))?;
    Ok(header(ifindex.get(), INGRESS_HANDLE, INGRESS_SLOT).rtattrs(attrs.into_buffer()).build()?)
}
