use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::{AttachmentParameters, Error, Invocation, NetworkConfigList, PluginConfig, ResultCache, find};
use crate::spec::{AddResult, AttachmentKey, Command, PluginType, RawConfig, Version};

/// The runtime's side of the protocol: what containerd and CRI-O do to a network configuration.
///
/// Calls for different containers may run at the same time; those for one container may not, and a
/// [`gc`](Self::gc) may not run while anything is added or deleted. Holding to that is the caller's part. See [Lifecycle
/// & Ordering](https://www.cni.dev/docs/spec/#lifecycle--ordering).
///
/// ```no_run
/// use std::path::Path;
///
/// use cnikit::runtime::{NetworkConfigList, AttachmentParameters, Runtime};
///
/// let network = NetworkConfigList::load(Path::new("/etc/cni/net.d"), &"dbnet".parse()?)?;
/// let runtime = Runtime::new(["/opt/cni/bin"]);
/// let parameters = AttachmentParameters::new("web-0".parse()?, "eth0".parse()?).in_netns("/run/netns/web-0");
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
    time_limit: Option<Duration>,
    forwards_stderr: bool,
}

/// How far an `ADD` came.
#[derive(Default)]
struct Progress {
    /// How many plugins were called, the one that failed among them.
    called: usize,
    /// What the last one that succeeded returned.
    result: Option<AddResult>,
}

impl Runtime {
    /// A runtime that looks for plugins in these directories: `CNI_PATH`. Its cache is at
    /// [`ResultCache::DEFAULT_DIR`].
    pub fn new(path: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        let path = path.into_iter().map(Into::into).collect();
        Self { path, cache: ResultCache::new(ResultCache::DEFAULT_DIR), time_limit: None, forwards_stderr: false }
    }

    /// With another result cache.
    #[must_use]
    pub fn with_cache(mut self, cache: ResultCache) -> Self {
        self.cache = cache;
        self
    }

    /// With a time limit for each call of a plugin. Without one, a plugin may hang for ever.
    #[must_use]
    pub fn with_timeout(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }

    /// With the plugins' standard error passed on to that of this process.
    #[must_use]
    pub fn forwarding_stderr(mut self) -> Self {
        self.forwards_stderr = true;
        self
    }

    /// What this runtime remembers of its attachments.
    pub fn cache(&self) -> &ResultCache {
        &self.cache
    }

    /// Attaches a container: the plugins in order, each with the result of the one before. Remembers the result.
    ///
    /// When one fails, it and those before it are called with `DEL`, in reverse order, past failures. An attachment that
    /// the cache knows already is not undone: the failure may be that of an `ADD` too many, and `DEL` would take the
    /// attachment that is in use.
    ///
    /// # Errors
    ///
    /// Why the `ADD` failed; [`Error::NotUndone`] when something may be left of it.
    pub fn add(&self, network: &NetworkConfigList, parameters: &AttachmentParameters) -> Result<AddResult, Error> {
        let is_new = match self.cache.attachment(&parameters.attachment(&network.name)) {
            // The result could not be remembered either: better to know that before anything is made.
            Err(error @ Error::Io { .. }) => return Err(error),
            known => matches!(known, Ok(None)),
        };
        let mut progress = Progress::default();
        self.add_in_order(network, parameters, &mut progress).map_err(|error| {
            let left = if is_new { self.undo(network, parameters, &progress) } else { Vec::new() };
            error.undone(left)
        })
    }

    /// Detaches a container: the plugins in reverse order, each with the result of the `ADD` where it is known. Forgets
    /// the result.
    ///
    /// # Errors
    ///
    /// That of the first plugin that fails: those after it, which come before it in the list, are not called, as the
    /// specification has it. Call it again.
    pub fn del(&self, network: &NetworkConfigList, parameters: &AttachmentParameters) -> Result<(), Error> {
        let attachment = parameters.attachment(&network.name);
        // A cache that cannot be read must not keep anything from being deleted. Plugins can do without.
        let cached = self.cache.attachment(&attachment).unwrap_or_default();
        let result = cached.as_ref().and_then(|cached| for_del(network, &cached.result));
        for plugin in network.plugins.iter().rev() {
            self.attach(Command::Del, network, plugin, parameters, result)?;
        }
        self.cache.remove(&attachment)
    }

    /// Asks the plugins in order whether an attachment is as `ADD` left it. Where the configuration sets `disableCheck`,
    /// nobody is asked.
    ///
    /// # Errors
    ///
    /// That of the first plugin that finds fault; [`Error::NotAttached`] when the result of the `ADD` is not known;
    /// [`spec::Error::CommandTooNew`](crate::spec::Error::CommandTooNew) before version 0.4.0.
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
            self.attach(Command::Check, network, plugin, parameters, Some(&cached.result))?;
        }
        Ok(())
    }

    /// Frees what belongs to no valid attachment: deletes those that the cache knows and the list does not, and then,
    /// from version 1.1.0 on, has every plugin look for more. Goes on past failures. Where the configuration sets
    /// `disableGC`, nothing happens.
    ///
    /// `valid` must be complete: what is not in it is deleted, in use or not.
    ///
    /// # Errors
    ///
    /// All failures.
    pub fn gc(&self, network: &NetworkConfigList, valid: &[AttachmentKey]) -> Result<(), Error> {
        if network.disable_gc {
            return Ok(());
        }
        let known = self.cache.attachments()?;
        let stale = known.iter().filter(|known| known.network == network.name).filter(|known| {
            let key = AttachmentKey::from(&known.parameters.attachment(&known.network));
            !valid.contains(&key)
        });
        let mut errors: Vec<Error> = stale.filter_map(|stale| self.del(network, &stale.parameters).err()).collect();
        if network.require(Command::Gc).is_ok() {
            let collect = |plugin| self.call(Command::Gc, plugin, &network.for_gc(plugin, valid)?);
            errors.extend(network.plugins.iter().filter_map(|plugin| collect(plugin).err()));
        }
        Error::all(errors)
    }

    /// Asks the plugins in order whether an `ADD` could be served. Before version 1.1.0 nobody can be asked, and that is
    /// a success.
    ///
    /// # Errors
    ///
    /// That of the first plugin that is not ready, with its code.
    pub fn status(&self, network: &NetworkConfigList) -> Result<(), Error> {
        if network.require(Command::Status).is_err() {
            return Ok(());
        }
        network.plugins.iter().try_for_each(|plugin| self.call(Command::Status, plugin, &network.for_status(plugin)?))
    }

    /// The versions that a plugin speaks, as far as this library knows them.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], and those of [`Invocation::versions`].
    pub fn versions(&self, plugin_type: &PluginType) -> Result<Vec<Version>, Error> {
        self.invocation(Command::Version, plugin_type)?.versions()
    }

    /// Makes sure that every plugin of a network is installed and speaks the configuration's version.
    ///
    /// # Errors
    ///
    /// All failures: [`Error::NotFound`], [`Error::VersionNotSpoken`], and those of [`Invocation::versions`].
    pub fn validate(&self, network: &NetworkConfigList) -> Result<(), Error> {
        let version = network.cni_version;
        let types: BTreeSet<&PluginType> = network.plugins.iter().map(|plugin| &plugin.plugin_type).collect();
        let validate = |plugin_type| {
            let plugin = find(plugin_type, &self.path)?;
            let spoken = self.versions(plugin_type)?;
            if spoken.contains(&version) { Ok(()) } else { Err(Error::VersionNotSpoken { plugin, version, spoken }) }
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
            let (invocation, config) = self.attaching(Command::Add, network, plugin, parameters, result)?;
            let added = invocation.add(&config);
            // One that could not be started has made nothing.
            progress.called += usize::from(!matches!(added, Err(Error::Start { .. })));
            progress.result = Some(added?);
        }
        let no_plugins = || Error::NoPlugins { network: network.name.clone() };
        let result = progress.result.clone().ok_or_else(no_plugins)?;
        self.cache.store(network, parameters, &result)?;
        Ok(result)
    }

    /// Undoes an `ADD` that did not come to its end, past failures: those are returned.
    fn undo(&self, network: &NetworkConfigList, parameters: &AttachmentParameters, progress: &Progress) -> Vec<Error> {
        let result = progress.result.as_ref().and_then(|result| for_del(network, result));
        let undo = |plugin| self.attach(Command::Del, network, plugin, parameters, result).err();
        network.plugins.iter().take(progress.called).rev().filter_map(undo).collect()
    }

    /// Calls a plugin with a verb that is about one attachment and has no result.
    fn attach(
        &self,
        command: Command,
        network: &NetworkConfigList,
        plugin: &PluginConfig,
        parameters: &AttachmentParameters,
        prev_result: Option<&AddResult>,
    ) -> Result<(), Error> {
        let (invocation, config) = self.attaching(command, network, plugin, parameters, prev_result)?;
        invocation.run(&config).map(drop)
    }

    fn attaching(
        &self,
        command: Command,
        network: &NetworkConfigList,
        plugin: &PluginConfig,
        parameters: &AttachmentParameters,
        prev_result: Option<&AddResult>,
    ) -> Result<(Invocation, RawConfig), Error> {
        let invocation = self.invocation(command, &plugin.plugin_type)?.with_parameters(parameters);
        Ok((invocation, network.for_attachment(plugin, parameters, prev_result)?))
    }

    /// Calls a plugin with a verb that is about no attachment.
    fn call(&self, command: Command, plugin: &PluginConfig, config: &RawConfig) -> Result<(), Error> {
        self.invocation(command, &plugin.plugin_type)?.run(config).map(drop)
    }

    fn invocation(&self, command: Command, plugin_type: &PluginType) -> Result<Invocation, Error> {
        let mut invocation = Invocation::new(find(plugin_type, &self.path)?, command).with_path(&self.path)?;
        if let Some(limit) = self.time_limit {
            invocation = invocation.with_timeout(limit);
        }
        Ok(if self.forwards_stderr { invocation.forwarding_stderr() } else { invocation })
    }
}

/// The result to pass with `DEL`, where the version has that and can hold it. Plugins must do without it if need be.
fn for_del<'a>(network: &NetworkConfigList, result: &'a AddResult) -> Option<&'a AddResult> {
    let version = network.cni_version;
    Some(result).filter(|result| version >= Version::V0_4_0 && result.to_json(version).is_ok())
}
