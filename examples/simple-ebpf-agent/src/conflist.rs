//! The network configuration of this node, which the agent writes for the runtime.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use simple_ebpf_cni::agent::{MANAGED_BY, NAME};

use crate::settings::Settings;

/// The type of this project's plugin, and its name in a configuration.
const PLUGIN: &str = simple_ebpf_cni::naming::NAME;

/// The plugin for `hostPort`, which the configuration lists if the node has it.
const PORTMAP: &str = "portmap";

/// A failure to write the configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file has no configuration of this plugin.
    #[error("{path} is not a configuration of {PLUGIN}: another tool wrote it; remove it, or choose another file with --conflist", path = .0.display())]
    Foreign(PathBuf),

    /// The file or its directory cannot be read or written.
    #[error("cannot {operation} {path}: {error}", path = .path.display())]
    Io {
        /// The operation.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
}

/// The object of the plugin in the list, with the MTU of pods in bytes.
#[must_use]
pub fn plugin(settings: &Settings, pod_cidrs: &[IpNetwork], mtu: Option<u32>) -> Value {
    let mut plugin = json!({
        "type": PLUGIN,
        "bridge": settings.bridge.as_str(),
        "subnets": pod_cidrs,
        // The agent masquerades: it knows the pods of other nodes.
        "ipMasq": false,
    });
    if let Some(mtu) = mtu {
        plugin["mtu"] = mtu.into();
    }
    if let Some(log) = &settings.plugin_log {
        plugin["logFile"] = log.display().to_string().into();
    }
    plugin
}

/// The text of the configuration, with the object of the plugin.
#[must_use]
pub fn text(settings: &Settings, plugin: Value) -> String {
    let mut plugins = vec![plugin];
    if settings.plugin_dir.join(PORTMAP).exists() {
        plugins.push(json!({ "type": PORTMAP, "capabilities": { "portMappings": true } }));
    }
    let list = json!({
        "cniVersion": settings.cni_version,
        "name": settings.network.as_str(),
        MANAGED_BY: NAME,
        "plugins": plugins,
    });
    format!("{list:#}\n")
}

/// Writes the configuration. Returns whether the file has changed: equal bytes are not written.
///
/// The runtime watches the directory, so it must never see a part of the file. The temporary file
/// has a name that no runtime reads.
///
/// # Errors
///
/// [`Error::Foreign`] if the file belongs to another tool. [`Error::Io`] if the file cannot be
/// written; the old file is unchanged then.
pub fn write(path: &Path, text: &str) -> Result<bool, Error> {
    match fs::read_to_string(path) {
        Ok(found) if found == text => return Ok(false),
        Ok(found) if !found.is_empty() && !is_ours(&found) => return Err(Error::Foreign(path.to_owned())),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("read", path)(error)),
        _ => {}
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.tmp"));
    let mut file = File::create(&temporary).map_err(failed("create", &temporary))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed("write", &temporary))?;
    fs::rename(&temporary, path).map_err(failed("replace", path))?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("sync", directory))?;
    Ok(true)
}

/// Whether a configuration has this plugin.
fn is_ours(text: &str) -> bool {
    let list: Option<Value> = serde_json::from_str(text).ok();
    let plugins = list.as_ref().and_then(|list| list["plugins"].as_array());
    plugins.is_some_and(|plugins| plugins.iter().any(|plugin| plugin["type"] == PLUGIN))
}

fn failed<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |error| Error::Io { operation, path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use clap::Parser as _;
    use simple_ebpf_cni::config::Config;

    use super::*;

    fn settings(plugins: &Path) -> Settings {
        let plugins = plugins.display().to_string();
        Settings::parse_from(["agent", "--node-name", "a", "--plugin-dir", &plugins])
    }

    fn cidrs() -> Vec<IpNetwork> {
        ["10.244.1.0/24", "fd00:10:244:1::/64"].map(|cidr| cidr.parse().expect("a network")).to_vec()
    }

    fn text_of(plugins: &Path) -> String {
        let settings = settings(plugins);
        text(&settings, plugin(&settings, &cidrs(), Some(1450)))
    }

    #[test]
    fn configuration_is_valid_for_the_plugin() {
        let dir = tempfile::tempdir().expect("a directory");
        let settings = settings(dir.path());
        let config: Config = serde_json::from_value(plugin(&settings, &cidrs(), Some(1450))).expect("a configuration");
        assert_eq!(config.mtu, Some(1450));
        let subnets: Vec<_> = config.ranges().map(|range| range.subnet()).collect();
        assert_eq!(subnets, cidrs());
    }

    #[test]
    fn portmap_is_listed_if_the_node_has_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let types = || {
            let list: Value = serde_json::from_str(&text_of(dir.path())).expect("JSON");
            let plugins = list["plugins"].as_array().expect("a list").clone();
            plugins.iter().map(|plugin| plugin["type"].as_str().expect("a type").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(types(), [PLUGIN]);
        fs::write(dir.path().join(PORTMAP), "").expect("write");
        assert_eq!(types(), [PLUGIN, PORTMAP]);
    }

    #[test]
    fn equal_bytes_are_not_written_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("10-podnet.conflist");
        let text = text_of(dir.path());
        let inode = || fs::metadata(&path).expect("a file").ino();
        assert!(write(&path, &text).expect("write"));
        let first = inode();
        assert!(!write(&path, &text).expect("write"));
        assert_eq!(inode(), first);
        assert!(write(&path, &text.replace("1450", "1400")).expect("write"));
        assert_ne!(inode(), first, "a new file replaces the old one");
        let names: Vec<_> =
            fs::read_dir(dir.path()).expect("list").map(|entry| entry.expect("entry").file_name()).collect();
        assert_eq!(names, ["10-podnet.conflist"], "no temporary file stays");
    }

    #[test]
    fn file_of_another_tool_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("10-podnet.conflist");
        for foreign in [r#"{"name": "x", "plugins": [{"type": "flannel"}]}"#, "no JSON"] {
            fs::write(&path, foreign).expect("write");
            let error = write(&path, &text_of(dir.path())).expect_err("refused");
            assert!(error.to_string().contains("--conflist"), "{error}");
            assert_eq!(fs::read_to_string(&path).expect("read"), foreign);
        }
    }
}
