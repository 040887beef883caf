//! The side of the protocol that calls plugins, for plugins that delegate and for runtimes.
//!
//! | Task | Use |
//! |---|---|
//! | delegate a call to the plugin in `ipam.type`, and roll it back after an error | [`Delegate`], [`Delegated`], [`Prior`] |
//! | attach, check and detach containers with a network configuration | [`Runtime`], [`AttachmentParameters`] |
//! | read network configurations from `/etc/cni/net.d` | [`NetworkConfigList`], [`PluginConfig`] |
//! | list the attachments | [`ResultCache`], [`CachedAttachment`] |
//! | run one plugin with one verb | [`find()`], [`Invocation`] |
//!
//! The module does the same as the reference library for containerd, CRI-O and `cnitool`, and reads
//! and writes the same files. It differs for safety: calls can have a timeout, a failed `ADD` is
//! rolled back, and a duplicate `ADD` deletes nothing.
//!
//! The module needs no privileges; the plugins do.

mod base64;
mod cache;
mod chain;
mod delegate;
mod error;
mod find;
mod invoke;
mod load;
mod network;
mod parameters;
mod process;

pub use cache::{CachedAttachment, ResultCache};
pub use chain::Runtime;
pub use delegate::{Delegable, Delegate, Delegated, Prior};
pub use error::{Error, Result};
pub use find::find;
pub use invoke::Invocation;
pub use network::{NetworkConfigList, PluginConfig};
pub use parameters::AttachmentParameters;
