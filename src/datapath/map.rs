//! One map: its name, the sizes of its entries, and operations. Errors name the entry.
#![expect(unsafe_code, reason = "libbpf-rs has no listing of keys that distinguishes an error from the end")]

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::ptr;

use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle, libbpf_sys};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

use super::{Error, Result};
use crate::bpf::error::io_error;

/// The name of a map in the C program, which is also the name of its pin, and the sizes of its
/// entries.
#[derive(Debug)]
pub(super) struct MapSpec {
    pub(super) name: &'static str,
    /// Sizes of key and value, in bytes.
    pub(super) sizes: (usize, usize),
}

/// An open map.
#[derive(Debug)]
pub(super) struct Map {
    handle: MapHandle,
    name: &'static str,
}

/// Open maps of a set, by name.
pub(super) type Maps = BTreeMap<&'static str, MapHandle>;

/// A value that consists of 64-bit counters, one set per CPU. Public types implement this trait
/// instead of the traits of zerocopy.
pub(super) trait PerCpu {
    /// The counters: `[u64; N]`, in the order of the C struct.
    type Words: FromBytes + IntoBytes + Immutable;

    fn from_words(words: Self::Words) -> Self;

    fn words(&self) -> Self::Words;
}

impl<const N: usize> PerCpu for [u64; N] {
    type Words = Self;

    fn from_words(words: Self) -> Self {
        words
    }

    fn words(&self) -> Self {
        *self
    }
}

impl MapSpec {
    pub(super) const fn of<K, V>(name: &'static str) -> Self {
        Self { name, sizes: (size_of::<K>(), size_of::<V>()) }
    }
}

impl Map {
    /// Opens the pin of a map in `directory`. Its key and value sizes must match this build.
    pub(super) fn open(directory: &Path, spec: &MapSpec) -> Result<Self> {
        let path = directory.join(spec.name);
        let handle = MapHandle::from_pinned_path(&path)
            .map_err(|error| Error::pin("open the pinned map", &path, io_error(error)))?;
        let found = (handle.key_size() as usize, handle.value_size() as usize);
        if found != spec.sizes {
            return Err(Error::Layout { path, expected: spec.sizes, found });
        }
        Ok(Self { handle, name: spec.name })
    }

    /// Opens a map of running programs by its id. An id of `None` fails: the programs use no map of
    /// this name.
    pub(super) fn open_by_id(id: Option<u32>, spec: &MapSpec) -> Result<Self> {
        let failed =
            |source| Error::Map { operation: "open the map of running programs".to_owned(), map: spec.name, source };
        let id = id.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let handle = MapHandle::from_map_id(id).map_err(|error| failed(io_error(error)))?;
        Ok(Self { handle, name: spec.name })
    }

    pub(super) fn into_handle(self) -> MapHandle {
        self.handle
    }

    #[cfg(test)]
    #[cfg(cnikit_repository)]
    pub(super) fn new(handle: MapHandle, spec: &MapSpec) -> Self {
        Self { handle, name: spec.name }
    }

    /// The value of an entry. Errors name it `entry`.
    pub(super) fn read<V: FromBytes + IntoBytes>(&self, key: &[u8], entry: impl Display) -> Result<Option<V>> {
        let mut value = V::new_zeroed();
        let found = self
            .handle
            .lookup_into(key, value.as_mut_bytes(), MapFlags::ANY)
            .map_err(|error| self.error("look up", entry, error))?;
        Ok(found.then_some(value))
    }

    /// Inserts or replaces an entry.
    pub(super) fn put<V: IntoBytes + Immutable>(&self, key: &[u8], value: &V, entry: impl Display) -> Result<()> {
        self.handle.update(key, value.as_bytes(), MapFlags::ANY).map_err(|error| self.error("put", entry, error))
    }

    /// Sets each byte of an array of bytes to 1, in one call.
    pub(super) fn fill(&self, entries: u32) -> Result<()> {
        let keys: Vec<u8> = (0..entries).flat_map(u32::to_ne_bytes).collect();
        let values = vec![1; entries as usize];
        self.handle
            .update_batch(&keys, &values, entries, MapFlags::ANY, MapFlags::ANY)
            .map_err(|error| self.error("fill", "all entries", error))
    }

    /// The counters of an entry, summed over all CPUs.
    pub(super) fn sum<V: PerCpu>(&self, key: &[u8], entry: impl Display) -> Result<Option<V>> {
        let per_cpu =
            self.handle.lookup_percpu(key, MapFlags::ANY).map_err(|error| self.error("look up", entry, error))?;
        Ok(per_cpu.map(|values| sum(&values)))
    }

    /// Inserts or replaces an entry with counters that sum to `value`.
    pub(super) fn put_sum<V: PerCpu>(&self, key: &[u8], value: &V, entry: impl Display) -> Result<()> {
        let cpus = libbpf_rs::num_possible_cpus().map_err(|error| self.error("put", &entry, error))?;
        let mut values = vec![vec![0; size_of::<V::Words>()]; cpus];
        if let Some(first) = values.first_mut() {
            first.copy_from_slice(value.words().as_bytes());
        }
        self.handle.update_percpu(key, &values, MapFlags::ANY).map_err(|error| self.error("put", entry, error))
    }

    /// Deletes an entry. A missing entry is success.
    pub(super) fn delete(&self, key: &[u8], entry: impl Display) -> Result<()> {
        match self.handle.delete(key) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.error("delete", entry, error)),
            _ => Ok(()),
        }
    }

    /// The keys. Concurrently added or deleted entries may be missing, and other entries may be
    /// listed twice.
    pub(super) fn keys<const N: usize>(&self) -> Result<Vec<[u8; N]>> {
        let (mut keys, mut last) = (Vec::new(), None::<Vec<u8>>);
        loop {
            let mut next = vec![0; self.handle.key_size() as usize];
            let after = last.as_ref().map_or(ptr::null(), |key| key.as_ptr().cast());
            // The iterator of libbpf-rs treats an error as the end.
            // SAFETY: the descriptor is open, and both keys have the key size of the map.
            let found = unsafe {
                libbpf_sys::bpf_map_get_next_key(self.handle.as_fd().as_raw_fd(), after, next.as_mut_ptr().cast())
            };
            if found == 0 {
                keys.extend(<[u8; N]>::try_from(next.as_slice()));
                last = Some(next);
                continue;
            }
            let source = io::Error::from_raw_os_error(-found);
            return match source.kind() {
                io::ErrorKind::NotFound => Ok(keys),
                _ => Err(Error::Map { operation: "list the entries".to_owned(), map: self.name, source }),
            };
        }
    }

    fn error(&self, verb: &str, entry: impl Display, error: libbpf_rs::Error) -> Error {
        Error::Map { operation: format!("{verb} {entry}"), map: self.name, source: io_error(error) }
    }
}

fn sum<V: PerCpu>(per_cpu: &[Vec<u8>]) -> V {
    let mut total = V::Words::new_zeroed();
    for value in per_cpu {
        let (counters, added) = (total.as_mut_bytes().as_chunks_mut().0, value.as_chunks().0);
        for (counter, added) in counters.iter_mut().zip(added) {
            *counter = (u64::from_ne_bytes(*counter) + u64::from_ne_bytes(*added)).to_ne_bytes();
        }
    }
    V::from_words(total)
}
