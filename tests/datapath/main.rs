//! The datapath against a real kernel, each test on a host of its own; checked by what `bpftool`, `tc` and the C header say.
#![cfg(feature = "bpf")]

mod bed;
mod bpffs;
mod build;
mod ensure;
mod latency;
mod layouts;
mod maps;
mod neighbours;
mod packets;
mod privileges;
mod race;
mod services;
mod stages;
mod support;
mod tcx;
mod xdp;
