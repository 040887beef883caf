use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::lenient::null_as_default;
use super::{AddResult, Dns, Error, MacAddr, NetworkName, PluginType, RuntimeConfig, ValidAttachments, Version};

/// The network configuration as received on standard input: a JSON object with unvalidated keys.
///
/// From the same object, [`net_conf`](Self::net_conf) reads the keys that all plugins share, and
/// [`decode`](Self::decode) the plugin's own keys.
///
/// ```
/// use cnikit::spec::{RawConfig, Version};
///
/// #[derive(serde::Deserialize)]
/// struct BridgeConfig {
///     bridge: String,
/// }
///
/// let stdin = br#"{"cniVersion": "1.0.0", "name": "dbnet", "type": "bridge", "bridge": "cni0"}"#;
/// let raw = RawConfig::parse(stdin)?;
/// let net_conf = raw.net_conf()?;
/// let own: BridgeConfig = raw.decode()?;
/// assert_eq!((net_conf.cni_version, net_conf.name.as_str()), (Version::V1_0_0, "dbnet"));
/// assert_eq!(own.bridge, "cni0");
/// # Ok::<(), cnikit::spec::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct RawConfig {
    bytes: Vec<u8>,
    object: Map<String, Value>,
}

/// The configuration keys that all plugins share.
///
/// See [Plugin configuration objects](https://www.cni.dev/docs/spec/#plugin-configuration-objects).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NetConf {
    /// `cniVersion`
    pub cni_version: Version,
    /// `name`: the name of the network.
    pub name: NetworkName,
    /// `type`: the plugin's executable. A delegate receives its caller's `type` here.
    pub plugin_type: PluginType,
    /// `ipMasq`: whether to masquerade traffic that leaves the network, that is to replace its
    /// source with the host's address.
    pub ip_masq: bool,
    /// `ipam`
    pub ipam: Option<IpamConf>,
    /// `dns`
    pub dns: Dns,
    /// `args.cni`
    pub args: CniArgs,
    /// `runtimeConfig`: the runtime's values for the capabilities that the configuration declares.
    pub runtime_config: RuntimeConfig,
}

/// The `ipam` key: the configuration of address management.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct IpamConf {
    /// `ipam.type`; absent if the network has no addresses.
    #[serde(rename = "type", default, deserialize_with = "super::lenient::empty_as_none")]
    pub plugin_type: Option<PluginType>,
    /// The other keys.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Requests for one attachment that a plugin may ignore: the `args.cni` key.
///
/// See [the conventions](https://www.cni.dev/docs/conventions/#args-in-network-config).
#[derive(Debug, Clone, Default, Deserialize)]
#[non_exhaustive]
pub struct CniArgs {
    /// The requested addresses. An address without a prefix length has the length of a single host.
    #[serde(default, deserialize_with = "null_as_default")]
    pub ips: Vec<IpNetwork>,
    /// Labels of the container.
    #[serde(default, deserialize_with = "null_as_default")]
    pub labels: Vec<Label>,
    /// The requested MAC address.
    #[serde(default, deserialize_with = "super::lenient::empty_as_none")]
    pub mac: Option<MacAddr>,
}

/// A label of the container.
///
/// Closed: a label has a key and a value.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Label {
    /// The label's name.
    pub key: String,
    /// The label's value.
    pub value: String,
}

#[derive(Default, Deserialize)]
struct AllArgs {
    #[serde(default, deserialize_with = "null_as_default")]
    cni: CniArgs,
}

impl RawConfig {
    /// Parses the bytes of standard input.
    ///
    /// # Errors
    ///
    /// [`Error::NotJson`] or [`Error::NotAnObject`].
    pub fn parse(bytes: impl Into<Vec<u8>>) -> Result<Self, Error> {
        let bytes = bytes.into();
        match serde_json::from_slice(&bytes).map_err(|source| Error::NotJson { source: source.into() })? {
            Value::Object(object) => Ok(Self { bytes, object }),
            _ => Err(Error::NotAnObject),
        }
    }

    /// The configuration in its original form, which a delegate must receive.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The value of a key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.object.get(key)
    }

    /// `cniVersion`; absent or empty means [`Version::IMPLICIT`].
    ///
    /// # Errors
    ///
    /// [`Error::UnknownVersion`], or [`Error::InvalidKey`] if it is not a string.
    pub fn cni_version(&self) -> Result<Version, Error> {
        match self.key::<String>("cniVersion")? {
            Some(text) if !text.is_empty() => text.parse(),
            _ => Ok(Version::IMPLICIT),
        }
    }

    /// `name`.
    ///
    /// # Errors
    ///
    /// [`Error::MissingKey`] or [`Error::InvalidKey`].
    pub fn name(&self) -> Result<NetworkName, Error> {
        self.required("name")
    }

    /// Reads the keys that all plugins share.
    ///
    /// # Errors
    ///
    /// [`Error::MissingKey`], [`Error::InvalidKey`] or [`Error::UnknownVersion`].
    pub fn net_conf(&self) -> Result<NetConf, Error> {
        Ok(NetConf {
            cni_version: self.cni_version()?,
            name: self.name()?,
            plugin_type: self.required("type")?,
            ip_masq: self.key("ipMasq")?.unwrap_or_default(),
            ipam: self.key("ipam")?,
            dns: self.key("dns")?.unwrap_or_default(),
            args: self.key::<AllArgs>("args")?.unwrap_or_default().cni,
            runtime_config: self.key("runtimeConfig")?.unwrap_or_default(),
        })
    }

    /// `prevResult`: on `ADD` the result of the previous plugin in the chain, on `CHECK` and `DEL`
    /// the result of the whole `ADD`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPrevResult`], and the errors of [`cni_version`](Self::cni_version), because
    /// the version determines the form of the result.
    pub fn prev_result(&self) -> Result<Option<AddResult>, Error> {
        match self.value("prevResult") {
            None | Some(Value::Null) => Ok(None),
            Some(json) => AddResult::from_json(json, self.cni_version()?)
                .map(Some)
                .map_err(|source| Error::InvalidPrevResult { source: Box::new(source) }),
        }
    }

    /// `ipam.type`, without validating other keys; absent if the network has no addresses.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidKey`].
    pub fn ipam_type(&self) -> Result<Option<PluginType>, Error> {
        Ok(self.key::<IpamConf>("ipam")?.and_then(|ipam| ipam.plugin_type))
    }

    /// `cni.dev/valid-attachments`, or its alias `cni.dev/attachments` if only the alias has a
    /// list.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidKey`] if any entry is invalid: an unreadable entry may name an attachment to
    /// keep.
    pub fn valid_attachments(&self) -> Result<ValidAttachments, Error> {
        const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];
        for key in KEYS {
            if let Some(list) = self.key(key)? {
                return Ok(ValidAttachments::List(list));
            }
        }
        let is_there = KEYS.iter().any(|key| self.object.contains_key(*key));
        Ok(if is_there { ValidAttachments::Null } else { ValidAttachments::Absent })
    }

    /// Reads the plugin's own keys. They share one object with the keys of all plugins, so `C`
    /// must tolerate unknown keys: no `deny_unknown_fields`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`], which names the key. Its source names the expected type.
    pub fn decode<C: DeserializeOwned>(&self) -> Result<C, Error> {
        // Deserializes the parsed object. The runtime assembled the bytes, so a line and column
        // would not match the user's file.
        serde_path_to_error::deserialize(&self.object).map_err(|error| {
            let path = error.path();
            let path = if path.iter().next().is_some() { path.to_string() } else { String::new() };
            Error::InvalidConfig { path, source: error.into_inner().into() }
        })
    }

    pub(crate) fn required<T: DeserializeOwned>(&self, key: &'static str) -> Result<T, Error> {
        self.key(key)?.ok_or(Error::MissingKey { key })
    }

    pub(crate) fn key<T: DeserializeOwned>(&self, key: &'static str) -> Result<Option<T>, Error> {
        match self.value(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                T::deserialize(value).map(Some).map_err(|source| Error::InvalidKey { key, source: source.into() })
            }
        }
    }
}

/// The value in compact form becomes the original form.
///
/// ```
/// use cnikit::spec::RawConfig;
/// use serde_json::json;
///
/// let raw: RawConfig = json!({"cniVersion": "1.1.0", "name": "dbnet", "type": "bridge"}).try_into()?;
/// assert_eq!(raw.name()?.as_str(), "dbnet");
/// # Ok::<(), cnikit::spec::Error>(())
/// ```
impl TryFrom<Value> for RawConfig {
    type Error = Error;

    /// # Errors
    ///
    /// [`Error::NotAnObject`].
    fn try_from(json: Value) -> Result<Self, Error> {
        let bytes = json.to_string().into_bytes();
        match json {
            Value::Object(object) => Ok(Self { bytes, object }),
            _ => Err(Error::NotAnObject),
        }
    }
}

impl IpamConf {
    /// Reads the IPAM plugin's own keys, without `type`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidKey`].
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, Error> {
        T::deserialize(&self.other).map_err(|source| Error::InvalidKey { key: "ipam", source: source.into() })
    }
}
