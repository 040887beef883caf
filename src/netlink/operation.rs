//! The operation of a request, and the errors that it builds.

use std::{
    error::Error as StdError,
    fmt::{self, Display},
    io,
};

use neli::{
    err::DeError,
    nl::NlmsghdrBuilderError,
    rtnl::{IfaddrmsgBuilderError, IfinfomsgBuilderError, NdmsgBuilderError, RtattrBuilderError, TcmsgBuilderError},
};
use rustix::io::Errno;

use super::error::Error;
use crate::spec::IfIndex;

/// The operation and object of a request, from which errors are built.
#[derive(Debug)]
pub(super) struct Operation {
    name: &'static str,
    object: String,
}

impl Operation {
    pub(super) fn new(name: &'static str, object: impl Display) -> Self {
        Self { name, object: object.to_string() }
    }

    pub(super) fn on_link(name: &'static str, ifindex: IfIndex) -> Self {
        Self::new(name, format_args!("link {ifindex}"))
    }

    /// The error for a kernel answer; `code` is a negative error number.
    pub(super) fn refused(&self, code: i32, message: Option<String>) -> Error {
        let (operation, object) = self.parts();
        let errno = code.wrapping_neg();
        if errno == Errno::EXIST.raw_os_error() {
            return Error::Exists { operation, object };
        }
        Error::Kernel { operation, object, errno, message }
    }

    pub(super) fn no_device(&self) -> Error {
        self.refused(-Errno::NODEV.raw_os_error(), None)
    }

    pub(super) fn exists(&self) -> Error {
        let (operation, object) = self.parts();
        Error::Exists { operation, object }
    }

    pub(super) fn socket(&self, source: impl Into<io::Error>) -> Error {
        let (operation, object) = self.parts();
        Error::Socket { operation, object, source: source.into() }
    }

    pub(super) fn malformed(&self, error: EncodeError) -> Error {
        let (operation, object) = self.parts();
        Error::Message { operation, object, source: error.0 }
    }

    pub(super) fn index_taken(&self, ifindex: IfIndex) -> Error {
        let (operation, object) = self.parts();
        Error::IndexTaken { operation, object, ifindex }
    }

    pub(super) fn udp_port_taken(&self, port: u16) -> Error {
        let (operation, object) = self.parts();
        Error::UdpPortTaken { operation, object, port }
    }

    pub(super) fn qdisc_conflict(&self, kind: String) -> Error {
        let (operation, object) = self.parts();
        Error::QdiscConflict { operation, object, kind }
    }

    pub(super) fn unsupported(&self, module: impl Into<String>) -> Error {
        let (operation, object) = self.parts();
        Error::Unsupported { operation, object, module: module.into() }
    }

    pub(super) fn ambiguous_rule(&self, other: impl Display) -> Error {
        let (operation, object) = self.parts();
        Error::AmbiguousRule { operation, object, other: other.to_string() }
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

/// An error while encoding or decoding a message. It keeps the types of neli out of [`Error`].
#[derive(Debug)]
pub(super) struct EncodeError(Box<dyn StdError + Send + Sync>);

impl EncodeError {
    pub(super) fn new(error: impl StdError + Send + Sync + 'static) -> Self {
        Self(Box::new(error))
    }
}

impl Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
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
    TcmsgBuilderError,
);
