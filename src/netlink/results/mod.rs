//! The result of a CNI plugin: applied to an interface, and compared with it.

mod configure;
mod verify;

pub use configure::ConfiguredInterface;
pub use verify::{Difference, INTERFACE_DIFFERS, VerifyError};
