//! What the plugin leaves when it is killed, when the kernel refuses it something, when calls race and after many of
//! them: nothing. See docs/reliability.md.
//!
//! The short forms run with all tests. `CNIKIT_LONG_TESTS=1`, or `make soak`, makes them try every point, and go on for
//! longer.

mod attachment;
mod chance;
mod fail;
mod faults;
mod first;
mod kill;
mod networks;
mod race;
mod soak;
mod storm;
#[path = "../blackbox/support.rs"]
#[expect(dead_code, reason = "what is not needed here is needed by the other test binary")]
mod support;
mod sweep;

/// Whether there is time for the long forms.
fn is_long() -> bool {
    std::env::var("CNIKIT_LONG_TESTS").as_deref() == Ok("1")
}
