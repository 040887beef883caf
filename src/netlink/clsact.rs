use std::{fmt, num::NonZeroU32};

use neli::{
    consts::{
        nl::NlmF,
        rtnl::{Rtm, Tca},
    },
    rtnl::{Tcmsg, TcmsgBuilder},
};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::{
    attrs::{Attrs, number, text},
    error::{EncodeError, Error, Operation, Result},
    socket::Socket,
};

const CLSACT: &str = "clsact";
const TC_H_CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const TCA_INGRESS_BLOCK: u16 = 13;
const TCA_EGRESS_BLOCK: u16 = 14;

/// A set of filters that several qdiscs share, by its number in the namespace.
///
/// It lives as long as a qdisc refers to it. One filter in it serves every link whose qdisc names
/// the block.
///
/// ```
/// use cnikit::netlink::SharedBlock;
///
/// assert_eq!(Block::new(7).map(Block::index), Some(7));
/// assert_eq!(Block::new(0), None, "the kernel has no block 0");
/// ```
#[doc(alias = "TCA_INGRESS_BLOCK")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharedBlock(NonZeroU32);

/// Which shared blocks a qdisc takes its filters from; `None` gives a direction filters of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SharedBlocks {
    /// For what comes in by the link.
    pub ingress: Option<SharedBlock>,
    /// For what goes out.
    pub egress: Option<SharedBlock>,
}

/// The qdisc in a link's ingress slot (handle `ffff:`). A link has one at most.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IngressQdisc {
    /// `clsact`, or `ingress` where somebody else (the `bandwidth` plugin for example) took the
    /// slot.
    pub kind: String,
    /// The shared blocks that it names.
    pub blocks: SharedBlocks,
}

impl SharedBlock {
    /// The block of this number; none for 0.
    pub const fn new(index: u32) -> Option<Self> {
        match NonZeroU32::new(index) {
            Some(index) => Some(Self(index)),
            None => None,
        }
    }

    /// The number.
    pub const fn index(self) -> u32 {
        self.0.get()
    }
}

impl SharedBlocks {
    /// A pair of blocks whose numbers derive from a text, such as a network's name.
    ///
    /// Blocks are numbered by whoever makes them. These lie between 2^30 and 2^31, far from the small numbers that
    /// people choose, and two texts share theirs by one chance in 2^29.
    pub fn from_name(text: &str) -> Self {
        let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(text).into();
        let first = u32::from_be_bytes([a, b, c, d]) & 0x3fff_fffe | 0x4000_0000;
        Self { ingress: SharedBlock::new(first), egress: SharedBlock::new(first + 1) }
    }
}

impl fmt::Display for SharedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}", self.0)
    }
}

impl Socket {
    /// Gives a link the `clsact` qdisc, the place for filters on both directions. A block that is
    /// named and does not exist is made by this.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](super::Error::Exists) where the link has a qdisc in that slot, of whatever
    /// kind: [`Socket::ingress_qdisc`] shows it. Nobody but who made it may delete it, because all
    /// filters go with it. [`Error::Kernel`](super::Error::Kernel) else: `ENODEV` where the link is
    /// gone, `ENOENT` where the kernel has no `sch_ingress`, `EPERM` without `CAP_NET_ADMIN`.
    ///
    /// # Kernel
    ///
    /// Linux 4.5; shared blocks 4.16.
    pub fn create_clsact(&self, index: u32, blocks: SharedBlocks) -> Result<()> {
        let operation = Operation::on_link("create the clsact qdisc of", index);
        let flags = NlmF::CREATE | NlmF::EXCL;
        self.change(&operation, Rtm::Newqdisc, flags, new_clsact(index, blocks))
    }

    /// Gives a link the `clsact` qdisc with these blocks, unless it has that already. By this a port joins the shared
    /// blocks that an anchor holds, and several tools put filters of their own on one link.
    ///
    /// # Errors
    ///
    /// [`Error::QdiscConflict`](super::Error::QdiscConflict) where the slot holds an `ingress` qdisc, or a `clsact` with other
    /// blocks; else as for [`Socket::create_clsact`].
    ///
    /// # Kernel
    ///
    /// As for [`Socket::create_clsact`].
    pub fn ensure_clsact(&self, index: u32, blocks: SharedBlocks) -> Result<()> {
        let exists = match self.create_clsact(index, blocks) {
            Err(error @ Error::Exists { .. }) => error,
            created => return created,
        };
        match self.ingress_qdisc(index)? {
            Some(qdisc) if qdisc.kind == CLSACT && qdisc.blocks == blocks => Ok(()),
            Some(qdisc) => Err(Operation::on_link("ensure the clsact qdisc of", index).qdisc_conflict(qdisc.kind)),
            // It was deleted meanwhile, and others are at work here.
            None => Err(exists),
        }
    }

    /// Deletes the `clsact` qdisc of a link, with its filters; of shared blocks, the link leaves them. An absent qdisc or
    /// link is success.
    ///
    /// [`Socket::ingress_qdisc`] shows whose it is.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel): `EPERM` without `CAP_NET_ADMIN`.
    pub fn delete_clsact(&self, index: u32) -> Result<()> {
        let operation = Operation::on_link("delete the clsact qdisc of", index);
        let request = header(index, CLSACT_HANDLE, TC_H_CLSACT).build().map_err(EncodeError::from);
        match self.change(&operation, Rtm::Delqdisc, NlmF::empty(), request) {
            Err(error) if error.is(Errno::NOENT) || error.is(Errno::NODEV) => Ok(()),
            // The answer for a slot that is empty again, but also for other things.
            Err(error) if error.is(Errno::INVAL) => match self.ingress_qdisc(index)? {
                Some(_) => Err(error),
                None => Ok(()),
            },
            deleted => deleted,
        }
    }

    /// The qdisc in a link's ingress slot, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel): `ENODEV` where the link is gone.
    pub fn ingress_qdisc(&self, index: u32) -> Result<Option<IngressQdisc>> {
        let operation = Operation::on_link("look up the ingress qdisc of", index);
        let request = header(index, 0, TC_H_CLSACT).build().map_err(EncodeError::from);
        // The answer is a notification, which comes to the one who asked only as an echo.
        let found: Option<Tcmsg> = match self.request(&operation, Rtm::Getqdisc, NlmF::ECHO, request) {
            // A slot that was never used gives ENOENT; one that is empty again gives EINVAL or,
            // of late, no answer.
            Err(error) if error.is(Errno::NOENT) || error.is(Errno::INVAL) => None,
            found => found?,
        };
        Ok(found.as_ref().map(IngressQdisc::decode))
    }
}

impl IngressQdisc {
    pub(super) fn decode(message: &Tcmsg) -> Self {
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

/// The head of a message on a qdisc or a filter.
pub(super) fn header(index: u32, handle: u32, parent: u32) -> TcmsgBuilder {
    TcmsgBuilder::default()
        .tcm_family(0)
        .tcm_ifindex(index.cast_signed())
        .tcm_handle(handle)
        .tcm_parent(parent)
        .tcm_info(0)
}

fn new_clsact(index: u32, blocks: SharedBlocks) -> Result<Tcmsg, EncodeError> {
    let attrs = Attrs::new()
        .put(Tca::Kind, CLSACT)?
        .put_some(TCA_INGRESS_BLOCK.into(), blocks.ingress.map(SharedBlock::index))?
        .put_some(TCA_EGRESS_BLOCK.into(), blocks.egress.map(SharedBlock::index))?;
    Ok(header(index, CLSACT_HANDLE, TC_H_CLSACT).rtattrs(attrs.into_buffer()).build()?)
}
