//! The paths, the state and the removal of a set of pins.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::object::{self, Kind};
use super::{Error, Program, Result, bpffs, messages};
use crate::dir;
use crate::spec::NetworkName;

/// The prefix of the build stamp: a directory named after the build of the programs. It is a
/// directory because the BPF file system holds only pins and directories.
pub(crate) const STAMP: &str = "build-";

/// The programs and maps of one network, pinned in `<root>/<name>/v<layout>/`.
///
/// The set appears under its name completely or not at all, even if the loading process is killed.
/// Concurrent callers load once. Another build of the programs replaces the pins, and keeps the
/// maps that it [reuses](super::NewPins::existing_map). The [module](super) has a complete example.
///
/// A `PinSet` holds only paths. Each method opens the pins that it needs.
///
/// ```
/// use std::path::Path;
///
/// use cnikit::bpf::PinSet;
///
/// let set = PinSet::new("/sys/fs/bpf/my-plugin", &"my.net".parse()?).layout(2);
/// assert_eq!(set.path_of("hits"), Path::new("/sys/fs/bpf/my-plugin/my:net/v2/hits"));
/// # Ok::<(), cnikit::spec::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PinSet {
    pub(super) root: PathBuf,
    /// The directory of all layouts.
    pub(super) set: PathBuf,
    layout: u32,
}

impl PinSet {
    /// The set `name` below the directory `root`, such as `/sys/fs/bpf/my-plugin`. Its layout is 1.
    ///
    /// The BPF file system allows no `.` in a name, so `root` must not contain any. A `.` in `name`
    /// becomes `:`, which network names cannot contain. All sets below one root share a lock.
    #[must_use]
    pub fn new(root: impl AsRef<Path>, name: &NetworkName) -> Self {
        let root = root.as_ref();
        let set = root.join(name.as_str().replace('.', ":"));
        Self { root: root.to_owned(), set, layout: 1 }
    }

    /// The version of the maps. Increase it if a map has another type or other sizes than before:
    /// the new build then pins its maps in a separate directory.
    #[must_use]
    pub fn layout(mut self, layout: u32) -> Self {
        self.layout = layout;
        self
    }

    /// The names of the sets of any layout below `root`, sorted. A missing directory has no sets.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] if the directory cannot be listed.
    pub fn list(root: impl AsRef<Path>) -> Result<Vec<NetworkName>> {
        let mut names: Vec<NetworkName> =
            list_dir(root.as_ref())?.iter().filter_map(|name| name.to_str()?.replace(':', ".").parse().ok()).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The directory that holds the pins.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.layout_directory(self.layout)
    }

    /// The path of a pin, for other libraries. The pin may be missing.
    #[must_use]
    pub fn path_of(&self, pin: impl AsRef<OsStr>) -> PathBuf {
        self.directory().join(pin.as_ref())
    }

    /// The directory for the pins of [TCX links](super::TcxLink) of the programs. The links survive
    /// a layout change. [`remove`](Self::remove) detaches them.
    #[must_use]
    pub fn link_pins(&self) -> PathBuf {
        self.set.join("links")
    }

    /// Whether all pins of the build `build` exist: [`ensure`](Self::ensure) would change nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NewerLayout`] after a downgrade, [`Error::Pin`] if a directory cannot be listed.
    pub fn is_current(&self, build: impl AsRef<[u8]>) -> Result<bool> {
        self.has_stamp(&stamp(build.as_ref()))
    }

    /// Whether all pins of a set exist, from any build.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] if a directory cannot be listed. The state of the pins is then unknown.
    pub fn is_complete(&self) -> Result<bool> {
        self.is_whole(&list_dir(&self.directory())?, &is_stamp)
    }

    pub(super) fn has_stamp(&self, stamp: &str) -> Result<bool> {
        self.check_downgrade()?;
        self.is_whole(&list_dir(&self.directory())?, &|name| name == stamp)
    }

    /// Whether all pins exist that a stamp lists.
    fn is_whole(&self, found: &[OsString], is_meant: &dyn Fn(&OsStr) -> bool) -> Result<bool> {
        let Some(stamp) = found.iter().find(|name| is_meant(name)) else { return Ok(false) };
        Ok(list_dir(&self.path_of(stamp))?.iter().all(|pin| found.contains(pin)))
    }

    /// Checks whether [`ensure`](Self::ensure) and opening the pins can succeed, for example for
    /// STATUS. Changes nothing.
    ///
    /// If the set is of another build, the BPF file system must be writable, or must be missing so
    /// that it can be mounted. The process must be allowed to use bpf(2).
    ///
    /// # Errors
    ///
    /// - [`Error::NewerLayout`] after a downgrade,
    /// - [`Error::Mount`] if the kernel has no BPF file system,
    /// - [`Error::Pin`] if the pins cannot be read, or the file system is not writable,
    /// - [`Error::NotBpffs`] if the directory is on another file system,
    /// - [`Error::Load`] if the kernel refuses to create a map.
    pub fn probe(&self, build: impl AsRef<[u8]>) -> Result<()> {
        if self.is_current(build)? { messages::probe() } else { self.probe_load() }
    }

    /// Checks whether a set can be loaded and pinned.
    pub(crate) fn probe_load(&self) -> Result<()> {
        bpffs::probe(&self.set)?;
        messages::probe()
    }

    /// Opens a pinned program.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] if the pin is missing, is not a program, or cannot be opened.
    pub fn open_program(&self, pin: impl AsRef<OsStr>) -> Result<Program> {
        Program::open(self.path_of(pin))
    }

    /// Opens a pinned map.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] if the pin is missing, is not a map, or cannot be opened.
    pub fn open_map(&self, pin: impl AsRef<OsStr>) -> Result<OwnedFd> {
        open_map(&self.path_of(pin))
    }

    /// Removes the pins of all layouts and the [links](Self::link_pins). Missing pins are success.
    ///
    /// Programs that are attached as filters stay loaded, and so do their maps.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] with the path that could not be removed, [`Error::Locked`] if another loader
    /// hangs.
    pub fn remove(&self) -> Result<()> {
        // Without the pins, the root can be missing too, and there is nothing to lock.
        match self.set.try_exists() {
            Ok(false) => Ok(()),
            Ok(true) => {
                let _lock = self.lock()?;
                self.layouts()?.into_iter().try_for_each(|layout| self.remove_layout(layout))?;
                remove_tree(&self.set)
            }
            Err(error) => Err(Error::pin("look for the pins in", &self.set, error)),
        }
    }

    /// Removes the pins of older layouts. Call it after all their programs were replaced. Lists one
    /// directory if there are none.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub fn remove_older_layouts(&self) -> Result<()> {
        let older = |layouts: Vec<u32>| layouts.into_iter().filter(|layout| *layout < self.layout).collect::<Vec<_>>();
        if older(self.layouts()?).is_empty() {
            return Ok(());
        }
        let _lock = self.lock()?;
        older(self.layouts()?).into_iter().try_for_each(|layout| self.remove_layout(layout))
    }

    /// Removes the stamps first: the rest of a killed call must not look like a complete set.
    fn remove_layout(&self, layout: u32) -> Result<()> {
        let directory = self.layout_directory(layout);
        let stamps = list_dir(&directory)?.into_iter().filter(|name| is_stamp(name));
        stamps.map(|stamp| directory.join(stamp)).try_for_each(|stamp| remove_tree(&stamp))?;
        remove_tree(&directory)
    }

    /// The directory of one layout.
    pub(crate) fn layout_directory(&self, layout: u32) -> PathBuf {
        self.set.join(format!("v{layout}"))
    }

    /// The pinned layouts, unordered.
    fn layouts(&self) -> Result<Vec<u32>> {
        let number = |name: OsString| name.to_str()?.strip_prefix('v')?.parse().ok();
        Ok(list_dir(&self.set)?.into_iter().filter_map(number).collect())
    }

    /// Fails if a newer build has pinned a newer layout. Loading this layout beside it would leave
    /// the existing pods without entries, and both builds would replace each other's programs.
    pub(crate) fn check_downgrade(&self) -> Result<()> {
        match self.layouts()?.into_iter().max() {
            Some(found) if found > self.layout => {
                Err(Error::NewerLayout { path: self.layout_directory(found), found, known: self.layout })
            }
            _ => Ok(()),
        }
    }

    /// The lock that loads and removals hold. It is on the root, because the directory of the set
    /// is removed: a lock on a removed directory excludes no other process.
    pub(super) fn lock(&self) -> Result<File> {
        bpffs::lock(&self.root, bpffs::LOCK_TIMEOUT)
    }
}

/// The name of the build stamp.
pub(super) fn stamp(build: &[u8]) -> String {
    let digest: [u8; 32] = Sha256::digest(build).into();
    let hex: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{STAMP}{hex}")
}

pub(super) fn is_stamp(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(STAMP.as_bytes())
}

pub(super) fn open_map(path: &Path) -> Result<OwnedFd> {
    object::open(path, Kind::Map).map_err(|error| Error::pin("open the pinned map", path, error))
}

/// The names in a directory. A missing directory is empty. ADD lists three directories. `readdir`
/// of the C library would map and unmap memory for each.
pub(crate) fn list_dir(directory: &Path) -> Result<Vec<OsString>> {
    let failed = |errno: Errno| Error::pin("list the pins in", directory, errno);
    let opened = rustix::fs::open(directory, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let directory = match opened {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(errno @ Errno::PERM) => return bpffs::check_names(directory).and(Err(failed(errno))),
        opened => opened.map_err(failed)?,
    };
    let (mut names, mut buffer) = (Vec::new(), [MaybeUninit::uninit(); 2048]);
    match dir::visit_names(directory, &mut buffer, |name| names.push(name.to_owned())) {
        // The directory was removed in between, so it is empty.
        Ok(()) | Err(Errno::NOENT) => Ok(names),
        Err(errno) => Err(failed(errno)),
    }
}

pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::pin("remove the pins in", path, error)),
        _ => Ok(()),
    }
}
