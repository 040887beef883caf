use std::collections::BTreeSet;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{AttachmentParameters, Error};
use crate::spec::{self, AddResult, AttachmentKey, Command, NetworkName, PluginType, RawConfig, Version};

/// The keys of the valid attachments in a `GC`. An earlier text of the specification has the second
/// key; existing plugins read either.
const VALID_ATTACHMENTS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// A network configuration: the plugins of an attachment, in order.
///
/// See
/// [Network configuration format](https://www.cni.dev/docs/spec/#section-1-network-configuration-format).
///
/// ```
/// use cnikit::runtime::NetworkConfigList;
/// use cnikit::spec::Version;
///
/// let network = NetworkConfigList::parse(
///     br#"{
///         "cniVersion": "0.4.0", "cniVersions": ["0.3.1", "0.4.0", "1.1.0", "2.0.0"], "name": "dbnet",
///         "plugins": [{"type": "bridge"}, {"type": "portmap", "capabilities": {"portMappings": true}}]
///     }"#,
/// )?;
/// assert_eq!(network.cni_version, Version::V1_1_0); // the highest that this library supports
/// assert_eq!(network.plugins[1].plugin_type.as_str(), "portmap");
/// assert!(network.capabilities().contains("portMappings"));
/// # Ok::<(), cnikit::runtime::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NetworkConfigList {
    /// `name`
    pub name: NetworkName,
    /// The highest version in `cniVersion` and `cniVersions` that this library supports.
    pub cni_version: Version,
    /// `disableCheck`: `CHECK` must not be called.
    pub disable_check: bool,
    /// `disableGC`: `GC` must not be called.
    pub disable_gc: bool,
    /// `loadOnlyInlinedPlugins`: ignore the directory with the name of the network.
    pub load_only_inlined_plugins: bool,
    /// The plugins. A network from a file has at least one.
    pub plugins: Vec<PluginConfig>,
    bytes: Vec<u8>,
}

/// The configuration of one plugin in a network configuration.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PluginConfig {
    /// `type`: the name of the executable.
    pub plugin_type: PluginType,
    /// The capabilities that the plugin declares with `true`.
    pub capabilities: BTreeSet<String>,
    object: Map<String, Value>,
}

impl NetworkConfigList {
    /// Parses a configuration: a list of plugins as in `.conflist` files, or a single plugin as in
    /// `.conf` and `.json` files. A single plugin becomes a list of one.
    ///
    /// A list without the key `plugins` is valid here. Its plugins may be in separate files, which
    /// [`load_file`](Self::load_file) reads.
    ///
    /// # Errors
    ///
    /// [`Error::Spec`], [`Error::InvalidPlugin`] or [`Error::NoPlugins`].
    pub fn parse(bytes: impl Into<Vec<u8>>) -> Result<Self, Error> {
        let raw = RawConfig::parse(bytes)?;
        if raw.value("plugins").is_none() && raw.value("type").is_some() {
            return Self::of_one(&raw);
        }
        let (name, cni_version) = (raw.name()?, version_of(&raw)?);
        let load_only_inlined_plugins = flag(&raw, "loadOnlyInlinedPlugins")?;
        let plugins = match raw.key::<Vec<Value>>("plugins")? {
            None if load_only_inlined_plugins => return Err(Error::NoPlugins { network: name }),
            None => Vec::new(),
            Some(list) if list.is_empty() => return Err(Error::NoPlugins { network: name }),
            Some(list) => list.into_iter().enumerate().map(PluginConfig::in_list).collect::<Result<_, _>>()?,
        };
        Ok(Self {
            name,
            cni_version,
            disable_check: flag(&raw, "disableCheck")?,
            disable_gc: flag(&raw, "disableGC")?,
            load_only_inlined_plugins,
            plugins,
            bytes: raw.as_bytes().to_owned(),
        })
    }

    /// The configuration in the form of a list, in its original bytes. Plugins from separate files
    /// are not included.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The capabilities that any plugin declares.
    pub fn capabilities(&self) -> BTreeSet<&str> {
        self.plugins.iter().flat_map(|plugin| &plugin.capabilities).map(String::as_str).collect()
    }

    fn of_one(raw: &RawConfig) -> Result<Self, Error> {
        let (name, cni_version) = (raw.name()?, version_of(raw)?);
        let plugin = PluginConfig::parse(raw.as_bytes())?;
        let list = json!({ "cniVersion": cni_version, "name": name, "plugins": [plugin.object] });
        Ok(Self {
            name,
            cni_version,
            disable_check: false,
            disable_gc: false,
            load_only_inlined_plugins: true,
            plugins: vec![plugin],
            bytes: list.to_string().into_bytes(),
        })
    }

    /// A plugin's configuration for a verb of one attachment.
    pub(super) fn for_attachment(
        &self,
        plugin: &PluginConfig,
        parameters: &AttachmentParameters,
        prev_result: Option<&AddResult>,
    ) -> Result<RawConfig, Error> {
        let mut object = self.derived(plugin);
        object.remove("capabilities");
        object.remove("prevResult");
        if let Some(result) = prev_result {
            object.insert("prevResult".into(), result_value(result, self.cni_version)?);
        }
        let offered = parameters.capability_args.iter().filter(|(name, _)| plugin.capabilities.contains(*name));
        let runtime_config: Map<String, Value> = offered.map(|(name, value)| (name.clone(), value.clone())).collect();
        if !runtime_config.is_empty() {
            object.insert("runtimeConfig".into(), runtime_config.into());
        }
        raw_config(object)
    }

    /// A plugin's configuration for `GC`.
    pub(super) fn for_gc(&self, plugin: &PluginConfig, valid: &[AttachmentKey]) -> Result<RawConfig, Error> {
        let mut object = self.derived(plugin);
        object.extend(VALID_ATTACHMENTS.map(|key| (key.to_owned(), json!(valid))));
        raw_config(object)
    }

    /// A plugin's configuration for `STATUS`.
    pub(super) fn for_status(&self, plugin: &PluginConfig) -> Result<RawConfig, Error> {
        raw_config(self.derived(plugin))
    }

    /// Checks that the network's version defines a verb.
    ///
    /// # Errors
    ///
    /// [`spec::Error::CommandTooNew`].
    pub(super) fn require(&self, command: Command) -> Result<(), spec::Error> {
        let version = self.cni_version;
        if version < command.spec().since { Err(spec::Error::CommandTooNew { command, version }) } else { Ok(()) }
    }

    /// Adds the keys that the specification requires for every verb. Keys with the specification's
    /// own prefix may come only from the runtime.
    fn derived(&self, plugin: &PluginConfig) -> Map<String, Value> {
        let mut object = plugin.object.clone();
        object.retain(|key, _| !key.starts_with("cni.dev/"));
        object.insert("name".into(), self.name.as_str().into());
        object.insert("cniVersion".into(), self.cni_version.as_str().into());
        object
    }
}

impl PluginConfig {
    /// Parses one plugin's configuration.
    ///
    /// # Errors
    ///
    /// [`spec::Error`]
    pub fn parse(bytes: impl Into<Vec<u8>>) -> Result<Self, spec::Error> {
        let raw = RawConfig::parse(bytes)?;
        let object = raw.decode()?;
        let capabilities: Map<String, Value> = raw.key("capabilities")?.unwrap_or_default();
        Ok(Self {
            plugin_type: raw.required("type")?,
            capabilities: capabilities.into_iter().filter(|(_, has)| *has == true).map(|(name, _)| name).collect(),
            object,
        })
    }

    /// Reads the plugin's own keys, as [`RawConfig::decode`] does.
    ///
    /// # Errors
    ///
    /// The errors of [`RawConfig::decode`].
    pub fn decode<C: DeserializeOwned>(&self) -> Result<C, spec::Error> {
        RawConfig::parse(Value::Object(self.object.clone()).to_string())?.decode()
    }

    fn in_list((index, value): (usize, Value)) -> Result<Self, Error> {
        Self::parse(value.to_string()).map_err(|source| Error::InvalidPlugin { index, source })
    }
}

/// Adds the path of the file to an error.
pub(super) fn in_file<E: Into<Error>>(path: &Path) -> impl FnOnce(E) -> Error {
    move |error| Error::File { path: path.to_owned(), source: Box::new(error.into()) }
}

/// Formats a result as the JSON of a version.
pub(super) fn result_value(result: &AddResult, version: Version) -> Result<Value, spec::Error> {
    serde_json::from_str(&result.to_json(version)?).map_err(|source| spec::Error::Unwritable { source: source.into() })
}

fn raw_config(object: Map<String, Value>) -> Result<RawConfig, Error> {
    Ok(RawConfig::parse(Value::Object(object).to_string())?)
}

/// Unknown versions in the list are for newer runtimes.
fn version_of(raw: &RawConfig) -> Result<Version, spec::Error> {
    let stated = raw.cni_version();
    let listed: Option<Vec<String>> = raw.key("cniVersions")?;
    let Some(newest) = listed.iter().flatten().filter_map(|text| text.parse::<Version>().ok()).max() else {
        return stated;
    };
    match stated {
        Ok(stated) => Ok(newest.max(stated)),
        Err(spec::Error::UnknownVersion { .. }) => Ok(newest),
        Err(error) => Err(error),
    }
}

/// Reads a boolean, which may also be a string.
fn flag(raw: &RawConfig, name: &'static str) -> Result<bool, spec::Error> {
    match raw.value(name).and_then(Value::as_str).map(str::to_ascii_lowercase).as_deref() {
        Some("true") => Ok(true),
        Some("false") => Ok(false),
        _ => Ok(raw.key(name)?.unwrap_or_default()),
    }
}
