use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::process::CallOptions;
use super::{AttachmentParameters, Error, Invocation, NetworkConfigList, PluginConfig, ResultCache, find};
use crate::spec::{AddResult, AttachmentKey, Command, PluginType, RawConfig, Version};

/// The runtime's side of the protocol: executes a network configuration, as containerd and CRI-O
/// do.
///
/// Calls for different containers may run at the same time. Calls for one container must not, and a
/// [`gc`](Self::gc) must not run during any other call. The caller must ensure this. See
/// [Lifecycle & Ordering](https://www.cni.dev/docs/spec/#lifecycle--ordering).
///
/// ```no_run
/// use std::path::Path;
///
/// use cnikit::runtime::{AttachmentParameters, NetworkConfigList, Runtime};
///
/// let network = NetworkConfigList::load(Path::new("/etc/cni/net.d"), &"dbnet".parse()?)?;
/// let runtime = Runtime::new(["/opt/cni/bin"]);
/// let parameters = AttachmentParameters::new("web-0".parse()?, "eth0".parse()?).netns("/run/netns/web-0");
///
/// let result = runtime.add(&network, &parameters)?;
/// println!("{:?}", result.ips);
/// runtime.check(&network, &parameters)?;
/// runtime.del(&network, &parameters)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Runtime {
    path: Vec<PathBuf>,
    cache: ResultCache,
    options: CallOptions,
}

/// The progress of an `ADD`.
#[derive(Default)]
struct Progress {
    /// The number of plugins that were called, including a failed one.
    called: usize,
    /// The result of the last successful plugin.
    result: Option<AddResult>,
}

impl Runtime {
    /// Creates a runtime that searches these directories for plugins: `CNI_PATH`. Its cache is at
    /// [`ResultCache::DEFAULT_DIR`].
    pub fn new(path: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        let path = path.into_iter().map(Into::into).collect();
        Self { path, cache: ResultCache::new(ResultCache::DEFAULT_DIR), options: CallOptions::default() }
    }

    /// Sets the result cache.
    #[must_use]
    pub fn cache(mut self, cache: ResultCache) -> Self {
        self.cache = cache;
        self
    }

    /// Sets a timeout for each call of a plugin. Without a timeout, a call may hang forever.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// Forwards the plugins' standard error to standard error of this process.
    #[must_use]
    pub fn forward_stderr(mut self) -> Self {
        self.options.forward_stderr = true;
        self
    }

    /// The result cache.
    #[must_use]
    pub fn result_cache(&self) -> &ResultCache {
        &self.cache
    }

    /// Attaches a container. Calls the plugins in order, each with the result of the previous one,
    /// and caches the last result.
    ///
    /// If a plugin fails, it and all plugins before it are called with `DEL` in reverse order, also
    /// past errors. An attachment in the cache is not rolled back: the failed `ADD` may be a
    /// duplicate, and `DEL` would delete the attachment in use.
    ///
    /// # Errors
    ///
    /// The error of the `ADD`; [`Error::RollbackFailed`] if parts of the attachment may remain.
    pub fn add(&self, network: &NetworkConfigList, parameters: &AttachmentParameters) -> Result<AddResult, Error> {
        let is_new = match self.cache.attachment(&parameters.attachment(&network.name)) {
            // The result could not be stored either. Fail before anything is created.
            Err(error @ Error::Io { .. }) => return Err(error),
            known => matches!(known, Ok(None)),
        };
        let mut progress = Progress::default();
        self.add_in_order(network, parameters, &mut progress).map_err(|error| {
            let left = if is_new { self.rollback(network, parameters, &progress) } else { Vec::new() };
            error.with_rollback_errors(left)
        })
    }

    /// Detaches a container. Calls the plugins in reverse order, each with the result of the `ADD`
    /// if it is cached, and removes the cached result.
    ///
    /// # Errors
    ///
    /// The error of the first plugin that fails. The plugins before it in the list are then not
    /// called, as the specification requires. Repeat the call.
    pub fn del(&self, network: &NetworkConfigList, parameters: &AttachmentParameters) -> Result<(), Error> {
        let attachment = parameters.attachment(&network.name);
        // An unreadable cache must not prevent a deletion. Plugins work without a previous result.
        let cached = self.cache.attachment(&attachment).unwrap_or_default();
        let result = cached.as_ref().and_then(|cached| for_del(network, &cached.result));
        for plugin in network.plugins.iter().rev() {
            self.call_for_attachment(Command::Del, network, plugin, parameters, result)?;
        }
        self.cache.remove(&attachment)
    }

    /// Calls the plugins in order to check that an attachment is as `ADD` left it. If the
    /// configuration sets `disableCheck`, no plugin is called.
    ///
    /// # Errors
    ///
    /// The error of the first plugin that fails; [`Error::NotAttached`] if the result of the `ADD`
    /// is not cached; [`spec::Error::CommandTooNew`](crate::spec::Error::CommandTooNew) before
    /// version 0.4.0.
    pub fn check(&self, network: &NetworkConfigList, parameters: &AttachmentParameters) -> Result<(), Error> {
        network.require(Command::Check)?;
        if network.disable_check {
            return Ok(());
        }
        let attachment = parameters.attachment(&network.name);
        let Some(cached) = self.cache.attachment(&attachment)? else {
            return Err(Error::NotAttached { attachment });
        };
        for plugin in &network.plugins {
            self.call_for_attachment(Command::Check, network, plugin, parameters, Some(&cached.result))?;
        }
        Ok(())
    }

    /// Deletes all resources that belong to no valid attachment. First deletes the cached
    /// attachments that are not in `valid`. From version 1.1.0 on, it then calls `GC` of every
    /// plugin. Continues after errors. If the configuration sets `disableGC`, nothing happens.
    ///
    /// `valid` must be complete: attachments that it omits are deleted, even if they are in use.
    ///
    /// # Errors
    ///
    /// All errors.
    pub fn gc(&self, network: &NetworkConfigList, valid: &[AttachmentKey]) -> Result<(), Error> {
        if network.disable_gc {
            return Ok(());
        }
        let known = self.cache.attachments()?;
        let stale = known.iter().filter(|known| known.network == network.name).filter(|known| {
            let key = known.parameters.key();
            !valid.contains(&key)
        });
        let mut errors: Vec<Error> = stale.filter_map(|stale| self.del(network, &stale.parameters).err()).collect();
        if network.require(Command::Gc).is_ok() {
            let collect = |plugin| self.call(Command::Gc, plugin, &network.for_gc(plugin, valid)?);
            errors.extend(network.plugins.iter().filter_map(|plugin| collect(plugin).err()));
        }
        Error::all(errors)
    }

    /// Calls the plugins in order to check that an `ADD` can be served. Succeeds before version
    /// 1.1.0, which has no such verb.
    ///
    /// # Errors
    ///
    /// The error of the first plugin that is not ready, with its code.
    pub fn status(&self, network: &NetworkConfigList) -> Result<(), Error> {
        if network.require(Command::Status).is_err() {
            return Ok(());
        }
        network.plugins.iter().try_for_each(|plugin| self.call(Command::Status, plugin, &network.for_status(plugin)?))
    }

    /// The versions that a plugin supports, without versions unknown to this library.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], and the errors of [`Invocation::versions`].
    pub fn versions(&self, plugin_type: &PluginType) -> Result<Vec<Version>, Error> {
        self.invocation(Command::Version, plugin_type)?.versions()
    }

    /// Checks that every plugin of a network is installed and supports the configuration's version.
    ///
    /// # Errors
    ///
    /// All errors: [`Error::NotFound`], [`Error::UnsupportedVersion`], and the errors of
    /// [`Invocation::versions`].
    pub fn validate(&self, network: &NetworkConfigList) -> Result<(), Error> {
        let version = network.cni_version;
        let types: BTreeSet<&PluginType> = network.plugins.iter().map(|plugin| &plugin.plugin_type).collect();
        let validate = |plugin_type| {
            let plugin = find(plugin_type, &self.path)?;
            let supported = self.versions(plugin_type)?;
            if supported.contains(&version) {
                Ok(())
            } else {
                Err(Error::UnsupportedVersion { plugin, version, supported })
            }
        };
        Error::all(types.into_iter().filter_map(|plugin_type| validate(plugin_type).err()).collect())
    }

    fn add_in_order(
        &self,
        network: &NetworkConfigList,
        parameters: &AttachmentParameters,
        progress: &mut Progress,
    ) -> Result<AddResult, Error> {
        for plugin in &network.plugins {
            let result = progress.result.as_ref();
            let (invocation, config) = self.prepare(Command::Add, network, plugin, parameters, result)?;
            let added = invocation.add(&config);
            // A plugin that did not start has created nothing.
            progress.called += usize::from(!matches!(added, Err(Error::Start { .. })));
            progress.result = Some(added?);
        }
        let no_plugins = || Error::NoPlugins { network: network.name.clone() };
        let result = progress.result.clone().ok_or_else(no_plugins)?;
        self.cache.store(network, parameters, &result)?;
        Ok(result)
    }

    /// Rolls back an incomplete `ADD`. Continues after errors, and returns them.
    fn rollback(
        &self,
        network: &NetworkConfigList,
        parameters: &AttachmentParameters,
        progress: &Progress,
    ) -> Vec<Error> {
        let result = progress.result.as_ref().and_then(|result| for_del(network, result));
        let del = |plugin| self.call_for_attachment(Command::Del, network, plugin, parameters, result).err();
        network.plugins.iter().take(progress.called).rev().filter_map(del).collect()
    }

    /// Calls a plugin with a verb for one attachment that has no result.
    fn call_for_attachment(
        &self,
        command: Command,
        network: &NetworkConfigList,
        plugin: &PluginConfig,
        parameters: &AttachmentParameters,
        prev_result: Option<&AddResult>,
    ) -> Result<(), Error> {
        let (invocation, config) = self.prepare(command, network, plugin, parameters, prev_result)?;
        invocation.run(&config).map(drop)
    }

    fn prepare(
        &self,
        command: Command,
        network: &NetworkConfigList,
        plugin: &PluginConfig,
        parameters: &AttachmentParameters,
        prev_result: Option<&AddResult>,
    ) -> Result<(Invocation, RawConfig), Error> {
        let invocation = self.invocation(command, &plugin.plugin_type)?.parameters(parameters);
        Ok((invocation, network.for_attachment(plugin, parameters, prev_result)?))
    }

    /// Calls a plugin with a verb for the whole network.
    fn call(&self, command: Command, plugin: &PluginConfig, config: &RawConfig) -> Result<(), Error> {
        self.invocation(command, &plugin.plugin_type)?.run(config).map(drop)
    }

    fn invocation(&self, command: Command, plugin_type: &PluginType) -> Result<Invocation, Error> {
        let invocation = Invocation::new(find(plugin_type, &self.path)?, command).path(&self.path)?;
        Ok(invocation.options(self.options))
    }
}

/// The result to pass with `DEL`, if the specification version has a result for `DEL` and can
/// represent this one. Plugins must work without it.
fn for_del<'a>(network: &NetworkConfigList, result: &'a AddResult) -> Option<&'a AddResult> {
    let version = network.cni_version;
    Some(result).filter(|result| version >= Version::V0_4_0 && result.to_json(version).is_ok())
}
