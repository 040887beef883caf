use std::io;
use std::path::PathBuf;

use crate::spec::{ErrorCode, HasErrorCode};

/// What can be wrong with a call beside its words.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Standard input could not be read.
    #[error("cannot read the network configuration from standard input")]
    Stdin {
        /// What the system says.
        source: io::Error,
    },
    /// `CNI_NETNS` cannot be looked at; most often it does not exist.
    #[error("cannot look at CNI_NETNS {path:?}: pass the path of the container's namespace")]
    NetnsUnreadable {
        /// The path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// `CNI_NETNS` is a path to something else.
    #[error("CNI_NETNS {path:?} is not a network namespace: pass the path of the container's")]
    NotNetns {
        /// The path.
        path: PathBuf,
    },
    /// `CNI_NETNS` is where the plugin itself runs.
    #[error(
        "CNI_NETNS {path:?} is the namespace of the plugin itself: pass the container's, \
         or set CNI_NETNS_OVERRIDE=1 if it is meant"
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
