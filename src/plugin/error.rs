use std::io;
use std::path::PathBuf;

use crate::spec::{ErrorCode, HasErrorCode};

/// An error of a call, apart from errors in its data ([`spec::Error`](crate::spec::Error)).
// The text contains the text of `r#source`. The raw name hides the field from thiserror, so a
// printed chain of sources does not repeat the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Standard input could not be read.
    #[error("cannot read the network configuration from standard input: {source}")]
    Stdin {
        /// The system's error.
        r#source: io::Error,
    },
    /// `CNI_NETNS` cannot be opened; usually it does not exist.
    #[error("cannot open CNI_NETNS {path:?}: {source}; pass the path of the container's namespace")]
    NetnsUnreadable {
        /// The path.
        path: PathBuf,
        /// The system's error.
        r#source: io::Error,
    },
    /// `CNI_NETNS` is the path of another object.
    #[error("CNI_NETNS {path:?} is not a network namespace: pass the path of the container's namespace")]
    NotNetns {
        /// The path.
        path: PathBuf,
    },
    /// `CNI_NETNS` is the plugin's own namespace.
    #[error(
        "CNI_NETNS {path:?} is the plugin's own namespace: pass the container's, \
         or set CNI_NETNS_OVERRIDE=1 to use it anyway"
    )]
    OwnNetns {
        /// The path.
        path: PathBuf,
    },
}

impl HasErrorCode for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Error::Stdin { .. } => ErrorCode::IO,
            Error::NetnsUnreadable { .. } | Error::NotNetns { .. } | Error::OwnNetns { .. } => ErrorCode::INVALID_NETNS,
        }
    }
}
