//! Programs of another author: an object file that clang compiles, and its load with libbpf-rs.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::os::fd::AsFd as _;
use std::path::Path;

use cnikit::bpf::{NewPins, PinSet};
use cnikit_testbed::{Command, Host};
use libbpf_rs::{MapCore as _, ObjectBuilder};

use crate::support::{ROOT, map};

/// The builds of the object file, by the macros of clang.
pub(crate) const FIRST: &str = "-DENTRIES=1 -DVERDICT=-1 -DOFFSET=0 -DEXTRA";
pub(crate) const SECOND: &str = "-DENTRIES=1 -DVERDICT=0 -DOFFSET=0";
pub(crate) const LARGER: &str = "-DENTRIES=2 -DVERDICT=-1 -DOFFSET=0";
pub(crate) const BEYOND: &str = "-DENTRIES=1 -DVERDICT=-1 -DOFFSET=1";

/// The set `one` of layout 1.
pub(crate) fn set() -> PinSet {
    PinSet::new(ROOT, &"one".parse().expect("a name"))
}

/// The object file of a build.
pub(crate) fn compile(host: &Host, build: &str) -> Vec<u8> {
    let clang = env::var_os("CLANG").unwrap_or_else(|| OsString::from("clang"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/datapath/foreign/count.bpf.c");
    let object = host.scratch().join("count.bpf.o");
    Command::new(clang).words("-target bpf -O2 -g -c").words(build).arg(source).arg("-o").arg(&object).run();
    std::fs::read(object).expect("an object file")
}

/// Loads an object file onto the existing maps, and pins its maps and programs.
pub(crate) fn load(object: &[u8], pins: &NewPins<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut open = ObjectBuilder::default().open_memory(object)?;
    for mut map in open.maps_mut() {
        if let Some(existing) = pins.existing_map(map.name())? {
            map.reuse_fd(existing.as_fd())?;
        }
    }
    let loaded = open.load()?;
    for map in loaded.maps() {
        pins.pin(map.name(), &map)?;
    }
    for program in loaded.progs() {
        pins.pin(program.name(), &program)?;
    }
    Ok(())
}

/// Writes the counter of a set.
pub(crate) fn put_hits(set: &PinSet, hits: u8) {
    map("update", &set.directory(), "hits", &format!("key 0 0 0 0 value {hits} 0 0 0 0 0 0 0"));
}

/// Reads the counter of a set.
#[track_caller]
pub(crate) fn hits(set: &PinSet) -> u64 {
    let entry = map("lookup", &set.directory(), "hits", "key 0 0 0 0");
    entry["formatted"]["value"].as_u64().unwrap_or_else(|| panic!("no number: {entry}"))
}
