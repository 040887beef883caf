//! The programs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::error::io_error;
use super::in_use::map_ids;
use super::{Error, Result};

/// The name of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProgramName {
    /// `cni_tc_main`, for the ingress hooks.
    Main,
    /// `cni_tc_egress`, for the egress hooks.
    Egress,
}

/// A loaded program, attached by its file descriptor.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    id: u32,
}

impl ProgramName {
    pub(super) const ALL: [Self; 2] = [Self::Main, Self::Egress];

    /// The name of the program in the C source, and of its pin.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Main => "cni_tc_main",
            Self::Egress => "cni_tc_egress",
        }
    }
}

impl Program {
    pub(super) fn open(directory: &Path, name: ProgramName) -> Result<Self> {
        let path = directory.join(name.as_str());
        let opened = libbpf_rs::Program::fd_from_pinned_path(&path)
            .and_then(|fd| Ok((libbpf_rs::Program::id_from_fd(fd.as_fd())?, fd)));
        match opened {
            Ok((id, fd)) => Ok(Self { fd, id }),
            Err(error) => Err(Error::pin("open the pinned program", path, io_error(error))),
        }
    }

    /// Whether the program uses a map.
    pub(super) fn uses(&self, map: u32) -> Result<bool> {
        map_ids(self.fd.as_fd())
            .map(|maps| maps.contains(&map))
            .map_err(|source| Error::Program { id: self.id, source })
    }

    /// The kernel's id of the program, as `bpftool prog show id` takes it.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
