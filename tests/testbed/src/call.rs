//! A system call that waits for a ruling.

use std::fmt::{self, Display};
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use rustix::process::{Pid, Signal, kill_process};

/// A system call of a [supervised](crate::Command::supervised) process, which waits for its ruling.
///
/// Watched calls change something or may fail for lack of a resource. Excluded are calls for
/// memory, calls that only wait, and calls that cannot fail on an open descriptor. The display
/// contains the object of the call: `sendto type 16`, `unlink /var/lib/...`, `write pipe:[4026]`.
#[derive(Debug)]
pub struct Call {
    thread: u32,
    process: u32,
    number: i64,
    arguments: [u64; 6],
}

/// The argument that distinguishes two calls of one number in the display.
#[derive(Clone, Copy)]
enum About {
    Nothing,
    /// The path that this argument points to.
    Path(usize),
    /// The type of the netlink message that this argument points to.
    Message(usize),
    /// The file that the descriptor in this argument refers to.
    Descriptor(usize),
    /// The argument itself.
    Number(usize),
}

use About::{Descriptor, Message, Nothing, Number, Path};

/// The watched calls: number, name, and whether the call changes state outside of the process.
const WATCHED: &[(i64, &str, bool, About)] = &[
    (libc::SYS_bind, "bind", false, Nothing),
    (libc::SYS_bpf, "bpf", true, Number(0)),
    (libc::SYS_chdir, "chdir", false, Path(0)),
    (libc::SYS_clone, "clone", true, Nothing),
    (libc::SYS_clone3, "clone3", true, Nothing),
    (libc::SYS_close_range, "close_range", true, Nothing),
    (libc::SYS_connect, "connect", false, Nothing),
    (libc::SYS_execve, "execve", true, Path(0)),
    (libc::SYS_faccessat, "faccessat", false, Path(1)),
    (libc::SYS_fallocate, "fallocate", true, Descriptor(0)),
    (libc::SYS_fchmod, "fchmod", true, Descriptor(0)),
    (libc::SYS_fdatasync, "fdatasync", true, Descriptor(0)),
    (libc::SYS_flock, "flock", true, Descriptor(0)),
    (libc::SYS_fsync, "fsync", true, Descriptor(0)),
    (libc::SYS_ftruncate, "ftruncate", true, Descriptor(0)),
    (libc::SYS_getdents64, "getdents64", false, Descriptor(0)),
    (libc::SYS_getsockname, "getsockname", false, Nothing),
    (libc::SYS_linkat, "linkat", true, Path(3)),
    (libc::SYS_mkdirat, "mkdirat", true, Path(1)),
    (libc::SYS_mount, "mount", true, Path(1)),
    (libc::SYS_newfstatat, "newfstatat", false, Path(1)),
    (libc::SYS_openat, "openat", true, Path(1)),
    (libc::SYS_pipe2, "pipe2", false, Nothing),
    (libc::SYS_pread64, "pread64", false, Descriptor(0)),
    (libc::SYS_pwrite64, "pwrite64", true, Descriptor(0)),
    (libc::SYS_read, "read", false, Descriptor(0)),
    (libc::SYS_readlinkat, "readlinkat", false, Path(1)),
    (libc::SYS_recvfrom, "recvfrom", false, Nothing),
    (libc::SYS_recvmsg, "recvmsg", false, Nothing),
    (libc::SYS_renameat, "renameat", true, Path(3)),
    (libc::SYS_renameat2, "renameat2", true, Path(3)),
    (libc::SYS_sendmsg, "sendmsg", true, Nothing),
    (libc::SYS_sendto, "sendto", true, Message(1)),
    (libc::SYS_setns, "setns", true, Nothing),
    (libc::SYS_setsid, "setsid", true, Nothing),
    (libc::SYS_setsockopt, "setsockopt", false, Number(2)),
    (libc::SYS_socket, "socket", false, Nothing),
    (libc::SYS_statfs, "statfs", false, Path(0)),
    (libc::SYS_statx, "statx", false, Path(1)),
    (libc::SYS_unlinkat, "unlinkat", true, Path(1)),
    (libc::SYS_wait4, "wait4", false, Nothing),
    (libc::SYS_write, "write", true, Descriptor(0)),
    (libc::SYS_writev, "writev", true, Descriptor(0)),
    // Calls that newer architectures no longer have.
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_access, "access", false, Path(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_dup2, "dup2", true, Number(1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_fork, "fork", true, Nothing),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_link, "link", true, Path(1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "mkdir", true, Path(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, "open", true, Path(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_readlink, "readlink", false, Path(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, "rename", true, Path(1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, "rmdir", true, Path(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "unlink", true, Path(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_vfork, "vfork", true, Nothing),
];

/// The longest displayed path.
const PATH_MAX: usize = 256;

impl Call {
    pub(crate) fn new(thread: u32, number: i64, arguments: [u64; 6]) -> Self {
        let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
        let process = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
        Self { thread, process: process.unwrap_or(thread), number, arguments }
    }

    /// The numbers of the watched calls.
    pub(crate) fn watched() -> impl Iterator<Item = i64> {
        WATCHED.iter().map(|(number, ..)| *number)
    }

    /// The process that makes the call.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.process
    }

    /// The name in the manual. If an architecture has several calls for one purpose, the names
    /// differ.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.row().map_or("?", |(_, name, ..)| name)
    }

    /// An argument as a number: a descriptor, flags or an address.
    ///
    /// # Panics
    ///
    /// If it is not one of the first six arguments.
    #[must_use]
    pub fn argument(&self, index: usize) -> u64 {
        self.arguments[index]
    }

    /// Whether the call changes state that other processes see, or would change it on success.
    #[must_use]
    pub fn changes(&self) -> bool {
        let writes = |flags: u64| flags & (libc::O_CREAT | libc::O_TRUNC) as u64 != 0;
        match self.name() {
            "openat" => writes(self.argument(2)),
            "open" => writes(self.argument(1)),
            // Commands that only read, or create an object that disappears with its descriptor, by
            // their index in `enum bpf_cmd`.
            "bpf" => !matches!(self.argument(0), 0 | 1 | 4 | 5 | 7 | 11..=16 | 18..=20 | 23 | 24 | 30 | 31),
            _ => self.row().is_some_and(|(.., changes, _)| *changes),
        }
    }

    /// Kills the calling process, which does not return from the call.
    pub(crate) fn kill(&self) {
        if let Some(pid) = i32::try_from(self.process).ok().and_then(Pid::from_raw) {
            // Another process may already have killed it.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    fn row(&self) -> Option<&'static (i64, &'static str, bool, About)> {
        WATCHED.iter().find(|(number, ..)| *number == self.number)
    }

    /// The memory of the process at the address in an argument, as much as is readable.
    fn memory(&self, index: usize, max: usize) -> Vec<u8> {
        let mut bytes = vec![0; max];
        let read = File::open(format!("/proc/{}/mem", self.thread))
            .and_then(|memory| memory.read_at(&mut bytes, self.arguments[index]));
        bytes.truncate(read.unwrap_or(0));
        bytes
    }
}

impl Display for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())?;
        match self.row().map_or(Nothing, |(.., about)| *about) {
            Nothing => Ok(()),
            Number(index) => write!(formatter, " {}", self.arguments[index]),
            Descriptor(index) => {
                let link = format!("/proc/{}/fd/{}", self.thread, self.arguments[index]);
                fs::read_link(link).map_or(Ok(()), |target| write!(formatter, " {}", target.display()))
            }
            Path(index) => {
                let bytes = self.memory(index, PATH_MAX);
                let path = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
                write!(formatter, " {}", String::from_utf8_lossy(path))
            }
            // The type follows the length, in native byte order.
            Message(index) => match self.memory(index, 6)[..] {
                [.., low, high] => write!(formatter, " type {}", u16::from_ne_bytes([low, high])),
                _ => Ok(()),
            },
        }
    }
}
