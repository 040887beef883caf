use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::spec::{ErrorCode, HasErrorCode};

/// An error of [`bpf`](crate::bpf) and of `datapath`.
// The text contains the text of `r#source`. The raw name hides the field from thiserror, so a
// printed chain of sources does not repeat the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The BPF file system is missing and cannot be mounted.
    #[error(
        "cannot mount the BPF file system on {}: {source}; mount it by hand (mount -t bpf bpf {0}) on a kernel \
         with CONFIG_BPF_SYSCALL, or give the process CAP_SYS_ADMIN",
        path.display()
    )]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// The error of mount(2).
        r#source: io::Error,
    },

    /// The directory for pins is on another file system.
    #[error("{} is not on a BPF file system: choose a directory below /sys/fs/bpf", path.display())]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },

    /// The BPF file system accepts no such name, or a [`PinSet`](crate::bpf::PinSet) uses it.
    #[error("{name:?} cannot be the name of a pin or of its directory: it {reason}")]
    PinName {
        /// The name.
        name: String,
        /// The reason, such as `contains a dot`.
        reason: &'static str,
    },

    /// The kernel refused the programs or maps.
    #[error("cannot load the eBPF programs: {source}{}", remedy(source))]
    Load {
        /// The error of bpf(2), and the end of libbpf's messages.
        r#source: io::Error,
    },

    /// The kernel's verifier rejected the programs.
    #[error("the verifier of this kernel rejects the eBPF programs: {source}; report it with the kernel version")]
    Rejected {
        /// The error of bpf(2), and the end of the verifier's log.
        r#source: io::Error,
    },

    /// A step on the BPF file system failed.
    #[error("cannot {operation} {}: {source}{}", path.display(), remedy(source))]
    Pin {
        /// The operation, such as `open the pin`.
        operation: &'static str,
        /// The pin or directory.
        path: PathBuf,
        /// The error of the system call.
        r#source: io::Error,
    },

    /// Another process has held the lock of the pins for too long.
    #[error(
        "{} has been locked for {waited:?}, and loading takes milliseconds: the process that holds the lock hangs",
        path.display()
    )]
    Locked {
        /// The directory that is locked.
        path: PathBuf,
        /// The time that this process has waited.
        waited: Duration,
    },

    /// A pinned map has other key and value sizes than this build.
    #[error(
        "{} has keys and values of {found:?} bytes, and this build expects {expected:?}: remove its \
         directory and add the pods again",
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

    /// A newer build manages the network, and this build cannot read its maps.
    #[error(
        "{} has layout {found}, and this build knows layouts up to {known}: install the newer build again, or remove \
         all pods of the node and this directory before the downgrade",
        path.display()
    )]
    NewerLayout {
        /// The directory of the newer build's pins.
        path: PathBuf,
        /// Their layout.
        found: u32,
        /// The layout of this build.
        known: u32,
    },

    /// Reading or changing a map failed.
    #[error("cannot {operation} in the eBPF map {map}: {source}{}", full(source))]
    Map {
        /// The operation, such as `put 10.244.1.2`.
        operation: String,
        /// The name of the map.
        map: &'static str,
        /// The error of bpf(2).
        r#source: io::Error,
    },

    /// An attached program cannot be opened. Another process may have replaced it during the call.
    #[error("cannot open the attached eBPF program {id}: {source}; another process may have replaced it, try again")]
    Program {
        /// The id of the program.
        id: u32,
        /// The error of bpf(2).
        r#source: io::Error,
    },

    /// The kernel has no TCX hooks.
    #[error(
        "this kernel has no TCX hooks (Linux 6.6 with CONFIG_NET_XGRESS): attach the program as a filter of a clsact qdisc"
    )]
    TcxUnsupported,

    /// A step on a TCX hook or link failed.
    #[error("cannot {operation} {object}: {source}{}", remedy(source))]
    Tcx {
        /// The operation, such as `attach the program to TCX`.
        operation: &'static str,
        /// The hook or link.
        object: String,
        /// The error of bpf(2).
        r#source: io::Error,
    },
}

impl Error {
    pub(crate) fn pin(operation: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Self::Pin { operation, path: path.as_ref().to_owned(), source: source.into() }
    }

    pub(crate) fn tcx(operation: &'static str, object: String, source: io::Error) -> Self {
        Self::Tcx { operation, object, source }
    }

    pub(crate) fn is_missing_pin(&self) -> bool {
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
            | Self::PinName { .. }
            | Self::Layout { .. }
            | Self::NewerLayout { .. }
            | Self::Map { .. }
            | Self::Tcx { .. } => ErrorCode::IO,
        }
    }
}

/// Converts the error kind, which callers act on. libbpf-rs does not expose the error number.
pub(crate) fn io_error(error: libbpf_rs::Error) -> io::Error {
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
    // The errors here name operation and path themselves, so the wrapping of libbpf-rs is dropped.
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    io::Error::new(kind, innermost.to_string())
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "; CAP_BPF and CAP_NET_ADMIN, or root, are needed, on a kernel without lockdown"
        }
        io::ErrorKind::Unsupported => "; run a kernel with CONFIG_BPF_SYSCALL",
        io::ErrorKind::ReadOnlyFilesystem => "; mount the file system for writing: mount -o remount,rw /sys/fs/bpf",
        _ => "",
    }
}

/// The kernel reports a full map as E2BIG, "argument list too long".
fn full(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull => "; the map is full, and DEL of a pod removes its entries",
        _ => "",
    }
}
