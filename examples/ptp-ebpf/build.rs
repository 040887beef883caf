//! Compiles the eBPF programs, and generates their skeleton. Needs clang and the headers of libbpf.

use std::path::PathBuf;
use std::{env, error::Error};

use libbpf_cargo::SkeletonBuilder;

const SOURCE: &str = "src/count.bpf.c";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={SOURCE}");
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    // Debian keeps the headers in asm/ in a directory per architecture.
    let headers = format!("-I/usr/include/{}-linux-gnu", env::var("CARGO_CFG_TARGET_ARCH")?);
    SkeletonBuilder::new()
        .source(SOURCE)
        .obj(out_dir.join("count.bpf.o"))
        .clang_args(["-Wall", "-Wextra", &headers])
        // In a toolchain without rustfmt, the formatter would fail the build.
        .rustfmt(out_dir.join("no-rustfmt"))
        .build_and_generate(out_dir.join("count.skel.rs"))?;
    Ok(())
}
