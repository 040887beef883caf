//! Arbitrary bytes from a netlink socket: each decoder returns a value or an error.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| cnikit::netlink::read_replies(input));
