use std::path::PathBuf;

use crate::spec::{AddResult, Args, Attachment, Error, NetConf, RawConfig, ValidAttachments};

/// A call to attach a container.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AddRequest<C> {
    /// The interface, the container and the network.
    pub attachment: Attachment,
    /// `CNI_NETNS`: the container's network namespace. Verified to exist, and not to be the
    /// plugin's own.
    pub netns: PathBuf,
    /// `CNI_ARGS`
    pub args: Args,
    /// `CNI_PATH`: the directories to search for delegates.
    pub path: Vec<PathBuf>,
    /// The configuration keys that all plugins share.
    pub net_conf: NetConf,
    /// The plugin's own keys.
    pub config: C,
    /// The result of the previous plugin in the chain. The plugin returns it with its own changes.
    pub prev_result: Option<AddResult>,
    /// The configuration in its original form, for delegates.
    pub raw_config: RawConfig,
}

/// A call to detach a container.
///
/// An error of the runtime must not prevent the deletion of a container. All fields except the
/// attachment are therefore results, and the plugin decides which of them it needs. A plugin that
/// derives its names from the attachment needs only the attachment.
///
/// `?` on a reference to such a field returns its error from the verb:
///
/// ```
/// # use cnikit::plugin::{DelRequest, PluginError};
/// # use cnikit::spec::RawConfig;
/// #[derive(serde::Deserialize)]
/// struct Config {
///     bridge: String,
/// }
///
/// fn del(request: &DelRequest<Config>) -> Result<(), PluginError> {
///     let bridge = &request.config.as_ref()?.bridge;
///     let is_masqueraded = request.net_conf.as_ref()?.ip_masq;
///     let result = request.prev_result.as_ref()?;
///     let pod = request.args.as_ref()?.value("K8S_POD_NAME");
/// #   assert_eq!((bridge.as_str(), is_masqueraded, result.is_none(), pod), ("cni0", false, true, None));
///     // ...
///     Ok(())
/// }
/// # let config = |text: &str| RawConfig::parse(text);
/// # let attachment = cnikit::spec::Attachment::new("dbnet".parse()?, "c1".parse()?, "eth0".parse()?);
/// # let raw = config(r#"{"cniVersion": "1.1.0", "name": "dbnet", "type": "p", "bridge": "cni0"}"#)?;
/// # del(&DelRequest::new(attachment.clone(), None, raw))?;
/// # let raw = config(r#"{"cniVersion": "1.1.0", "name": "dbnet", "type": "p"}"#)?;
/// # let error = del(&DelRequest::new(attachment, None, raw)).unwrap_err();
/// # assert_eq!(error.code.value(), 7);
/// # assert!(error.msg.ends_with("does not fit this plugin: missing field `bridge`"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DelRequest<C> {
    /// The interface, the container and the network.
    pub attachment: Attachment,
    /// `CNI_NETNS`, if the runtime still has one. The namespace may be deleted, or the path may
    /// refer to another object by now: verify it before deleting anything in it. `None` also if the
    /// path refers to the plugin's own namespace, as a path below `/proc` may after a reboot.
    pub netns: Option<PathBuf>,
    /// `CNI_ARGS`
    pub args: Result<Args, Error>,
    /// `CNI_PATH`: the directories to search for delegates.
    pub path: Vec<PathBuf>,
    /// The configuration keys that all plugins share.
    pub net_conf: Result<NetConf, Error>,
    /// The plugin's own keys.
    pub config: Result<C, Error>,
    /// The result of the whole `ADD`; a runtime may have lost it.
    pub prev_result: Result<Option<AddResult>, Error>,
    /// The configuration in its original form, for delegates.
    pub raw_config: RawConfig,
}

/// Creates the call that rolls back the `ADD`.
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
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CheckRequest<C> {
    /// The interface, the container and the network.
    pub attachment: Attachment,
    /// `CNI_NETNS`: the container's network namespace. Verified to exist, and not to be the
    /// plugin's own.
    pub netns: PathBuf,
    /// `CNI_ARGS`
    pub args: Args,
    /// `CNI_PATH`: the directories to search for delegates.
    pub path: Vec<PathBuf>,
    /// The configuration keys that all plugins share.
    pub net_conf: NetConf,
    /// The plugin's own keys.
    pub config: C,
    /// The result of the whole `ADD`: the expected state.
    pub prev_result: AddResult,
    /// The configuration in its original form, for delegates.
    pub raw_config: RawConfig,
}

/// A call to delete all resources that belong to no valid attachment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GcRequest<C> {
    /// `CNI_PATH`: the directories to search for delegates.
    pub path: Vec<PathBuf>,
    /// The configuration keys that all plugins share.
    pub net_conf: NetConf,
    /// The plugin's own keys.
    pub config: C,
    /// The attachments that the runtime declares valid.
    pub valid_attachments: ValidAttachments,
    /// The configuration in its original form, for delegates.
    pub raw_config: RawConfig,
}

/// A call to report whether an `ADD` can be served.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StatusRequest<C> {
    /// `CNI_PATH`: the directories to search for delegates.
    pub path: Vec<PathBuf>,
    /// The configuration keys that all plugins share.
    pub net_conf: NetConf,
    /// The plugin's own keys.
    pub config: C,
    /// The configuration in its original form, for delegates.
    pub raw_config: RawConfig,
}
