//! Listing a directory without copying its names.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::RawDir;
use rustix::io;

/// Passes the name of every entry to `visit`, except `.` and `..`. One system call fills `buffer`
/// with as many entries as fit.
///
/// `readdir` of the C library maps memory for each directory and unmaps it afterwards; this
/// function does not.
pub(crate) fn visit_names(
    dir: impl AsFd,
    buffer: &mut [MaybeUninit<u8>],
    mut visit: impl FnMut(&OsStr),
) -> io::Result<()> {
    let mut entries = RawDir::new(dir, buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            visit(name);
        }
    }
    Ok(())
}
