use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::spec::{Args, Attachment, AttachmentKey, ContainerId, IfName, NetworkName};

/// A runtime's parameters for one attachment, in addition to the network configuration.
///
/// See [Attachment Parameters](https://www.cni.dev/docs/spec/#attachment-parameters).
///
/// ```
/// use cnikit::runtime::AttachmentParameters;
/// use serde_json::json;
///
/// let parameters = AttachmentParameters::new("web-0".parse()?, "eth0".parse()?)
///     .netns("/run/netns/web-0")
///     .args("IgnoreUnknown=1;K8S_POD_NAME=web-0".parse()?)
///     .with_capability("portMappings", json!([{"hostPort": 8080, "containerPort": 80}]));
/// assert_eq!(parameters.args.value("K8S_POD_NAME"), Some("web-0"));
/// # Ok::<(), cnikit::spec::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct AttachmentParameters {
    /// The container's identifier.
    pub container_id: ContainerId,
    /// The name of the interface inside the container.
    pub ifname: IfName,
    /// The container's network namespace. `ADD` and `CHECK` need it; absent if the container no
    /// longer exists.
    pub netns: Option<PathBuf>,
    /// The user's arguments for all plugins.
    pub args: Args,
    /// The runtime's values, by capability. A plugin receives the capabilities that its
    /// configuration declares.
    pub capability_args: Map<String, Value>,
}

impl AttachmentParameters {
    /// Creates parameters with a container and an interface.
    #[must_use]
    pub fn new(container_id: ContainerId, ifname: IfName) -> Self {
        Self { container_id, ifname, netns: None, args: Args::default(), capability_args: Map::new() }
    }

    /// Sets the path of the container's network namespace.
    #[must_use]
    pub fn netns(mut self, netns: impl Into<PathBuf>) -> Self {
        self.netns = Some(netns.into());
        self
    }

    /// Sets the user's arguments for all plugins.
    #[must_use]
    pub fn args(mut self, args: Args) -> Self {
        self.args = args;
        self
    }

    /// Adds a capability argument.
    ///
    /// See
    /// [the conventions](https://www.cni.dev/docs/conventions/#dynamic-plugin-specific-fields-capabilities--runtime-configuration)
    /// for names and values.
    #[must_use]
    pub fn with_capability(mut self, name: impl Into<String>, value: Value) -> Self {
        self.capability_args.insert(name.into(), value);
        self
    }

    /// The identity of the attachment within any network.
    #[must_use]
    pub fn key(&self) -> AttachmentKey {
        AttachmentKey::new(self.container_id.clone(), self.ifname.clone())
    }

    /// The attachment of these parameters to a network.
    #[must_use]
    pub fn attachment(&self, network: &NetworkName) -> Attachment {
        self.key().in_network(network)
    }
}
