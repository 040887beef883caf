//! A script that comes before the IPAM plugin on `CNI_PATH` and records the calls.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Error;
use super::host::Host;

/// A script with the name of the delegate. It records each call and then runs the delegate.
#[derive(Debug)]
pub(super) struct Recorder {
    directory: PathBuf,
}

impl Recorder {
    /// Creates the script in a new directory. It fails with a plugin-specific code for the verb
    /// `failing`, if that is not empty.
    pub(super) fn install(host: &Host, real: &Path, failing: &str) -> Result<Self, Error> {
        let recorder = Self { directory: host.scratch("delegate")? };
        let script = format!(
            "#!/bin/sh\n\
             echo \"$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_NETNS\" >>'{log}'\n\
             if [ \"$CNI_COMMAND\" = '{failing}' ]; then\n\
             \techo '{{\"cniVersion\":\"1.0.0\",\"code\":100,\"msg\":\"configured to fail\"}}'\n\
             \texit 1\n\
             fi\n\
             cat >'{stdin}'\n\
             exec '{real}' <'{stdin}'\n",
            log = recorder.log().display(),
            stdin = recorder.stdin().display(),
            real = real.display(),
        );
        let path = recorder.directory.join(real.file_name().unwrap_or_default());
        write_executable(&path, &script)?;
        Ok(recorder)
    }

    /// The directory of the script.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The recorded calls, one line each: verb, container, interface and namespace.
    pub(super) fn calls(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// The configuration of the last call.
    pub(super) fn configuration(&self) -> Value {
        fs::read(self.stdin()).ok().and_then(|got| serde_json::from_slice(&got).ok()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn stdin(&self) -> PathBuf {
        self.directory.join("stdin")
    }
}

fn write_executable(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .map_err(|source| Error::Host { operation: "write", path: path.to_owned(), source })
}
