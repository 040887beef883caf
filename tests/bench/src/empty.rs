//! Does nothing. build.rs links it statically.

fn main() {}
