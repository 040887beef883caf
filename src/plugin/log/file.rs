use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Access, OFlags, access};

use super::LogLevel;

/// A log file, opened on the first append.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    pub(super) level: LogLevel,
    state: Mutex<State>,
}

/// The reason why the log cannot be written. Reported once.
// `r#source` is in the text, and the raw name hides the field from thiserror.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unwritable {
    #[error("cannot write the log {}: {source}", .path.display())]
    Io { path: PathBuf, r#source: io::Error },

    #[error("cannot write the log {}: it is a symbolic link: name the file itself", .path.display())]
    Link { path: PathBuf },

    #[error("cannot write the log {}: it is not a regular file", .path.display())]
    NotRegular { path: PathBuf },

    #[error("cannot write the log {}: the file has other hard links, which may belong to another program; delete it or name another file", .path.display())]
    OtherNames { path: PathBuf },
}

#[derive(Debug)]
enum State {
    Unopened,
    Open(File),
    Failed,
}

impl LogFile {
    pub(super) fn new(path: PathBuf, level: LogLevel) -> Self {
        Self { path, level, state: Mutex::new(State::Unopened) }
    }

    /// Appends a line. After an error, later calls do nothing and succeed.
    pub(super) fn append(&self, line: &str) -> Result<(), Unwritable> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let appended = state.open(&self.path).and_then(|file| match file {
            // One write(2), unless the disk is full: this keeps the lines of concurrent calls
            // apart.
            Some(mut file) => file.write_all(line.as_bytes()).map_err(io_error(&self.path)),
            None => Ok(()),
        });
        if appended.is_err() {
            *state = State::Failed;
        }
        appended
    }

    /// Checks whether the file can be written or created. Creates nothing.
    pub(super) fn probe(&self) -> Result<(), Unwritable> {
        match open_with(&mut OpenOptions::new(), &self.path) {
            Err(Unwritable::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let dir = self.path.parent().unwrap_or(Path::new("/"));
                let writable = access(dir, Access::WRITE_OK | Access::EXEC_OK);
                writable.map_err(|errno| io_error(&self.path)(errno.into()))
            }
            opened => opened.map(drop),
        }
    }
}

impl State {
    fn open(&mut self, path: &Path) -> Result<Option<&File>, Unwritable> {
        if matches!(self, Self::Unopened) {
            *self = Self::Open(open(path)?);
        }
        match self {
            Self::Open(file) => Ok(Some(file)),
            _ => Ok(None),
        }
    }
}

fn open(path: &Path) -> Result<File, Unwritable> {
    open_with(OpenOptions::new().create(true).mode(0o600), path)
}

fn open_with(options: &mut OpenOptions, path: &Path) -> Result<File, Unwritable> {
    // A user with write access to the directory must not redirect root's lines with a link, or
    // block the call with a FIFO.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = options.append(true).custom_flags(flags.bits().cast_signed()).open(path).map_err(|source| {
        if source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
            Unwritable::Link { path: path.to_owned() }
        } else {
            io_error(path)(source)
        }
    })?;
    let found = file.metadata().map_err(io_error(path))?;
    match (found.is_file(), found.nlink()) {
        // 0 links: the file was replaced or deleted after the open.
        (true, 0 | 1) => Ok(file),
        // With fs.protected_hardlinks=0, any user can create a hard link to root's file in a
        // directory that the user owns.
        (true, _) => Err(Unwritable::OtherNames { path: path.to_owned() }),
        (false, _) => Err(Unwritable::NotRegular { path: path.to_owned() }),
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Unwritable {
    |source| Unwritable::Io { path: path.to_owned(), source }
}
