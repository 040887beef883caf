//! Sets `SIMPLE_EBPF_CNI_VERSION`, which `--version` prints: the package's version and the revision
//! of the sources.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The environment variable with the revision of sources without a checkout, such as an archive of
/// a release.
const REVISION: &str = "SIMPLE_EBPF_CNI_REVISION";

fn main() {
    println!("cargo::rerun-if-env-changed={REVISION}");
    let mut version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    if let Some(revision) = env::var(REVISION).ok().or_else(describe).filter(|revision| !revision.is_empty()) {
        version = format!("{version} ({revision})");
    }
    println!("cargo::rustc-env=SIMPLE_EBPF_CNI_VERSION={version}");
}

/// The last tag and the commit. `None` without git, or if the sources are not a git checkout.
fn describe() -> Option<String> {
    // A commit changes logs/HEAD, and a switch of the branch changes HEAD. For a missing file,
    // Cargo would run this script on each build.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists());
        path.iter().for_each(|path| println!("cargo::rerun-if-changed={path}"));
    }
    // With a fixed length, the result does not depend on other objects of the checkout.
    git(&["describe", "--tags", "--always", "--abbrev=12"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?);
    // Stops git at the root of the sources: a checkout around them belongs to another project.
    let ceiling = package.ancestors().nth(3)?;
    let output = Command::new("git").args(arguments).env("GIT_CEILING_DIRECTORIES", ceiling).output().ok()?;
    let revision = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| revision.trim().to_owned())
}
