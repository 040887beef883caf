//! Any bytes that a netlink socket receives: read, or an error.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| cnikit::netlink::read_replies(input));
