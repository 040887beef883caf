//! One map: what it is called, how its rows look, and calls that name the row when they fail.
#![expect(unsafe_code, reason = "libbpf-rs has no listing of keys that tells an error from the end")]

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::ptr;

use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle, libbpf_sys};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::error::io_error;
use super::{Error, Result};

/// What a map of the C program is called there and as a pin, and the sizes of its rows.
#[derive(Debug)]
pub(super) struct Shape {
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

/// A value that consists of counters of 64 bits, which each CPU counts for itself.
pub(super) trait PerCpu: FromBytes + IntoBytes + Immutable {}

impl Shape {
    pub(super) const fn of<K, V>(name: &'static str) -> Self {
        Self { name, sizes: (size_of::<K>(), size_of::<V>()) }
    }
}

impl Map {
    /// Opens the pin of a map in `directory`, whose rows must have the sizes of this build's.
    pub(super) fn open(directory: &Path, shape: &Shape) -> Result<Self> {
        let path = directory.join(shape.name);
        let handle = MapHandle::from_pinned_path(&path)
            .map_err(|error| Error::pin("open the pinned map", &path, io_error(error)))?;
        let found = (handle.key_size() as usize, handle.value_size() as usize);
        if found != shape.sizes {
            return Err(Error::Layout { path, expected: shape.sizes, found });
        }
        Ok(Self { handle, name: shape.name })
    }

    /// Opens a map that running programs use, by the kernel's id for it; `None` when they use no map of this name.
    pub(super) fn open_by_id(id: Option<u32>, shape: &Shape) -> Result<Self> {
        let failed =
            |source| Error::Map { operation: "open the map of running programs".to_owned(), map: shape.name, source };
        let id = id.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let handle = MapHandle::from_map_id(id).map_err(|error| failed(io_error(error)))?;
        Ok(Self { handle, name: shape.name })
    }

    pub(super) fn into_handle(self) -> MapHandle {
        self.handle
    }

    #[cfg(test)]
    pub(super) fn new(handle: MapHandle, shape: &Shape) -> Self {
        Self { handle, name: shape.name }
    }

    /// The value of a row; `row` is what errors call it.
    pub(super) fn read<V: FromBytes + IntoBytes>(&self, key: &[u8], row: impl Display) -> Result<Option<V>> {
        let mut value = V::new_zeroed();
        let found = self
            .handle
            .lookup_into(key, value.as_mut_bytes(), MapFlags::ANY)
            .map_err(|error| self.error("look up", row, error))?;
        Ok(found.then_some(value))
    }

    /// Puts a row, in place of an earlier one.
    pub(super) fn put<V: IntoBytes + Immutable>(&self, key: &[u8], value: &V, row: impl Display) -> Result<()> {
        self.handle.update(key, value.as_bytes(), MapFlags::ANY).map_err(|error| self.error("put", row, error))
    }

    /// Sets each byte of an array of bytes to 1, in one call.
    pub(super) fn fill(&self, entries: u32) -> Result<()> {
        let keys: Vec<u8> = (0..entries).flat_map(u32::to_ne_bytes).collect();
        let values = vec![1; entries as usize];
        self.handle
            .update_batch(&keys, &values, entries, MapFlags::ANY, MapFlags::ANY)
            .map_err(|error| self.error("fill", "all entries", error))
    }

    /// The counters of a row, added up over the CPUs.
    pub(super) fn sum<V: PerCpu>(&self, key: &[u8], row: impl Display) -> Result<Option<V>> {
        let per_cpu =
            self.handle.lookup_percpu(key, MapFlags::ANY).map_err(|error| self.error("look up", row, error))?;
        Ok(per_cpu.map(|values| sum(&values)))
    }

    /// Puts a row whose counters add up to `value`, in place of an earlier one.
    pub(super) fn put_sum<V: PerCpu>(&self, key: &[u8], value: &V, row: impl Display) -> Result<()> {
        let cpus = libbpf_rs::num_possible_cpus().map_err(|error| self.error("put", &row, error))?;
        let mut values = vec![vec![0; size_of::<V>()]; cpus];
        if let Some(first) = values.first_mut() {
            first.copy_from_slice(value.as_bytes());
        }
        self.handle.update_percpu(key, &values, MapFlags::ANY).map_err(|error| self.error("put", row, error))
    }

    /// Deletes a row. Absent is success.
    pub(super) fn delete(&self, key: &[u8], row: impl Display) -> Result<()> {
        match self.handle.delete(key) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.error("delete", row, error)),
            _ => Ok(()),
        }
    }

    /// The keys. Rows that come or go meanwhile may be seen or not, and others twice.
    pub(super) fn keys<const N: usize>(&self) -> Result<Vec<[u8; N]>> {
        let (mut keys, mut last) = (Vec::new(), None::<Vec<u8>>);
        loop {
            let mut next = vec![0; self.handle.key_size() as usize];
            let after = last.as_ref().map_or(ptr::null(), |key| key.as_ptr().cast());
            // The iterator of libbpf-rs takes an error for the end.
            // SAFETY: the descriptor is open, and both keys are as long as those of the map.
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
                _ => Err(Error::Map { operation: "list the rows".to_owned(), map: self.name, source }),
            };
        }
    }

    fn error(&self, verb: &str, row: impl Display, error: libbpf_rs::Error) -> Error {
        Error::Map { operation: format!("{verb} {row}"), map: self.name, source: io_error(error) }
    }
}

fn sum<V: PerCpu>(per_cpu: &[Vec<u8>]) -> V {
    let mut total = V::new_zeroed();
    for value in per_cpu {
        let (counters, added) = (total.as_mut_bytes().as_chunks_mut().0, value.as_chunks().0);
        for (counter, added) in counters.iter_mut().zip(added) {
            *counter = (u64::from_ne_bytes(*counter) + u64::from_ne_bytes(*added)).to_ne_bytes();
        }
    }
    total
}
