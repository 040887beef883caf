//! The plugin's binary and `loopback` in the runtime's plugin directory.

use std::fs;
use std::path::{self, Path};

use cnikit::runtime::{self, NetworkConfigList};
use rustix::fs::{Access, access};

use super::config_dir::{manifest, mentions_plugin};
use super::diagnostic::Diagnostic;
use super::node::KUBELET;
use crate::NAME;
use crate::cli::inventory::Selector;
use crate::cli::manifest::FileState;
use crate::cli::paths::LOOPBACK;

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
            let found = format!("there is no {}", path.display());
            return if is_configured(&selector.conf_dir) {
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
    let is_running = running.is_some() && running == fs::read(&path).ok();
    if !is_running && is_overwritten(bin_dir, selector) {
        let found =
            format!("{} is not the file that install wrote: another program has overwritten it", path.display());
        let options = selector.directories(Some(bin_dir));
        return Diagnostic::fail(CHECK, found, format!("{NAME} install --force{options}"));
    }
    if is_running {
        Diagnostic::ok(CHECK, format!("{} is the running build", path.display()))
    } else {
        Diagnostic::warn(CHECK, format!("{} is another build than the running one", path.display()), install())
    }
}

/// Whether the binary differs from the one in the manifest of `install`. `cp` to `loopback` writes
/// through the link, for example.
fn is_overwritten(bin_dir: &Path, selector: &Selector) -> bool {
    let Ok(path) = path::absolute(bin_dir.join(NAME)) else { return false };
    manifest(selector).is_some_and(|manifest| {
        manifest.files().any(|(written, _)| written == path)
            && manifest.state(&path).is_ok_and(|state| state == FileState::Foreign)
    })
}

/// Checks whether the runtime finds a plugin `loopback`. A link to a binary of another program does
/// not count as this plugin.
pub(super) fn loopback(bin_dir: &Path, selector: &Selector, binary: &Diagnostic) -> Diagnostic {
    let install = format!("{NAME} install{}", selector.directories(Some(bin_dir)));
    if let Some(unusable) = unusable_loopback(bin_dir, is_configured(&selector.conf_dir), &install) {
        return unusable;
    }
    let path = bin_dir.join(LOOPBACK);
    let is_ours = fs::canonicalize(&path).is_ok_and(|target| target.file_name() == Some(NAME.as_ref()));
    if is_ours && binary.has_failed() {
        let found = format!("{} leads to {}, which has failed its check", path.display(), bin_dir.join(NAME).display());
        return Diagnostic::warn(LOOPBACK, found, binary.remedy.clone().unwrap_or(install));
    }
    let server = if is_ours { "this plugin" } else { "another plugin" };
    Diagnostic::ok(LOOPBACK, format!("{} is {server}", path.display()))
}

/// Reports a `loopback` that the runtime cannot execute, with the command `install` in the fix.
/// Only the kubelet's runtimes need it, so it is a failure if the node has a kubelet and a network
/// of this plugin.
pub(crate) fn unusable_loopback(bin_dir: &Path, is_configured: bool, install: &str) -> Option<Diagnostic> {
    let path = bin_dir.join(LOOPBACK);
    let Ok(plugin) = LOOPBACK.parse() else {
        unreachable!("the name is a valid type");
    };
    if runtime::find(&plugin, &[bin_dir.to_owned()]).is_ok() {
        return None;
    }
    // A link of install works again with the binary.
    let remedy = if leads_to_binary(bin_dir) || path.symlink_metadata().is_err() {
        install.to_owned()
    } else {
        format!("remove {}, then {install}", path.display())
    };
    let state = if path.symlink_metadata().is_ok() { "no executable file at" } else { "no" };
    let target = fs::read_link(&path).map(|target| format!(", a link to {}", target.display())).unwrap_or_default();
    let found = format!("there is {state} {}{target}: containerd and CRI-O start no pod without it", path.display());
    Some(if Path::new(KUBELET).exists() && is_configured {
        Diagnostic::fail(LOOPBACK, found, remedy)
    } else {
        Diagnostic::warn(LOOPBACK, found, remedy)
    })
}

/// Whether `loopback` is a link to the plugin's binary, which may be missing.
pub(crate) fn leads_to_binary(bin_dir: &Path) -> bool {
    fs::read_link(bin_dir.join(LOOPBACK)).is_ok_and(|target| bin_dir.join(target) == bin_dir.join(NAME))
}

/// Whether a file in the configuration directory has this plugin.
pub(crate) fn is_configured(conf_dir: &Path) -> bool {
    NetworkConfigList::files(conf_dir).is_ok_and(|files| files.iter().any(|file| mentions_plugin(file)))
}
