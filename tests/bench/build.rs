//! Builds the smallest possible program, which measures the cost of starting a process.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/empty.rs");
    let variable = |name| std::env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    let output = PathBuf::from(variable("OUT_DIR")).join("empty");
    let status = Command::new(variable("RUSTC"))
        .args([
            "src/empty.rs",
            "-O",
            "-Cpanic=abort",
            "-Cstrip=symbols",
            "-Crelocation-model=static",
            "-Clink-args=-nostartfiles -nostdlib -static",
            "--edition=2024",
        ])
        .arg("-o")
        .arg(output)
        .status()
        .expect("the compiler can be started");
    assert!(status.success(), "src/empty.rs: {status}");
}
