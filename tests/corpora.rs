//! Replays the fuzz seeds with the stable compiler: see fuzz/README.md.
//!
//! Unit tests replay the seeds of `netlink` and `packet`, beside the code under test.
#![cfg(all(feature = "ipam", feature = "netlink"))]

use std::fs;
use std::path::Path;

#[path = "../fuzz/cases/args.rs"]
mod args;
#[path = "../fuzz/cases/config.rs"]
mod config;
#[path = "../fuzz/cases/ipam.rs"]
mod ipam;
#[path = "../fuzz/cases/result.rs"]
mod result;

#[test]
fn variables() {
    replay("args", args::run);
}

#[test]
fn configurations() {
    replay("config", config::run);
}

#[test]
fn lease_files() {
    replay("ipam", ipam::run);
}

#[test]
fn results() {
    replay("result", result::run);
}

/// Runs a case on each of its seeds. It prints each path first, so that a panic follows the name of
/// its seed.
fn replay(target: &str, case: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let seeds = fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
    let mut count = 0;
    for seed in seeds {
        let seed = seed.expect("an entry").path();
        eprintln!("{}", seed.display());
        case(&fs::read(&seed).expect("a file"));
        count += 1;
    }
    assert!(count > 0, "{} is empty", corpus.display());
}
