//! What a test may ask for before it runs, and whether it may do without.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use rustix::thread::CapabilitySet;

/// Set to `1`, this variable turns every skip for want of privileges or of a tool into a failure.
const REQUIRED: &str = "CNIKIT_REQUIRE_PRIVILEGED";

/// Whether this thread may make namespaces, links, mounts and BPF programs.
///
/// If not, it says `SKIP` and the reason on stderr, past the capture of the test runner, and the test should return.
///
/// # Panics
///
/// Without the privileges where `CNIKIT_REQUIRE_PRIVILEGED=1` promises them: a skip would hide that nothing was tested.
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

/// The path of `cnitool`, the reference library's command; `None` where it is missing, after saying so as [`privileged`].
///
/// `go install github.com/containernetworking/cni/cnitool@v1.3.0` installs it where it is found. Go is no requirement of
/// the tests, so it may be missing as long as nobody promises it: `CNITOOL` does, and names its path.
///
/// # Panics
///
/// If there is no such file as `CNITOOL` names.
#[must_use]
pub fn cnitool() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CNITOOL") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "CNITOOL={} is no file", path.display());
        return Some(path);
    }
    let go = std::env::home_dir().map(|home| home.join("go/bin/cnitool")).filter(|path| path.is_file());
    let found = find("cnitool").or(go);
    if found.is_none() {
        skipped("needs cnitool: install it with Go, or name it in CNITOOL");
    }
    found
}

/// Version and patch level of the running kernel, such as `(6, 12)`: for tests of what older ones do not have.
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

/// Whether calls can be [supervised](crate::Command::supervised); otherwise prints `SKIP`, and the test
/// should return.
#[must_use]
pub fn supervision() -> bool {
    let is_there = kernel() >= (5, 19);
    if !is_there {
        skipped("needs Linux 5.19, to decide on the system calls of a process");
    }
    is_there
}

/// Announces that a test is skipped for what no installation would mend, such as how a package was built. Unlike
/// [`privileged`] and [`tool`], it fails nowhere: `CNIKIT_REQUIRE_PRIVILEGED=1` cannot promise it.
pub fn skipped(reason: &str) {
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    // The runner captures what the print macros write; a skip must be seen. One write, or parallel tests mix lines.
    let _ = std::io::stderr().write_all(format!("SKIP {test}: {reason}\n").as_bytes());
}

/// The path of a program. Looks where system programs live as well, which an ordinary user's `PATH` may leave out.
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

/// Announces that a test is skipped; `false`, so that it ends the condition it stands in.
fn skip(reason: &str) -> bool {
    assert!(std::env::var(REQUIRED).as_deref() != Ok("1"), "{REQUIRED}=1 forbids a skip, but the test {reason}");
    skipped(reason);
    false
}
