//! Loads a set and pins it.

use std::error::Error as StdError;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use tracing::info_span;

use super::error::io_error;
use super::messages::{self, capture, refusal};
use super::pin_set::{PinSet, is_stamp, list_dir, open_map, remove_tree, stamp};
use super::{Error, Result, bpffs, object};

/// An error of any library that loads programs.
type LoadError = Box<dyn StdError + Send + Sync>;

/// The pins of a new set, which [`PinSet::ensure`] publishes after its closure has succeeded.
#[derive(Debug)]
pub struct NewPins<'s> {
    published: PathBuf,
    loading: &'s Path,
}

impl PinSet {
    /// Pins the programs and maps that `load` passes to [`NewPins::pin`]: all of them, or none.
    ///
    /// `build` identifies the build of the programs, for example the bytes of the object file. If
    /// the set of this build is pinned, `load` is not called. The call then takes some tens of
    /// microseconds, and 0.1 ms for the digest of 20 kB.
    ///
    /// Otherwise the call mounts the BPF file system if it is missing, takes the lock of the root
    /// and calls `load`. Concurrent callers wait, and load once.
    ///
    /// The pins replace the pins of another build. A program or map that is not among the new pins
    /// loses its pin. Programs that are attached stay attached: the caller replaces them.
    ///
    /// Map entries that must exist when the set appears are written by `load`.
    ///
    /// # Errors
    ///
    /// - the errors of [`ensure_directory`](super::ensure_directory),
    /// - [`Error::Load`] or [`Error::Rejected`] with the error of `load`. The source ends with the
    ///   messages of libbpf, which are not printed. An error of this module is returned unchanged,
    /// - [`Error::Locked`] if another loader hangs, [`Error::NewerLayout`] after a downgrade,
    /// - [`Error::Pin`] if a pin cannot be read or changed.
    ///
    /// # Kernel
    ///
    /// `CAP_BPF` and `CAP_NET_ADMIN`, before 6.12 also `CAP_PERFMON` for some programs. Mounting
    /// the BPF file system needs `CAP_SYS_ADMIN`.
    pub fn ensure(
        &self,
        build: impl AsRef<[u8]>,
        load: impl FnOnce(&NewPins<'_>) -> Result<(), Box<dyn StdError + Send + Sync>>,
    ) -> Result<()> {
        let mut load = Some(load);
        self.ensure_stamp(&stamp(build.as_ref()), &mut |pins| load.take().map_or(Ok(()), |load| load(pins)))
    }

    fn ensure_stamp(&self, stamp: &str, load: &mut dyn FnMut(&NewPins<'_>) -> Result<(), LoadError>) -> Result<()> {
        self.update(&|| self.has_stamp(stamp), &mut |loading| {
            // Probe first: Linux before 5.16 also refuses to open pins, and that error does not
            // name the missing capability.
            messages::probe()?;
            bpffs::create_directories(loading)?;
            let pins = NewPins { published: self.directory(), loading };
            let (loaded, messages) = capture(|| load(&pins));
            loaded.map_err(|error| load_error(error, &messages))?;
            // The stamp lists the pins, so that a missing pin is found.
            let stamp = loading.join(stamp);
            let names = list_dir(loading)?;
            bpffs::create_directories(&stamp)?;
            names.iter().try_for_each(|name| bpffs::create_directories(&stamp.join(name)))?;
            self.put_in_place(loading, true)
        })
    }

    /// Unless the set `is_current`: calls `load` with the path of a new directory for pins, under
    /// the lock. Removes the directory afterwards.
    pub(crate) fn update(
        &self,
        is_current: &dyn Fn() -> Result<bool>,
        load: &mut dyn FnMut(&Path) -> Result<()>,
    ) -> Result<()> {
        if is_current()? {
            return Ok(());
        }
        let _span = info_span!("load", pins = %self.set.display()).entered();
        bpffs::ensure_directory(&self.root)?;
        let _lock = self.lock()?;
        if is_current()? {
            return Ok(());
        }
        // Pins are created in a separate directory and published by renames. The next loader
        // removes the directory of a killed loader.
        let loading = self.set.join("loading");
        remove_tree(&loading)?;
        let loaded = load(&loading);
        // The error of the load is reported. The directory of the set is removed only if it is
        // empty.
        let removed = remove_tree(&loading);
        if loaded.is_err() {
            let _ = fs::remove_dir(&self.set);
        }
        loaded.and(removed)
    }

    /// Renames the pins in `loading` to their final place. With `is_exact`, removes all other pins.
    pub(crate) fn put_in_place(&self, loading: &Path, is_exact: bool) -> Result<()> {
        let published = self.directory();
        let replaced = |path: &Path, error| Error::pin("replace the pin", path, error);
        if !published.try_exists().map_err(|error| Error::pin("look for the pins in", &published, error))? {
            return fs::rename(loading, &published)
                .map_err(|error| Error::pin("publish the pins as", &published, error));
        }
        // The build stamp is removed first and added last. Between both, callers treat the set as
        // outdated and wait for the lock.
        let collected = list_dir(loading)?;
        for name in list_dir(&published)? {
            let path = published.join(&name);
            if is_stamp(&name) {
                remove_tree(&path)?;
            } else if is_exact && !collected.contains(&name) {
                match fs::remove_file(&path) {
                    // A directory is not a pin of the set.
                    Err(error) if error.kind() == io::ErrorKind::IsADirectory => {}
                    removed => removed.map_err(|error| replaced(&path, error))?,
                }
            }
        }
        let (stamps, pins): (Vec<_>, Vec<_>) = collected.iter().partition(|name| is_stamp(name));
        for name in pins.into_iter().chain(stamps) {
            let path = published.join(name);
            fs::rename(loading.join(name), &path).map_err(|error| replaced(&path, error))?;
        }
        Ok(())
    }
}

impl NewPins<'_> {
    /// Opens the map that another build has pinned under this name. `None` if there is none.
    ///
    /// Pass it to the loader before the load, such as to `OpenMapMut::reuse_fd` of libbpf-rs. The
    /// entries of the map then survive. Without this step, the new map replaces the pinned map.
    ///
    /// libbpf takes type and sizes from the descriptor. If the programs expect others, the verifier
    /// can refuse them, or a larger map can stay small: such a change needs another
    /// [layout](PinSet::layout).
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] if the pin is not a map, or cannot be opened.
    pub fn existing_map(&self, pin: impl AsRef<OsStr>) -> Result<Option<OwnedFd>> {
        match open_map(&self.published.join(pin.as_ref())) {
            Err(error) if error.is_missing_pin() => Ok(None),
            map => map.map(Some),
        }
    }

    /// Adds a program or a map to the set, by its descriptor.
    ///
    /// The maps that libbpf creates for constants and global variables (`.rodata`, `.bss`) need no
    /// pin: the programs keep them.
    ///
    /// # Errors
    ///
    /// [`Error::PinName`] for an empty name, a name with `.` or `/`, and a name that begins with
    /// `build-`. [`Error::Pin`]: `EEXIST` if the set already has the name, `EPERM` if a capability
    /// is missing.
    pub fn pin(&self, pin: impl AsRef<OsStr>, object: &impl AsFd) -> Result<()> {
        self.pin_as(pin.as_ref(), object.as_fd())
    }

    fn pin_as(&self, name: &OsStr, object: BorrowedFd<'_>) -> Result<()> {
        bpffs::check_name(name)?;
        let reason = match name.as_encoded_bytes() {
            [] => Some("is empty"),
            bytes if bytes.contains(&b'/') => Some("contains a `/`"),
            _ if is_stamp(name) => Some("begins with `build-`, which marks a complete set"),
            _ => None,
        };
        if let Some(reason) = reason {
            return Err(Error::PinName { name: name.to_string_lossy().into_owned(), reason });
        }
        let path = self.loading.join(name);
        object::pin(object, &path).map_err(|error| Error::pin("create the pin", path, error))
    }
}

/// The error of a closure of [`PinSet::ensure`].
fn load_error(error: LoadError, messages: &[String]) -> Error {
    let error = match error.downcast::<Error>() {
        Ok(own) => return *own,
        Err(other) => other,
    };
    // The remedy depends on the kind of the error.
    let source = match error.downcast::<libbpf_rs::Error>() {
        Ok(error) => io_error(*error),
        Err(other) => other.downcast().map_or_else(io::Error::other, |error| *error),
    };
    refusal(source, messages)
}
