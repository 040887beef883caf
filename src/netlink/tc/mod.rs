//! Traffic control: qdiscs, and the filters in them.

mod clsact;
mod filter;
mod message;
mod mirred;
mod qdisc;
mod redirect;
mod tbf;

pub use clsact::{IngressQdisc, SharedBlock, SharedBlocks};
pub use filter::{BpfFilter, FilterInfo, FilterTarget};
pub use qdisc::{Qdisc, QdiscParent, QdiscStats};
pub use redirect::Redirect;
pub use tbf::{RateError, Tbf};
