//! The requirements of a test, and whether the test may be skipped without them.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use rustix::thread::CapabilitySet;

/// With the value `1`, this variable turns every skip for missing privileges or a missing tool into
/// a failure.
const REQUIRED: &str = "CNIKIT_REQUIRE_PRIVILEGED";

/// Whether this thread may create namespaces, links, mounts and BPF programs.
///
/// If not, it prints `SKIP` and the reason to stderr, past the capture of the test runner. The test
/// must then return.
///
/// # Panics
///
/// If the privileges are missing although `CNIKIT_REQUIRE_PRIVILEGED=1` demands them: a skip would
/// hide that the test did not run.
#[must_use]
pub fn privileged() -> bool {
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN;
    let held = rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed));
    held || skip("needs CAP_SYS_ADMIN and CAP_NET_ADMIN: run as root")
}

/// Whether `program` is installed; otherwise as [`privileged`].
///
/// # Panics
///
/// If the program is missing and `CNIKIT_REQUIRE_PRIVILEGED=1` is set.
#[must_use]
pub fn tool(program: &str) -> bool {
    find(program).is_some() || skip(&format!("needs {program}: install it, or run scripts/preflight.sh"))
}

/// The path of `cnitool`, the command of the reference library. `None` if it is missing, after a
/// skip line as from [`privileged`].
///
/// `go install github.com/containernetworking/cni/cnitool@v1.3.0` installs it in a directory that
/// is searched. The tests do not require Go, so it may be missing unless `CNITOOL` names its path.
///
/// # Panics
///
/// If the file that `CNITOOL` names does not exist.
#[must_use]
pub fn cnitool() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CNITOOL") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "CNITOOL={} is not a file", path.display());
        return Some(path);
    }
    let go = std::env::home_dir().map(|home| home.join("go/bin/cnitool")).filter(|path| path.is_file());
    let found = find("cnitool").or(go);
    if found.is_none() {
        skipped("needs cnitool: install it with Go, or set CNITOOL to its path");
    }
    found
}

/// Version and patch level of the running kernel, such as `(6, 12)`, for tests of newer features.
///
/// # Panics
///
/// If the kernel's release does not begin with two numbers.
#[must_use]
pub fn kernel() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    let version = numbers.next().zip(numbers.next());
    version.unwrap_or_else(|| panic!("{release} does not begin with two numbers"))
}

/// Whether calls can be [supervised](crate::Command::supervised). If not, prints `SKIP`, and the
/// test should return.
#[must_use]
pub fn supervision() -> bool {
    // On older kernels, signals interrupt a call while the test decides on it.
    let is_supported = kernel() >= (5, 19);
    if !is_supported {
        skipped("needs Linux 5.19, to decide on the system calls of a process");
    }
    is_supported
}

/// Reports that a test is skipped for a reason that no installation changes, such as a build
/// option. Unlike [`privileged`] and [`tool`], it never fails, because
/// `CNIKIT_REQUIRE_PRIVILEGED=1` cannot demand it.
pub fn skipped(reason: &str) {
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    // The runner captures the output of the print macros, but a skip must be visible. A single
    // write keeps the lines of parallel tests apart.
    let _ = std::io::stderr().write_all(format!("SKIP {test}: {reason}\n").as_bytes());
}

/// The path of a program. Also searches the system program directories, which an ordinary user's
/// `PATH` may omit.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(program.into()).filter(|path: &PathBuf| path.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(|folder| Path::new(folder).into()))
        .map(|folder: PathBuf| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// Reports that a test is skipped. Returns `false`, so it ends the enclosing condition.
fn skip(reason: &str) -> bool {
    assert!(std::env::var(REQUIRED).as_deref() != Ok("1"), "{REQUIRED}=1 forbids a skip, but the test {reason}");
    skipped(reason);
    false
}
