use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::lease::{Lease, Owner};
use crate::spec::{Coded, ErrorCode};

/// The code of [`Error::PoolExhausted`]: no address is free.
pub const POOL_EXHAUSTED: ErrorCode = ErrorCode::plugin_specific(100);
/// The code of [`Error::AlreadyLeased`]: the attachment holds addresses already.
pub const ALREADY_LEASED: ErrorCode = ErrorCode::plugin_specific(101);
/// The code of [`Error::CorruptLease`]: a lease file cannot be understood.
pub const CORRUPT_LEASE: ErrorCode = ErrorCode::plugin_specific(102);

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

    /// Every address of a range is taken.
    #[error(
        "no address of {subnet} is free: {used} of {total} are leased; remove attachments or configure a larger subnet"
    )]
    PoolExhausted {
        /// The range's subnet.
        subnet: IpNetwork,
        /// How many of the range's addresses are taken.
        used: u128,
        /// How many addresses the range has.
        total: u128,
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
    #[error("lease file {} cannot be understood; delete the attachment that it is named after to free its addresses", .path.display())]
    CorruptLease {
        /// The file: the owner's, or one of its addresses.
        path: PathBuf,
        /// What is wrong with the content.
        source: serde_json::Error,
    },

    /// The file system refused.
    #[error("cannot {operation} {}", .path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl Coded for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::HostBits { .. }
            | Self::SubnetTooSmall { .. }
            | Self::GatewayOutside { .. }
            | Self::GatewayReserved { .. } => ErrorCode::INVALID_CONFIG,
            Self::LockTimeout { .. } => ErrorCode::TRY_AGAIN,
            Self::AlreadyLeased { .. } => ALREADY_LEASED,
            Self::PoolExhausted { .. } => POOL_EXHAUSTED,
            Self::NameTooLong { .. } => ErrorCode::INVALID_ENVIRONMENT,
            Self::CorruptLease { .. } => CORRUPT_LEASE,
            Self::Io { .. } => ErrorCode::IO,
        }
    }
}

impl Error {
    /// For `map_err`: names what was tried on which path.
    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.to_owned(), source }
    }
}

fn by_process(holder: Option<u32>) -> String {
    holder.map_or_else(String::new, |pid| format!(" by process {pid}"))
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
