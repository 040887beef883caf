//! The plugin leaves nothing after kills, failed system calls, races and many calls. See
//! docs/reliability.md.
//!
//! The short forms run with all tests. The long forms test every point and run longer.
//! `CNIKIT_LONG_TESTS=1` or `make soak` selects them.

mod fail;
mod faults;
mod first;
mod kill;
mod networks;
mod race;
mod random;
mod scenario;
mod soak;
mod storm;
#[path = "../blackbox/support.rs"]
#[expect(dead_code, reason = "the other test binary uses the rest")]
mod support;
mod sweep;

/// Whether the long forms are selected.
fn is_long() -> bool {
    std::env::var("CNIKIT_LONG_TESTS").as_deref() == Ok("1")
}
