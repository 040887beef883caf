//! The judge's ruling applies to each call.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use cnikit_testbed::{Call, Command, Namespace, Ruling, host, supervision};

/// The call with which `touch` creates a file.
fn makes(call: &Call, file: &Path) -> bool {
    call.changes() && call.name().starts_with("open") && call.to_string().ends_with(&format!(" {}", file.display()))
}

/// Runs a test with a command that creates the file through a shell, under the judge.
#[track_caller]
fn touching(test: impl FnOnce(Command, &Path) + Send) {
    if !supervision() {
        return;
    }
    host(|host| {
        let file = host.scratch().join("file");
        let script = format!("touch {}; exit $?", file.display());
        test(host.command("sh").env("LC_ALL", "C").args(["-c", &script]), &file);
    });
}

#[test]
fn allowed_call_runs() {
    touching(|touch, file| {
        let mut seen = 0;
        let output = touch.supervised(|call| {
            seen += usize::from(makes(call, file));
            Ruling::Continue
        });
        assert!(output.status.success(), "{output:?}");
        assert!(file.exists());
        assert_eq!(seen, 1);
    });
}

#[test]
fn failed_call_changes_nothing() {
    touching(|touch, file| {
        let output =
            touch.supervised(|call| if makes(call, file) { Ruling::Fail(libc::ENOSPC) } else { Ruling::Continue });
        assert!(!output.status.success());
        assert!(output.stderr.contains("No space left on device"), "{output:?}");
        assert!(!file.exists());
    });
}

#[test]
fn killed_process_does_not_run_its_call() {
    touching(|touch, file| {
        let output = touch.supervised(|call| if makes(call, file) { Ruling::Kill } else { Ruling::Continue });
        // The shell reports the signal of its child.
        assert_eq!((output.status.code(), output.status.signal()), (Some(128 + libc::SIGKILL), None), "{output:?}");
        assert!(!file.exists());
    });
}
