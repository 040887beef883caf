//! A system call that waits for a ruling.

use std::fmt::{self, Display};
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use rustix::process::{Pid, Signal, kill_process};

/// A system call of a [supervised](crate::Command::supervised) process, which waits for what becomes of it.
///
/// Watched are the calls that change something or may fail for want of something, but not those for memory, those that
/// only wait, and those that cannot fail on a descriptor that is open. It is displayed with what it is about: `sendto type 16`, `unlink /var/lib/...`,
/// `write pipe:[4026]`.
#[derive(Debug)]
pub struct Call {
    thread: u32,
    process: u32,
    number: i64,
    arguments: [u64; 6],
}

/// What makes two calls of one number different to people.
#[derive(Clone, Copy)]
enum About {
    Nothing,
    /// The path that this argument points to.
    Path(usize),
    /// The type of the netlink message that this argument points to.
    Message(usize),
    /// What the descriptor in this argument is open on.
    Descriptor(usize),
    /// This argument.
    Number(usize),
}

use About::{Descriptor, Message, Nothing, Number, Path};

/// The calls that are watched: number, name, and whether it changes something outside of the process.
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
    // Calls that younger architectures do not have any more.
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

/// The longest path that is shown.
const PATH_MAX: usize = 256;

impl Call {
    pub(crate) fn new(thread: u32, number: i64, arguments: [u64; 6]) -> Self {
        let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
        let process = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
        Self { thread, process: process.unwrap_or(thread), number, arguments }
    }

    /// The numbers of the calls that are watched.
    pub(crate) fn watched() -> impl Iterator<Item = i64> {
        WATCHED.iter().map(|(number, ..)| *number)
    }

    /// The process that makes it.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.process
    }

    /// Its name in the manual. Where an architecture has several calls of one purpose, these are several names.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.row().map_or("?", |(_, name, ..)| name)
    }

    /// An argument as a number: a descriptor, flags or an address.
    ///
    /// # Panics
    ///
    /// If it is none of the first six.
    #[must_use]
    pub fn argument(&self, place: usize) -> u64 {
        self.arguments[place]
    }

    /// Whether it changes something that others see, or would if it succeeded.
    #[must_use]
    pub fn changes(&self) -> bool {
        let writes = |flags: u64| flags & (libc::O_CREAT | libc::O_TRUNC) as u64 != 0;
        match self.name() {
            "openat" => writes(self.argument(2)),
            "open" => writes(self.argument(1)),
            // Commands that only look, or make what is gone with its descriptor, by their place in `enum bpf_cmd`.
            "bpf" => !matches!(self.argument(0), 0 | 1 | 4 | 5 | 7 | 11..=16 | 18..=20 | 23 | 24 | 30 | 31),
            _ => self.row().is_some_and(|(.., changes, _)| *changes),
        }
    }

    /// Kills the process that makes it, which does not come back from the call.
    pub(crate) fn kill(&self) {
        if let Some(pid) = i32::try_from(self.process).ok().and_then(Pid::from_raw) {
            // It may have been killed by somebody else.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    fn row(&self) -> Option<&'static (i64, &'static str, bool, About)> {
        WATCHED.iter().find(|(number, ..)| *number == self.number)
    }

    /// What is in the memory of the process at the address in an argument, as much as can be read.
    fn memory(&self, place: usize, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; most];
        let read = File::open(format!("/proc/{}/mem", self.thread))
            .and_then(|memory| memory.read_at(&mut bytes, self.arguments[place]));
        bytes.truncate(read.unwrap_or(0));
        bytes
    }
}

impl Display for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())?;
        match self.row().map_or(Nothing, |(.., about)| *about) {
            Nothing => Ok(()),
            Number(place) => write!(formatter, " {}", self.arguments[place]),
            Descriptor(place) => {
                let link = format!("/proc/{}/fd/{}", self.thread, self.arguments[place]);
                fs::read_link(link).map_or(Ok(()), |target| write!(formatter, " {}", target.display()))
            }
            Path(place) => {
                let bytes = self.memory(place, PATH_MAX);
                let path = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
                write!(formatter, " {}", String::from_utf8_lossy(path))
            }
            // The type comes after the length, in the order of the machine's bytes.
            Message(place) => match self.memory(place, 6)[..] {
                [.., low, high] => write!(formatter, " type {}", u16::from_ne_bytes([low, high])),
                _ => Ok(()),
            },
        }
    }
}
