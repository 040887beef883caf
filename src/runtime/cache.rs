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

/// A runtime's records of its attachments: the results for `CHECK` and `DEL`, and the parameters
/// for `DEL`.
///
/// One file per attachment, `<directory>/results/<network>-<container id>-<ifname>`, in the format
/// of the reference library. `cnitool`, containerd and this library can therefore read each other's
/// records.
///
/// Two attachments can have the same file name: network `a-b` with container `c`, and network `a`
/// with container `b-c`. The reference library overwrites the first record with the second. This
/// library stores the second as `<network>:-<container id>-:<ifname>`. No other attachment has that
/// name, because no part contains a `:`. The reference library lists that file, but does not find
/// it by its attachment.
#[derive(Debug, Clone)]
pub struct ResultCache {
    results: PathBuf,
}

/// An attachment as recorded in the cache.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CachedAttachment {
    /// The network.
    pub network: NetworkName,
    /// The parameters of the `ADD`.
    pub parameters: AttachmentParameters,
    /// The network's configuration at the time of the `ADD`, in the form of
    /// [`NetworkConfigList::parse`]. Very old files do not contain it.
    pub config: Option<Vec<u8>>,
    /// The result of the `ADD`.
    pub result: AddResult,
}

impl CachedAttachment {
    /// The identity of the attachment.
    #[must_use]
    pub fn attachment(&self) -> Attachment {
        self.parameters.attachment(&self.network)
    }
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

/// Attempts of a store to obtain the shared file name. An attempt fails only if another attachment
/// of this name was removed at the same time.
const RENAME_ATTEMPTS: usize = 16;

impl ResultCache {
    /// The cache directory of the reference library.
    pub const DEFAULT_DIR: &str = "/var/lib/cni";

    /// Creates a cache in a directory, which need not exist yet.
    pub fn new(dir: impl AsRef<Path>) -> Self {
        Self { results: dir.as_ref().join("results") }
    }

    /// Stores an attachment, and replaces its previous record. The file appears with its whole
    /// content, or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], or [`Error::Spec`] if the network's version cannot represent the result.
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
            .map_err(Error::io("create", &self.results))?;
        self.write(&attachment, &json)
    }

    /// Returns the record of an attachment, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::CorruptCache`], or [`Error::File`] if the result is invalid.
    pub fn attachment(&self, attachment: &Attachment) -> Result<Option<CachedAttachment>, Error> {
        let path = self.path(attachment);
        let found = StoredFile::of(&path, attachment);
        if let Ok(StoredFile::Ours(cached)) = found {
            return Ok(Some(*cached));
        }
        let unshared_path = self.unshared_path(attachment);
        match (StoredFile::of(&unshared_path, attachment)?, found?) {
            (StoredFile::Ours(cached), _) | (_, StoredFile::ResultAlone(cached)) => Ok(Some(*cached)),
            _ => Ok(None),
        }
    }

    /// Returns all recorded attachments, in the order of their file names. Unreadable files are
    /// skipped: they belong to other programs, or have an obsolete format.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the directory cannot be listed.
    pub fn attachments(&self) -> Result<Vec<CachedAttachment>, Error> {
        let entries = match fs::read_dir(&self.results) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(Error::io("list", &self.results))?,
        };
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort_unstable();
        let parse = |path: &PathBuf| {
            let record: Record = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
            record.into_attachment().ok()
        };
        // A crash of `store` can leave both files of an attachment. The shared name sorts first,
        // and its file is the newer one.
        let mut seen = HashSet::new();
        let mut is_first = |cached: &CachedAttachment| seen.insert(cached.parameters.attachment(&cached.network));
        Ok(paths.iter().filter_map(parse).filter(|cached| is_first(cached)).collect())
    }

    /// Removes the record of an attachment. Succeeds if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn remove(&self, attachment: &Attachment) -> Result<(), Error> {
        let path = self.path(attachment);
        if !matches!(StoredFile::of(&path, attachment), Ok(StoredFile::Nothing | StoredFile::Others)) {
            remove(&path)?;
        }
        remove(&self.unshared_path(attachment))
    }

    /// The path of the reference library, which other attachments may share.
    fn path(&self, Attachment { network, container_id, ifname }: &Attachment) -> PathBuf {
        self.results.join(format!("{network}-{container_id}-{ifname}"))
    }

    /// The path that no other attachment shares. The reference library searches for
    /// `-<container id>-` in the name when it lists the attachments of a container.
    fn unshared_path(&self, Attachment { network, container_id, ifname }: &Attachment) -> PathBuf {
        self.results.join(format!("{network}:-{container_id}-:{ifname}"))
    }

    fn write(&self, attachment: &Attachment, json: &[u8]) -> Result<(), Error> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = self.results.join(format!(".{}-{number}.tmp", std::process::id()));
        // A process with the same id, in another PID namespace or before a crash, may have left the
        // file. `create_new` does not follow a symbolic link, which `create` would write through.
        remove(&temporary)?;
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(json))
            .map_err(Error::io("write", &temporary))
            .and_then(|()| self.rename(&temporary, attachment));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Renames a file to the name of an attachment: the shared name, unless another attachment has
    /// it.
    fn rename(&self, file: &Path, attachment: &Attachment) -> Result<(), Error> {
        let (path, unshared_path) = (self.path(attachment), self.unshared_path(attachment));
        for _ in 0..RENAME_ATTEMPTS {
            // A link fails if the name exists, so only one of two concurrent stores gets the
            // shared name.
            let Err(error) = fs::hard_link(file, &path) else {
                remove(file)?;
                return remove(&unshared_path);
            };
            // Another reason is a file system without hard links.
            match StoredFile::of(&path, attachment) {
                Ok(StoredFile::Others) => break,
                // Another attachment was just removed, and a third one may take the name: try
                // again. A dangling symbolic link would stay, so the file replaces it.
                Ok(StoredFile::Nothing) if error.kind() == io::ErrorKind::AlreadyExists && !path.is_symlink() => {}
                _ => {
                    fs::rename(file, &path).map_err(Error::io("write", &path))?;
                    return remove(&unshared_path);
                }
            }
        }
        // No other attachment has this name.
        fs::rename(file, &unshared_path).map_err(Error::io("write", &unshared_path))
    }
}

/// The content of a file, relative to an attachment.
enum StoredFile {
    Nothing,
    Ours(Box<CachedAttachment>),
    /// Only the result, without the attachment: the format until 2019.
    ResultAlone(Box<CachedAttachment>),
    /// Another attachment has the same file name.
    Others,
}

impl StoredFile {
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

/// Removes a file. Succeeds if it is absent.
fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.map_err(Error::io("remove", path)),
    }
}

fn corrupt(path: &Path) -> impl Fn(serde_json::Error) -> Error {
    move |source| Error::CorruptCache { path: path.to_owned(), source }
}
