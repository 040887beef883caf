//! The side of the protocol that calls plugins: for plugins that delegate, and for runtimes.
//!
//! | To do what | Use |
//! |---|---|
//! | have `ipam.type` serve the call that your plugin serves, and undo that when you fail | [`Delegate`], [`Delegated`], [`Prior`] |
//! | attach, check and detach containers by a network configuration | [`Runtime`], [`AttachmentParameters`] |
//! | read network configurations from `/etc/cni/net.d` | [`NetworkConfigList`], [`PluginConfig`] |
//! | know what is attached | [`ResultCache`], [`CachedAttachment`] |
//! | run one plugin with one verb | [`find()`], [`Invocation`] |
//!
//! It does what the reference library does for containerd, CRI-O and `cnitool`, and reads and writes the same files.
//! Where it differs, it is for safety: a plugin that hangs can be given a time limit, a failed `ADD` is undone, and an
//! `ADD` too many undoes nothing.
//!
//! Nothing here needs privileges; the plugins do.

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
pub use error::Error;
pub use find::find;
pub use invoke::Invocation;
pub use network::{NetworkConfigList, PluginConfig};
pub use parameters::AttachmentParameters;
