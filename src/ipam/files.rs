//! The steps by which the store's directory changes: each is one system call, and between any two of them a process
//! may be killed. Tests stop it there, which is what `step` is for.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::process::geteuid;

use super::error::{Error, Result};

#[cfg(test)]
use super::crash_tests::step;
#[cfg(not(test))]
fn step() {}

pub(super) const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;
/// No file here is longer, unless it is damaged. In bytes.
const MAX_FILE_SIZE: u64 = 64 * 1024;
/// The lock file is no longer, in bytes: it has no more hints than fit.
const SHORT: usize = 4 * 1024;
/// Fails with `ELOOP` at a symbolic link.
pub(super) const O_NOFOLLOW: i32 = OFlags::NOFOLLOW.bits().cast_signed();
/// How many bytes of names one system call lists.
const DIR_BUFFER: usize = 32 * 1024;

/// Makes a directory and those above it, where they are missing.
pub(super) fn create_dir(path: &Path) -> Result<()> {
    step();
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(path).map_err(Error::io("create directory", path))
}

/// Makes a file that must not exist yet.
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

/// Gives a file that is open, and that has `length` bytes, new content in place.
///
/// The file is cut to length after the write, not emptied before it: ext4 takes emptying for the replacement of a
/// file that matters and writes the new content to the disk at once.
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

/// Removes a file; one that is absent is a success.
pub(super) fn remove(path: &Path) -> Result<()> {
    step();
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.map_err(Error::io("remove", path)),
    }
}

/// What the kernel knows of a file, or nothing where there is none.
pub(super) fn stat(path: &Path) -> Result<Option<Metadata>> {
    present(fs::symlink_metadata(path)).map_err(Error::io("look at", path))
}

/// Opens what is there to be read, and nothing that a link leads to. A pipe that nobody writes to is opened at once.
fn open(path: &Path) -> Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(O_NOFOLLOW | OFlags::NONBLOCK.bits().cast_signed());
    present(options.open(path)).map_err(Error::io("open", path))
}

/// Refuses a directory of a store that somebody else could change, as far as it is there: files would be put in the
/// place of others, or all of it be moved away.
pub(super) fn check_ownership(dir: &Path) -> Result<()> {
    let others = Mode::WGRP | Mode::WOTH;
    for (path, is_own) in [(dir, true), (dir.parent().unwrap_or(dir), false)] {
        // It is not there, or whoever opens it next says what is wrong.
        let Ok(found) = fs::metadata(path) else { continue };
        // Whoever may write beside it could have put a link there, to a directory that is nobody else's.
        if is_own && fs::symlink_metadata(path).is_ok_and(|link| link.is_symlink()) {
            return Err(Error::Linked { path: path.to_owned() });
        }
        let mode = Mode::from_raw_mode(found.mode());
        // In a directory such as /tmp, who may write cannot move away what is another's.
        if mode.intersects(others) && (is_own || !mode.contains(Mode::SVTX)) {
            return Err(Error::Shared { path: path.to_owned(), uid: None });
        }
        refuse_foreign(&found, path)?;
    }
    Ok(())
}

/// Refuses what belongs neither to root nor to this process's user.
pub(super) fn refuse_foreign(found: &Metadata, path: &Path) -> Result<()> {
    let uid = found.uid();
    if uid == 0 || uid == geteuid().as_raw() {
        return Ok(());
    }
    Err(Error::Shared { path: path.to_owned(), uid: Some(uid) })
}

/// A whole file and what the kernel knows of it, of the same moment; or nothing where there is none.
pub(super) fn read(path: &Path) -> Result<Option<(Vec<u8>, Metadata)>> {
    let Some(mut file) = open(path)? else {
        return Ok(None);
    };
    let metadata = file.metadata().map_err(Error::io("look at", path))?;
    // What a file has gained since is a change in place, which nobody makes: there is no looking for its end.
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

/// The content of a short file that is open, as far as the longest that this module writes.
pub(super) fn read_open(file: &File, path: &Path) -> Result<Vec<u8>> {
    let mut content = vec![0; SHORT];
    let length = file.read_at(&mut content, 0).map_err(Error::io("read", path))?;
    content.truncate(length);
    Ok(content)
}

/// The entries of a directory; one that is absent has none.
pub(super) fn list(path: &Path) -> Result<Option<fs::ReadDir>> {
    present(fs::read_dir(path)).map_err(Error::io("list", path))
}

/// Shows `visit` the name of every file in a directory, a thousand to a system call, and none of them copied.
pub(super) fn visit_names(path: &Path, mut visit: impl FnMut(&str)) -> Result<()> {
    let Some(dir) = open(path)? else {
        return Ok(());
    };
    let mut buffer = Vec::with_capacity(DIR_BUFFER);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|error| Error::io("list", path)(error.into()))?;
        // A name that is no text is none of ours.
        if let Ok(name) = entry.file_name().to_str() {
            visit(name);
        }
    }
    Ok(())
}

fn write(file: &mut File, content: &[u8]) -> io::Result<()> {
    step();
    file.write_all(content)
}

fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
