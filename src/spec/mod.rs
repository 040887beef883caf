//! The protocol of the [CNI specification] as types: no input, no output, no system calls.
//!
//! | Part of the protocol | Types |
//! |---|---|
//! | `CNI_COMMAND` and the parameters of each verb | [`Command`], [`CommandSpec`], [`Environment`], [`Args`] |
//! | the Kubernetes pod in `CNI_ARGS` | [`KubernetesPod`] |
//! | the configuration on standard input | [`RawConfig`], [`NetConf`], [`RuntimeConfig`], [`ValidAttachments`] |
//! | the result of `ADD` | [`AddResult`] and its parts |
//! | an error | [`ErrorCode`], [`ErrorDocument`] |
//!
//! All seven published versions are supported ([`Version`]). [`AddResult`] has the fields of the
//! newest version; [`AddResult::to_json`] and [`AddResult::from_json`] convert it to and from the
//! form of any other.
//!
//! An [`Attachment`] is the identity from which all other names derive. The names and MAC addresses
//! of its links are a function of network, container id and interface name. No state is needed to
//! find the links again.
//!
//! [CNI specification]: https://www.cni.dev/docs/spec/

mod args;
mod attachment;
mod attachment_key;
mod config;
mod convert;
mod environment;
mod error;
mod ifindex;
pub(crate) mod lenient;
mod mac;
mod name;
mod pod;
mod protocol;
mod requested;
mod result;
mod runtime_config;
mod valid_attachments;
mod version;
mod vlan_id;

pub use args::Args;
pub use attachment::Attachment;
pub use attachment_key::AttachmentKey;
pub use config::{CniArgs, IpamConf, Label, NetConf, RawConfig};
pub use environment::{Environment, InvalidVariable};
pub use error::{Error, ErrorCode, ErrorDocument, HasErrorCode, Result, UnsupportedField};
pub use ifindex::IfIndex;
pub use mac::MacAddr;
pub use name::{ContainerId, IfName, NetworkName, PluginType, PodName, PodNamespace, PodUid};
pub use pod::KubernetesPod;
pub use protocol::{Command, CommandSpec, Requirement, Variable};
pub use result::{AddResult, Dns, Interface, IpConfig, Route};
pub use runtime_config::{Bandwidth, IpRange, PortMapping, RuntimeConfig, RuntimeDns};
pub use valid_attachments::ValidAttachments;
pub use version::Version;
pub use vlan_id::{InvalidVlanId, VlanId};
