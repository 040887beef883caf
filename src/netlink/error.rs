use std::{
    error::Error as StdError,
    fmt::{self, Display},
    io,
    path::PathBuf,
};

use neli::{
    err::DeError,
    nl::NlmsghdrBuilderError,
    rtnl::{
        IfaddrmsgBuilderError, IfinfomsgBuilderError, NdmsgBuilderError, RtattrBuilderError, RtmsgBuilderError,
        TcmsgBuilderError,
    },
};
use rustix::io::Errno;

use crate::spec::{ErrorCode, HasErrorCode, IfName};

/// What every function of this module returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a netlink request or a change of namespace failed.
///
/// # Codes on the CNI wire
///
/// Namespaces that are missing or are none give `INVALID_NETNS`; states that pass by themselves
/// (memory or buffers short, a device busy, a dump that never settled) give `TRY_AGAIN`; what the
/// kernel lacks gives `PLUGIN_NOT_AVAILABLE`; all else, a missing capability included, is `IO`: the
/// specification has no number for it and the message says which one is needed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused the request.
    #[error(
        "{operation} {object}: {errno}{}{}",
        Words(message.as_deref()),
        Needed(errno, "CAP_NET_ADMIN")
    )]
    Kernel {
        /// What was asked for, such as `create bridge`.
        operation: &'static str,
        /// What it was asked for, such as `cbr0`.
        object: String,
        /// The error number.
        errno: io::Error,
        /// The kernel's explanation (extended acknowledgement), where it gave one.
        message: Option<String>,
    },
    /// The object to be created is there already.
    #[error("{operation} {object}: it exists already")]
    Exists {
        /// What was asked for, such as `create bridge`.
        operation: &'static str,
        /// The object that exists.
        object: String,
    },
    /// The index that a new link was to have is another link's.
    #[error("{operation} {object}: there is a link with the index {index} already")]
    IndexTaken {
        /// What was asked for, such as `create veth`.
        operation: &'static str,
        /// The object that was not made.
        object: String,
        /// The index.
        index: u32,
    },
    /// A link's ingress slot holds another qdisc than the one that is wanted.
    #[error("{operation} {object}: the ingress slot holds a {kind} qdisc that differs; only who made it may delete it")]
    QdiscConflict {
        /// What was asked for.
        operation: &'static str,
        /// The link.
        object: String,
        /// The kind of the qdisc that is there: `ingress`, or `clsact` that names other shared blocks.
        kind: String,
    },
    /// The kernel lacks a feature, and found no module to load for it.
    #[error(
        "{operation} {object}: the kernel lacks {module}, or may not load it: load the module {module} on the host, or run \
         a kernel that has it"
    )]
    Unsupported {
        /// What was asked for, such as `append a rule to`.
        operation: &'static str,
        /// The object of the operation.
        object: String,
        /// The module that brings the feature.
        module: &'static str,
    },
    /// The netlink socket could not be opened, written or read.
    #[error("{operation} {object}: the netlink socket failed")]
    Socket {
        /// What the socket was needed for.
        operation: &'static str,
        /// The object of the operation.
        object: String,
        /// The failure of the system call.
        source: io::Error,
    },
    /// A netlink message could not be written or understood.
    #[error("{operation} {object}: the netlink message is malformed")]
    Message {
        /// What the message belonged to.
        operation: &'static str,
        /// The object of the operation.
        object: String,
        /// What is wrong with it.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The kernel acknowledged a request and did not answer it.
    #[error("{operation} {object}: the kernel sent no answer")]
    NoAnswer {
        /// What was asked for.
        operation: &'static str,
        /// The object of the operation.
        object: String,
    },
    /// The list changed while the kernel wrote it, each time it was asked.
    #[error("{operation} {object}: the list changed during each of {attempts} readings; try again")]
    DumpInterrupted {
        /// What was listed.
        operation: &'static str,
        /// The object of the operation.
        object: String,
        /// How many times it was read.
        attempts: u32,
    },
    /// There is nothing at the path of a namespace.
    #[error("network namespace {}: there is no such file; the sandbox may be gone", path.display())]
    NetnsMissing {
        /// The path that was given.
        path: PathBuf,
    },
    /// The path names something that is no network namespace.
    #[error("network namespace {}: the file is not a network namespace", path.display())]
    NotNetns {
        /// The path that was given.
        path: PathBuf,
    },
    /// The path of a namespace cannot be opened.
    #[error("network namespace {}: cannot open it", path.display())]
    NetnsOpen {
        /// The path that was given.
        path: PathBuf,
        /// The failure of the system call; `PermissionDenied` where the caller may not.
        source: io::Error,
    },
    /// The namespace could not be entered, created or looked at.
    #[error("cannot {operation} a network namespace{}", Needed(source, "CAP_SYS_ADMIN"))]
    Netns {
        /// What was tried.
        operation: &'static str,
        /// The failure of the system call.
        source: io::Error,
    },
    /// A link could not be searched for machines that have an address.
    #[error("cannot ask on {link} whether an address is in use{}", Needed(source, "CAP_NET_RAW"))]
    Probe {
        /// The link.
        link: IfName,
        /// The failure of the system call.
        source: io::Error,
    },
    /// The kernel has no such setting, or the namespace no such link.
    #[error("{}: there is no such setting here; the kernel may lack the protocol, or the link be gone", path.display())]
    SysctlMissing {
        /// The file of the setting.
        path: PathBuf,
    },
    /// A setting could not be read or written.
    #[error("cannot {operation} {}", path.display())]
    Sysctl {
        /// What was tried.
        operation: &'static str,
        /// The file of the setting.
        path: PathBuf,
        /// The failure of the system call.
        source: io::Error,
    },
}

impl Error {
    /// The kernel's error number, where a system call or the kernel's answer gave one.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Kernel { errno: error, .. }
            | Self::Socket { source: error, .. }
            | Self::NetnsOpen { source: error, .. }
            | Self::Netns { source: error, .. }
            | Self::Probe { source: error, .. }
            | Self::Sysctl { source: error, .. } => error.raw_os_error(),
            Self::Exists { .. } | Self::IndexTaken { .. } | Self::QdiscConflict { .. } => {
                Some(Errno::EXIST.raw_os_error())
            }
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

/// What a request is for; errors are made from it.
#[derive(Debug)]
pub(super) struct Operation {
    name: &'static str,
    object: String,
}

impl Operation {
    pub(super) fn new(name: &'static str, object: impl Display) -> Self {
        Self { name, object: object.to_string() }
    }

    pub(super) fn on_link(name: &'static str, index: u32) -> Self {
        Self::new(name, format_args!("link {index}"))
    }

    /// The error for what the kernel answered; `code` is a negative error number.
    pub(super) fn refused(&self, code: i32, message: Option<String>) -> Error {
        let (operation, object) = self.parts();
        let errno = io::Error::from_raw_os_error(code.wrapping_neg());
        if errno.raw_os_error() == Some(Errno::EXIST.raw_os_error()) {
            return Error::Exists { operation, object };
        }
        Error::Kernel { operation, object, errno, message }
    }

    pub(super) fn exists(&self) -> Error {
        let (operation, object) = self.parts();
        Error::Exists { operation, object }
    }

    pub(super) fn socket(&self, source: impl Into<io::Error>) -> Error {
        let (operation, object) = self.parts();
        Error::Socket { operation, object, source: source.into() }
    }

    pub(super) fn malformed(&self, fault: EncodeError) -> Error {
        let (operation, object) = self.parts();
        Error::Message { operation, object, source: fault.0 }
    }

    pub(super) fn index_taken(&self, index: u32) -> Error {
        let (operation, object) = self.parts();
        Error::IndexTaken { operation, object, index }
    }

    pub(super) fn qdisc_conflict(&self, kind: String) -> Error {
        let (operation, object) = self.parts();
        Error::QdiscConflict { operation, object, kind }
    }

    pub(super) fn unsupported(&self, module: &'static str) -> Error {
        let (operation, object) = self.parts();
        Error::Unsupported { operation, object, module }
    }

    pub(super) fn no_answer(&self) -> Error {
        let (operation, object) = self.parts();
        Error::NoAnswer { operation, object }
    }

    pub(super) fn dump_interrupted(&self, attempts: u32) -> Error {
        let (operation, object) = self.parts();
        Error::DumpInterrupted { operation, object, attempts }
    }

    fn parts(&self) -> (&'static str, String) {
        (self.name, self.object.clone())
    }
}

impl Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.object)
    }
}

/// A message that cannot be written or understood. It keeps the types of the netlink library out of
/// [`Error`].
#[derive(Debug)]
pub(super) struct EncodeError(Box<dyn StdError + Send + Sync>);

impl EncodeError {
    pub(super) fn new(error: impl StdError + Send + Sync + 'static) -> Self {
        Self(Box::new(error))
    }
}

macro_rules! encode_error_from {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for EncodeError {
            fn from(error: $error) -> Self {
                Self::new(error)
            }
        })+
    };
}

encode_error_from!(
    DeError,
    IfaddrmsgBuilderError,
    IfinfomsgBuilderError,
    NdmsgBuilderError,
    NlmsghdrBuilderError,
    RtattrBuilderError,
    RtmsgBuilderError,
    TcmsgBuilderError,
);

/// The kernel's words on a refusal.
struct Words<'a>(Option<&'a str>);

impl Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |words| write!(f, " ({words})"))
    }
}

/// The capability that is wanting, where the error says that one is.
struct Needed<'a>(&'a io::Error, &'static str);

impl Display for Needed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.raw_os_error() == Some(Errno::PERM.raw_os_error()) {
            write!(f, "; {} is needed", self.1)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_the_kernel_said_and_what_is_needed() {
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
    fn what_exists_is_told_apart() {
        let error = Operation::new("create bridge", "cbr0").refused(-17, None);
        assert!(matches!(error, Error::Exists { .. }), "{error:?}");
        assert_eq!(error.to_string(), "create bridge cbr0: it exists already");
    }

    #[test]
    fn what_passes_by_itself_is_to_be_tried_again() {
        let operation = Operation::on_link("set up", 4);
        assert_eq!(operation.refused(-16, None).code(), ErrorCode::TRY_AGAIN);
        assert_eq!(operation.dump_interrupted(5).code(), ErrorCode::TRY_AGAIN);
        let missing = Error::NetnsMissing { path: "/run/netns/gone".into() };
        assert_eq!(missing.code(), ErrorCode::INVALID_NETNS);
    }
}
