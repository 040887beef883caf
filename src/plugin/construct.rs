//! Constructors of the requests. [`dispatch`](super::dispatch) and tests of plugins use the same.

use std::path::PathBuf;

use serde::de::DeserializeOwned;

use super::{AddRequest, CheckRequest, DelRequest, GcRequest, StatusRequest};
use crate::spec::{AddResult, Args, Attachment, Command, Error, RawConfig};

impl<C: DeserializeOwned> AddRequest<C> {
    /// Creates the request of an `ADD` from its configuration, as [`dispatch`](super::dispatch)
    /// does. `CNI_ARGS` and `CNI_PATH` are empty. The path of the namespace is not checked.
    ///
    /// ```
    /// # use cnikit::plugin::{CheckRequest, DelRequest, Plugin, PluginError, PluginInfo};
    /// use cnikit::plugin::AddRequest;
    /// use cnikit::spec::{AddResult, Attachment, RawConfig};
    /// use serde_json::json;
    ///
    /// # struct MyPlugin;
    /// #[derive(serde::Deserialize)]
    /// struct Config {
    ///     bridge: String,
    /// }
    /// # impl Plugin for MyPlugin {
    /// #     type Config = Config;
    /// #     fn info(&self) -> PluginInfo { PluginInfo { name: "p", version: "1", summary: "s", docs: "d" } }
    /// #     fn add(&self, request: &AddRequest<Config>) -> Result<AddResult, PluginError> {
    /// #         assert_eq!(request.config.bridge, "cni0");
    /// #         Ok(AddResult::default())
    /// #     }
    /// #     fn del(&self, _: &DelRequest<Config>) -> Result<(), PluginError> { Ok(()) }
    /// #     fn check(&self, _: &CheckRequest<Config>) -> Result<(), PluginError> { Ok(()) }
    /// # }
    ///
    /// let config = json!({"cniVersion": "1.1.0", "name": "dbnet", "type": "my-plugin", "bridge": "cni0"});
    /// let attachment = Attachment::new("dbnet".parse()?, "c1".parse()?, "eth0".parse()?);
    /// let request = AddRequest::new(attachment, "/run/netns/c1", RawConfig::try_from(config)?)?
    ///     .args("IgnoreUnknown=1;K8S_POD_NAME=web-0".parse()?)
    ///     .path(["/opt/cni/bin".into()]);
    /// assert_eq!(MyPlugin.add(&request)?, AddResult::default());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`RawConfig::net_conf`], [`RawConfig::decode`] and [`RawConfig::prev_result`],
    /// in this order.
    pub fn new(attachment: Attachment, netns: impl Into<PathBuf>, raw_config: RawConfig) -> Result<Self, Error> {
        Ok(Self {
            attachment,
            netns: netns.into(),
            args: Args::default(),
            path: Vec::new(),
            net_conf: raw_config.net_conf()?,
            config: raw_config.decode()?,
            prev_result: raw_config.prev_result()?,
            raw_config,
        })
    }
}

impl<C: DeserializeOwned> DelRequest<C> {
    /// Creates the request of a `DEL` from its configuration, as [`dispatch`](super::dispatch)
    /// does. Invalid parts of the configuration become errors in the fields. `CNI_ARGS` and
    /// `CNI_PATH` are empty.
    #[must_use]
    pub fn new(attachment: Attachment, netns: Option<PathBuf>, raw_config: RawConfig) -> Self {
        Self {
            attachment,
            netns,
            args: Ok(Args::default()),
            path: Vec::new(),
            net_conf: raw_config.net_conf(),
            config: raw_config.decode(),
            prev_result: raw_config.prev_result(),
            raw_config,
        }
    }
}

impl<C: DeserializeOwned> CheckRequest<C> {
    /// Creates the request of a `CHECK` from its configuration, as [`dispatch`](super::dispatch)
    /// does. `CNI_ARGS` and `CNI_PATH` are empty. The path of the namespace is not checked.
    ///
    /// # Errors
    ///
    /// The errors of [`AddRequest::new`]; [`Error::MissingPrevResult`].
    pub fn new(attachment: Attachment, netns: impl Into<PathBuf>, raw_config: RawConfig) -> Result<Self, Error> {
        let missing = Error::MissingPrevResult { command: Command::Check };
        Ok(Self {
            attachment,
            netns: netns.into(),
            args: Args::default(),
            path: Vec::new(),
            net_conf: raw_config.net_conf()?,
            config: raw_config.decode()?,
            prev_result: raw_config.prev_result()?.ok_or(missing)?,
            raw_config,
        })
    }
}

impl<C: DeserializeOwned> GcRequest<C> {
    /// Creates the request of a `GC` from its configuration, as [`dispatch`](super::dispatch) does.
    /// `CNI_PATH` is empty.
    ///
    /// # Errors
    ///
    /// The errors of [`RawConfig::net_conf`], [`RawConfig::decode`] and
    /// [`RawConfig::valid_attachments`], in this order.
    pub fn new(raw_config: RawConfig) -> Result<Self, Error> {
        Ok(Self {
            path: Vec::new(),
            net_conf: raw_config.net_conf()?,
            config: raw_config.decode()?,
            valid_attachments: raw_config.valid_attachments()?,
            raw_config,
        })
    }
}

impl<C: DeserializeOwned> StatusRequest<C> {
    /// Creates the request of a `STATUS` from its configuration, as [`dispatch`](super::dispatch)
    /// does. `CNI_PATH` is empty.
    ///
    /// # Errors
    ///
    /// The errors of [`RawConfig::net_conf`] and [`RawConfig::decode`], in this order.
    pub fn new(raw_config: RawConfig) -> Result<Self, Error> {
        Ok(Self { path: Vec::new(), net_conf: raw_config.net_conf()?, config: raw_config.decode()?, raw_config })
    }
}

impl<C> AddRequest<C> {
    /// The result of the previous plugin, for a plugin that works only after another one.
    ///
    /// # Errors
    ///
    /// [`Error::MissingPrevResult`] if the plugin is the first of the chain.
    pub fn require_prev_result(&self) -> Result<&AddResult, Error> {
        self.prev_result.as_ref().ok_or(Error::MissingPrevResult { command: Command::Add })
    }

    /// Replaces the plugin's own keys, for a plugin that calls another one in its process.
    ///
    /// ```
    /// # use cnikit::plugin::{AddRequest, Plugin, PluginError};
    /// # use cnikit::spec::AddResult;
    /// /// The configuration of a plugin that wraps `P`.
    /// #[derive(Clone, serde::Deserialize)]
    /// struct Config<C> {
    ///     #[serde(flatten)]
    ///     inner: C,
    /// }
    ///
    /// fn add<P: Plugin<Config: Clone>>(inner: &P, request: &AddRequest<Config<P::Config>>) -> Result<AddResult, PluginError> {
    ///     inner.add(&request.clone().map_config(|config| config.inner))
    /// }
    /// ```
    pub fn map_config<B>(self, f: impl FnOnce(C) -> B) -> AddRequest<B> {
        let Self { attachment, netns, args, path, net_conf, config, prev_result, raw_config } = self;
        AddRequest { attachment, netns, args, path, net_conf, config: f(config), prev_result, raw_config }
    }
}

impl<C> DelRequest<C> {
    /// Like [`AddRequest::map_config`]; an unreadable configuration stays an error.
    pub fn map_config<B>(self, f: impl FnOnce(C) -> B) -> DelRequest<B> {
        let Self { attachment, netns, args, path, net_conf, config, prev_result, raw_config } = self;
        DelRequest { attachment, netns, args, path, net_conf, config: config.map(f), prev_result, raw_config }
    }

    /// Sets `CNI_ARGS`.
    #[must_use]
    pub fn args(mut self, args: Args) -> Self {
        self.args = Ok(args);
        self
    }
}

impl<C> CheckRequest<C> {
    /// Like [`AddRequest::map_config`].
    pub fn map_config<B>(self, f: impl FnOnce(C) -> B) -> CheckRequest<B> {
        let Self { attachment, netns, args, path, net_conf, config, prev_result, raw_config } = self;
        CheckRequest { attachment, netns, args, path, net_conf, config: f(config), prev_result, raw_config }
    }
}

impl<C> GcRequest<C> {
    /// Like [`AddRequest::map_config`].
    pub fn map_config<B>(self, f: impl FnOnce(C) -> B) -> GcRequest<B> {
        let Self { path, net_conf, config, valid_attachments, raw_config } = self;
        GcRequest { path, net_conf, config: f(config), valid_attachments, raw_config }
    }
}

impl<C> StatusRequest<C> {
    /// Like [`AddRequest::map_config`].
    pub fn map_config<B>(self, f: impl FnOnce(C) -> B) -> StatusRequest<B> {
        let Self { path, net_conf, config, raw_config } = self;
        StatusRequest { path, net_conf, config: f(config), raw_config }
    }
}

macro_rules! setters {
    ($($request:ident)*) => {$(
        impl<C> $request<C> {
            /// Sets `CNI_PATH`.
            #[must_use]
            pub fn path(mut self, path: impl Into<Vec<PathBuf>>) -> Self {
                self.path = path.into();
                self
            }
        }
    )*};
    (args: $($request:ident)*) => {$(
        impl<C> $request<C> {
            /// Sets `CNI_ARGS`.
            #[must_use]
            pub fn args(mut self, args: Args) -> Self {
                self.args = args;
                self
            }
        }
    )*};
}

setters!(AddRequest DelRequest CheckRequest GcRequest StatusRequest);
setters!(args: AddRequest CheckRequest);
