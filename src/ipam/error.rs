use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnetwork::IpNetwork;
use rustix::io::Errno;

use super::lease::Lease;
use super::pool::Pool;
use super::range::Range;
use crate::spec::{AttachmentKey, ErrorCode, HasErrorCode};

/// The code of [`Error::PoolExhausted`]: no address is free.
pub const POOL_EXHAUSTED: ErrorCode = ErrorCode::plugin_specific(100);
/// The code of [`Error::AlreadyLeased`]: the attachment already holds addresses.
pub const ALREADY_LEASED: ErrorCode = ErrorCode::plugin_specific(101);
/// The code of [`Error::CorruptLease`]: a lease file cannot be parsed.
pub const CORRUPT_LEASE: ErrorCode = ErrorCode::plugin_specific(102);

/// The code of [`Error::AddressTaken`]: another attachment holds a requested address.
pub const ADDRESS_TAKEN: ErrorCode = ErrorCode::plugin_specific(103);

/// The result type of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An invalid range, or an operation that the store could not perform.
// The text contains the text of `r#source`. The raw name hides the field from thiserror, so a
// printed chain of sources does not repeat the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The subnet has host bits set.
    #[error("{subnet} has host bits set; write {}/{}", .subnet.network(), .subnet.prefix())]
    HostBits {
        /// The configured subnet.
        subnet: IpNetwork,
    },

    /// The subnet has no address except the gateway.
    #[error("{subnet} has no address except the gateway; use a subnet of /{} or larger", if .subnet.is_ipv4() { 30 } else { 126 })]
    SubnetTooSmall {
        /// The configured subnet.
        subnet: IpNetwork,
    },

    /// The gateway is not in the subnet.
    #[error(
        "gateway {gateway} is not in {subnet}; use an address of the subnet, or omit the gateway for the first address"
    )]
    GatewayOutside {
        /// The configured gateway.
        gateway: IpAddr,
        /// The subnet of the range.
        subnet: IpNetwork,
    },

    /// The gateway is the network address or the broadcast address of the subnet.
    #[error("gateway {gateway} is the network or the broadcast address of {subnet}; use an address between them")]
    GatewayReserved {
        /// The configured gateway.
        gateway: IpAddr,
        /// The subnet of the range.
        subnet: IpNetwork,
    },

    /// A bound is not an address that the range can allocate.
    #[error("{bound} is outside {range}; use an address from {} to {}", .range.first(), .range.last())]
    BoundOutside {
        /// The configured bound.
        bound: IpAddr,
        /// The range without the bound.
        range: Box<Range>,
    },

    /// The range ends before it starts.
    #[error("the range of {subnet} from {first} to {last} is reversed; swap its bounds")]
    Reversed {
        /// The configured first address.
        first: IpAddr,
        /// The configured last address.
        last: IpAddr,
        /// The subnet of the range.
        subnet: IpNetwork,
    },

    /// An excluded prefix is not in any range.
    #[error("exclude {exclude} is not in {ranges}; correct or remove it")]
    ExcludeOutside {
        /// The excluded prefix.
        exclude: IpNetwork,
        /// The configured ranges.
        ranges: String,
    },

    /// The range has no address except the gateway and the excluded ones.
    #[error("no address of {range} can be allocated; widen its bounds or exclude less")]
    NothingLeft {
        /// The range.
        range: Box<Range>,
    },

    /// A list of ranges is empty.
    #[error("a list of ranges is empty; add a range or remove the list")]
    EmptyPool,

    /// A list of ranges contains IPv4 and IPv6 ranges.
    #[error("{first} and {other} are in one list of ranges; use separate lists for IPv4 and IPv6")]
    MixedFamilies {
        /// The first subnet of the list.
        first: IpNetwork,
        /// A subnet of the other family.
        other: IpNetwork,
    },

    /// Two ranges can allocate the same address.
    #[error("ranges {first} and {second} overlap; each address must be in one range only")]
    Overlap {
        /// The first range.
        first: Box<Range>,
        /// The second range.
        second: Box<Range>,
    },

    /// A range can allocate the gateway of another range.
    #[error("range {range} contains {gateway}, the gateway of another range; exclude it")]
    GatewayHandedOut {
        /// The gateway.
        gateway: IpAddr,
        /// The range that contains the gateway.
        range: Box<Range>,
    },

    /// No range is configured.
    #[error("no address range is configured; add a subnet")]
    NoRanges,

    /// A key needs a `subnet`, but there is none.
    #[error("{key} {address} is set without a subnet; add the subnet")]
    NoSubnet {
        /// The key.
        key: &'static str,
        /// The value of the key.
        address: IpAddr,
    },

    /// A path is not absolute.
    #[error("{key} {} is relative; write an absolute path", .path.display())]
    RelativePath {
        /// The key.
        key: &'static str,
        /// The value of the key.
        path: PathBuf,
    },

    /// Another process held the lock until the timeout.
    #[error("lock {} is still held{} after {waited:?}; try again, or end the process that holds it", .path.display(), by_process(*.holder))]
    LockTimeout {
        /// The lock file.
        path: PathBuf,
        /// The timeout.
        waited: Duration,
        /// The process that holds the lock, if the kernel reports it.
        holder: Option<u32>,
    },

    /// The attachment already holds a lease.
    #[error("{} already holds {}; release it before another allocation", .lease.owner.described(), list(&.lease.addresses))]
    AlreadyLeased {
        /// The existing lease.
        lease: Box<Lease>,
    },

    /// Every address of a pool is taken.
    #[error("no address of {pool} is free: all {} are leased; remove attachments or configure a larger subnet", .pool.capacity())]
    PoolExhausted {
        /// The pool.
        pool: Box<Pool>,
    },

    /// Another attachment holds a requested address.
    #[error("{address} is held{}; request another address or remove that attachment", by_owner(.holder.as_deref()))]
    AddressTaken {
        /// The requested address.
        address: IpAddr,
        /// The holder; `None` if its lease cannot be read.
        holder: Option<Box<AttachmentKey>>,
    },

    /// A requested address cannot be allocated from any pool.
    #[error("{address} cannot be allocated from {pools}; request another address")]
    NotInPools {
        /// The requested address.
        address: IpAddr,
        /// The pools.
        pools: String,
    },

    /// Two addresses of one pool were requested.
    #[error("{first} and {second} are both in {pool}, which assigns one address; request only one of them")]
    RequestedTwice {
        /// The first requested address.
        first: IpAddr,
        /// The second requested address.
        second: IpAddr,
        /// The pool that contains both.
        pool: Box<Pool>,
    },

    /// The owner's container id is too long for a file name.
    #[error("the container id of {} makes a file name of {length} bytes; shorten it by {}", .owner.described(), .length - .limit)]
    NameTooLong {
        /// The owner.
        owner: Box<AttachmentKey>,
        /// The length of the file name in bytes.
        length: usize,
        /// The greatest length of a file name in bytes.
        limit: usize,
    },

    /// A lease file does not contain a lease, or contains the lease of another owner.
    #[error("lease file {} is corrupt: {source}; delete the attachment in its name to free its addresses", .path.display())]
    CorruptLease {
        /// The file of the owner, or of one of its addresses.
        path: PathBuf,
        /// The owner of the lease, if the file name contains it.
        owner: Option<Box<AttachmentKey>>,
        /// The parse error.
        r#source: serde_json::Error,
    },

    /// Another user can change the file or directory, or owns it.
    #[error("{} {}: run chown root and chmod go-w on it", .path.display(), shared_by(*.uid))]
    Shared {
        /// The file or directory.
        path: PathBuf,
        /// The user that owns it, if the owner is the problem.
        uid: Option<u32>,
    },

    /// The directory of the store is a symbolic link that another user could have created.
    #[error("{} is a symbolic link, which another user may have created: replace it with a directory of root", .path.display())]
    Linked {
        /// The link.
        path: PathBuf,
    },

    /// A file to import is not a table of leases.
    #[error("{} is not a table of leases: {source}; it needs the key \"allocated\", with the container id of each address", .path.display())]
    NotATable {
        /// The file.
        path: PathBuf,
        /// The parse error.
        r#source: serde_json::Error,
    },

    /// A file system operation failed.
    #[error("cannot {operation} {}: {source}{}", .path.display(), remedy(source))]
    Io {
        /// The operation, as a verb.
        operation: &'static str,
        /// The path of the operation.
        path: PathBuf,
        /// The error of the system call.
        r#source: io::Error,
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
    /// For `map_err`: adds the path of the lease file.
    pub(super) fn corrupt(path: &Path) -> impl FnOnce(serde_json::Error) -> Self {
        let owner = path.file_name().and_then(|name| AttachmentKey::from_file_name(name.to_str()?)).map(Box::new);
        move |source| Self::CorruptLease { path: path.to_owned(), owner, source }
    }

    /// Whether the content of a file is lost, so that another attempt cannot succeed.
    pub(super) fn is_damage(&self) -> bool {
        const LOST: [Errno; 5] = [Errno::IO, Errno::ISDIR, Errno::LOOP, Errno::BADMSG, Errno::UCLEAN];
        match self {
            Self::CorruptLease { .. } => true,
            Self::Io { source, .. } => Errno::from_io_error(source).is_some_and(|error| LOST.contains(&error)),
            _ => false,
        }
    }

    /// For `map_err`: adds the operation and the path.
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

fn by_owner(holder: Option<&AttachmentKey>) -> String {
    holder.map_or_else(String::new, |owner| format!(" by {}", owner.described()))
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
        io::ErrorKind::PermissionDenied => "; only root has access, and runtimes run plugins as root",
        io::ErrorKind::NotADirectory => "; remove the file that exists in place of the directory",
        io::ErrorKind::ReadOnlyFilesystem => "; use a directory on a writable file system",
        io::ErrorKind::StorageFull => "; free space or inodes on that file system, or choose another directory",
        _ => "",
    }
}
