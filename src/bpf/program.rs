use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::error::io_error;
use super::object::{self, Kind};
use super::prog_info::map_ids;
use super::{Error, Result};

/// A loaded program, attached by its file descriptor.
///
/// [`PinSet::open_program`](super::PinSet::open_program) opens a program of a set.
///
/// ```no_run
/// use cnikit::bpf::Program;
///
/// # fn main() -> cnikit::bpf::Result<()> {
/// let program = Program::open("/sys/fs/bpf/my-plugin/mynet/v1/count_packets")?;
/// println!("program {} uses the maps {:?}", program.id(), program.map_ids()?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    id: u32,
}

impl Program {
    /// Opens a pinned program.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`]: its source is `NotFound` if the pin does not exist, and `InvalidData` if the
    /// pin is not a program.
    ///
    /// # Kernel
    ///
    /// `CAP_BPF`, or `CAP_SYS_ADMIN` before 5.8.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_path(path.as_ref())
    }

    fn open_path(path: &Path) -> Result<Self> {
        let failed = |error| Error::pin("open the pinned program", path, error);
        let fd = object::open(path, Kind::Program).map_err(failed)?;
        let id = libbpf_rs::Program::id_from_fd(fd.as_fd()).map_err(|error| failed(io_error(error)))?;
        Ok(Self { fd, id })
    }

    /// The kernel's ids of the maps that the program uses, including its constants. At most 64.
    ///
    /// # Errors
    ///
    /// [`Error::Program`] if the kernel refuses.
    pub fn map_ids(&self) -> Result<Vec<u32>> {
        map_ids(self.fd.as_fd()).map_err(|source| Error::Program { id: self.id, source })
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
