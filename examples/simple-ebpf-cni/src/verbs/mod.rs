//! The CNI verbs. Each verb has one module; the others are steps that several verbs share.

pub(crate) mod add;
mod addresses;
pub(crate) mod check;
mod container;
pub(crate) mod del;
pub(crate) mod detach;
pub(crate) mod gc;
mod requested;
mod rollback;
pub(crate) mod status;
