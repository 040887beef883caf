//! What is known of the process that reaps orphans: a small file that outlives the calls.

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

/// The lock is held while two processes are forked. Waiting for longer costs more than deleting the link and waiting.
const PATIENCE: Duration = Duration::from_millis(20);
const PAUSE: Duration = Duration::from_micros(200);
/// The file holds the PID namespaces that came last. Each line has the same length, so that an update needs no space.
const MOST: usize = 32;
const LINE: usize = 117;
/// How many may wait for a reaper that has been seen to reap. Some do so once in a few seconds, and may be held up for
/// longer. This many zombies are within any limit of processes.
const UNREAPED: u32 = 64;

/// A file that records whether orphaned processes are reaped on this host.
///
/// [`Socket::delete_link_nowait`](super::Socket::delete_link_nowait) leaves a process behind that becomes an orphan. The
/// kernel gives orphans to process 1 of the PID namespace, or to the nearest ancestor that is a subreaper
/// (`PR_SET_CHILD_SUBREAPER`). Some of these reap only the processes that they started: a runtime that is process 1 of a
/// container, for example. There each orphan stays a zombie. The record limits them to one: it names the process that
/// was left behind, and no other is left behind until that one has been reaped. Once a reaper has been seen to reap, up
/// to 64 may run or wait for it.
///
/// All callers that have the same reaper should use the same file. Put it into a directory that loses its files at a
/// reboot, such as `/run/my-plugin/orphans`. The directory is created with mode 0700 if it is missing and its parent
/// exists. A file or directory that another user owns or can write, a symbolic link, and anything but a regular file
/// are not used. Whatever is wrong with the record, the link is deleted: the caller then waits for the kernel.
///
/// Deleting the file is always safe, and allows one more zombie.
///
/// # Kernel
///
/// `/proc` must be mounted and belong to the PID namespace of the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrphanRecord {
    path: PathBuf,
}

impl OrphanRecord {
    /// The record at this path. Nothing is opened yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The permission to leave one process behind; none if it could become a second zombie.
    pub(super) fn permit(&self) -> Option<Permit> {
        self.judge().inspect_err(|reason| debug!("no process is left behind by {}: {reason}", self.path.display())).ok()
    }

    fn judge(&self) -> Result<Permit, Reason> {
        // A `/proc` of another PID namespace would show other processes under the numbers of ours.
        if fs::read_link("/proc/self")?.to_str() != Some(&std::process::id().to_string()) {
            return Err(Reason::ForeignProc);
        }
        let boot = read_proc("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let pid_namespace = fs::metadata("/proc/self/ns/pid")?.ino();
        let file = self.lock()?;
        let mut bytes = vec![0; MOST * LINE + 1];
        let length = file.read_at(&mut bytes, 0)?;
        // What cannot be read, or is of another boot, is written over.
        let mut entries: Vec<Entry> =
            bytes[..length].chunks_exact(LINE).filter_map(|line| Entry::parse(line, &boot)).collect();
        let place = entries.iter().position(|entry| entry.pid_namespace == pid_namespace).unwrap_or_else(|| {
            if entries.len() == MOST {
                entries.remove(0);
            }
            entries.push(Entry::new(pid_namespace));
            entries.len() - 1
        });
        let permit = Permit { file, length, boot, standing: entries[place].standing()?, entries, place };
        // A record that cannot be written must not be noticed after the fork.
        permit.write()?;
        Ok(permit)
    }

    /// Opens and locks the file, which is created if it is missing.
    fn lock(&self) -> Result<File, Reason> {
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = self.path.file_name().ok_or(Reason::Foreign)?;
        let directory = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match open(dir, directory, Mode::empty()) {
            Err(Errno::NOENT) => match DirBuilder::new().mode(0o700).create(dir) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
                _ => open(dir, directory, Mode::empty()),
            },
            opened => opened,
        }?;
        if !is_own(&fstat(&dir)?) {
            return Err(Reason::Foreign);
        }
        // A pipe in the place of the file must not block the open.
        let regular = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&dir, name, regular, Mode::RUSR | Mode::WUSR)?;
        let found = fstat(&file)?;
        // A second name could lead to a file of value.
        if !is_own(&found) || found.st_nlink != 1 || FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(Reason::Foreign);
        }
        let deadline = Instant::now() + PATIENCE;
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

/// Whether no other user can change what was opened.
fn is_own(found: &Stat) -> bool {
    let is_shared = Mode::from_raw_mode(found.st_mode).intersects(Mode::WGRP | Mode::WOTH);
    !is_shared && (found.st_uid == geteuid().as_raw() || found.st_uid == 0)
}

/// Why the caller has to wait for the kernel itself.
#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("/proc belongs to another PID namespace; mount that of this one")]
    ForeignProc,
    #[error("another user owns or can write it or its directory, or it is not a regular file with one name")]
    Foreign,
    #[error("another process keeps it locked")]
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

/// A locked record, in which the next process that is left behind will be entered.
#[derive(Debug)]
pub(super) struct Permit {
    file: File,
    /// How many bytes of the file were read.
    length: usize,
    boot: String,
    entries: Vec<Entry>,
    /// The entry of this PID namespace.
    place: usize,
    standing: Standing,
}

/// What the entry of this PID namespace says before the next process is left behind.
#[derive(Debug, Clone, Copy)]
enum Standing {
    /// None has been left behind.
    Unknown,
    /// The last one has been reaped by this process, if that could be looked up.
    Reaped(Option<Process>),
    /// This process has been seen to reap, and may have some to reap still.
    Busy(Process),
}

impl Permit {
    /// Enters a process that has been orphaned, and unlocks the record.
    pub(super) fn record(mut self, pid: u32) {
        // One that has been reaped already needs no entry.
        let Ok(Some(found)) = look(pid) else { return };
        let reaper = look(found.parent).ok().flatten().map(|reaper| reaper.process);
        let entry = &mut self.entries[self.place];
        match (self.standing, reaper) {
            (Standing::Busy(busy), Some(reaper)) if busy == reaper => entry.count += 1,
            // Callers that share a record may have different reapers: one that reaps says nothing of another.
            (Standing::Reaped(reaped), _) => entry.begin(found.process, reaper, reaper.is_some() && reaper == reaped),
            _ => entry.begin(found.process, reaper, false),
        }
        if let Err(error) = self.write() {
            debug!("process {pid} is left behind and not recorded: {error}");
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

/// What was left behind in a PID namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// The inode of the namespace.
    pid_namespace: u64,
    /// The oldest process that is not known to be reaped.
    child: Option<Process>,
    /// The parent of the child, once that was an orphan.
    reaper: Option<Process>,
    /// Whether the reaper has been seen to reap one.
    confirmed: bool,
    /// How many have been left behind since the child, which is one of them.
    count: u32,
}

impl Entry {
    const fn new(pid_namespace: u64) -> Self {
        Self { pid_namespace, child: None, reaper: None, confirmed: false, count: 0 }
    }

    const fn begin(&mut self, child: Process, reaper: Option<Process>, confirmed: bool) {
        *self = Self { pid_namespace: self.pid_namespace, child: Some(child), reaper, confirmed, count: 1 };
    }

    /// An error if another process could be a zombie too many.
    fn standing(&self) -> Result<Standing, Reason> {
        let Some(child) = self.child else { return Ok(Standing::Unknown) };
        let is_reaped = look(child.pid)?.is_none_or(|found| found.process != child);
        match self.reaper {
            reaper if is_reaped => Ok(Standing::Reaped(reaper)),
            Some(reaper) if self.confirmed && self.count < UNREAPED => Ok(Standing::Busy(reaper)),
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

/// A process and no later one with its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: u32,
    /// When it started, in clock ticks since the boot.
    start: u64,
}

/// What `/proc` says of a process.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    process: Process,
    parent: u32,
}

/// Reads a short file of `/proc`, which gives all of it at once.
fn read_proc(path: &str) -> io::Result<String> {
    let mut bytes = vec![0; 1024];
    let length = File::open(path)?.read(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

/// Looks a process up; none if it has been reaped.
fn look(pid: u32) -> io::Result<Option<Found>> {
    match read_proc(&format!("/proc/{pid}/stat")) {
        Ok(stat) => parse_stat(pid, &stat).map(Some).ok_or_else(|| ErrorKind::InvalidData.into()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        // It was reaped between open and read.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a line of `/proc/PID/stat`. See [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html).
fn parse_stat(pid: u32, stat: &str) -> Option<Found> {
    // The name comes second, in parentheses, and may hold any character.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let start = fields.nth(17)?.parse().ok()?;
    Some(Found { process: Process { pid, start }, parent })
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
            count: UNREAPED,
        }
    }

    #[test]
    fn every_line_has_the_same_length_and_is_read_back() {
        for entry in [entry(), Entry::new(4_026_531_836)] {
            let line = entry.line(BOOT);
            assert_eq!(line.len(), LINE, "{line}");
            assert_eq!(Entry::parse(line.as_bytes(), BOOT), Some(entry));
        }
        assert_eq!(Entry::parse(entry().line(BOOT).as_bytes(), "another boot"), None);
    }

    #[test]
    fn a_line_that_is_damaged_is_none() {
        let line = entry().line(BOOT);
        for damaged in [line.replace(" 1 ", " x "), line[..LINE - 5].to_owned(), "\u{fffd}".repeat(38)] {
            assert_eq!(Entry::parse(damaged.as_bytes(), BOOT), None, "{damaged}");
        }
    }

    /// The line of a zombie on Linux 6.18, whose program is called `a) R 7 (b`.
    #[test]
    fn a_name_does_not_mislead() {
        let stat = "17 (a) R 7 (b) Z 1 16 16 0 -1 4228108 29 0 0 0 0 0 0 0 20 0 1 0 5210 0 0 1844674407370955161 0 0";
        let process = Process { pid: 17, start: 5210 };
        assert_eq!(parse_stat(17, stat), Some(Found { process, parent: 1 }));
    }

    #[test]
    fn a_reaper_that_has_been_seen_to_reap_is_waited_for_but_not_without_end() {
        let alive = look(std::process::id()).expect("/proc").expect("this process").process;
        let reaper = Process { pid: 1, start: 3 };
        let standing = |count, confirmed| {
            let entry = Entry { child: Some(alive), reaper: Some(reaper), confirmed, count, ..entry() };
            entry.standing()
        };
        assert!(matches!(standing(UNREAPED - 1, true), Ok(Standing::Busy(busy)) if busy == reaper));
        assert!(matches!(standing(UNREAPED, true), Err(Reason::Unreaped(_))));
        assert!(matches!(standing(1, false), Err(Reason::Unreaped(_))), "nobody was seen to reap");
        let earlier = Process { start: alive.start - 1, ..alive };
        let reused = Entry { child: Some(earlier), reaper: Some(reaper), ..entry() };
        assert!(matches!(reused.standing(), Ok(Standing::Reaped(Some(reaped))) if reaped == reaper));
        assert!(matches!(Entry::new(1).standing(), Ok(Standing::Unknown)));
    }

    #[test]
    fn a_process_is_there_until_it_is_reaped() {
        let mut child = std::process::Command::new("sleep").arg("0").spawn().expect("start sleep");
        let pid = child.id();
        let found = look(pid).expect("/proc").expect("not reaped yet");
        assert_eq!(found.parent, std::process::id());
        child.wait().expect("reap it");
        assert!(look(pid).expect("/proc").is_none_or(|other| other.process != found.process));
    }
}
