//! The error of a command.

use std::io;
use std::path::PathBuf;

use cnikit::{datapath, ipam, netlink, plugin, runtime, spec};

use super::{advice, format, grpc};
use crate::NAME;

/// The reason why a command failed.
// The text contains the text of `r#source`. The raw name hides the field from thiserror, so a
// printed chain of sources does not repeat the text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    // Errors of the library.
    #[error(transparent)]
    Leases(#[from] ipam::Error),

    #[error(transparent)]
    Network(#[from] runtime::Error),

    #[error(transparent)]
    Datapath(#[from] datapath::Error),

    #[error(transparent)]
    Netlink(#[from] netlink::Error),

    #[error(transparent)]
    Library(#[from] cnikit::Error),

    #[error(transparent)]
    Plugin(#[from] plugin::PluginError),

    // Input and output of any command.
    #[error("cannot {operation} {}: {source}{}", .path.display(), advice::for_file(.source))]
    File { operation: &'static str, path: PathBuf, r#source: io::Error },

    #[error("cannot write to standard output: {0}")]
    Output(io::Error),

    #[error("cannot write JSON: {0}")]
    Json(serde_json::Error),

    #[error(
        "there is no report of the node agent in {}: deploy/simple-ebpf-cni.yaml runs the agent on each node of a \
         cluster, and a single node needs none",
        simple_ebpf_cni::agent::REPORT
    )]
    NoAgent,

    #[error("cannot use the terminal: {0}")]
    Terminal(io::Error),

    // Selection of networks and their configurations.
    #[error("this process lacks {missing}: run it as root")]
    Unprivileged { missing: String },

    #[error("there is no network {network} on this node; {}", list_networks(.present))]
    UnknownNetwork { network: spec::NetworkName, present: Vec<String> },

    #[error("{} has no plugin of type {NAME}; select a file that configures it", .path.display())]
    NotOurs { path: PathBuf },

    #[error("cannot use {}: {source}", .path.display())]
    Config { path: PathBuf, r#source: cnikit::Error },

    /// A report has problems. The command has printed them with their fixes.
    #[error("{}", format::count(*.0, "problem"))]
    Problems(usize),

    // `leases`.
    #[error("{} has no leases of a network {network}; {}", .data_dir.display(), list_networks(.present))]
    NoSuchNetwork { network: spec::NetworkName, data_dir: PathBuf, present: Vec<String> },

    #[error(
        "{} configures no address ranges of {NAME}: add the ranges of the imported leases, such as \
         \"subnet\": \"10.244.1.0/24\"; a plugin in \"ipam.type\" keeps its own leases",
        .path.display()
    )]
    NoRanges { path: PathBuf },

    // `gc`.
    #[error("cannot use the containers in {list}: {cause}; write one container id per line")]
    ContainerList { list: String, cause: spec::Error },

    #[error("cannot read {list}: {cause}; name a text file with one container id per line")]
    UnreadableList { list: String, cause: io::Error },

    #[error(
        "{list} is empty, and this node has attachments: the command that lists the pods may have failed; if no \
         container is valid, use --valid /dev/null"
    )]
    EmptyList { list: String },

    #[error(
        "no runtime has a socket at {searched}; select it with --runtime-endpoint, or pass the valid containers \
         with --valid"
    )]
    NoRuntime { searched: String },

    #[error("cannot list the pods of the runtime at {}: {cause}; {}", .socket.display(), .cause.remedy())]
    Runtime { socket: PathBuf, cause: grpc::Error },

    #[error(
        "{list} lists no attachment of this node, so --force could remove every pod; select the runtime of the pods \
         with --runtime-endpoint"
    )]
    NoneListed { list: String },

    // `install` and `uninstall`.
    #[error("cannot parse the install manifest {}: {source}; correct or remove the file", .path.display())]
    Manifest { path: PathBuf, r#source: serde_json::Error },

    #[error("another install or uninstall is using {}; wait until it ends", .data_dir.display())]
    Busy { data_dir: PathBuf },

    #[error("{} is not a file that {NAME} wrote, or was changed since; remove it, or overwrite it with --force", .path.display())]
    Foreign { path: PathBuf },

    #[error("{} already configures the network {network}; remove it, or add a second file with --force", .path.display())]
    Configured { network: spec::NetworkName, path: PathBuf },

    #[error("{} sorts before every possible file name; remove it, or accept a later position with --order", .first.display())]
    NotFirst { first: PathBuf },

    #[error(
        "{} attached (see {NAME} pods); remove {1} first, or leave {1} without a plugin with --force",
        format::count_are(*.pods, "pod"),
        if *.pods == 1 { "it" } else { "them" }
    )]
    Attached { pods: usize },
}

impl Error {
    /// What an operator can do about the error.
    pub(crate) fn advice(&self) -> String {
        match self {
            Self::Leases(error) => advice::for_ipam(error),
            Self::Datapath(error) | Self::Library(cnikit::Error::Bpf(error)) => advice::for_datapath(error),
            Self::Netlink(error) | Self::Library(cnikit::Error::Netlink(error)) => advice::for_netlink(error),
            _ => advice::REPORT.into(),
        }
    }
}

// `#[from]` would make the error a source too.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error)
    }
}

fn list_networks(present: &[String]) -> String {
    if present.is_empty() { "there are no networks".into() } else { format!("there are {}", present.join(", ")) }
}
