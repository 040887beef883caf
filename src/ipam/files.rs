//! The steps that change the store's directory. Each step is one system call, and a process can be
//! killed between any two. Tests stop the process there: each step calls `step` first.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::process::geteuid;

use super::error::{Error, Result};
use crate::dir;

#[cfg(test)]
use super::tests::crash::step;
#[cfg(not(test))]
fn step() {}

pub(super) const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;
/// Maximum size of an intact file, in bytes.
const MAX_FILE_SIZE: u64 = 64 * 1024;
/// Maximum size of the lock file, in bytes. The hints are limited to fit.
const MAX_LOCK_FILE_SIZE: usize = 4 * 1024;
/// Fails with `ELOOP` on a symbolic link.
pub(super) const O_NOFOLLOW: i32 = OFlags::NOFOLLOW.bits().cast_signed();
/// Size of the buffer for directory entries, in bytes.
const DIR_BUFFER: usize = 32 * 1024;

/// Creates a directory and its missing parents.
pub(super) fn create_dir(path: &Path) -> Result<()> {
    step();
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(path).map_err(Error::io("create directory", path))
}

/// Creates a file; fails if it exists.
pub(super) fn create(path: &Path, content: &[u8]) -> Result<()> {
    step();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)
        .map_err(Error::io("create", path))?;
    write(&mut file, content).map_err(Error::io("write", path))
}

/// Replaces the content of an open file in place. `length` is its old length in bytes.
///
/// The file is truncated after the write, not before it. ext4 treats a truncation to zero as the
/// replacement of an important file and writes the new content to the disk at once.
pub(super) fn overwrite(file: &File, path: &Path, content: &[u8], length: usize) -> Result<()> {
    step();
    file.write_all_at(content, 0).map_err(Error::io("write", path))?;
    if length > content.len() {
        step();
        file.set_len(content.len() as u64).map_err(Error::io("truncate", path))?;
    }
    Ok(())
}

pub(super) fn link(file: &Path, name: &Path) -> Result<()> {
    step();
    fs::hard_link(file, name).map_err(Error::io("link", name))
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    step();
    fs::rename(from, to).map_err(Error::io("rename", from))
}

/// Removes a file. Success if it is absent.
pub(super) fn remove(path: &Path) -> Result<()> {
    step();
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.map_err(Error::io("remove", path)),
    }
}

/// The metadata of a file, or `None` if there is no file.
pub(super) fn stat(path: &Path) -> Result<Option<Metadata>> {
    not_found_as_none(fs::symlink_metadata(path)).map_err(Error::io("examine", path))
}

/// Opens a file for reading. Does not follow symbolic links, and does not block on a pipe without a
/// writer.
fn open(path: &Path) -> Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(O_NOFOLLOW | OFlags::NONBLOCK.bits().cast_signed());
    not_found_as_none(options.open(path)).map_err(Error::io("open", path))
}

/// Rejects a store directory that another user could change. Such a user could replace files or
/// move the directory. Does not check a directory that is missing.
pub(super) fn check_ownership(dir: &Path) -> Result<()> {
    let others = Mode::WGRP | Mode::WOTH;
    for (path, is_own) in [(dir, true), (dir.parent().unwrap_or(dir), false)] {
        // The directory is missing, or the next open reports the error.
        let Ok(found) = fs::metadata(path) else { continue };
        // A user that can write to the parent directory could place a symbolic link there, to a
        // directory that passes the other checks.
        if is_own && fs::symlink_metadata(path).is_ok_and(|link| link.is_symlink()) {
            return Err(Error::Linked { path: path.to_owned() });
        }
        let mode = Mode::from_raw_mode(found.mode());
        // In a sticky directory such as /tmp, users cannot move files of other users.
        if mode.intersects(others) && (is_own || !mode.contains(Mode::SVTX)) {
            return Err(Error::Shared { path: path.to_owned(), uid: None });
        }
        check_owner(&found, path)?;
    }
    Ok(())
}

/// Rejects a file that belongs neither to root nor to the user of this process.
pub(super) fn check_owner(found: &Metadata, path: &Path) -> Result<()> {
    let uid = found.uid();
    if uid == 0 || uid == geteuid().as_raw() {
        return Ok(());
    }
    Err(Error::Shared { path: path.to_owned(), uid: Some(uid) })
}

/// The content and the metadata of a file, from one open file; `None` if there is no file.
pub(super) fn read(path: &Path) -> Result<Option<(Vec<u8>, Metadata)>> {
    let Some(mut file) = open(path)? else {
        return Ok(None);
    };
    let metadata = file.metadata().map_err(Error::io("examine", path))?;
    // Files are never extended in place, so there is no need to read beyond the reported size.
    let mut content = vec![0; metadata.len().min(MAX_FILE_SIZE) as usize];
    let mut length = 0;
    while length < content.len() {
        match file.read(&mut content[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read", path)(error)),
        }
    }
    content.truncate(length);
    Ok(Some((content, metadata)))
}

/// The content of an open short file, up to the maximum size that this module writes.
pub(super) fn read_open(file: &File, path: &Path) -> Result<Vec<u8>> {
    let mut content = vec![0; MAX_LOCK_FILE_SIZE];
    let length = file.read_at(&mut content, 0).map_err(Error::io("read", path))?;
    content.truncate(length);
    Ok(content)
}

/// The entries of a directory; `None` if it is absent.
pub(super) fn list(path: &Path) -> Result<Option<fs::ReadDir>> {
    not_found_as_none(fs::read_dir(path)).map_err(Error::io("list", path))
}

/// Passes the name of every file in a directory to `visit`, without copies. One system call lists
/// about a thousand names.
pub(super) fn visit_names(path: &Path, mut visit: impl FnMut(&str)) -> Result<()> {
    let Some(dir) = open(path)? else {
        return Ok(());
    };
    let mut buffer = Vec::with_capacity(DIR_BUFFER);
    dir::visit_names(dir, buffer.spare_capacity_mut(), |name| {
        // The store writes no name that is not UTF-8.
        if let Some(name) = name.to_str() {
            visit(name);
        }
    })
    .map_err(|error| Error::io("list", path)(error.into()))
}

fn write(file: &mut File, content: &[u8]) -> io::Result<()> {
    step();
    file.write_all(content)
}

fn not_found_as_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
