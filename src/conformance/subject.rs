use std::path::PathBuf;
use std::time::Duration;

use super::Error;
use super::call::Call;
use super::config::Config;
use super::verdict::Stop;

/// The search path for system programs: reference plugins call `iptables` by its name.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The plugin under test, and the inputs that all its calls have in common.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) plugin: PathBuf,
    pub(super) cni_path: Vec<PathBuf>,
    /// The timeout of each call.
    pub(super) timeout: Duration,
    /// The script that prepares a host.
    pub(super) prepare: Option<PathBuf>,
    pub(super) config: Config,
    pub(super) ifname: String,
    /// Whether another plugin comes before the plugin in a chain.
    pub(super) chained: bool,
}

impl Subject {
    /// Runs the script that prepares a host, if there is one.
    pub(super) fn prepare(&self) -> Result<(), Error> {
        let Some(script) = &self.prepare else { return Ok(()) };
        let failed = |seen| Error::Prepare { path: script.clone(), seen };
        match Call::new(script, self.timeout).env("PATH", PATH).run() {
            Ok(reply) if reply.succeeded() => Ok(()),
            Ok(reply) => Err(failed(reply.to_string())),
            Err(Stop::Error(error)) => Err(*error),
            Err(Stop::Broken { seen, .. } | Stop::NotTried(seen)) => Err(failed(seen)),
        }
    }

    /// A call of the plugin with the variables of every verb.
    pub(super) fn call(&self, verb: &str) -> Call {
        let path: Vec<&str> = self.cni_path.iter().filter_map(|directory| directory.to_str()).collect();
        Call::new(&self.plugin, self.timeout).env("PATH", PATH).env("CNI_COMMAND", verb).env("CNI_PATH", path.join(":"))
    }

    /// The executable of a delegate, if there is one on `CNI_PATH`.
    pub(super) fn find(&self, delegate: &str) -> Option<PathBuf> {
        self.cni_path.iter().map(|directory| directory.join(delegate)).find(|path| path.is_file())
    }
}
