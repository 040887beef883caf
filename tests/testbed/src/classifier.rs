//! The smallest program for a TC hook, loaded without a compiler.
#![expect(unsafe_code, reason = "bpf(2) has no safe binding without libbpf")]

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

/// Loads a classifier that answers every packet with `verdict`, and says the kernel's id for it.
///
/// Each call makes another program. It is gone when nothing holds it any more.
///
/// # Panics
///
/// If the kernel does not take it.
#[must_use]
pub fn classifier(verdict: i32) -> (OwnedFd, u32) {
    #[repr(C)]
    struct Load {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        rest: [u64; 14],
    }
    #[repr(C)]
    struct Info {
        fd: u32,
        length: u32,
        info: u64,
    }
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
    const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
    // r0 = verdict; exit
    let [a, b, c, d] = verdict.to_ne_bytes();
    let instructions: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, a, b, c, d], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    let load = Load {
        kind: BPF_PROG_TYPE_SCHED_CLS,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        rest: [0; 14],
    };
    // SAFETY: the attribute has the layout of the kernel's, zero beyond what is set, and its
    // pointers outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    assert!(fd >= 0, "load a program: {}", io::Error::last_os_error());
    // SAFETY: the kernel has just given out this descriptor and nobody else has it.
    let program = unsafe { OwnedFd::from_raw_fd(fd as i32) };

    // struct bpf_prog_info begins with type and id.
    let mut info = [0u32; 32];
    let query = Info { fd: fd as u32, length: 128, info: info.as_mut_ptr() as u64 };
    // SAFETY: the kernel writes at most `length` bytes, which is the size of `info`.
    let asked = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw const query, size_of::<Info>()) };
    assert_eq!(asked, 0, "ask for the id: {}", io::Error::last_os_error());
    (program, info[1])
}
