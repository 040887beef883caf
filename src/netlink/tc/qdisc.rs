//! Qdiscs of all kinds.

use neli::{
    consts::{
        nl::NlmF,
        rtnl::{Rtm, Tca},
    },
    rtnl::Tcmsg,
};
use rustix::io::Errno;

use super::{
    message::{INGRESS_HANDLE, INGRESS_SLOT, header},
    tbf::Tbf,
};
use crate::netlink::{
    error::{Error, Result},
    operation::{EncodeError, Operation},
    socket::Socket,
    wire::{Attrs, attributes, number_at, text, wide},
};
use crate::spec::IfIndex;

const INGRESS: &str = "ingress";
/// The handle `1:`, as in the reference plugin `bandwidth`.
const TBF_HANDLE: u32 = 1 << 16;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TCA_STATS_BASIC: u16 = 1;
const TCA_STATS_QUEUE: u16 = 3;
const TCA_STATS_PKT64: u16 = 8;

/// A qdisc of a link, of any kind.
///
/// ```no_run
/// use cnikit::{netlink::Socket, spec::IfIndex};
///
/// # fn show(host: &Socket, link: IfIndex) -> cnikit::netlink::Result<()> {
/// for qdisc in host.qdiscs(link)? {
///     println!("{}: {} packets dropped", qdisc.kind, qdisc.stats.drops);
/// }
/// # Ok(())
/// # }
/// ```
///
/// See [tc(8)](https://man7.org/linux/man-pages/man8/tc.8.html).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Qdisc {
    /// The kind, such as `tbf`, `noqueue` or `clsact`.
    pub kind: String,
    /// The handle, with the major number in the upper 16 bits: `tc` prints `0x10000` as `1:`. 0 for
    /// a qdisc that the kernel chose by default.
    pub handle: u32,
    /// The place of the qdisc.
    pub parent: QdiscParent,
    /// The parameters of a `tbf` qdisc.
    pub tbf: Option<Tbf>,
    /// The counters.
    pub stats: QdiscStats,
}

/// The place of a qdisc at its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QdiscParent {
    /// The root: all packets that the link sends pass the qdisc.
    Root,
    /// The ingress slot, which holds an `ingress` or a `clsact` qdisc.
    Ingress,
    /// A class of another qdisc, with the major number in the upper 16 bits.
    Class(u32),
}

/// The counters of a qdisc.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QdiscStats {
    /// The bytes that passed, with the Ethernet headers.
    pub bytes: u64,
    /// The packets that passed.
    pub packets: u64,
    /// The packets that the qdisc dropped.
    pub drops: u32,
    /// How often a packet had to wait because of a limit.
    pub overlimits: u32,
    /// The bytes in the queue now.
    pub backlog: u32,
    /// The packets in the queue now.
    pub queue_length: u32,
}

impl QdiscParent {
    const fn number(self) -> u32 {
        match self {
            Self::Root => TC_H_ROOT,
            Self::Ingress => INGRESS_SLOT,
            Self::Class(class) => class,
        }
    }

    const fn from_number(number: u32) -> Self {
        match number {
            TC_H_ROOT => Self::Root,
            INGRESS_SLOT => Self::Ingress,
            class => Self::Class(class),
        }
    }
}

impl Socket {
    /// The qdiscs of a link, including the qdiscs of other programs and the kernel's defaults.
    /// Without such a link the list is empty.
    ///
    /// # Errors
    ///
    /// As for [`Socket::links`].
    #[doc(alias = "RTM_GETQDISC")]
    pub fn qdiscs(&self, ifindex: IfIndex) -> Result<Vec<Qdisc>> {
        let operation = Operation::on_link("list the qdiscs of", ifindex);
        // The kernel lists the qdiscs of all links in any case.
        let request = || header(ifindex.get(), 0, 0).build().map_err(EncodeError::from);
        let found: Vec<Tcmsg> = self.dump(&operation, Rtm::Getqdisc, request)?;
        let of_link = found.iter().filter(|message| message.tcm_ifindex().cast_unsigned() == ifindex.get());
        Ok(of_link.map(Qdisc::decode).collect())
    }

    /// Deletes a qdisc that [`qdiscs`](Self::qdiscs) returned, with its classes and filters. The
    /// kernel then puts its default qdisc in the place. Succeeds if the qdisc or the link is
    /// absent, and for the kernel's default qdisc, which stays.
    ///
    /// The kernel compares kind and handle, so the call does not delete another program's qdisc
    /// that took the place since.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `EPERM` without `CAP_NET_ADMIN`; `EINVAL`
    /// or `EOPNOTSUPP` for a qdisc that cannot be deleted.
    #[doc(alias = "RTM_DELQDISC")]
    pub fn delete_qdisc(&self, ifindex: IfIndex, qdisc: &Qdisc) -> Result<()> {
        // The kernel refuses to delete its default qdisc.
        if qdisc.handle == 0 {
            return Ok(());
        }
        self.delete_qdisc_at(ifindex, qdisc.parent, &qdisc.kind, qdisc.handle)
    }

    /// Creates the `ingress` qdisc of a link, which holds filters for arriving packets.
    ///
    /// A link has one ingress slot. A [`clsact`](Self::ensure_clsact) qdisc in the slot holds
    /// filters for both directions, and several programs can share it, so prefer `clsact`.
    ///
    /// The kernel attaches a filter for
    /// [`FilterTarget::Egress`](crate::netlink::FilterTarget::Egress) on a link with an `ingress`
    /// qdisc to the *ingress*.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](crate::netlink::Error::Exists) if the slot already holds a qdisc of any
    /// kind; [`Socket::ingress_qdisc`] returns it.
    /// [`Error::Unsupported`](crate::netlink::Error::Unsupported) without `sch_ingress`.
    /// [`Error::Kernel`](crate::netlink::Error::Kernel) otherwise: `ENODEV` if the link is gone,
    /// `EPERM` without `CAP_NET_ADMIN`.
    ///
    /// # Kernel
    ///
    /// Any version with `sch_ingress` (`CONFIG_NET_SCH_INGRESS`).
    pub fn create_ingress(&self, ifindex: IfIndex) -> Result<()> {
        let operation = Operation::on_link("create the ingress qdisc of", ifindex);
        let request = Attrs::new().put(Tca::Kind, INGRESS).and_then(|attrs| {
            Ok(header(ifindex.get(), INGRESS_HANDLE, INGRESS_SLOT).rtattrs(attrs.into_buffer()).build()?)
        });
        match self.change(&operation, Rtm::Newqdisc, NlmF::CREATE | NlmF::EXCL, request) {
            Err(error) if error.is(Errno::NOENT) => Err(operation.unsupported("sch_ingress")),
            created => created,
        }
    }

    /// Deletes the `ingress` qdisc of a link with its filters. Succeeds if the qdisc or the link is
    /// absent, or if the slot holds a `clsact` qdisc, which stays.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `EPERM` without `CAP_NET_ADMIN`.
    pub fn delete_ingress(&self, ifindex: IfIndex) -> Result<()> {
        self.delete_qdisc_at(ifindex, QdiscParent::Ingress, INGRESS, INGRESS_HANDLE)
    }

    /// Puts a `tbf` qdisc at the root of a link.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](crate::netlink::Error::Exists) if the root already holds a qdisc, except
    /// the kernel's default. [`Error::Unsupported`](crate::netlink::Error::Unsupported) without
    /// `sch_tbf`. [`Error::Message`](crate::netlink::Error::Message) if the rate is 0.
    /// [`Error::Kernel`](crate::netlink::Error::Kernel) otherwise: `ENODEV` if the link is gone,
    /// `EINVAL` if the burst is 0, `EPERM` without `CAP_NET_ADMIN`.
    ///
    /// # Kernel
    ///
    /// Linux 3.13 with `sch_tbf` (`CONFIG_NET_SCH_TBF`).
    pub fn create_tbf(&self, ifindex: IfIndex, tbf: &Tbf) -> Result<()> {
        let operation = Operation::on_link("create the tbf qdisc of", ifindex);
        // Without a handle, newer kernels replace a qdisc of another kind despite NLM_F_EXCL.
        match self.change(&operation, Rtm::Newqdisc, NlmF::CREATE | NlmF::EXCL, new_tbf(ifindex, tbf, TBF_HANDLE)) {
            Err(error) if error.is(Errno::NOENT) => Err(operation.unsupported("sch_tbf")),
            created => created,
        }
    }

    /// Puts a `tbf` qdisc at the root of a link, or changes the parameters of the existing one.
    /// Waiting packets stay in the queue.
    ///
    /// # Errors
    ///
    /// [`Error::QdiscConflict`](crate::netlink::Error::QdiscConflict) if the root holds a qdisc of
    /// another kind, which stays. Otherwise as for [`Socket::create_tbf`].
    ///
    /// # Kernel
    ///
    /// As for [`Socket::create_tbf`].
    pub fn ensure_tbf(&self, ifindex: IfIndex, tbf: &Tbf) -> Result<()> {
        let exists = match self.create_tbf(ifindex, tbf) {
            Err(error @ Error::Exists { .. }) => error,
            created => return created,
        };
        let operation = Operation::on_link("change the tbf qdisc of", ifindex);
        let root = self.qdiscs(ifindex)?.into_iter().find(|qdisc| qdisc.parent == QdiscParent::Root);
        match root {
            // Without NLM_F_CREATE, the kernel changes only a qdisc of this handle and kind.
            Some(qdisc) if qdisc.kind == Tbf::KIND => {
                self.change(&operation, Rtm::Newqdisc, NlmF::empty(), new_tbf(ifindex, tbf, qdisc.handle))
            }
            Some(qdisc) => Err(operation.qdisc_conflict(qdisc.kind)),
            // Another program deleted the qdisc since the failed creation.
            None => Err(exists),
        }
    }

    /// Deletes the `tbf` qdisc at the root of a link, and drops the waiting packets. Succeeds if
    /// the link is absent or its root holds no `tbf` qdisc; a qdisc of another kind stays.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `EPERM` without `CAP_NET_ADMIN`.
    pub fn delete_tbf(&self, ifindex: IfIndex) -> Result<()> {
        self.delete_qdisc_at(ifindex, QdiscParent::Root, Tbf::KIND, 0)
    }

    /// Deletes the qdisc of this kind at this place. With handle 0, the handle is not compared.
    fn delete_qdisc_at(&self, ifindex: IfIndex, parent: QdiscParent, kind: &str, handle: u32) -> Result<()> {
        let operation = Operation::new("delete qdisc", format_args!("{kind} of link {ifindex}"));
        let request = Attrs::new().put(Tca::Kind, kind).and_then(|attrs| {
            Ok(header(ifindex.get(), handle, parent.number()).rtattrs(attrs.into_buffer()).build()?)
        });
        match self.change(&operation, Rtm::Delqdisc, NlmF::empty(), request) {
            Err(error) if error.is(Errno::NODEV) || error.is(Errno::NOENT) => Ok(()),
            // The kernel returns EINVAL for another qdisc at this place, but also for other errors.
            Err(error) if error.is(Errno::INVAL) => {
                let is_same = |qdisc: &Qdisc| {
                    qdisc.parent == parent && qdisc.kind == kind && (handle == 0 || qdisc.handle == handle)
                };
                if self.qdiscs(ifindex)?.iter().any(is_same) { Err(error) } else { Ok(()) }
            }
            deleted => deleted,
        }
    }
}

fn new_tbf(ifindex: IfIndex, tbf: &Tbf, handle: u32) -> Result<Tcmsg, EncodeError> {
    let attrs = Attrs::new().put(Tca::Kind, Tbf::KIND)?.nest(Tca::Options, tbf.options()?)?;
    Ok(header(ifindex.get(), handle, TC_H_ROOT).rtattrs(attrs.into_buffer()).build()?)
}

impl Qdisc {
    pub(in crate::netlink) fn decode(message: &Tcmsg) -> Self {
        let mut qdisc = Self {
            kind: String::new(),
            handle: *message.tcm_handle(),
            parent: QdiscParent::from_number(*message.tcm_parent()),
            tbf: None,
            stats: QdiscStats::default(),
        };
        for attr in message.rtattrs().iter() {
            let bytes: &[u8] = attr.rta_payload().as_ref();
            match attr.rta_type() {
                Tca::Kind => qdisc.kind = text(bytes),
                // The attribute numbers in the options depend on the kind, which the kernel writes
                // first.
                Tca::Options if qdisc.kind == Tbf::KIND => qdisc.tbf = Tbf::decode(bytes),
                Tca::Stats2 => qdisc.stats = QdiscStats::decode(bytes),
                _ => (),
            }
        }
        qdisc
    }
}

impl QdiscStats {
    fn decode(bytes: &[u8]) -> Self {
        let mut stats = Self::default();
        let mut packets = None;
        for (kind, value) in attributes(bytes) {
            let count = |at| number_at(value, at).unwrap_or_default();
            match kind {
                TCA_STATS_BASIC => {
                    stats.bytes = wide(value).unwrap_or_default();
                    stats.packets = count(8).into();
                }
                // struct gnet_stats_queue.
                TCA_STATS_QUEUE => {
                    stats.queue_length = count(0);
                    stats.backlog = count(4);
                    stats.drops = count(8);
                    stats.overlimits = count(16);
                }
                // Present only if the count has more than 32 bits.
                TCA_STATS_PKT64 => packets = wide(value),
                _ => (),
            }
        }
        stats.packets = packets.unwrap_or(stats.packets);
        stats
    }
}
