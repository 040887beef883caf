//! Plugins of a few lines of shell, which record their calls.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use cnikit::runtime::{AttachmentParameters, NetworkConfigList, ResultCache, Runtime};
use cnikit::spec::RawConfig;
use serde_json::Value;
use tempfile::TempDir;

/// A result in the form of 1.0.0 and 1.1.0, without `cniVersion`.
pub(crate) const RESULT: &str = r#"{"ips":[{"address":"10.1.0.5/16"}]}"#;

/// A directory of plugins, the only one in `CNI_PATH`, with a directory for the records of the
/// plugins and a result cache.
pub(crate) struct Bin {
    dir: TempDir,
}

impl Bin {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        for name in ["bin", "calls", "cache"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    /// The directory of the plugins.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    /// The path of a private file or directory of the test.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn cache(&self) -> ResultCache {
        ResultCache::new(self.scratch("cache"))
    }

    pub(crate) fn runtime(&self) -> Runtime {
        Runtime::new([self.path()]).cache(self.cache())
    }

    /// Creates a plugin that runs these lines for every verb. `$stdin` is the configuration.
    pub(crate) fn plugin(&self, name: &str, lines: &str) -> PathBuf {
        let calls = self.scratch("calls").display().to_string();
        let script = format!(
            "#!/bin/sh\n\
             stdin=$(cat)\n\
             echo \"{name} $CNI_COMMAND\" >> {calls}/order\n\
             printf '%s' \"$stdin\" > {calls}/{name}.$CNI_COMMAND.json\n\
             env > {calls}/{name}.$CNI_COMMAND.env\n\
             {lines}\n"
        );
        let path = self.path().join(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Creates a plugin that succeeds, and returns this result for `ADD`.
    pub(crate) fn succeeding(&self, name: &str, result: &str) -> PathBuf {
        self.plugin(name, &format!("[ $CNI_COMMAND != ADD ] || echo '{result}'"))
    }

    /// Creates a plugin that fails one verb with this code and succeeds with the others.
    pub(crate) fn failing(&self, name: &str, verb: &str, code: u32) -> PathBuf {
        let document = format!(r#"{{"cniVersion":"1.1.0","code":{code},"msg":"{name} is broken","details":"really"}}"#);
        self.plugin(
            name,
            &format!(
                "case $CNI_COMMAND in {verb}) echo '{document}'; exit 1;; esac\n[ $CNI_COMMAND != ADD ] || echo '{RESULT}'"
            ),
        )
    }

    /// All calls so far, as `<plugin> <verb>`.
    pub(crate) fn calls(&self) -> Vec<String> {
        let order = fs::read_to_string(self.scratch("calls/order")).unwrap_or_default();
        order.lines().map(str::to_owned).collect()
    }

    /// The standard input of a plugin's last call with a verb.
    pub(crate) fn stdin(&self, name: &str, verb: &str) -> Value {
        let path = self.scratch(&format!("calls/{name}.{verb}.json"));
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    /// An environment variable of a plugin's last call with a verb.
    pub(crate) fn variable(&self, name: &str, verb: &str, variable: &str) -> Option<String> {
        let env = fs::read_to_string(self.scratch(&format!("calls/{name}.{verb}.env"))).unwrap();
        env.lines().find_map(|line| Some(line.strip_prefix(variable)?.strip_prefix('=')?.to_owned()))
    }
}

pub(crate) fn config(version: &str) -> RawConfig {
    RawConfig::parse(format!(r#"{{"cniVersion":"{version}","name":"dbnet","type":"fake"}}"#)).unwrap()
}

pub(crate) fn network(json: &Value) -> NetworkConfigList {
    NetworkConfigList::parse(json.to_string()).unwrap()
}

pub(crate) fn parameters(container: &str) -> AttachmentParameters {
    AttachmentParameters::new(container.parse().unwrap(), "eth0".parse().unwrap()).netns("/run/netns/blue")
}
