//! Filters, and BPF programs as filters.

use std::{
    fmt::{self, Display},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use neli::{
    consts::{
        nl::NlmF,
        rtnl::{Rtm, Tca},
    },
    rtnl::{Tcmsg, TcmsgBuilder},
};
use rustix::io::Errno;

use super::{
    clsact::SharedBlock,
    message::{header, number_of},
    mirred,
};
use crate::netlink::{
    error::Result,
    operation::{EncodeError, Operation},
    socket::Socket,
    wire::{Attrs, attributes, number, text},
};
use crate::spec::IfIndex;

const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
const ETH_P_ALL: u16 = 3;

/// The place of a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FilterTarget {
    /// The ingress of the link with this index. Its qdisc must not refer to a block for this
    /// direction.
    Ingress(IfIndex),
    /// The egress of the link with this index. Its qdisc must not refer to a block for this
    /// direction.
    Egress(IfIndex),
    /// A shared block.
    Block(SharedBlock),
}

/// A BPF program as a filter in direct-action mode: the return value of the program is the verdict.
///
/// Priority and handle identify the filter: [`Socket::replace_filter`] replaces the filter with the
/// same pair, and adds the filter if the pair is new. The default handle is computed from the name.
/// Two programs with different names therefore do not replace each other. Begin the name with the
/// name of your plugin.
///
/// # Order
///
/// The filter with the lowest priority number runs first. Among filters of one priority, the filter
/// that was added last runs first; a replacement keeps its position. The next filter runs only if a
/// program returns `TC_ACT_UNSPEC` (-1). Any other return value is the verdict for the packet, and
/// the remaining filters of the hook do not run.
///
/// See [tc-bpf(8)](https://man7.org/linux/man-pages/man8/tc-bpf.8.html).
///
/// ```
/// use cnikit::netlink::BpfFilter;
/// # use std::os::fd::OwnedFd;
/// # fn show(program: OwnedFd) {
///
/// let count = BpfFilter::new(&program, "my-plugin/count");
/// let limit = BpfFilter::new(&program, "my-plugin/limit").priority(2);
/// assert_ne!(count.handle, limit.handle, "the names differ");
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct BpfFilter<'a> {
    /// The loaded program, of type `BPF_PROG_TYPE_SCHED_CLS`. The filter keeps a reference to it.
    pub program: BorrowedFd<'a>,
    /// The name in `tc filter show`, at most 255 bytes.
    pub name: &'a str,
    /// The priority: the lowest runs first. At least 1.
    pub priority: u16,
    /// Distinguishes filters of one priority. At least 1.
    pub handle: u32,
}

/// An installed filter of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FilterInfo {
    /// The classifier: `bpf`, or the kind of another program's filter.
    pub kind: String,
    /// The priority.
    pub priority: u16,
    /// Distinguishes filters of one priority.
    pub handle: u32,
    /// The kernel's id of the program, for `bpf`; `bpftool prog show id` accepts it.
    pub program_id: Option<u32>,
    /// The name that was set with the program.
    pub name: Option<String>,
    /// The link to which the filter redirects its packets, for `matchall` and `u32`.
    pub redirect: Option<IfIndex>,
    /// Whether the filter redirects every packet, of all protocols.
    pub(super) redirects_all: bool,
}

impl<'a> BpfFilter<'a> {
    /// A filter with priority 1 and a handle computed from the name.
    ///
    /// The handle lies between 2^30 and 2^31, far from the small handles in manual use. It is the
    /// same in each process and each version of this crate. Two names have the same handle with a
    /// probability of 1 in 2^30.
    #[must_use]
    pub fn new(program: &'a impl AsFd, name: &'a str) -> Self {
        Self { program: program.as_fd(), name, priority: 1, handle: number_of(name) }
    }

    /// Sets the priority.
    #[must_use]
    pub const fn priority(mut self, priority: u16) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the handle, which distinguishes filters of one priority. The caller is then responsible
    /// that no other program uses the pair of priority and handle.
    #[must_use]
    pub const fn handle(mut self, handle: u32) -> Self {
        self.handle = handle;
        self
    }

    fn message(&self, target: &FilterTarget) -> Result<Tcmsg, EncodeError> {
        let options = Attrs::new()
            .put(TCA_BPF_FD, self.program.as_raw_fd())?
            .put(TCA_BPF_NAME, self.name)?
            .put(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT)?;
        let attrs = Attrs::new().put(Tca::Kind, "bpf")?.nest(Tca::Options, options)?;
        Ok(named(target, self.priority, self.handle).rtattrs(attrs.into_buffer()).build()?)
    }
}

impl Socket {
    /// Installs a program, or replaces the filter with the same priority and handle. The
    /// replacement is atomic for packets.
    ///
    /// The name of the replaced filter is not compared, because the kernel has no request that
    /// compares and replaces in one step. With the [default handle](BpfFilter::new), the pair
    /// follows from the name. A caller that sets the handle itself can use
    /// [`create_filter`](Self::create_filter), which never replaces a filter.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `EINVAL` if the link has no `clsact`
    /// qdisc, the block does not exist or the program has another type. `EOPNOTSUPP` if a shared
    /// block serves this direction of the link. `EPERM` without `CAP_NET_ADMIN`.
    ///
    /// # Kernel
    ///
    /// Linux 4.5 with `cls_bpf`; blocks 4.16.
    pub fn replace_filter(&self, target: &FilterTarget, filter: &BpfFilter<'_>) -> Result<()> {
        let operation = Operation::new("replace filter", format_args!("{} on {target}", filter.name));
        let flags = NlmF::CREATE | NlmF::REPLACE;
        self.change(&operation, Rtm::Newtfilter, flags, filter.message(target))
    }

    /// Installs a program. Of several concurrent callers with one priority and handle, exactly one
    /// succeeds.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](crate::netlink::Error::Exists) if a filter with the same priority and
    /// handle exists. Otherwise as for [`replace_filter`](Self::replace_filter).
    ///
    /// # Kernel
    ///
    /// As [`replace_filter`](Self::replace_filter).
    pub fn create_filter(&self, target: &FilterTarget, filter: &BpfFilter<'_>) -> Result<()> {
        let operation = Operation::new("create filter", format_args!("{} on {target}", filter.name));
        let flags = NlmF::CREATE | NlmF::EXCL;
        self.change(&operation, Rtm::Newtfilter, flags, filter.message(target))
    }

    /// The installed filters, including filters of other programs. Without a qdisc the list is
    /// empty.
    ///
    /// # Errors
    ///
    /// As for [`Socket::links`].
    pub fn filters(&self, target: &FilterTarget) -> Result<Vec<FilterInfo>> {
        let operation = Operation::new("list filters", format_args!("on {target}"));
        let (ifindex, parent) = target.ifindex_and_parent();
        let request = || header(ifindex, 0, parent).build().map_err(EncodeError::from);
        let found: Vec<Tcmsg> = self.dump(&operation, Rtm::Gettfilter, request)?;
        Ok(found.iter().filter_map(FilterInfo::decode).collect())
    }

    /// Deletes a BPF filter. Succeeds if the filter, its qdisc or its block is absent.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `EPERM` without `CAP_NET_ADMIN`.
    pub fn delete_filter(&self, target: &FilterTarget, priority: u16, handle: u32) -> Result<()> {
        let operation = Operation::new("delete filter", format_args!("{handle} of priority {priority} on {target}"));
        let request = Attrs::new()
            .put(Tca::Kind, "bpf")
            .and_then(|attrs| Ok(named(target, priority, handle).rtattrs(attrs.into_buffer()).build()?));
        match self.change(&operation, Rtm::Deltfilter, NlmF::empty(), request) {
            Err(error) if error.is(Errno::NOENT) || error.is(Errno::NODEV) => Ok(()),
            // The kernel returns EINVAL for a missing qdisc or block, but also for other errors.
            Err(error) if error.is(Errno::INVAL) => {
                let filters = self.filters(target)?;
                let there = filters.iter().any(|f| f.priority == priority && f.handle == handle);
                if there { Err(error) } else { Ok(()) }
            }
            done => done,
        }
    }
}

impl FilterTarget {
    /// The index and parent in the message: the link and its hook, or the magic index and the
    /// block.
    const fn ifindex_and_parent(self) -> (u32, u32) {
        const TC_H_CLSACT_INGRESS: u32 = 0xffff_fff2;
        const TC_H_CLSACT_EGRESS: u32 = 0xffff_fff3;
        const TCM_IFINDEX_MAGIC_BLOCK: u32 = 0xffff_ffff;
        match self {
            Self::Ingress(ifindex) => (ifindex.get(), TC_H_CLSACT_INGRESS),
            Self::Egress(ifindex) => (ifindex.get(), TC_H_CLSACT_EGRESS),
            Self::Block(block) => (TCM_IFINDEX_MAGIC_BLOCK, block.index()),
        }
    }
}

impl Display for FilterTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ingress(ifindex) => write!(f, "the ingress of link {ifindex}"),
            Self::Egress(ifindex) => write!(f, "the egress of link {ifindex}"),
            Self::Block(block) => block.fmt(f),
        }
    }
}

impl FilterInfo {
    /// `None` for the head of a priority, which the kernel lists beside its filters with handle 0.
    pub(in crate::netlink) fn decode(message: &Tcmsg) -> Option<Self> {
        let handle = *message.tcm_handle();
        if handle == 0 {
            return None;
        }
        let mut filter = Self {
            kind: String::new(),
            // The priority is the upper half of the word, the protocol is the lower half.
            priority: (*message.tcm_info() >> 16) as u16,
            handle,
            program_id: None,
            name: None,
            redirect: None,
            redirects_all: false,
        };
        for attr in message.rtattrs().iter() {
            let bytes: &[u8] = attr.rta_payload().as_ref();
            match attr.rta_type() {
                Tca::Kind => filter.kind = text(bytes),
                // The attribute numbers in the options depend on the kind, which the kernel writes
                // first.
                Tca::Options if filter.kind == "bpf" => {
                    for (option, value) in attributes(bytes) {
                        match option {
                            TCA_BPF_ID => filter.program_id = number(value),
                            TCA_BPF_NAME => filter.name = Some(text(value)),
                            _ => (),
                        }
                    }
                }
                Tca::Options => {
                    filter.redirect = mirred::target(&filter.kind, bytes);
                    let is_for_all_protocols = *message.tcm_info() as u16 == ETH_P_ALL.to_be();
                    filter.redirects_all =
                        filter.redirect.is_some() && is_for_all_protocols && mirred::matches_all(&filter.kind, bytes);
                }
                _ => (),
            }
        }
        Some(filter)
    }
}

/// The header of a message for the filter with this priority and handle, for packets of any
/// protocol.
pub(super) fn named(target: &FilterTarget, priority: u16, handle: u32) -> TcmsgBuilder {
    let (ifindex, parent) = target.ifindex_and_parent();
    let info = u32::from(priority) << 16 | u32::from(ETH_P_ALL.to_be());
    header(ifindex, handle, parent).tcm_info(info)
}
