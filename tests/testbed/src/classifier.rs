//! Minimal programs for a TC hook and for an XDP hook, loaded without a compiler.
#![expect(unsafe_code, reason = "bpf(2) has no safe binding without libbpf")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, setrlimit};

const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;

/// The attribute of bpf(2) for pins.
#[repr(C)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Loads a classifier that returns `verdict` for every packet. Returns the program and its kernel
/// id.
///
/// Each call loads another program. The kernel frees it when the last reference is gone.
///
/// # Panics
///
/// If the kernel rejects the program.
#[must_use]
pub fn classifier(verdict: i32) -> (OwnedFd, u32) {
    with_id(load(BPF_PROG_TYPE_SCHED_CLS, "", &[], verdict))
}

/// As [`classifier`], for a program with a name that uses the maps with these pins and returns
/// `TC_ACT_UNSPEC`.
///
/// # Panics
///
/// If a map cannot be opened, or if the kernel rejects the program.
#[must_use]
pub fn classifier_with_maps(name: &str, pins: &[PathBuf]) -> (OwnedFd, u32) {
    const TC_ACT_UNSPEC: i32 = -1;
    let maps: Vec<OwnedFd> = pins.iter().map(|pin| open_pin(pin)).collect();
    with_id(load(BPF_PROG_TYPE_SCHED_CLS, name, &maps, TC_ACT_UNSPEC))
}

fn open_pin(path: &Path) -> OwnedFd {
    const BPF_OBJ_GET: libc::c_int = 7;
    let name = CString::new(path.as_os_str().as_bytes()).expect("a path without NUL");
    let pin = Pin { path: name.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the attribute has the kernel's layout, and its path outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const pin, size_of::<Pin>()) };
    assert!(fd >= 0, "open {}: {}", path.display(), io::Error::last_os_error());
    // SAFETY: the kernel has just returned this descriptor, so it has no other owner.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// A program and its kernel id.
fn with_id(program: OwnedFd) -> (OwnedFd, u32) {
    #[repr(C)]
    struct Info {
        fd: u32,
        length: u32,
        info: u64,
    }
    const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;

    // struct bpf_prog_info begins with type and id.
    let mut info = [0u32; 32];
    let query = Info { fd: program.as_raw_fd() as u32, length: 128, info: info.as_mut_ptr() as u64 };
    // SAFETY: the kernel writes at most `length` bytes, which is the size of `info`.
    let asked = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw const query, size_of::<Info>()) };
    assert_eq!(asked, 0, "ask for the id: {}", io::Error::last_os_error());
    (program, info[1])
}

/// An XDP program that returns one verdict for every packet.
#[derive(Debug)]
pub struct Xdp(OwnedFd);

impl Xdp {
    /// `XDP_DROP`
    pub const DROP: i32 = 1;
    /// `XDP_PASS`
    pub const PASS: i32 = 2;
    /// `XDP_FLAGS_SKB_MODE`
    pub const GENERIC: u32 = 1 << 1;
    /// `XDP_FLAGS_DRV_MODE`
    pub const DRIVER: u32 = 1 << 2;

    /// Loads a program with this verdict.
    ///
    /// # Panics
    ///
    /// If the kernel rejects the program.
    #[must_use]
    pub fn new(verdict: i32) -> Self {
        const BPF_PROG_TYPE_XDP: u32 = 6;
        Self(load(BPF_PROG_TYPE_XDP, "", &[], verdict))
    }

    /// Pins the program, for `ip link set dev LINK xdpdrv pinned PATH`.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    pub fn pin(&self, path: &Path) {
        const BPF_OBJ_PIN: libc::c_int = 6;
        let name = CString::new(path.as_os_str().as_bytes()).expect("a path without NUL");
        let pin = Pin { path: name.as_ptr() as u64, fd: self.0.as_raw_fd() as u32, flags: 0 };
        // SAFETY: the attribute has the kernel's layout, and its path outlives the call.
        let pinned = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_PIN, &raw const pin, size_of::<Pin>()) };
        assert_eq!(pinned, 0, "pin at {}: {}", path.display(), io::Error::last_os_error());
    }

    /// Attaches the program to a link of the caller's namespace in a mode, while the descriptor is
    /// open.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    #[must_use]
    pub fn link(&self, ifindex: u32, mode: u32) -> OwnedFd {
        #[repr(C)]
        struct Create {
            program: u32,
            ifindex: u32,
            hook: u32,
            flags: u32,
            rest: [u64; 4],
        }
        const BPF_LINK_CREATE: libc::c_int = 28;
        const BPF_XDP: u32 = 37;
        let create = Create { program: self.0.as_raw_fd() as u32, ifindex, hook: BPF_XDP, flags: mode, rest: [0; 4] };
        // SAFETY: the attribute has the kernel's layout, and unset members are zero.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw const create, size_of::<Create>()) };
        assert!(fd >= 0, "attach to link {ifindex}: {}", io::Error::last_os_error());
        // SAFETY: the kernel has just returned this descriptor, so it has no other owner.
        unsafe { OwnedFd::from_raw_fd(fd as i32) }
    }
}

/// Loads a program of this type that uses these maps and returns `verdict` for every packet.
fn load(kind: u32, name: &str, maps: &[OwnedFd], verdict: i32) -> OwnedFd {
    #[repr(C)]
    struct Load {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log: [u64; 3],
        name: [u8; 16],
        rest: [u64; 9],
    }
    const BPF_PROG_LOAD: libc::c_int = 5;
    // Before Linux 5.11, programs count towards the limit of locked memory. Newer kernels may
    // refuse the change without consequence.
    let unlimited = Rlimit { current: None, maximum: None };
    let _ = setrlimit(Resource::Memlock, unlimited);
    // r1 = map, in two instructions for each map
    let mut instructions: Vec<[u8; 8]> = Vec::new();
    for map in maps {
        let [a, b, c, d] = map.as_raw_fd().to_ne_bytes();
        instructions.extend([[0x18, 0x11, 0, 0, a, b, c, d], [0; 8]]);
    }
    // r0 = verdict; exit
    let [a, b, c, d] = verdict.to_ne_bytes();
    instructions.extend([[0xb7, 0, 0, 0, a, b, c, d], [0x95, 0, 0, 0, 0, 0, 0, 0]]);
    let mut load = Load {
        kind,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log: [0; 3],
        name: [0; 16],
        rest: [0; 9],
    };
    load.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the attribute has the kernel's layout, unset members are zero, and its pointers
    // outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    assert!(fd >= 0, "load a program: {}", io::Error::last_os_error());
    // SAFETY: the kernel has just returned this descriptor, so it has no other owner.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}
