use std::path::PathBuf;

use crate::spec::{AddResult, Args, Attachment, Error, NetConf, RawConfig, ValidAttachments};

/// A call to attach a container.
#[derive(Debug)]
#[non_exhaustive]
pub struct AddRequest<C> {
    /// Which interface of which container in which network.
    pub attachment: Attachment,
    /// `CNI_NETNS`: the container's network namespace. It exists, and is not the plugin's own.
    pub netns: PathBuf,
    /// `CNI_ARGS`
    pub args: Args,
    /// `CNI_PATH`: the directories to look for delegates in.
    pub path: Vec<PathBuf>,
    /// The keys of the configuration that every plugin shares.
    pub net_conf: NetConf,
    /// The plugin's own keys.
    pub config: C,
    /// The result of the plugin before this one in the chain, to be returned with this plugin's
    /// changes.
    pub prev_result: Option<AddResult>,
    /// The configuration as it arrived, for delegates.
    pub raw_config: RawConfig,
}

/// A call to detach a container.
///
/// What the runtime got wrong must not keep a container from being deleted: all but the attachment
/// is there only if it could be read, and the plugin chooses what it can do without. Detaching
/// needs nothing but the attachment where names derive from it.
#[derive(Debug)]
#[non_exhaustive]
pub struct DelRequest<C> {
    /// Which interface of which container in which network.
    pub attachment: Attachment,
    /// `CNI_NETNS`, where the runtime still has one. It may be gone, not be a namespace any more, or by now belong to
    /// somebody else: verify before deleting anything in it. A path that has come to name the plugin's own namespace,
    /// as one below `/proc` may after a reboot, is left out.
    pub netns: Option<PathBuf>,
    /// `CNI_ARGS`
    pub args: Result<Args, Error>,
    /// `CNI_PATH`: the directories to look for delegates in.
    pub path: Vec<PathBuf>,
    /// The keys of the configuration that every plugin shares.
    pub net_conf: Result<NetConf, Error>,
    /// The plugin's own keys.
    pub config: Result<C, Error>,
    /// The result of the whole `ADD`; runtimes may have lost it.
    pub prev_result: Result<Option<AddResult>, Error>,
    /// The configuration as it arrived, for delegates.
    pub raw_config: RawConfig,
}

/// The call that undoes the `ADD`.
impl<C> From<AddRequest<C>> for DelRequest<C> {
    fn from(add: AddRequest<C>) -> Self {
        Self {
            attachment: add.attachment,
            netns: Some(add.netns),
            args: Ok(add.args),
            path: add.path,
            net_conf: Ok(add.net_conf),
            config: Ok(add.config),
            prev_result: Ok(add.prev_result),
            raw_config: add.raw_config,
        }
    }
}

/// A call to check an attachment.
#[derive(Debug)]
#[non_exhaustive]
pub struct CheckRequest<C> {
    /// Which interface of which container in which network.
    pub attachment: Attachment,
    /// `CNI_NETNS`: the container's network namespace. It exists, and is not the plugin's own.
    pub netns: PathBuf,
    /// `CNI_ARGS`
    pub args: Args,
    /// `CNI_PATH`: the directories to look for delegates in.
    pub path: Vec<PathBuf>,
    /// The keys of the configuration that every plugin shares.
    pub net_conf: NetConf,
    /// The plugin's own keys.
    pub config: C,
    /// The result of the whole `ADD`: what should be there.
    pub prev_result: AddResult,
    /// The configuration as it arrived, for delegates.
    pub raw_config: RawConfig,
}

/// A call to free what belongs to no valid attachment.
#[derive(Debug)]
#[non_exhaustive]
pub struct GcRequest<C> {
    /// `CNI_PATH`: the directories to look for delegates in.
    pub path: Vec<PathBuf>,
    /// The keys of the configuration that every plugin shares.
    pub net_conf: NetConf,
    /// The plugin's own keys.
    pub config: C,
    /// The attachments that are still valid, if the runtime said so.
    pub valid_attachments: ValidAttachments,
    /// The configuration as it arrived, for delegates.
    pub raw_config: RawConfig,
}

/// A call to tell whether an `ADD` could be served.
#[derive(Debug)]
#[non_exhaustive]
pub struct StatusRequest<C> {
    /// `CNI_PATH`: the directories to look for delegates in.
    pub path: Vec<PathBuf>,
    /// The keys of the configuration that every plugin shares.
    pub net_conf: NetConf,
    /// The plugin's own keys.
    pub config: C,
    /// The configuration as it arrived, for delegates.
    pub raw_config: RawConfig,
}
