//! The stack walk for backtraces, which a release does not have.
//!
//! The standard library finds the names of functions in debug information. A release has none, but
//! that code would be 6 % of the binary. Without a stack walk the compiler drops it.
#![expect(unsafe_code, reason = "only a symbol of this name replaces libunwind's function")]

use std::ffi::{c_int, c_void};

/// `_URC_END_OF_STACK`: the walk is complete.
const END_OF_STACK: c_int = 5;

/// Visits no frame. A panic still unwinds, because libunwind does that without this function.
// SAFETY: the standard library is the only caller. The function has the signature of libunwind's,
// and does not use its arguments. scripts/dist.sh hides the function in libunwind.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Backtrace(_visit: *const c_void, _argument: *mut c_void) -> c_int {
    END_OF_STACK
}
