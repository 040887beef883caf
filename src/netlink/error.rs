//! The errors of this module.

use std::{
    error::Error as StdError,
    fmt::{self, Display},
    io,
    path::PathBuf,
};

use ipnetwork::IpNetwork;
use rustix::io::Errno;

use crate::spec::{ErrorCode, HasErrorCode, IfIndex, IfName};

/// The result type of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a netlink request or of a change of namespace.
///
/// # Codes on the CNI wire
///
/// A missing or invalid namespace returns `INVALID_NETNS`. Temporary conditions return `TRY_AGAIN`:
/// lack of memory or buffers, a busy device, a dump that changed during each read. A missing kernel
/// feature returns `PLUGIN_NOT_AVAILABLE`. All other errors return `IO`, a missing capability
/// included: the specification has no code for it, and the message names the capability.
// The text contains the text of `r#source`. The raw name hides the field from thiserror, so a
// printed chain of sources does not repeat the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused the request.
    #[error(
        "{operation} {object}: {}{}{}",
        io::Error::from_raw_os_error(*errno),
        KernelMessage(message.as_deref()),
        MissingCapability(Some(*errno), "CAP_NET_ADMIN")
    )]
    Kernel {
        /// The operation, such as `create bridge`.
        operation: &'static str,
        /// The object of the operation, such as `cbr0`.
        object: String,
        /// The error number, such as `ENODEV`.
        errno: i32,
        /// The kernel's explanation (extended acknowledgement), if the kernel sent one. For a
        /// [`Tap`](super::Tap), the file or request that failed.
        message: Option<String>,
    },
    /// The object to be created already exists.
    #[error("{operation} {object}: it already exists")]
    Exists {
        /// The operation, such as `create bridge`.
        operation: &'static str,
        /// The object that exists.
        object: String,
    },
    /// Another link has the index that was requested for a new link.
    #[error("{operation} {object}: index {ifindex} already belongs to another link")]
    IndexTaken {
        /// The operation, such as `create veth`.
        operation: &'static str,
        /// The object that was not created.
        object: String,
        /// The index.
        ifindex: IfIndex,
    },
    /// A VXLAN cannot have its UDP port, because another socket of the namespace has it.
    #[error("{operation} {object}: another VXLAN link or program uses UDP port {port}; choose another port or stop it")]
    UdpPortTaken {
        /// The operation, such as `create`.
        operation: &'static str,
        /// The object that was not created.
        object: String,
        /// The UDP port.
        port: u16,
    },
    /// The place of a qdisc holds another one, which differs from the requested one.
    #[error(
        "{operation} {object}: its place holds a {kind} qdisc that differs; delete it with the program that created it"
    )]
    QdiscConflict {
        /// The operation.
        operation: &'static str,
        /// The link.
        object: String,
        /// The kind of the existing qdisc: for example `ingress`, or `clsact` with other shared
        /// blocks.
        kind: String,
    },
    /// The kernel would delete another routing rule instead.
    #[error(
        "{operation} {object}: the rule `{other}` has the same priority and precedes it, so the kernel would delete that \
         one; give the rules different priorities"
    )]
    AmbiguousRule {
        /// The operation.
        operation: &'static str,
        /// The rule that was not deleted.
        object: String,
        /// The rule that the kernel would delete.
        other: String,
    },
    /// The kernel lacks a feature and found no module that provides it.
    #[error(
        "{operation} {object}: the kernel lacks {module} or may not load it; load the module on the host, or run a kernel \
         that has it"
    )]
    Unsupported {
        /// The operation, such as `append a rule to`.
        operation: &'static str,
        /// The object of the operation.
        object: String,
        /// The module that provides the feature.
        module: String,
    },
    /// The namespace has no link of this name.
    #[error("there is no link {link} in the network namespace; correct the name, or create the link")]
    LinkMissing {
        /// The name.
        link: IfName,
    },
    /// The netlink socket could not be opened, written or read.
    #[error("{operation} {object}: the netlink socket failed: {source}")]
    Socket {
        /// The operation that needed the socket.
        operation: &'static str,
        /// The object of the operation.
        object: String,
        /// The error of the system call.
        r#source: io::Error,
    },
    /// A netlink message could not be encoded or decoded.
    #[error("{operation} {object}: the netlink message is malformed: {source}")]
    Message {
        /// The operation of the message.
        operation: &'static str,
        /// The object of the operation.
        object: String,
        /// The encoding or decoding error.
        r#source: Box<dyn StdError + Send + Sync>,
    },
    /// The kernel acknowledged a request but sent no answer.
    #[error("{operation} {object}: the kernel sent no answer")]
    NoAnswer {
        /// The operation.
        operation: &'static str,
        /// The object of the operation.
        object: String,
    },
    /// The list changed during each read.
    #[error("{operation} {object}: the list changed during each of {attempts} reads; try again")]
    DumpInterrupted {
        /// The list operation.
        operation: &'static str,
        /// The object of the operation.
        object: String,
        /// The number of reads.
        attempts: u32,
    },
    /// Another machine on a link uses an address (duplicate address detection failed).
    #[error("address {address} of link {ifindex}: another machine on the link uses it; choose another address")]
    DuplicateAddress {
        /// The address.
        address: IpNetwork,
        /// The link.
        ifindex: IfIndex,
    },
    /// The path of a namespace does not exist.
    #[error("network namespace {}: no such file; the sandbox may be gone", path.display())]
    NetnsMissing {
        /// The path.
        path: PathBuf,
    },
    /// The path names a file that is not a network namespace.
    #[error("network namespace {}: the file is not a network namespace", path.display())]
    NotNetns {
        /// The path.
        path: PathBuf,
    },
    /// The path of a namespace cannot be opened.
    #[error("cannot open the network namespace {}: {source}", path.display())]
    NetnsOpen {
        /// The path.
        path: PathBuf,
        /// The error of the system call; `PermissionDenied` if the caller lacks permission.
        r#source: io::Error,
    },
    /// The namespace could not be entered or created.
    #[error("cannot {operation} a network namespace: {source}{}", MissingCapability(source.raw_os_error(), "CAP_SYS_ADMIN"))]
    Netns {
        /// The operation: `enter` or `create`.
        operation: &'static str,
        /// The error of the system call.
        r#source: io::Error,
    },
    /// A link could not be probed for addresses in use.
    #[error("cannot probe {link} for addresses in use: {source}{}", MissingCapability(source.raw_os_error(), "CAP_NET_RAW"))]
    Probe {
        /// The link.
        link: IfName,
        /// The error of the system call.
        r#source: io::Error,
    },
    /// The links of a PCI device could not be read.
    #[error("cannot read the links of PCI device {address}: {source}")]
    PciDevice {
        /// The address of the device.
        address: String,
        /// The error of the system call; `InvalidInput` if the address is malformed.
        r#source: io::Error,
    },
    /// The addresses of a link could not be announced.
    #[error("cannot announce the addresses of {link}: {source}{}", MissingCapability(source.raw_os_error(), "CAP_NET_RAW"))]
    Announce {
        /// The link.
        link: IfName,
        /// The error of the system call.
        r#source: io::Error,
    },
    /// The kernel has no such setting, or the namespace has no such link.
    #[error("{}: no such setting; the kernel may lack the protocol, or the link may be gone", path.display())]
    SysctlMissing {
        /// The file of the setting.
        path: PathBuf,
    },
    /// A setting could not be read or written.
    #[error("cannot {operation} {}: {source}", path.display())]
    Sysctl {
        /// The operation.
        operation: &'static str,
        /// The file of the setting.
        path: PathBuf,
        /// The error of the system call.
        r#source: io::Error,
    },
}

impl Error {
    /// The kernel's error number, if a system call or the kernel's answer returned one.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Kernel { errno, .. } => Some(*errno),
            Self::Socket { source: error, .. }
            | Self::NetnsOpen { source: error, .. }
            | Self::Netns { source: error, .. }
            | Self::Probe { source: error, .. }
            | Self::PciDevice { source: error, .. }
            | Self::Announce { source: error, .. }
            | Self::Sysctl { source: error, .. } => error.raw_os_error(),
            Self::Exists { .. } | Self::IndexTaken { .. } | Self::QdiscConflict { .. } => {
                Some(Errno::EXIST.raw_os_error())
            }
            Self::UdpPortTaken { .. } => Some(Errno::ADDRINUSE.raw_os_error()),
            Self::LinkMissing { .. } => Some(Errno::NODEV.raw_os_error()),
            Self::NetnsMissing { .. } | Self::SysctlMissing { .. } => Some(Errno::NOENT.raw_os_error()),
            _ => None,
        }
    }

    pub(super) fn is(&self, errno: Errno) -> bool {
        self.raw_os_error() == Some(errno.raw_os_error())
    }
}

impl HasErrorCode for Error {
    fn code(&self) -> ErrorCode {
        const PASSING: [Errno; 4] = [Errno::AGAIN, Errno::BUSY, Errno::NOBUFS, Errno::NOMEM];
        match self {
            Self::NetnsMissing { .. } | Self::NotNetns { .. } => ErrorCode::INVALID_NETNS,
            Self::DumpInterrupted { .. } => ErrorCode::TRY_AGAIN,
            Self::Unsupported { .. } => ErrorCode::PLUGIN_NOT_AVAILABLE,
            _ if PASSING.iter().any(|errno| self.is(*errno)) => ErrorCode::TRY_AGAIN,
            _ => ErrorCode::IO,
        }
    }
}

/// The kernel's explanation of a refusal.
struct KernelMessage<'a>(Option<&'a str>);

impl Display for KernelMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |message| write!(f, " ({message})"))
    }
}

/// The missing capability, if the error is `EPERM`.
struct MissingCapability(Option<i32>, &'static str);

impl Display for MissingCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == Some(Errno::PERM.raw_os_error()) {
            write!(f, "; {} is needed", self.1)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::operation::Operation;

    #[test]
    fn kernel_error_shows_the_explanation_and_the_missing_capability() {
        let operation = Operation::new("create bridge", "cbr0");
        let error = operation.refused(-1, Some("not here".into()));
        assert_eq!(
            error.to_string(),
            "create bridge cbr0: Operation not permitted (os error 1) (not here); \
             CAP_NET_ADMIN is needed"
        );
        assert_eq!(error.code(), ErrorCode::IO);
    }

    #[test]
    fn eexist_has_its_own_variant() {
        let error = Operation::new("create bridge", "cbr0").refused(-17, None);
        assert!(matches!(error, Error::Exists { .. }), "{error:?}");
        assert_eq!(error.to_string(), "create bridge cbr0: it already exists");
    }

    #[test]
    fn temporary_errors_return_try_again() {
        let operation = Operation::on_link("set up", IfIndex::LOOPBACK);
        assert_eq!(operation.refused(-16, None).code(), ErrorCode::TRY_AGAIN);
        assert_eq!(operation.dump_interrupted(5).code(), ErrorCode::TRY_AGAIN);
        let missing = Error::NetnsMissing { path: "/run/netns/gone".into() };
        assert_eq!(missing.code(), ErrorCode::INVALID_NETNS);
    }
}
