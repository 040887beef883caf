//! Says of which state of the sources a build is: `SIMPLE_EBPF_CNI_VERSION`, as `--version` prints it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Sources that are no checkout, such as an archive of a release, may be told what they are by this variable.
const REVISION: &str = "SIMPLE_EBPF_CNI_REVISION";

fn main() {
    println!("cargo::rerun-if-env-changed={REVISION}");
    let mut version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    if let Some(revision) = env::var(REVISION).ok().or_else(described).filter(|revision| !revision.is_empty()) {
        version = format!("{version} ({revision})");
    }
    println!("cargo::rustc-env=SIMPLE_EBPF_CNI_VERSION={version}");
}

/// The last tag and the commit; nothing without git, or where the sources are no checkout.
fn described() -> Option<String> {
    // A commit changes the one, another branch the other. Cargo would run this each time for a file that does not exist.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists());
        path.iter().for_each(|path| println!("cargo::rerun-if-changed={path}"));
    }
    // The length is given, or it would depend on what else the checkout holds.
    git(&["describe", "--tags", "--always", "--abbrev=12"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?);
    // The sources may lie in a checkout of something else, whose state says nothing about them.
    let beyond = package.ancestors().nth(3)?;
    let asked = Command::new("git").args(arguments).env("GIT_CEILING_DIRECTORIES", beyond).output().ok()?;
    let answer = String::from_utf8(asked.stdout).ok()?;
    asked.status.success().then(|| answer.trim().to_owned())
}
