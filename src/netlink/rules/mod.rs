//! Rules of policy routing.

mod message;
mod operations;
mod rule;

pub use rule::{RoutingRule, RuleAction};
