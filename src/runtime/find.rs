use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::Error;
use crate::spec::PluginType;

/// Finds a plugin's executable: the first executable regular file of this name in the directories
/// of `CNI_PATH`.
///
/// An empty directory name is skipped: it would mean the current directory of the process.
///
/// ```
/// use cnikit::runtime::find;
///
/// let path = ["/nonexistent".into(), "/bin".into()];
/// assert_eq!(find(&"sh".parse()?, &path)?, std::path::Path::new("/bin/sh"));
///
/// let error = find(&"no-such-plugin".parse()?, &path).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "plugin no-such-plugin not found in /nonexistent, /bin: install it there, or correct the type in the configuration or CNI_PATH"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`Error::NotFound`]; [`Error::Io`] if a directory is inaccessible and no other directory
/// contains the plugin.
pub fn find(plugin_type: &PluginType, path: &[PathBuf]) -> Result<PathBuf, Error> {
    let searched: Vec<PathBuf> = path.iter().filter(|dir| !dir.as_os_str().is_empty()).cloned().collect();
    let (mut not_executable, mut inaccessible) = (Vec::new(), None);
    for dir in &searched {
        let candidate = dir.join(plugin_type.as_str());
        match executable(&candidate) {
            Ok(Some(true)) => return Ok(candidate),
            Ok(Some(false)) => not_executable.push(candidate),
            Ok(None) => {}
            Err(source) => {
                inaccessible.get_or_insert(Error::Io { operation: "access", path: candidate, source });
            }
        }
    }
    Err(inaccessible.unwrap_or(Error::NotFound { plugin_type: plugin_type.clone(), searched, not_executable }))
}

/// Whether any user may execute a regular file; `None` if there is no such file.
fn executable(path: &Path) -> io::Result<Option<bool>> {
    match path.metadata() {
        Ok(file) if file.is_file() => Ok(Some(file.permissions().mode() & 0o111 != 0)),
        Ok(_) => Ok(None),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}
