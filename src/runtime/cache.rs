use std::collections::HashSet;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::network::{in_file, result_value};
use super::{AttachmentParameters, Error, NetworkConfigList, base64};
use crate::spec::{AddResult, Args, Attachment, ContainerId, IfName, NetworkName, Version};

/// What a runtime remembers of its attachments: the results for `CHECK` and `DEL`, and what to undo them with.
///
/// One file per attachment, `<directory>/results/<network>-<container id>-<ifname>`, in the format of the reference
/// library: `cnitool`, containerd and this library find each other's attachments.
///
/// Two attachments can have the same file name: network `a-b` with container `c`, and network `a` with container `b-c`.
/// The reference library overwrites the first with the second. This library stores the second as
/// `<network>:-<container id>-:<ifname>`, which no other attachment can have, because none of the three parts holds a `:`.
/// The reference library lists that file, and does not find it by the attachment.
#[derive(Debug, Clone)]
pub struct ResultCache {
    results: PathBuf,
}

/// An attachment as the cache knows it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CachedAttachment {
    /// The network.
    pub network: NetworkName,
    /// The parameters of the `ADD`.
    pub parameters: AttachmentParameters,
    /// The network's configuration at that time: what [`NetworkConfigList::parse`] reads. Very old files do not have it.
    pub config: Option<Vec<u8>>,
    /// What the `ADD` made.
    pub result: AddResult,
}

/// The content of a file. The names and the kind are the reference library's.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    kind: Kind,
    container_id: ContainerId,
    #[serde(with = "base64")]
    config: Vec<u8>,
    if_name: IfName,
    network_name: NetworkName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    netns: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cni_args: Option<Vec<(String, String)>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    capability_args: Option<Map<String, Value>>,
    #[serde(default)]
    result: Value,
}

#[derive(Serialize, Deserialize)]
enum Kind {
    #[serde(rename = "cniCacheV1")]
    CacheV1,
}

/// How often a store tries to get the shared file name. Each further attempt means that another attachment with this
/// name was removed meanwhile.
const PLACE_ATTEMPTS: usize = 16;

impl ResultCache {
    /// Where the reference library keeps its cache.
    pub const DEFAULT_DIR: &str = "/var/lib/cni";

    /// The cache in a directory, which need not exist yet.
    pub fn new(dir: impl AsRef<Path>) -> Self {
        Self { results: dir.as_ref().join("results") }
    }

    /// Remembers an attachment, instead of what was remembered of it. The file appears with all of its content, or not
    /// at all.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], or [`Error::Spec`] when the network's version cannot hold the result.
    pub fn store(
        &self,
        network: &NetworkConfigList,
        parameters: &AttachmentParameters,
        result: &AddResult,
    ) -> Result<(), Error> {
        let pairs: Vec<_> = parameters.args.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let record = Record {
            kind: Kind::CacheV1,
            container_id: parameters.container_id.clone(),
            config: network.as_bytes().to_owned(),
            if_name: parameters.ifname.clone(),
            network_name: network.name.clone(),
            netns: parameters.netns.clone(),
            cni_args: Some(pairs).filter(|pairs| !pairs.is_empty()),
            capability_args: Some(parameters.capability_args.clone()).filter(|args| !args.is_empty()),
            result: result_value(result, network.cni_version)?,
        };
        let attachment = parameters.attachment(&network.name);
        let path = self.path(&attachment);
        let json = serde_json::to_vec(&record).map_err(io::Error::from).map_err(Error::io("write", &path))?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.results)
            .map_err(Error::io("make", &self.results))?;
        self.write(&attachment, &json)
    }

    /// What is remembered of an attachment.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::CorruptCache`], or [`Error::File`] with what is wrong with the result.
    pub fn attachment(&self, attachment: &Attachment) -> Result<Option<CachedAttachment>, Error> {
        let path = self.path(attachment);
        let found = Found::of(&path, attachment);
        if let Ok(Found::Ours(cached)) = found {
            return Ok(Some(*cached));
        }
        let own_path = self.own_path(attachment);
        match (Found::of(&own_path, attachment)?, found?) {
            (Found::Ours(cached), _) | (_, Found::ResultAlone(cached)) => Ok(Some(*cached)),
            _ => Ok(None),
        }
    }

    /// All attachments that are remembered, in the order of their files' names. Files that cannot be understood are
    /// passed over: they are those of other programs, or of times long gone.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the directory cannot be listed.
    pub fn attachments(&self) -> Result<Vec<CachedAttachment>, Error> {
        let entries = match fs::read_dir(&self.results) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(Error::io("list", &self.results))?,
        };
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort_unstable();
        let understood = |path: &PathBuf| {
            let record: Record = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
            record.into_attachment().ok()
        };
        // A crash of `store` can leave both files of an attachment. The name that is shared sorts first, and is the newer.
        let mut seen = HashSet::new();
        let mut is_first = |cached: &CachedAttachment| seen.insert(cached.parameters.attachment(&cached.network));
        Ok(paths.iter().filter_map(understood).filter(|cached| is_first(cached)).collect())
    }

    /// Forgets an attachment. One that is not remembered is forgotten already.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn remove(&self, attachment: &Attachment) -> Result<(), Error> {
        let path = self.path(attachment);
        if !matches!(Found::of(&path, attachment), Ok(Found::Nothing | Found::Others)) {
            remove(&path)?;
        }
        remove(&self.own_path(attachment))
    }

    /// The path that the reference library uses, which other attachments may share.
    fn path(&self, Attachment { network, container_id, ifname }: &Attachment) -> PathBuf {
        self.results.join(format!("{network}-{container_id}-{ifname}"))
    }

    /// The path that no other attachment shares. The reference library looks for `-<container id>-` in the name when it lists
    /// the attachments of a container.
    fn own_path(&self, Attachment { network, container_id, ifname }: &Attachment) -> PathBuf {
        self.results.join(format!("{network}:-{container_id}-:{ifname}"))
    }

    fn write(&self, attachment: &Attachment, json: &[u8]) -> Result<(), Error> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = self.results.join(format!(".{}-{number}.tmp", std::process::id()));
        // A process with the same id, in another PID namespace or before a crash, may have left the name. `create_new`
        // follows no symbolic link, which `create` would write through.
        remove(&temporary)?;
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(json))
            .map_err(Error::io("write", &temporary))
            .and_then(|()| self.place(&temporary, attachment));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Gives a file the name of an attachment: the shared one unless another attachment has it.
    fn place(&self, file: &Path, attachment: &Attachment) -> Result<(), Error> {
        let (path, own_path) = (self.path(attachment), self.own_path(attachment));
        for _ in 0..PLACE_ATTEMPTS {
            // A link fails if the name exists, so of two attachments that are stored at once only one gets the shared name.
            let Err(error) = fs::hard_link(file, &path) else {
                remove(file)?;
                return remove(&own_path);
            };
            // Or the file system has no links.
            match Found::of(&path, attachment) {
                Ok(Found::Others) => break,
                // Another attachment was just removed, and a third one may be about to take the name. A symbolic link that
                // leads nowhere stays, so the file replaces it.
                Ok(Found::Nothing) if error.kind() == io::ErrorKind::AlreadyExists && !path.is_symlink() => {}
                _ => {
                    fs::rename(file, &path).map_err(Error::io("write", &path))?;
                    return remove(&own_path);
                }
            }
        }
        // No other attachment has this name.
        fs::rename(file, &own_path).map_err(Error::io("write", &own_path))
    }
}

/// The relation of a file to an attachment.
enum Found {
    Nothing,
    Ours(Box<CachedAttachment>),
    /// The result alone, without the attachment: the format of files until 2019.
    ResultAlone(Box<CachedAttachment>),
    /// Another attachment has the same file name.
    Others,
}

impl Found {
    fn of(path: &Path, attachment: &Attachment) -> Result<Self, Error> {
        let Some(bytes) = read(path)? else { return Ok(Self::Nothing) };
        let json: Value = serde_json::from_slice(&bytes).map_err(corrupt(path))?;
        if json.get("kind").is_none() {
            let result = AddResult::from_json(&json, Version::IMPLICIT).map_err(in_file(path))?;
            let parameters = AttachmentParameters::new(attachment.container_id.clone(), attachment.ifname.clone());
            let network = attachment.network.clone();
            return Ok(Self::ResultAlone(Box::new(CachedAttachment { network, parameters, config: None, result })));
        }
        let record = Record::deserialize(json).map_err(corrupt(path))?;
        if record.attachment() != *attachment {
            return Ok(Self::Others);
        }
        Ok(Self::Ours(Box::new(record.into_attachment().map_err(in_file(path))?)))
    }
}

impl Record {
    fn attachment(&self) -> Attachment {
        Attachment::new(self.network_name.clone(), self.container_id.clone(), self.if_name.clone())
    }

    fn into_attachment(self) -> Result<CachedAttachment, crate::spec::Error> {
        let args = self.cni_args.unwrap_or_default().into_iter().map(|(key, value)| format!("{key}={value}"));
        let args: Args = args.collect::<Vec<_>>().join(";").parse()?;
        let parameters = AttachmentParameters {
            container_id: self.container_id,
            ifname: self.if_name,
            netns: self.netns.filter(|path| !path.as_os_str().is_empty()),
            args,
            capability_args: self.capability_args.unwrap_or_default(),
        };
        let result = AddResult::from_json(&self.result, Version::IMPLICIT)?;
        Ok(CachedAttachment { network: self.network_name, parameters, config: Some(self.config), result })
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        outcome => outcome.map(Some).map_err(Error::io("read", path)),
    }
}

/// Removes a file; one that is absent is removed already.
fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.map_err(Error::io("remove", path)),
    }
}

fn corrupt(path: &Path) -> impl Fn(serde_json::Error) -> Error {
    move |source| Error::CorruptCache { path: path.to_owned(), source }
}
