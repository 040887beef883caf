//! Tests of the datapath with a real kernel. Each test runs on its own host, and checks the state
//! with `bpftool`, `tc` and the C header.
#![cfg(feature = "datapath")]

mod bpffs;
mod build;
mod ensure;
mod fixture;
mod foreign;
mod latency;
mod layouts;
mod maps;
mod neighbors;
mod packets;
mod pin_names;
mod pin_set;
mod pin_set_kill;
mod privileges;
mod race;
mod remote;
mod services;
mod stages;
mod support;
mod tcx;
mod xdp;
