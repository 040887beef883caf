//! Identifies file systems by their magic number.

use rustix::fs::StatFs;

/// Whether a file system has this magic number of `linux/magic.h`.
pub(crate) fn has_magic(found: &StatFs, magic: u32) -> bool {
    // By architecture, the member is signed or unsigned, and has 32 or 64 bits.
    #[allow(clippy::unnecessary_cast, reason = "the member's type differs between architectures")]
    let kind = found.f_type as u32;
    kind == magic
}
