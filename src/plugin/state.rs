//! Values that a plugin keeps between its calls.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Context as _, PluginError, Result};
use crate::spec::{AttachmentKey, ErrorCode, NetworkName};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Values that ADD keeps for CHECK and DEL: one JSON file for each attachment of a network.
///
/// A chained plugin keeps the values here that it replaces in the pod, so that DEL can restore
/// them. A file appears and changes by a rename, so a killed process leaves the old content or the
/// new one. Values from before a reboot are ignored, because no interface survives a reboot.
///
/// ```
/// use cnikit::plugin::StateDir;
/// use cnikit::spec::AttachmentKey;
///
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// let state = StateDir::new(dir, &"dbnet".parse()?); // such as /run/cni/my-plugin
/// let key = AttachmentKey::new("4fe2c9".parse()?, "eth0".parse()?);
/// state.write(&key, &1500)?; // ADD
/// assert_eq!(state.read::<u32>(&key)?, Some(1500)); // CHECK
/// state.retain(&[key.clone()])?; // GC
/// state.remove(&key)?; // DEL
/// assert_eq!(state.read::<u32>(&key)?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct StateDir {
    dir: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    boot_id: String,
    state: Value,
}

impl StateDir {
    /// The values for a network in the directory `dir` of the plugin. Nothing is created until the
    /// first [`write`](Self::write).
    #[must_use]
    pub fn new(dir: impl AsRef<Path>, network: &NetworkName) -> Self {
        Self { dir: dir.as_ref().join(network.as_str()) }
    }

    /// The value of an attachment. `None` if there is none, or if it is from before a reboot.
    ///
    /// # Errors
    ///
    /// Code 5 if the file cannot be read, code 6 if the value has another type.
    pub fn read<T: DeserializeOwned>(&self, key: &AttachmentKey) -> Result<Option<T>> {
        let path = self.path(key);
        let bytes = match fs::read(&path) {
            Err(error) if is_absent(&error) => return Ok(None),
            read => read.context(format!("read {}", path.display()))?,
        };
        // Only a power loss leaves a file without a record, because a rename completes the file.
        let Ok(record) = serde_json::from_slice::<Record>(&bytes) else { return Ok(None) };
        if record.boot_id != boot_id()? {
            return Ok(None);
        }
        let decoded = T::deserialize(record.state).map(Some).with_code(ErrorCode::DECODE);
        decoded.context(format!("{} is of another version of the plugin: remove the file", path.display()))
    }

    /// Creates or replaces the value of an attachment.
    ///
    /// # Errors
    ///
    /// Code 5 if the file cannot be written, code 6 if the value is not valid in JSON.
    pub fn write(&self, key: &AttachmentKey, value: &impl Serialize) -> Result<()> {
        let (path, new) = (self.path(key), self.new_path(key));
        let state = serde_json::to_value(value).with_code(ErrorCode::DECODE)?;
        let record = serde_json::to_vec(&Record { boot_id: boot_id()?, state }).with_code(ErrorCode::DECODE)?;
        let written = fs::create_dir_all(&self.dir).and_then(|()| fs::write(&new, record));
        written.and_then(|()| fs::rename(&new, &path)).context(format!("write {}", path.display()))
    }

    /// Removes the value of an attachment. Succeeds if there is none.
    ///
    /// # Errors
    ///
    /// Code 5 if the file cannot be removed.
    pub fn remove(&self, key: &AttachmentKey) -> Result<()> {
        remove(&self.new_path(key))?;
        remove(&self.path(key))
    }

    /// Removes the values of all attachments that are not in `valid`, for `GC`.
    ///
    /// # Errors
    ///
    /// Code 5 if a file cannot be removed.
    pub fn retain(&self, valid: &[AttachmentKey]) -> Result<()> {
        let valid: HashSet<PathBuf> = valid.iter().map(|key| self.path(key)).collect();
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if is_absent(&error) => return Ok(()),
            entries => entries.context(format!("list {}", self.dir.display()))?,
        };
        for entry in entries {
            let path = entry.context(format!("list {}", self.dir.display()))?.path();
            if !valid.contains(&path) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// A container id contains no `@`, so names are unique.
    fn path(&self, key: &AttachmentKey) -> PathBuf {
        self.dir.join(format!("{}@{}", key.container_id, key.ifname))
    }

    /// The file before its rename. A container id does not begin with a dot.
    fn new_path(&self, key: &AttachmentKey) -> PathBuf {
        self.dir.join(format!(".{}@{}", key.container_id, key.ifname))
    }
}

fn boot_id() -> Result<String, PluginError> {
    let text = fs::read_to_string(BOOT_ID).context(format!("read {BOOT_ID}"))?;
    Ok(text.trim().to_owned())
}

/// Whether the file is absent. A container id has no maximum length, and a file cannot have a name
/// that is too long.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if is_absent(&error) => Ok(()),
        removed => removed.context(format!("remove {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(container: &str) -> AttachmentKey {
        AttachmentKey::new(container.parse().unwrap(), "eth0".parse().unwrap())
    }

    #[test]
    fn values_of_other_boots_and_broken_files_are_absent() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path(), &"dbnet".parse().unwrap());
        state.write(&key("c1"), &[1, 2]).unwrap();
        let path = dir.path().join("dbnet/c1@eth0");
        let text = fs::read_to_string(&path).unwrap();
        let boot = fs::read_to_string(BOOT_ID).unwrap();
        assert_eq!(text, format!(r#"{{"bootId":"{}","state":[1,2]}}"#, boot.trim()));
        let error = state.read::<String>(&key("c1")).unwrap_err();
        assert_eq!(error.code, ErrorCode::DECODE);
        for other in [text.replace(boot.trim(), "another"), text[..9].to_owned(), String::new()] {
            fs::write(&path, other).unwrap();
            assert_eq!(state.read::<Vec<u8>>(&key("c1")).unwrap(), None);
        }
    }

    #[test]
    fn attachment_with_a_name_that_is_too_long_has_no_value() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path(), &"dbnet".parse().unwrap());
        state.write(&key("c1"), &1).unwrap();
        // With the first length, only the temporary name is too long.
        for length in [250, 300] {
            let long = key(&"c".repeat(length));
            state.write(&long, &1).unwrap_err();
            assert_eq!(state.read::<u32>(&long).unwrap(), None);
            state.remove(&long).expect("DEL must not fail for ever");
        }
    }

    #[test]
    fn gc_removes_values_that_are_not_valid() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path(), &"dbnet".parse().unwrap());
        state.retain(&[]).unwrap();
        for container in ["c1", "c2"] {
            state.write(&key(container), &container).unwrap();
        }
        // A write that was killed.
        fs::write(dir.path().join("dbnet/.c1@eth0"), "{").unwrap();
        state.retain(&[key("c1")]).unwrap();
        let left: Vec<_> = fs::read_dir(dir.path().join("dbnet")).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(left, ["c1@eth0"]);
        assert_eq!(state.read::<String>(&key("c1")).unwrap().as_deref(), Some("c1"));
        state.remove(&key("c1")).unwrap();
        state.remove(&key("c1")).unwrap();
    }
}
