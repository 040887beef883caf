//! The plugin's binary in the runtime's plugin directory.

use std::fs;
use std::path::Path;

use cnikit::runtime::{self, NetworkConfigList};
use rustix::fs::{Access, access};

use super::config_dir::mentions_plugin;
use super::diagnostic::Diagnostic;
use crate::NAME;
use crate::cli::inventory::Selector;

/// Checks whether the runtime finds the binary, and whether it is the running one. A missing binary
/// is a failure only if a configuration needs it.
pub(super) fn binary(bin_dir: &Path, selector: &Selector) -> Diagnostic {
    const CHECK: &str = "binary";
    let path = bin_dir.join(NAME);
    let install = || format!("{NAME} install");
    let Ok(plugin) = NAME.parse() else {
        unreachable!("the plugin's name is a valid type");
    };
    match runtime::find(&plugin, &[bin_dir.to_owned()]) {
        Err(_) if path.is_file() => {
            let found = format!("{} is not executable", path.display());
            return Diagnostic::fail(CHECK, found, format!("chmod +x {}", path.display()));
        }
        Err(_) => {
            let files = NetworkConfigList::files(&selector.conf_dir).unwrap_or_default();
            let is_needed = files.iter().any(|file| mentions_plugin(file));
            let found = format!("there is no {}", path.display());
            return if is_needed {
                Diagnostic::fail(CHECK, format!("{found}, and each call of a runtime needs it"), install())
            } else {
                Diagnostic::warn(CHECK, format!("{found}: it is not installed yet"), install())
            };
        }
        Ok(_) => {}
    }
    // access() also covers the mount option noexec.
    if let Err(errno) = access(&path, Access::EXEC_OK) {
        let found = format!("{} cannot be executed: {errno}", path.display());
        return Diagnostic::fail(
            CHECK,
            found,
            format!("findmnt -T {}; if its mount has the option noexec, remount it without", path.display()),
        );
    }
    let running = fs::read("/proc/self/exe").ok();
    if running.is_some() && running == fs::read(&path).ok() {
        Diagnostic::ok(CHECK, format!("{} is the running build", path.display()))
    } else {
        Diagnostic::warn(CHECK, format!("{} is another build than the running one", path.display()), install())
    }
}
