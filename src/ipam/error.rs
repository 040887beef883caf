use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnetwork::IpNetwork;
use rustix::io::Errno;

use super::lease::{Lease, Owner};
use super::pool::Pool;
use super::range::Range;
use crate::spec::{ErrorCode, HasErrorCode};

/// The code of [`Error::PoolExhausted`]: no address is free.
pub const POOL_EXHAUSTED: ErrorCode = ErrorCode::plugin_specific(100);
/// The code of [`Error::AlreadyLeased`]: the attachment holds addresses already.
pub const ALREADY_LEASED: ErrorCode = ErrorCode::plugin_specific(101);
/// The code of [`Error::CorruptLease`]: a lease file cannot be understood.
pub const CORRUPT_LEASE: ErrorCode = ErrorCode::plugin_specific(102);

/// The code of [`Error::AddressTaken`]: an address that was asked for is held by another attachment.
pub const ADDRESS_TAKEN: ErrorCode = ErrorCode::plugin_specific(103);

/// The result of an address operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a range is not one, or why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The subnet names an address inside itself.
    #[error("{subnet} has host bits set; write {}/{}", .subnet.network(), .subnet.prefix())]
    HostBits {
        /// The subnet as it was given.
        subnet: IpNetwork,
    },

    /// The subnet has no address for anyone but its gateway.
    #[error("{subnet} leaves no address beside the gateway; use a subnet of /{} or larger", if .subnet.is_ipv4() { 30 } else { 126 })]
    SubnetTooSmall {
        /// The subnet as it was given.
        subnet: IpNetwork,
    },

    /// The gateway is no address of the subnet.
    #[error(
        "gateway {gateway} is not in {subnet}; choose one that is, or leave it out to take the subnet's first address"
    )]
    GatewayOutside {
        /// The gateway as it was given.
        gateway: IpAddr,
        /// The subnet that it should be in.
        subnet: IpNetwork,
    },

    /// The gateway is the subnet's network address or its broadcast address.
    #[error("gateway {gateway} is the network or the broadcast address of {subnet}; choose one between them")]
    GatewayReserved {
        /// The gateway as it was given.
        gateway: IpAddr,
        /// The subnet that it is in.
        subnet: IpNetwork,
    },

    /// A bound is none of the addresses that the range could hand out.
    #[error("{bound} cannot bound {range}; choose an address from {} to {}", .range.first(), .range.last())]
    BoundOutside {
        /// The bound as it was given.
        bound: IpAddr,
        /// The range that was to be bounded.
        range: Box<Range>,
    },

    /// The range ends before it starts.
    #[error("the range of {subnet} from {first} to {last} is reversed; exchange its ends")]
    Reversed {
        /// Where the range was to start.
        first: IpAddr,
        /// Where it was to end.
        last: IpAddr,
        /// The range's subnet.
        subnet: IpNetwork,
    },

    /// What is to be left out of ranges is in none of them.
    #[error("exclude {exclude} is not in {ranges}; correct it, or leave it out")]
    ExcludeOutside {
        /// What was to be left out.
        exclude: IpNetwork,
        /// The ranges that there are.
        ranges: String,
    },

    /// All of the range is its gateway or left out.
    #[error("nothing of {range} is left to hand out; widen its bounds, or exclude less")]
    NothingLeft {
        /// The range.
        range: Box<Range>,
    },

    /// A list of ranges has none.
    #[error("a list of ranges is empty; write a range into it, or leave the list out")]
    EmptyPool,

    /// A list of ranges that stand in for each other has IPv4 and IPv6 ones.
    #[error("{first} and {other} stand in one list of ranges; write IPv4 and IPv6 ranges into lists of their own")]
    MixedFamilies {
        /// The first subnet of the list.
        first: IpNetwork,
        /// One of the other family.
        other: IpNetwork,
    },

    /// Two ranges could hand out the same address.
    #[error("ranges {first} and {second} overlap; give each address to one of them")]
    Overlap {
        /// The range that comes first.
        first: Box<Range>,
        /// The one that overlaps it.
        second: Box<Range>,
    },

    /// A range could hand out the gateway of another.
    #[error("range {range} would hand out {gateway}, the gateway of another; exclude it")]
    GatewayHandedOut {
        /// The gateway.
        gateway: IpAddr,
        /// The range that has the gateway among its addresses.
        range: Box<Range>,
    },

    /// There is no range at all.
    #[error("no range of addresses is configured; write a subnet")]
    NoRanges,

    /// A key belongs to a subnet that is not there.
    #[error("{key} {address} has no subnet beside it; write the subnet that it is of")]
    NoSubnet {
        /// The key.
        key: &'static str,
        /// Its value.
        address: IpAddr,
    },

    /// A path has to be absolute.
    #[error("{key} {} is relative; write an absolute path", .path.display())]
    RelativePath {
        /// The key.
        key: &'static str,
        /// Its value.
        path: PathBuf,
    },

    /// Another process kept the lock for too long.
    #[error("lock {} is still held{} after {waited:?}; try again, or end the process that holds it", .path.display(), by_process(*.holder))]
    LockTimeout {
        /// The lock file.
        path: PathBuf,
        /// How long the lock was waited for.
        waited: Duration,
        /// The process that holds the lock, where the kernel tells.
        holder: Option<u32>,
    },

    /// The attachment holds a lease already.
    #[error("{} already holds {}; release it before it is given another lease", .lease.owner, list(&.lease.addresses))]
    AlreadyLeased {
        /// The lease that it holds.
        lease: Box<Lease>,
    },

    /// Every address of a pool is taken.
    #[error("no address of {pool} is free: all {} are leased; remove attachments or configure a larger subnet", .pool.capacity())]
    PoolExhausted {
        /// The pool.
        pool: Box<Pool>,
    },

    /// An address that was asked for is another's.
    #[error("{address} is held{}; ask for another address, or remove that attachment", by_owner(.holder.as_deref()))]
    AddressTaken {
        /// The address that was asked for.
        address: IpAddr,
        /// Who holds it; nobody known, where the lease cannot be read.
        holder: Option<Box<Owner>>,
    },

    /// An address that was asked for is none that can be handed out.
    #[error("{address} is not among the addresses of {pools} that can be handed out; ask for one that is")]
    NotInPools {
        /// The address that was asked for.
        address: IpAddr,
        /// The pools.
        pools: String,
    },

    /// Two addresses were asked for where there is one to be had.
    #[error("{first} and {second} are both of {pool}, which gives one address; ask for one of them")]
    RequestedTwice {
        /// The address that was asked for first.
        first: IpAddr,
        /// The other one.
        second: IpAddr,
        /// The pool that has both.
        pool: Box<Pool>,
    },

    /// The owner's container id is too long for the name of a file.
    #[error("the container id of {owner} makes a file name of {length} bytes; shorten it by {}", .length - .limit)]
    NameTooLong {
        /// The owner with the long name.
        owner: Box<Owner>,
        /// The bytes of the file name.
        length: usize,
        /// The bytes that a file name may have.
        limit: usize,
    },

    /// A lease file does not hold a lease, or holds somebody else's.
    #[error("lease file {} cannot be understood: {source}; delete the attachment that it is named after to free its addresses", .path.display())]
    CorruptLease {
        /// The file: the owner's, or one of its addresses.
        path: PathBuf,
        /// Whose lease it was, where the file's name tells.
        owner: Option<Box<Owner>>,
        /// What is wrong with the content. The message has it before the remedy, so it is no
        /// [`source`](std::error::Error::source).
        r#source: serde_json::Error,
    },

    /// Somebody else could change what is kept there, or holds it.
    #[error("{} {}: make it root's alone, by chown root and chmod go-w", .path.display(), shared_by(*.uid))]
    Shared {
        /// The directory, or the file.
        path: PathBuf,
        /// Whose it is, if that is what is wrong.
        uid: Option<u32>,
    },

    /// The directory of the store is a symbolic link, and somebody else's to put there.
    #[error("{} is a symbolic link, which may lead anywhere: put a directory there that is root's alone", .path.display())]
    Linked {
        /// The link.
        path: PathBuf,
    },

    /// A file to be imported is no table of leases.
    #[error("{} is no table of leases: {source}; it needs the key \"allocated\", with the container id of each address", .path.display())]
    NotATable {
        /// The file.
        path: PathBuf,
        /// What is wrong with the content. The message has it before the remedy, so it is no
        /// [`source`](std::error::Error::source).
        r#source: serde_json::Error,
    },

    /// The file system refused.
    #[error("cannot {operation} {}{}", .path.display(), remedy(source))]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl HasErrorCode for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::HostBits { .. }
            | Self::SubnetTooSmall { .. }
            | Self::GatewayOutside { .. }
            | Self::GatewayReserved { .. }
            | Self::BoundOutside { .. }
            | Self::Reversed { .. }
            | Self::ExcludeOutside { .. }
            | Self::NothingLeft { .. }
            | Self::EmptyPool
            | Self::MixedFamilies { .. }
            | Self::Overlap { .. }
            | Self::GatewayHandedOut { .. }
            | Self::NoRanges
            | Self::NoSubnet { .. }
            | Self::RelativePath { .. }
            | Self::NotInPools { .. }
            | Self::RequestedTwice { .. } => ErrorCode::INVALID_CONFIG,
            Self::LockTimeout { .. } => ErrorCode::TRY_AGAIN,
            Self::AlreadyLeased { .. } => ALREADY_LEASED,
            Self::PoolExhausted { .. } => POOL_EXHAUSTED,
            Self::AddressTaken { .. } => ADDRESS_TAKEN,
            Self::NameTooLong { .. } => ErrorCode::INVALID_ENVIRONMENT,
            Self::CorruptLease { .. } => CORRUPT_LEASE,
            Self::NotATable { .. } => ErrorCode::DECODE,
            Self::Io { .. } | Self::Shared { .. } | Self::Linked { .. } => ErrorCode::IO,
        }
    }
}

impl Error {
    /// For `map_err`: says which lease file cannot be understood.
    pub(super) fn corrupt(path: &Path) -> impl FnOnce(serde_json::Error) -> Self {
        let owner = path.file_name().and_then(|name| Owner::of_file_name(name.to_str()?)).map(Box::new);
        move |source| Self::CorruptLease { path: path.to_owned(), owner, source }
    }

    /// Whether a file's content is lost, and trying again is no use.
    pub(super) fn is_damage(&self) -> bool {
        const LOST: [Errno; 5] = [Errno::IO, Errno::ISDIR, Errno::LOOP, Errno::BADMSG, Errno::UCLEAN];
        match self {
            Self::CorruptLease { .. } => true,
            Self::Io { source, .. } => Errno::from_io_error(source).is_some_and(|error| LOST.contains(&error)),
            _ => false,
        }
    }

    /// For `map_err`: names what was tried on which path.
    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.to_owned(), source }
    }
}

fn shared_by(uid: Option<u32>) -> String {
    uid.map_or_else(|| "can be changed by others".to_owned(), |uid| format!("belongs to user {uid}"))
}

fn by_process(holder: Option<u32>) -> String {
    holder.map_or_else(String::new, |pid| format!(" by process {pid}"))
}

fn by_owner(holder: Option<&Owner>) -> String {
    holder.map_or_else(String::new, |owner| format!(" by {owner}"))
}

fn list(addresses: &[IpNetwork]) -> String {
    let mut text = String::new();
    for (index, address) in addresses.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}{address}");
    }
    text
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => " (it is for root alone, as whom runtimes run plugins)",
        io::ErrorKind::NotADirectory => " (a file is in the way of the directory)",
        io::ErrorKind::ReadOnlyFilesystem => " (choose a directory on a file system that can be written)",
        io::ErrorKind::StorageFull => " (free space or inodes on that file system, or choose another directory)",
        _ => "",
    }
}
