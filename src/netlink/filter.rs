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
    attrs::{Attrs, nested, number, text},
    clsact::{SharedBlock, header},
    error::{EncodeError, Operation, Result},
    socket::Socket,
};

const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

/// Where filters are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FilterTarget {
    /// On what comes in by the link of this index; its qdisc must not name a block for this
    /// direction.
    Ingress(u32),
    /// On what goes out by the link of this index; its qdisc must not name a block for this
    /// direction.
    Egress(u32),
    /// In a shared block.
    Block(SharedBlock),
}

/// A BPF program as a filter, in direct-action mode: what the program returns is the verdict.
///
/// Handle and priority name the filter: the same pair replaces it, another adds one. See
/// [tc-bpf(8)](https://man7.org/linux/man-pages/man8/tc-bpf.8.html).
#[derive(Debug, Clone, Copy)]
pub struct BpfFilter<'a> {
    /// The loaded program, of type `BPF_PROG_TYPE_SCHED_CLS`. The filter holds it from then on.
    pub program: BorrowedFd<'a>,
    /// What `tc filter show` calls it.
    pub name: &'a str,
    /// The place among the filters: the lowest runs first. At least 1.
    pub priority: u16,
    /// Tells filters of one priority apart. At least 1.
    pub handle: u32,
}

/// A filter that is in place, of whatever kind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FilterInfo {
    /// The classifier: `bpf`, or what other people put there.
    pub kind: String,
    /// The place among the filters.
    pub priority: u16,
    /// Tells filters of one priority apart.
    pub handle: u32,
    /// The kernel's number of the program, for `bpf`; `bpftool prog show id` takes it.
    pub program_id: Option<u32>,
    /// The name that was given with the program.
    pub name: Option<String>,
}

impl<'a> BpfFilter<'a> {
    /// A filter that runs `program` first (priority 1, handle 1).
    pub fn new(program: &'a impl AsFd, name: &'a str) -> Self {
        Self { program: program.as_fd(), name, priority: 1, handle: 1 }
    }

    /// Sets the place among the filters.
    #[must_use]
    pub const fn priority(mut self, priority: u16) -> Self {
        self.priority = priority;
        self
    }

    /// Sets what tells filters of one priority apart.
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
    /// Puts a program in place, or in the place of the filter of the same priority and handle. No
    /// packet sees a gap.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel): `EINVAL` where the link has no `clsact` qdisc, the
    /// block does not exist or the program is of another type, `EOPNOTSUPP` where the link's
    /// direction is served by a shared block, `EPERM` without `CAP_NET_ADMIN`.
    ///
    /// # Kernel
    ///
    /// Linux 4.5 with `cls_bpf`; blocks 4.16.
    pub fn replace_filter(&self, target: &FilterTarget, filter: &BpfFilter<'_>) -> Result<()> {
        let operation = Operation::new("put filter", format_args!("{} on {target}", filter.name));
        let flags = NlmF::CREATE | NlmF::REPLACE;
        self.change(&operation, Rtm::Newtfilter, flags, filter.message(target))
    }

    /// Puts a program in place. The kernel lets one caller create the filter of a priority and handle.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](super::Error::Exists) when there is a filter of the same priority and handle; else as
    /// [`replace_filter`](Self::replace_filter).
    ///
    /// # Kernel
    ///
    /// As [`replace_filter`](Self::replace_filter).
    pub fn create_filter(&self, target: &FilterTarget, filter: &BpfFilter<'_>) -> Result<()> {
        let operation = Operation::new("create filter", format_args!("{} on {target}", filter.name));
        let flags = NlmF::CREATE | NlmF::EXCL;
        self.change(&operation, Rtm::Newtfilter, flags, filter.message(target))
    }

    /// The filters in place, those of other people among them. A place without qdisc has none.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel) and those of the socket.
    pub fn filters(&self, target: &FilterTarget) -> Result<Vec<FilterInfo>> {
        let operation = Operation::new("list filters", format_args!("on {target}"));
        let (index, parent) = target.place();
        let request = || header(index, 0, parent).build().map_err(EncodeError::from);
        let found: Vec<Tcmsg> = self.dump(&operation, Rtm::Gettfilter, request)?;
        Ok(found.iter().filter_map(FilterInfo::decode).collect())
    }

    /// Takes a BPF filter away. An absent filter is success, and so is an absent qdisc or block.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel): `EPERM` without `CAP_NET_ADMIN`.
    pub fn delete_filter(&self, target: &FilterTarget, priority: u16, handle: u32) -> Result<()> {
        let operation = Operation::new("delete filter", format_args!("{handle} of priority {priority} on {target}"));
        let request = Attrs::new()
            .put(Tca::Kind, "bpf")
            .and_then(|attrs| Ok(named(target, priority, handle).rtattrs(attrs.into_buffer()).build()?));
        match self.change(&operation, Rtm::Deltfilter, NlmF::empty(), request) {
            Err(error) if error.is(Errno::NOENT) || error.is(Errno::NODEV) => Ok(()),
            // The kernel's answer to a missing qdisc or block, but also to other things.
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
    /// What stands in the message for the place: the link and the parent, or the block.
    const fn place(self) -> (u32, u32) {
        const TC_H_CLSACT_INGRESS: u32 = 0xffff_fff2;
        const TC_H_CLSACT_EGRESS: u32 = 0xffff_fff3;
        const TCM_IFINDEX_MAGIC_BLOCK: u32 = 0xffff_ffff;
        match self {
            Self::Ingress(index) => (index, TC_H_CLSACT_INGRESS),
            Self::Egress(index) => (index, TC_H_CLSACT_EGRESS),
            Self::Block(block) => (TCM_IFINDEX_MAGIC_BLOCK, block.index()),
        }
    }
}

impl Display for FilterTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ingress(index) => write!(f, "the ingress of link {index}"),
            Self::Egress(index) => write!(f, "the egress of link {index}"),
            Self::Block(block) => block.fmt(f),
        }
    }
}

impl FilterInfo {
    /// None for the head of a priority, which the kernel lists beside its filters with handle 0.
    pub(super) fn decode(message: &Tcmsg) -> Option<Self> {
        let handle = *message.tcm_handle();
        if handle == 0 {
            return None;
        }
        let mut filter = Self {
            kind: String::new(),
            // The upper half of the word; the lower one is the protocol.
            priority: (*message.tcm_info() >> 16) as u16,
            handle,
            program_id: None,
            name: None,
        };
        for attr in message.rtattrs().iter() {
            let bytes: &[u8] = attr.rta_payload().as_ref();
            match attr.rta_type() {
                Tca::Kind => filter.kind = text(bytes),
                // The numbers within the options depend on the kind, which the kernel writes first.
                Tca::Options if filter.kind == "bpf" => {
                    for (option, value) in nested(bytes) {
                        match option {
                            TCA_BPF_ID => filter.program_id = number(value),
                            TCA_BPF_NAME => filter.name = Some(text(value)),
                            _ => (),
                        }
                    }
                }
                _ => (),
            }
        }
        Some(filter)
    }
}

/// The head of a message on the filter of this priority and handle, for packets of any protocol.
fn named(target: &FilterTarget, priority: u16, handle: u32) -> TcmsgBuilder {
    const ETH_P_ALL: u16 = 3;
    let (index, parent) = target.place();
    let info = u32::from(priority) << 16 | u32::from(ETH_P_ALL.to_be());
    header(index, handle, parent).tcm_info(info)
}
