//! The faults that a test can inject into each kind of system call.

use cnikit_testbed::{Call, Ruling};
use libc::{
    E2BIG, EACCES, EAGAIN, ECHILD, EIO, EMFILE, ENOBUFS, ENOENT, ENOLCK, ENOMEM, ENOSPC, EPERM, EROFS, EWOULDBLOCK,
};

/// SIGKILL before each call with an effect outside of the process.
pub(crate) fn kill(call: &Call) -> Vec<Ruling> {
    if call.changes() { vec![Ruling::Kill] } else { Vec::new() }
}

/// The error numbers of each call: full or read-only disks, limits of descriptors and processes,
/// missing privileges, held locks, full maps. A program load fails as if the verifier rejected it.
pub(crate) fn fail(call: &Call) -> Vec<Ruling> {
    errors(call).iter().map(|errno| Ruling::Fail(*errno)).collect()
}

/// As [`fail`], with three exceptions. The plugin waits seconds for a held lock. A full disk does
/// not affect pipes. A process that cannot leave a pod's namespace aborts.
pub(crate) fn fail_persistently(call: &Call) -> Vec<Ruling> {
    let is_spared = call.name() == "setns" || call.to_string().contains(" pipe:");
    let mut faults = if is_spared { Vec::new() } else { fail(call) };
    faults.retain(|way| *way != Ruling::Fail(EWOULDBLOCK));
    faults
}

fn errors(call: &Call) -> &'static [i32] {
    match call.name() {
        "openat" | "open" if call.changes() => &[ENOSPC, EROFS, EMFILE],
        "openat" | "open" => &[EMFILE, EACCES],
        "mkdirat" | "mkdir" | "linkat" | "link" | "renameat" | "renameat2" | "rename" => &[ENOSPC, EROFS],
        "unlinkat" | "unlink" | "rmdir" => &[EROFS, EPERM],
        "write" | "writev" | "pwrite64" | "ftruncate" | "fallocate" => &[ENOSPC, EIO],
        "read" | "pread64" | "getdents64" | "fsync" | "fdatasync" => &[EIO],
        "statx" | "newfstatat" | "statfs" | "readlinkat" | "readlink" | "faccessat" | "access" => &[EACCES, EIO],
        "sendto" | "sendmsg" => &[ENOBUFS, EPERM],
        "recvfrom" | "recvmsg" => &[ENOBUFS],
        "socket" | "pipe2" => &[EMFILE],
        "flock" => &[EWOULDBLOCK, ENOLCK],
        "clone" | "clone3" | "fork" | "vfork" => &[EAGAIN],
        "wait4" => &[ECHILD],
        "execve" => &[ENOENT],
        "bpf" => match call.argument(0) {
            BPF_MAP_CREATE => &[EPERM, ENOMEM],
            BPF_MAP_UPDATE_ELEM => &[E2BIG, ENOMEM],
            BPF_PROG_LOAD => &[EACCES, EPERM],
            BPF_OBJ_PIN => &[ENOSPC, EPERM],
            _ => &[EPERM],
        },
        _ => &[EPERM],
    }
}

const BPF_MAP_CREATE: u64 = 0;
const BPF_MAP_UPDATE_ELEM: u64 = 2;
const BPF_PROG_LOAD: u64 = 5;
const BPF_OBJ_PIN: u64 = 6;
