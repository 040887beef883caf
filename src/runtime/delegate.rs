use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::span::EnteredSpan;
use tracing::{debug, info_span, warn};

use super::error::with_sources;
use super::{Error, Invocation, find};
use crate::plugin::{AddRequest, CheckRequest, DelRequest, GcRequest, StatusRequest};
use crate::spec::{AddResult, Command, PluginType, RawConfig};

/// A plugin to which this plugin delegates the call that it serves, most often one that manages addresses.
///
/// The delegate gets the same verb, the whole configuration as it arrived, and the same environment. A plugin that
/// delegates an `ADD` delegates every other verb as well. A configuration that names the plugin itself as its delegate is
/// an error in every verb except `DEL`. See [Plugin
/// Delegation](https://www.cni.dev/docs/spec/#section-4-plugin-delegation).
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
///     require_unattached(request)?; // the interface is not there
///     let Some(ipam) = Delegate::ipam(request)? else {
///         return make_links(request, &AddResult::default());
///     };
///     let addresses = ipam.add(Prior::Absent)?;
///     let result = make_links(request, addresses.result())?; // a failure gives the addresses back
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
    time_limit: Option<Duration>,
}

/// Whether the attachment was there before this `ADD`: what a roll-back must know.
///
/// A second `ADD` of an attachment that is in use is bound to fail, and the `DEL` of the delegate would then free the
/// addresses that the pod lives on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prior {
    /// The plugin has looked, and nothing of the attachment is there. Whatever the delegate holds for it is of no use to
    /// anybody: a failure is followed by the delegate's `DEL`.
    Absent,
    /// The plugin does not know: a failure frees nothing.
    Unknown,
}

/// What a delegate's `ADD` made. Unless it is [kept](Self::commit), it is undone when this value is dropped, provided that
/// the attachment was [absent](Prior::Absent) before.
#[derive(Debug)]
#[must_use = "dropping it undoes what the delegate made"]
pub struct Delegated {
    result: AddResult,
    undo: Option<Undo>,
}

/// The `DEL` that undoes an `ADD`.
#[derive(Debug)]
struct Undo {
    invocation: Invocation,
    config: RawConfig,
}

/// A request that can be delegated: one of [`plugin`](crate::plugin)'s.
pub trait Delegable: sealed::Request {}

impl<'r, R: Delegable> Delegate<'r, R> {
    /// The plugin in `ipam.type`; `None` where the network has no such key, and so no addresses.
    ///
    /// It is read from the configuration as it arrived, so that `DEL` reaches the delegate however wrong the other keys
    /// are.
    ///
    /// # Errors
    ///
    /// [`Error::Spec`] for an `ipam.type` that cannot be the name of a plugin.
    pub fn ipam(request: &'r R) -> Result<Option<Self>, Error> {
        let plugin_type = request.raw_config().ipam_type()?;
        Ok(plugin_type.map(|plugin_type| Self::new(plugin_type, request)))
    }

    /// Any other plugin.
    pub fn new(plugin_type: PluginType, request: &'r R) -> Self {
        Self { request, plugin_type, time_limit: None }
    }

    /// With a time limit for each call. Without one, the delegate has the time that the caller of this plugin gives.
    #[must_use]
    pub fn with_timeout(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }

    /// The delegate's name.
    pub fn plugin_type(&self) -> &PluginType {
        &self.plugin_type
    }

    /// The delegate's executable, for a caller that wants to know of it before it makes anything.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::DelegatesToItself`] if the executable is the file of the running program, by whatever
    /// name. A program that is several plugins calls its own code instead.
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
        let invocation = Invocation::delegated(self.executable()?, command).with_path(self.request.path())?;
        let invocation = self.request.with_parameters(invocation);
        Ok(match self.time_limit {
            Some(limit) => invocation.with_timeout(limit),
            None => invocation,
        })
    }

    fn run(&self, command: Command) -> Result<(), Error> {
        let _span = self.span();
        self.invocation(command)?.run(self.request.raw_config()).map(drop)
    }
}

/// Whether a path leads to the file of the running program. Symbolic and hard links share its inode; a copy does not.
fn is_running(path: &Path) -> bool {
    let inode = |path: &Path| path.metadata().ok().map(|file| (file.dev(), file.ino()));
    inode(path).is_some_and(|found| Some(found) == inode(Path::new("/proc/self/exe")))
}

impl<C> Delegate<'_, AddRequest<C>> {
    /// Delegates the `ADD`.
    ///
    /// # Errors
    ///
    /// Those of [`Invocation::add`] and [`executable`](Self::executable). [`Error::NotUndone`] when the `DEL` failed that had to follow
    /// the failure.
    pub fn add(&self, prior: Prior) -> Result<Delegated, Error> {
        let _span = self.span();
        let add = self.invocation(Command::Add)?;
        let config = &self.request.raw_config;
        let undo = match prior {
            Prior::Absent => Some(Undo { invocation: self.invocation(Command::Del)?, config: config.clone() }),
            Prior::Unknown => None,
        };
        match add.add(config) {
            Ok(result) => Ok(Delegated { result, undo }),
            // It has made nothing, and its DEL could not be started either.
            Err(error @ Error::Start { .. }) => Err(error),
            Err(error) => Err(error.undone(undo.and_then(|undo| undo.run().err()).into_iter().collect())),
        }
    }
}

impl<C> Delegate<'_, DelRequest<C>> {
    /// Delegates the `DEL`. Success if the delegate would be the plugin itself: every `ADD` refuses such a configuration,
    /// so there is nothing to release, and the runtime would repeat a failed `DEL` without end.
    ///
    /// # Errors
    ///
    /// Those of [`Invocation::run`], and [`Error::NotFound`].
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
    /// Those of [`Invocation::run`] and [`executable`](Self::executable).
    pub fn check(&self) -> Result<(), Error> {
        self.run(Command::Check)
    }
}

impl<C> Delegate<'_, GcRequest<C>> {
    /// Delegates the `GC`.
    ///
    /// # Errors
    ///
    /// Those of [`Invocation::run`] and [`executable`](Self::executable).
    pub fn gc(&self) -> Result<(), Error> {
        self.run(Command::Gc)
    }
}

impl<C> Delegate<'_, StatusRequest<C>> {
    /// Delegates the `STATUS`.
    ///
    /// # Errors
    ///
    /// Those of [`Invocation::run`] and [`executable`](Self::executable).
    pub fn status(&self) -> Result<(), Error> {
        self.run(Command::Status)
    }
}

impl Delegated {
    /// The delegate's result. That of an address manager has neither interfaces nor, in its addresses, an interface's
    /// index: those are the caller's to add.
    pub fn result(&self) -> &AddResult {
        &self.result
    }

    /// Keeps what the delegate made.
    pub fn commit(mut self) -> AddResult {
        self.undo = None;
        std::mem::take(&mut self.result)
    }

    /// Undoes what the delegate made, as dropping it does, and tells whether that worked.
    ///
    /// # Errors
    ///
    /// Those of [`Invocation::run`].
    pub fn undo(mut self) -> Result<(), Error> {
        self.undo.take().map_or(Ok(()), |undo| undo.run())
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.undo.take().map(|undo| undo.run()) {
            // The caller is busy with another failure; this one is for the log.
            warn!("cannot undo what a delegate made: {}", with_sources(&error));
        }
    }
}

impl Undo {
    fn run(&self) -> Result<(), Error> {
        self.invocation.run(&self.config).map(drop)
    }
}

mod sealed {
    use std::path::PathBuf;

    use super::{Invocation, RawConfig};

    /// What a delegate needs of the request that its caller serves.
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
    let invocation = invocation.on_interface(&self.attachment.container_id, &self.attachment.ifname);
    invocation.in_netns(Some(&self.netns)).with_args(&self.args)
});
delegable!(CheckRequest, |self, invocation| {
    let invocation = invocation.on_interface(&self.attachment.container_id, &self.attachment.ifname);
    invocation.in_netns(Some(&self.netns)).with_args(&self.args)
});
delegable!(DelRequest, |self, invocation| {
    let invocation = invocation.on_interface(&self.attachment.container_id, &self.attachment.ifname);
    let invocation = invocation.in_netns(self.netns.as_deref());
    match &self.args {
        Ok(args) => invocation.with_args(args),
        // What cannot be read is inherited as it is: the delegate may think otherwise of it.
        Err(_) => invocation,
    }
});
delegable!(GcRequest, |self, invocation| invocation);
delegable!(StatusRequest, |self, invocation| invocation);
