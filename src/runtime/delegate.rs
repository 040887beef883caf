use std::borrow::Cow;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::span::EnteredSpan;
use tracing::{debug, info_span, warn};

use super::process::CallOptions;
use super::{Error, Invocation, find};
use crate::plugin::{AddRequest, CheckRequest, DelRequest, GcRequest, StatusRequest};
use crate::spec::{self, AddResult, Command, PluginType, RawConfig, ValidAttachments};

/// A plugin to which this plugin delegates its call, usually an IPAM plugin.
///
/// The delegate receives the same verb, the same environment, and the unchanged configuration or
/// [another one](Self::config). A plugin that delegates `ADD` must delegate every other verb too. A
/// configuration that names the plugin itself as its delegate is an error in every verb except
/// `DEL`. See
/// [Plugin Delegation](https://www.cni.dev/docs/spec/#section-4-plugin-delegation).
///
/// ```
/// use cnikit::plugin::{AddRequest, DelRequest, PluginError};
/// use cnikit::runtime::{Delegate, Prior};
/// use cnikit::spec::AddResult;
///
/// # struct Config;
/// # fn require_unattached(_: &AddRequest<Config>) -> Result<(), PluginError> { Ok(()) }
/// # fn make_links(_: &AddRequest<Config>, _: &AddResult) -> Result<AddResult, PluginError> { todo!() }
/// # fn delete_links(_: &DelRequest<Config>) -> Result<(), PluginError> { Ok(()) }
/// fn add(request: &AddRequest<Config>) -> Result<AddResult, PluginError> {
///     require_unattached(request)?; // the interface does not exist
///     let Some(ipam) = Delegate::ipam(request)? else {
///         return make_links(request, &AddResult::default());
///     };
///     let addresses = ipam.add(Prior::Absent)?;
///     let result = make_links(request, addresses.result())?; // an error releases the addresses
///     addresses.commit();
///     Ok(result)
/// }
///
/// fn del(request: &DelRequest<Config>) -> Result<(), PluginError> {
///     delete_links(request)?;
///     if let Some(ipam) = Delegate::ipam(request)? {
///         ipam.del()?;
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Delegate<'r, R> {
    request: &'r R,
    plugin_type: PluginType,
    config: Cow<'r, RawConfig>,
    options: CallOptions,
}

/// Whether the attachment existed before this `ADD`, which determines the rollback.
///
/// A second `ADD` of an attachment in use must fail. A `DEL` of the delegate would then release the
/// addresses of a running pod.
///
/// Closed: the plugin knows that nothing exists, or does not know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prior {
    /// The plugin verified that nothing of the attachment exists. Addresses that the delegate holds
    /// for it are unused, so an error is followed by the delegate's `DEL`.
    Absent,
    /// The plugin does not know: an error releases nothing.
    Unknown,
}

/// The result of a delegate's `ADD`. Dropping this value rolls the `ADD` back, unless it is
/// [committed](Self::commit) or the attachment was not known to be [absent](Prior::Absent) before.
#[derive(Debug)]
#[must_use = "dropping it rolls back the ADD of the delegate"]
pub struct Delegated {
    result: AddResult,
    rollback: Option<Rollback>,
}

/// The `DEL` that rolls back an `ADD`.
#[derive(Debug)]
struct Rollback {
    invocation: Invocation,
    config: RawConfig,
}

/// A request of [`plugin`](crate::plugin) that can be delegated.
pub trait Delegable: sealed::Request {}

impl<'r, R: Delegable> Delegate<'r, R> {
    /// Creates the delegate that `ipam.type` names; Returns `None` if the key is missing: the
    /// network has no addresses.
    ///
    /// Reads the unvalidated configuration, so `DEL` reaches the delegate even if other keys
    /// are invalid.
    ///
    /// # Errors
    ///
    /// [`Error::Spec`] if `ipam.type` is not a valid plugin name.
    pub fn ipam(request: &'r R) -> Result<Option<Self>, Error> {
        let plugin_type = request.raw_config().ipam_type()?;
        Ok(plugin_type.map(|plugin_type| Self::new(plugin_type, request)))
    }

    /// Creates a delegate from the name of a plugin.
    pub fn new(plugin_type: PluginType, request: &'r R) -> Self {
        let config = Cow::Borrowed(request.raw_config());
        Self { request, plugin_type, config, options: CallOptions { timeout: None, forward_stderr: true } }
    }

    /// Sets the configuration of each call, instead of the caller's. The rollback of an `ADD`
    /// receives it too.
    ///
    /// The delegate receives it unchanged. It needs `cniVersion`, `name` and `type`, `prevResult`
    /// in `CHECK`, and `cni.dev/valid-attachments` in `GC`. Its `cniVersion` is also the version of
    /// the delegate's result.
    ///
    /// ```
    /// use cnikit::plugin::{AddRequest, GcRequest, PluginError};
    /// use cnikit::runtime::{Delegate, Prior};
    /// use cnikit::spec::{AddResult, RawConfig};
    /// use serde_json::json;
    ///
    /// # struct Config;
    /// /// The configuration of `bridge` for the subnet of this node.
    /// fn bridge_config(call: &RawConfig) -> Result<RawConfig, PluginError> {
    ///     let mut config = json!({
    ///         "cniVersion": call.cni_version()?, "name": call.name()?, "type": "bridge",
    ///         "ipam": {"type": "host-local", "subnet": "10.244.1.0/24"},
    ///     });
    ///     for key in ["prevResult", "runtimeConfig", "cni.dev/valid-attachments"] {
    ///         if let Some(value) = call.value(key) {
    ///             config[key] = value.clone();
    ///         }
    ///     }
    ///     Ok(config.try_into()?)
    /// }
    ///
    /// fn add(request: &AddRequest<Config>) -> Result<AddResult, PluginError> {
    ///     let bridge = Delegate::new("bridge".parse()?, request).config(bridge_config(&request.raw_config)?);
    ///     Ok(bridge.add(Prior::Unknown)?.commit())
    /// }
    ///
    /// fn gc(request: &GcRequest<Config>) -> Result<(), PluginError> {
    ///     let bridge = Delegate::new("bridge".parse()?, request).config(bridge_config(&request.raw_config)?);
    ///     Ok(bridge.gc()?)
    /// }
    /// ```
    #[must_use]
    pub fn config(mut self, config: RawConfig) -> Self {
        self.config = Cow::Owned(config);
        self
    }

    /// Sets a timeout for each call. Without it, only the timeout of the calling runtime applies.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// The delegate's name.
    #[must_use]
    pub fn plugin_type(&self) -> &PluginType {
        &self.plugin_type
    }

    /// Finds the delegate's executable. A plugin can call this function before it creates anything.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::DelegatesToItself`] if the executable is the file of the
    /// running program, under any name. A program that contains several plugins must call its own
    /// code instead.
    pub fn executable(&self) -> Result<PathBuf, Error> {
        let path = find(&self.plugin_type, self.request.path())?;
        if is_running(&path) {
            return Err(Error::DelegatesToItself { plugin_type: self.plugin_type.clone(), path });
        }
        Ok(path)
    }

    fn span(&self) -> EnteredSpan {
        info_span!("delegate", plugin = %self.plugin_type).entered()
    }

    fn invocation(&self, command: Command) -> Result<Invocation, Error> {
        let invocation = Invocation::delegated(self.executable()?, command).path(self.request.path())?;
        Ok(self.request.with_parameters(invocation).options(self.options))
    }

    fn run(&self, command: Command) -> Result<(), Error> {
        let _span = self.span();
        self.invocation(command)?.run(&self.config).map(drop)
    }
}

/// Whether a path refers to the file of the running program. Symbolic and hard links share its
/// inode; a copy does not.
fn is_running(path: &Path) -> bool {
    let inode = |path: &Path| path.metadata().ok().map(|file| (file.dev(), file.ino()));
    inode(path).is_some_and(|found| Some(found) == inode(Path::new("/proc/self/exe")))
}

impl<C> Delegate<'_, AddRequest<C>> {
    /// Delegates the `ADD`.
    ///
    /// # Errors
    ///
    /// The errors of [`Invocation::add`] and [`executable`](Self::executable).
    /// [`Error::RollbackFailed`] if the `DEL` after a failed `ADD` also failed.
    pub fn add(&self, prior: Prior) -> Result<Delegated, Error> {
        let _span = self.span();
        let add = self.invocation(Command::Add)?;
        let rollback = match prior {
            Prior::Absent => {
                let config = self.config.clone().into_owned();
                Some(Rollback { invocation: self.invocation(Command::Del)?, config })
            }
            Prior::Unknown => None,
        };
        match add.add(&self.config) {
            Ok(result) => Ok(Delegated { result, rollback }),
            // The delegate has created nothing, and its DEL could not be started either.
            Err(error @ Error::Start { .. }) => Err(error),
            Err(error) => {
                let left = rollback.and_then(|rollback| rollback.run().err());
                Err(error.with_rollback_errors(left.into_iter().collect()))
            }
        }
    }
}

impl<C> Delegate<'_, DelRequest<C>> {
    /// Delegates the `DEL`. Succeeds if the delegate is the plugin itself. Every `ADD` rejects such
    /// a configuration, so there is nothing to release, and the runtime would repeat a failed
    /// `DEL` forever.
    ///
    /// # Errors
    ///
    /// The errors of [`Invocation::run`], and [`Error::NotFound`].
    pub fn del(&self) -> Result<(), Error> {
        match self.run(Command::Del) {
            Err(error @ Error::DelegatesToItself { .. }) => {
                debug!("nothing to release: {error}");
                Ok(())
            }
            outcome => outcome,
        }
    }
}

impl<C> Delegate<'_, CheckRequest<C>> {
    /// Delegates the `CHECK`.
    ///
    /// # Errors
    ///
    /// The errors of [`Invocation::run`] and [`executable`](Self::executable).
    pub fn check(&self) -> Result<(), Error> {
        self.run(Command::Check)
    }
}

impl<C> Delegate<'_, GcRequest<C>> {
    /// Delegates the `GC`.
    ///
    /// # Errors
    ///
    /// The errors of [`Invocation::run`] and [`executable`](Self::executable).
    /// [`spec::Error::MissingKey`] if the [`config`](Self::config) lacks
    /// `cni.dev/valid-attachments`, and the call has it.
    pub fn gc(&self) -> Result<(), Error> {
        let is_absent = |config: &RawConfig| Ok::<_, Error>(config.valid_attachments()? == ValidAttachments::Absent);
        if is_absent(&self.config)? && !is_absent(&self.request.raw_config)? {
            // Existing plugins read an absent list as an empty one, and would release everything.
            return Err(spec::Error::MissingKey { key: "cni.dev/valid-attachments" }.into());
        }
        self.run(Command::Gc)
    }
}

impl<C> Delegate<'_, StatusRequest<C>> {
    /// Delegates the `STATUS`.
    ///
    /// # Errors
    ///
    /// The errors of [`Invocation::run`] and [`executable`](Self::executable).
    pub fn status(&self) -> Result<(), Error> {
        self.run(Command::Status)
    }
}

impl Delegated {
    /// The delegate's result. The result of an IPAM plugin contains no interfaces and no interface
    /// indexes; the caller must add them.
    #[must_use]
    pub fn result(&self) -> &AddResult {
        &self.result
    }

    /// Keeps the attachment of the delegate, and returns its result.
    #[expect(clippy::must_use_candidate, reason = "a caller may have read the result before")]
    pub fn commit(mut self) -> AddResult {
        self.rollback = None;
        std::mem::take(&mut self.result)
    }

    /// Rolls back the delegate's `ADD`, as a drop does, and reports errors.
    ///
    /// # Errors
    ///
    /// The errors of [`Invocation::run`].
    pub fn rollback(mut self) -> Result<(), Error> {
        self.rollback.take().map_or(Ok(()), |rollback| rollback.run())
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.rollback.take().map(|rollback| rollback.run()) {
            // The caller handles another error already; this one is only logged.
            warn!("cannot roll back the ADD of a delegate: {error}");
        }
    }
}

impl Rollback {
    fn run(&self) -> Result<(), Error> {
        self.invocation.run(&self.config).map(drop)
    }
}

mod sealed {
    use std::path::PathBuf;

    use super::{Invocation, RawConfig};

    /// The parts of a request that its delegate needs.
    pub trait Request {
        fn raw_config(&self) -> &RawConfig;
        fn path(&self) -> &[PathBuf];
        fn with_parameters(&self, invocation: Invocation) -> Invocation;
    }
}

macro_rules! delegable {
    ($request:ident, |$self:ident, $invocation:ident| $with_parameters:expr) => {
        impl<C> Delegable for $request<C> {}

        impl<C> sealed::Request for $request<C> {
            fn raw_config(&self) -> &RawConfig {
                &self.raw_config
            }

            fn path(&self) -> &[PathBuf] {
                &self.path
            }

            fn with_parameters(&$self, $invocation: Invocation) -> Invocation {
                $with_parameters
            }
        }
    };
}

delegable!(AddRequest, |self, invocation| {
    let invocation = invocation.interface(&self.attachment.container_id, &self.attachment.ifname);
    invocation.netns(Some(&self.netns)).args(&self.args)
});
delegable!(CheckRequest, |self, invocation| {
    let invocation = invocation.interface(&self.attachment.container_id, &self.attachment.ifname);
    invocation.netns(Some(&self.netns)).args(&self.args)
});
delegable!(DelRequest, |self, invocation| {
    let invocation = invocation.interface(&self.attachment.container_id, &self.attachment.ifname);
    let invocation = invocation.netns(self.netns.as_deref());
    match &self.args {
        Ok(args) => invocation.args(args),
        // An unreadable value is inherited unchanged: the delegate may accept it.
        Err(_) => invocation,
    }
});
delegable!(GcRequest, |self, invocation| invocation);
delegable!(StatusRequest, |self, invocation| invocation);
