//! The containers that the runtime knows: its pod sandboxes, or a list from its client.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use cnikit::spec::ContainerId;

use crate::cli::error::Error;
use crate::cli::grpc::{self, Connection, TIMEOUT};

/// The sockets of runtimes, in the order of crictl.
const ENDPOINTS: [&str; 3] = ["/run/containerd/containerd.sock", "/run/crio/crio.sock", "/var/run/cri-dockerd.sock"];

/// crictl reads the same variable.
const ENDPOINT_VARIABLE: &str = "CONTAINER_RUNTIME_ENDPOINT";

const PROCEDURE: &str = "/runtime.v1.RuntimeService/ListPodSandbox";

/// The minimum length of an id that clients have cut. crictl prints 13 characters, docker 12.
const CUT_ID: usize = 12;

/// The containers that are valid, in any state.
pub(super) struct Listed {
    /// The file or socket of the list.
    pub(super) source: String,
    pub(super) ids: Vec<ContainerId>,
}

impl Listed {
    /// Reads a file with one id per line.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let (file, source) = match path.to_str() {
            Some("-") => (Path::new("/dev/stdin"), "standard input".to_owned()),
            _ => (path, path.display().to_string()),
        };
        let failed = |cause| Error::UnreadableList { list: source.clone(), cause };
        let text = fs::read_to_string(file).map_err(failed)?;
        let ids = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let ids: Result<_, _> = ids.map(str::parse).collect();
        Ok(Self { ids: ids.map_err(|cause| Error::ContainerList { list: source.clone(), cause })?, source })
    }

    /// Asks the runtime for its pod sandboxes.
    pub(super) fn ask(endpoint: Option<&Path>) -> Result<Self, Error> {
        let endpoint = endpoint.map(Path::to_owned).or_else(|| env::var_os(ENDPOINT_VARIABLE).map(PathBuf::from));
        let endpoint = match endpoint.filter(|endpoint| !endpoint.as_os_str().is_empty()) {
            Some(endpoint) => endpoint
                .to_str()
                .and_then(|text| text.strip_prefix("unix://"))
                .map_or_else(|| endpoint.clone(), PathBuf::from),
            None => {
                let found = ENDPOINTS.iter().map(Path::new).find(|path| path.exists());
                found.ok_or(Error::NoRuntime { searched: ENDPOINTS.join(", ") })?.to_owned()
            }
        };
        let response = Connection::open(&endpoint, TIMEOUT)
            .map_err(grpc::Error::from)
            .and_then(|mut connection| grpc::call(&mut connection, PROCEDURE))
            .and_then(|response| sandboxes(&response).ok_or(grpc::Error::Malformed("no list of pods")));
        let ids = response.map_err(|cause| Error::Runtime { socket: endpoint.clone(), cause })?;
        Ok(Self { ids, source: endpoint.display().to_string() })
    }

    /// Whether the list contains the container. The start of an id counts too: a wrong match only
    /// keeps an attachment.
    pub(super) fn contains(&self, container: &ContainerId) -> bool {
        self.ids
            .iter()
            .any(|id| id == container || id.as_str().len() >= CUT_ID && container.as_str().starts_with(id.as_str()))
    }
}

/// The ids in a `ListPodSandboxResponse`. `None` if it is invalid.
///
/// ```proto
/// message ListPodSandboxResponse { repeated PodSandbox items = 1; }
/// message PodSandbox { string id = 1; }
/// ```
fn sandboxes(mut response: &[u8]) -> Option<Vec<ContainerId>> {
    let mut ids = Vec::new();
    while !response.is_empty() {
        let Some(mut item) = first_field(&mut response)? else { continue };
        let mut id = None;
        while !item.is_empty() {
            // The last value of a field counts.
            id = first_field(&mut item)?.or(id);
        }
        ids.push(std::str::from_utf8(id?).ok()?.parse().ok()?);
    }
    Some(ids)
}

/// Takes a field from a message. Returns the content of field 1 with a length, and `Some(None)` for
/// other fields.
fn first_field<'a>(message: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    const FIRST_WITH_LENGTH: u64 = 1 << 3 | 2;
    let tag = varint(message)?;
    let length = match tag & 7 {
        0 => varint(message).map(|_| 0)?,
        1 => 8,
        2 => usize::try_from(varint(message)?).ok()?,
        5 => 4,
        // The deprecated groups.
        _ => return None,
    };
    let (content, rest) = message.split_at_checked(length)?;
    *message = rest;
    Some((tag == FIRST_WITH_LENGTH).then_some(content))
}

/// Takes a number of at most 64 bits.
fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, content.len() as u8], content].concat()
    }

    fn listed(ids: &[&str]) -> Listed {
        Listed { source: String::new(), ids: ids.iter().map(|id| id.parse().unwrap()).collect() }
    }

    /// Field 2 of a sandbox is a message, 3 and 4 are numbers.
    #[test]
    fn the_ids_are_found_among_other_fields() {
        let one = [field(2, b"\x0a\x03web"), field(1, b"one"), vec![3 << 3, 1, 4 << 3, 0x80, 0x80, 1]].concat();
        let two = [
            field(1, b"replaced"),
            vec![9 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8, 10 << 3 | 5, 1, 2, 3, 4],
            field(1, b"two"),
        ];
        let response = [field(1, &one), field(7, b"unknown"), field(1, &two.concat())].concat();
        let ids = sandboxes(&response).unwrap();
        assert_eq!(ids.iter().map(ContainerId::as_str).collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(sandboxes(b"").unwrap(), []);
        for end in 1..response.len() {
            // Only whole items give a list.
            let cut = sandboxes(&response[..end]);
            let is_whole = end == field(1, &one).len() || end == field(1, &one).len() + field(7, b"unknown").len();
            assert_eq!(cut.is_some(), is_whole, "{end}");
        }
    }

    #[test]
    fn broken_lists_are_refused() {
        for broken in [
            field(1, b""),
            field(1, &field(1, b"")),
            field(1, &field(1, b"../escape")),
            field(1, &field(1, &[0xff])),
            // A group, a length past the end, a number without an end, a length of 2^63.
            vec![1 << 3 | 3],
            vec![1 << 3 | 2, 9, 1],
            vec![0xff; 20],
            vec![1 << 3 | 2, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1],
        ] {
            assert_eq!(sandboxes(&broken), None, "{broken:?}");
        }
    }

    #[test]
    fn a_cut_id_counts_and_a_short_one_only_as_a_whole() {
        let whole: ContainerId = "0123456789abcdef".parse().unwrap();
        assert!(listed(&["0123456789abcdef"]).contains(&whole));
        assert!(listed(&["other", "0123456789ab"]).contains(&whole));
        assert!(!listed(&["0123456789a"]).contains(&whole));
        assert!(!listed(&["0123456789abcdef0"]).contains(&whole));
        assert!(!listed(&[]).contains(&whole));
    }
}
