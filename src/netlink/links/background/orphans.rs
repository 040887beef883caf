//! The orphan record: a small file with the state of the process that reaps orphans.

use std::{
    fmt::Write as _,
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind, Read as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat, open, openat},
    io::Errno,
    process::geteuid,
};
use tracing::debug;

/// The lock is held while two processes are forked. A longer wait costs more than a blocking
/// deletion of the link.
const LOCK_TIMEOUT: Duration = Duration::from_millis(20);
const PAUSE: Duration = Duration::from_micros(200);
/// The file holds the most recent PID namespaces. All lines have the same length, so that an update
/// needs no space.
const MAX_ENTRIES: usize = 32;
const LINE_LENGTH: usize = 117;
/// The number of processes that may wait for a reaper that is known to reap. Some reapers run once
/// in a few seconds, and may be delayed. This number of zombies is below any process limit.
const MAX_UNREAPED: u32 = 64;

/// A file that records whether orphaned processes are reaped on this host.
///
/// [`Socket::delete_link_nowait`](crate::netlink::Socket::delete_link_nowait) leaves a process
/// behind that becomes an orphan. The kernel reparents orphans to process 1 of the PID namespace,
/// or to the nearest ancestor that is a subreaper (`PR_SET_CHILD_SUBREAPER`). Some reapers reap
/// only the processes that they started, for example a runtime that is process 1 of a container.
/// There each orphan stays a zombie. The record limits the zombies to one: it names the orphan, and
/// no other is left behind until that one is reaped. Once the reaper is known to reap, up to 64
/// orphans may run or wait for it.
///
/// All callers with the same reaper should use the same file. Put it into a directory that loses
/// its files at a reboot, such as `/run/my-plugin/orphans`. The directory is created with mode 0700
/// if it is missing and its parent exists. The record rejects a file or directory that another user
/// owns or can write, a symbolic link, and any file that is not regular. If the record is unusable,
/// the caller deletes the link and waits for the kernel.
///
/// Deleting the file is always safe, and permits one more zombie.
///
/// # Kernel
///
/// `/proc` must be mounted and belong to the PID namespace of the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrphanRecord {
    path: PathBuf,
}

impl OrphanRecord {
    /// The record at this path. The file is not opened yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The permit to leave one process behind; `None` if that process could become a second zombie.
    pub(super) fn permit(&self) -> Option<Permit> {
        self.try_permit()
            .inspect_err(|reason| debug!("{}: no process is left behind: {reason}", self.path.display()))
            .ok()
    }

    fn try_permit(&self) -> Result<Permit, Reason> {
        // A `/proc` of another PID namespace would show other processes under our PIDs.
        if fs::read_link("/proc/self")?.to_str() != Some(&std::process::id().to_string()) {
            return Err(Reason::ForeignProc);
        }
        let boot = read_proc("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let pid_namespace = fs::metadata("/proc/self/ns/pid")?.ino();
        let file = self.lock()?;
        let mut bytes = vec![0; MAX_ENTRIES * LINE_LENGTH + 1];
        let length = file.read_at(&mut bytes, 0)?;
        // Unreadable entries and entries of another boot are overwritten.
        let mut entries: Vec<Entry> =
            bytes[..length].chunks_exact(LINE_LENGTH).filter_map(|line| Entry::parse(line, &boot)).collect();
        let index = entries.iter().position(|entry| entry.pid_namespace == pid_namespace).unwrap_or_else(|| {
            if entries.len() == MAX_ENTRIES {
                entries.remove(0);
            }
            entries.push(Entry::new(pid_namespace));
            entries.len() - 1
        });
        let permit = Permit { file, length, boot, state: entries[index].state()?, entries, index };
        // A write error must appear before the fork.
        permit.write()?;
        Ok(permit)
    }

    /// Opens and locks the file. Creates it if it is missing.
    fn lock(&self) -> Result<File, Reason> {
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = self.path.file_name().ok_or(Reason::Untrusted)?;
        let directory = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match open(dir, directory, Mode::empty()) {
            Err(Errno::NOENT) => match DirBuilder::new().mode(0o700).create(dir) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
                _ => open(dir, directory, Mode::empty()),
            },
            opened => opened,
        }?;
        if !is_trusted(&fstat(&dir)?) {
            return Err(Reason::Untrusted);
        }
        // A FIFO at this path must not block the open.
        let regular = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&dir, name, regular, Mode::RUSR | Mode::WUSR)?;
        let found = fstat(&file)?;
        // A hard link could refer to an important file.
        if !is_trusted(&found) || found.st_nlink != 1 || FileType::from_raw_mode(found.st_mode) != FileType::RegularFile
        {
            return Err(Reason::Untrusted);
        }
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file.into()),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => thread::sleep(PAUSE),
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Err(Reason::Locked),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Whether no other user can change the opened file.
fn is_trusted(found: &Stat) -> bool {
    let is_shared = Mode::from_raw_mode(found.st_mode).intersects(Mode::WGRP | Mode::WOTH);
    !is_shared && (found.st_uid == geteuid().as_raw() || found.st_uid == 0)
}

/// Why the caller must wait for the kernel itself.
#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("/proc belongs to another PID namespace; mount the /proc of this one")]
    ForeignProc,
    #[error("another user owns or can write the file or its directory, or it is not a regular file with one link")]
    Untrusted,
    #[error("another process holds the lock")]
    Locked,
    #[error("process {0} was left behind and is not reaped yet")]
    Unreaped(u32),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for Reason {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// A locked record. The next orphan is written to it.
#[derive(Debug)]
pub(super) struct Permit {
    file: File,
    /// How many bytes of the file were read.
    length: usize,
    boot: String,
    entries: Vec<Entry>,
    /// The entry of this PID namespace.
    index: usize,
    state: ReaperState,
}

/// The state of the reaper in this PID namespace, before the next process is left behind.
#[derive(Debug, Clone, Copy)]
enum ReaperState {
    /// No process was left behind before.
    Unknown,
    /// This process reaped the last orphan. `None` if the reaper could not be read.
    Reaped(Option<Process>),
    /// This process is known to reap, and may still have orphans to reap.
    Busy(Process),
}

impl Permit {
    /// Records an orphaned process and unlocks the record.
    pub(super) fn record(mut self, pid: u32) {
        // A process that is already reaped needs no entry.
        let Ok(Some(found)) = read_process(pid) else { return };
        let reaper = read_process(found.parent).ok().flatten().map(|reaper| reaper.process);
        let entry = &mut self.entries[self.index];
        match (self.state, reaper) {
            (ReaperState::Busy(busy), Some(reaper)) if busy == reaper => entry.count += 1,
            // Callers that share a record may have different reapers: the state of one does not
            // apply to another.
            (ReaperState::Reaped(reaped), _) => {
                entry.begin(found.process, reaper, reaper.is_some() && reaper == reaped)
            }
            _ => entry.begin(found.process, reaper, false),
        }
        if let Err(error) = self.write() {
            debug!("process {pid} is left behind but not recorded: {error}");
        }
    }

    fn write(&self) -> io::Result<()> {
        let lines: String = self.entries.iter().map(|entry| entry.line(&self.boot)).collect();
        self.file.write_all_at(lines.as_bytes(), 0)?;
        if self.length > lines.len() {
            self.file.set_len(lines.len() as u64)?;
        }
        Ok(())
    }
}

/// The orphans of one PID namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// The inode of the namespace.
    pid_namespace: u64,
    /// The oldest process that may still be unreaped.
    child: Option<Process>,
    /// The parent of the child after the child became an orphan.
    reaper: Option<Process>,
    /// Whether the reaper is known to reap orphans.
    confirmed: bool,
    /// The number of processes left behind since the child, including the child.
    count: u32,
}

impl Entry {
    const fn new(pid_namespace: u64) -> Self {
        Self { pid_namespace, child: None, reaper: None, confirmed: false, count: 0 }
    }

    const fn begin(&mut self, child: Process, reaper: Option<Process>, confirmed: bool) {
        *self = Self { pid_namespace: self.pid_namespace, child: Some(child), reaper, confirmed, count: 1 };
    }

    /// Returns an error if another process could become one zombie too many.
    fn state(&self) -> Result<ReaperState, Reason> {
        let Some(child) = self.child else { return Ok(ReaperState::Unknown) };
        let is_reaped = read_process(child.pid)?.is_none_or(|found| found.process != child);
        match self.reaper {
            reaper if is_reaped => Ok(ReaperState::Reaped(reaper)),
            Some(reaper) if self.confirmed && self.count < MAX_UNREAPED => Ok(ReaperState::Busy(reaper)),
            _ => Err(Reason::Unreaped(child.pid)),
        }
    }

    fn line(&self, boot: &str) -> String {
        let none = Process { pid: 0, start: 0 };
        let (child, reaper) = (self.child.unwrap_or(none), self.reaper.unwrap_or(none));
        let mut line = format!("{boot:36} {:10} {:10} {:20}", self.pid_namespace, child.pid, child.start);
        // Writing to a string cannot fail.
        let confirmed = u8::from(self.confirmed);
        let _ = writeln!(line, " {:10} {:20} {confirmed} {:2}", reaper.pid, reaper.start, self.count);
        line
    }

    fn parse(line: &[u8], boot: &str) -> Option<Self> {
        let fields: Vec<&str> = std::str::from_utf8(line).ok()?.split_ascii_whitespace().collect();
        let [of_boot, pid_namespace, child_pid, child_start, reaper_pid, reaper_start, confirmed, count] = fields[..]
        else {
            return None;
        };
        let process = |pid: &str, start: &str| {
            let process = Process { pid: pid.parse().ok()?, start: start.parse().ok()? };
            Some(Some(process).filter(|process| process.pid != 0))
        };
        (of_boot == boot).then_some(())?;
        Some(Self {
            pid_namespace: pid_namespace.parse().ok()?,
            child: process(child_pid, child_start)?,
            reaper: process(reaper_pid, reaper_start)?,
            confirmed: confirmed == "1",
            count: count.parse().ok()?,
        })
    }
}

/// Identifies a process, and no later process with the same PID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: u32,
    /// The start time in clock ticks since the boot.
    start: u64,
}

/// The fields of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct ProcStat {
    process: Process,
    parent: u32,
}

/// Reads a short file of `/proc`, which returns its whole content in one read.
fn read_proc(path: &str) -> io::Result<String> {
    let mut bytes = vec![0; 1024];
    let length = File::open(path)?.read(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

/// Reads a process; `None` if it has been reaped.
fn read_process(pid: u32) -> io::Result<Option<ProcStat>> {
    match read_proc(&format!("/proc/{pid}/stat")) {
        Ok(stat) => parse_stat(pid, &stat).map(Some).ok_or_else(|| ErrorKind::InvalidData.into()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        // The process was reaped between open and read.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a line of `/proc/PID/stat`. See
/// [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html).
fn parse_stat(pid: u32, stat: &str) -> Option<ProcStat> {
    // The name is the second field, in parentheses, and may contain any character.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let start = fields.nth(17)?.parse().ok()?;
    Some(ProcStat { process: Process { pid, start }, parent })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "0b6c3b5e-5d6e-4b66-9a5e-9d3c5f1f2a10";

    fn entry() -> Entry {
        Entry {
            pid_namespace: 4_026_531_836,
            child: Some(Process { pid: 4_194_304, start: u64::MAX }),
            reaper: Some(Process { pid: 1, start: 3 }),
            confirmed: true,
            count: MAX_UNREAPED,
        }
    }

    #[test]
    fn lines_have_one_length_and_are_parsed_back() {
        for entry in [entry(), Entry::new(4_026_531_836)] {
            let line = entry.line(BOOT);
            assert_eq!(line.len(), LINE_LENGTH, "{line}");
            assert_eq!(Entry::parse(line.as_bytes(), BOOT), Some(entry));
        }
        assert_eq!(Entry::parse(entry().line(BOOT).as_bytes(), "another boot"), None);
    }

    #[test]
    fn damaged_line_is_rejected() {
        let line = entry().line(BOOT);
        for damaged in [line.replace(" 1 ", " x "), line[..LINE_LENGTH - 5].to_owned(), "\u{fffd}".repeat(38)] {
            assert_eq!(Entry::parse(damaged.as_bytes(), BOOT), None, "{damaged}");
        }
    }

    /// The line of a zombie on Linux 6.18. The name of its program is `a) R 7 (b`.
    #[test]
    fn process_name_with_parentheses_is_parsed() {
        let stat = "17 (a) R 7 (b) Z 1 16 16 0 -1 4228108 29 0 0 0 0 0 0 0 20 0 1 0 5210 0 0 1844674407370955161 0 0";
        let process = Process { pid: 17, start: 5210 };
        assert_eq!(parse_stat(17, stat), Some(ProcStat { process, parent: 1 }));
    }

    #[test]
    fn known_reaper_may_have_a_limited_backlog() {
        let alive = read_process(std::process::id()).expect("/proc").expect("this process").process;
        let reaper = Process { pid: 1, start: 3 };
        let state = |count, confirmed| {
            let entry = Entry { child: Some(alive), reaper: Some(reaper), confirmed, count, ..entry() };
            entry.state()
        };
        assert!(matches!(state(MAX_UNREAPED - 1, true), Ok(ReaperState::Busy(busy)) if busy == reaper));
        assert!(matches!(state(MAX_UNREAPED, true), Err(Reason::Unreaped(_))));
        assert!(matches!(state(1, false), Err(Reason::Unreaped(_))), "no reaper is known");
        let earlier = Process { start: alive.start - 1, ..alive };
        let reused = Entry { child: Some(earlier), reaper: Some(reaper), ..entry() };
        assert!(matches!(reused.state(), Ok(ReaperState::Reaped(Some(reaped))) if reaped == reaper));
        assert!(matches!(Entry::new(1).state(), Ok(ReaperState::Unknown)));
    }

    #[test]
    fn process_exists_until_it_is_reaped() {
        let mut child = std::process::Command::new("sleep").arg("0").spawn().expect("start sleep");
        let pid = child.id();
        let found = read_process(pid).expect("/proc").expect("not reaped yet");
        assert_eq!(found.parent, std::process::id());
        child.wait().expect("reap it");
        assert!(read_process(pid).expect("/proc").is_none_or(|other| other.process != found.process));
    }
}
