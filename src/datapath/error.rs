use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::spec::{ErrorCode, HasErrorCode};

/// Why a call of [`datapath`](crate::datapath) failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The BPF file system is missing and cannot be mounted.
    #[error(
        "cannot mount the BPF file system on {}: mount it by hand (mount -t bpf bpf {0}) on a kernel \
         with CONFIG_BPF_SYSCALL",
        path.display()
    )]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// What mount(2) said.
        source: io::Error,
    },

    /// The directory for pins lies on some other file system.
    #[error("{} is not on a BPF file system: choose a directory below /sys/fs/bpf", path.display())]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },

    /// The kernel did not take the programs or maps.
    #[error("cannot load the eBPF programs{}", remedy(source))]
    Load {
        /// What bpf(2) said, and the end of libbpf's messages.
        source: io::Error,
    },

    /// The kernel's verifier found fault with the programs.
    #[error("this kernel's verifier rejects the eBPF programs: report it with the kernel's version and the details")]
    Rejected {
        /// What bpf(2) said, and the end of the verifier's log.
        source: io::Error,
    },

    /// A step on the BPF file system failed.
    #[error("cannot {operation} {}{}", path.display(), remedy(source))]
    Pin {
        /// What was tried, such as `open the pin`.
        operation: &'static str,
        /// The pin or directory.
        path: PathBuf,
        /// What the system call said.
        source: io::Error,
    },

    /// Another process holds the lock of the pins for too long.
    #[error(
        "{} has been locked for {waited:?}, and loading takes milliseconds: the process that holds the lock hangs",
        path.display()
    )]
    Locked {
        /// The directory that is locked.
        path: PathBuf,
        /// How long this process has waited.
        waited: Duration,
    },

    /// A pin holds a map of another shape than this build's.
    #[error(
        "{} has keys and values of {found:?} bytes, this build of the programs {expected:?}: remove \
         the directory that it is in and add the pods again",
        path.display()
    )]
    Layout {
        /// The pin.
        path: PathBuf,
        /// Key and value size of this build, in bytes.
        expected: (usize, usize),
        /// Key and value size of the pinned map, in bytes.
        found: (usize, usize),
    },

    /// A newer build, whose maps this one cannot read, has taken over the network.
    #[error(
        "{} is of layout {found}, and this build knows layouts up to {known}: install the newer build again, or go back \
         on a node without pods, and remove the directory there",
        path.display()
    )]
    NewerLayout {
        /// The newer build's pins.
        path: PathBuf,
        /// Their layout.
        found: u32,
        /// The layout of this build.
        known: u32,
    },

    /// Reading or changing a map failed.
    #[error("cannot {operation} in the eBPF map {map}{}", full(source))]
    Map {
        /// What was tried, such as `put 10.244.1.2`.
        operation: String,
        /// The map's name.
        map: &'static str,
        /// What bpf(2) said.
        source: io::Error,
    },

    /// A program that was attached a moment ago cannot be looked at. It may have been replaced meanwhile.
    #[error("cannot look at the eBPF program {id}, which was attached: it may have been replaced meanwhile, try again")]
    Program {
        /// The kernel's id for the program.
        id: u32,
        /// What bpf(2) said.
        source: io::Error,
    },

    /// The kernel has no TCX hooks.
    #[error("this kernel has no TCX hooks (Linux 6.6 with CONFIG_NET_XGRESS): attach by a filter of a clsact qdisc")]
    TcxUnsupported,

    /// A step on a TCX hook or link failed.
    #[error("cannot {operation} {object}{}", remedy(source))]
    Tcx {
        /// What was tried, such as `attach the program to TCX`.
        operation: &'static str,
        /// The hook or link.
        object: String,
        /// What bpf(2) said.
        source: io::Error,
    },
}

impl Error {
    pub(super) fn pin(operation: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Self::Pin { operation, path: path.as_ref().to_owned(), source: source.into() }
    }

    pub(super) fn tcx(operation: &'static str, object: String, source: io::Error) -> Self {
        Self::Tcx { operation, object, source }
    }

    pub(super) fn is_missing_pin(&self) -> bool {
        matches!(self, Self::Pin { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl HasErrorCode for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Locked { .. } | Self::Program { .. } => ErrorCode::TRY_AGAIN,
            Self::Mount { .. } | Self::Load { .. } | Self::Rejected { .. } | Self::TcxUnsupported => {
                ErrorCode::PLUGIN_NOT_AVAILABLE
            }
            Self::NotBpffs { .. }
            | Self::Pin { .. }
            | Self::Layout { .. }
            | Self::NewerLayout { .. }
            | Self::Map { .. }
            | Self::Tcx { .. } => ErrorCode::IO,
        }
    }
}

/// libbpf-rs keeps the error number to itself but tells its kind, which is what callers act on.
pub(super) fn io_error(error: libbpf_rs::Error) -> io::Error {
    use libbpf_rs::ErrorKind;

    let kind = match error.kind() {
        ErrorKind::NotFound => io::ErrorKind::NotFound,
        ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
        ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
        ErrorKind::InvalidInput => io::ErrorKind::InvalidInput,
        ErrorKind::InvalidData => io::ErrorKind::InvalidData,
        ErrorKind::Unsupported => io::ErrorKind::Unsupported,
        ErrorKind::OutOfMemory => io::ErrorKind::OutOfMemory,
        ErrorKind::TooBig => io::ErrorKind::StorageFull,
        _ => io::ErrorKind::Other,
    };
    // What libbpf-rs wraps around it, operation and path, is said by the errors here.
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    io::Error::new(kind, innermost.to_string())
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            " (CAP_BPF and CAP_NET_ADMIN, or root, are needed; a kernel in lockdown refuses them too)"
        }
        io::ErrorKind::Unsupported => " (the kernel lacks CONFIG_BPF_SYSCALL)",
        io::ErrorKind::ReadOnlyFilesystem => " (mount the file system for writing: mount -o remount,rw /sys/fs/bpf)",
        _ => "",
    }
}

/// The kernel calls a full map an argument list that is too long.
fn full(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull => ": it is full; the rows of a pod go with its DEL",
        _ => "",
    }
}
