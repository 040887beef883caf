//! Compiles the TC programs and generates their libbpf-rs skeletons into `OUT_DIR`.

use std::path::Path;

/// A package of the repository that the published crate does not contain.
const TESTBED: &str = "tests/testbed/Cargo.toml";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Tests with this cfg need unpublished packages or other files of the repository. They keep a
    // separate `cfg(test)`, which Clippy needs to recognize a test.
    println!("cargo::rustc-check-cfg=cfg(cnikit_repository)");
    if Path::new(TESTBED).exists() {
        // Only if the file exists: Cargo runs the script again in each build if the file is absent.
        println!("cargo::rerun-if-changed={TESTBED}");
        println!("cargo::rustc-cfg=cnikit_repository");
    }
    #[cfg(feature = "datapath")]
    skeleton::generate();
}

#[cfg(feature = "datapath")]
mod skeleton {
    use std::env;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use libbpf_cargo::SkeletonBuilder;
    use sha2::{Digest, Sha256};

    const SOURCES: &str = "bpf";
    const LIBRARY: &str = "bpf/lib";
    /// Each `bpf/NAME.bpf.c` becomes `NAME.skel.rs`.
    const OBJECTS: [&str; 3] = ["pod", "find_xdp", "underlay"];

    /// If this variable is `1`, clang's warnings are errors. The test scripts of this crate set it.
    /// A dependent's build must not fail because a newer clang or header has more warnings.
    const WERROR: &str = "CNIKIT_BPF_WERROR";

    pub(super) fn generate() {
        println!("cargo::rerun-if-changed={SOURCES}");
        println!("cargo::rerun-if-env-changed=CLANG");
        println!("cargo::rerun-if-env-changed={WERROR}");
        println!("cargo::rustc-env=CNI_TC_WARNINGS={}", warnings().join(" "));

        let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
        if Command::new(&clang).arg("--version").output().is_err() {
            println!(
                "cargo::error=cannot run {clang:?}, which compiles {SOURCES}: install the package clang, \
                 set CLANG to where it is, or build without the feature `datapath`"
            );
            return;
        }

        // The digest of the sources names the build: a running datapath has programs of this build
        // or of another.
        let mut paths: Vec<PathBuf> = [SOURCES, LIBRARY].into_iter().flat_map(files).collect();
        paths.sort();
        let sources: Vec<u8> = paths.iter().flat_map(|path| fs::read(path).unwrap_or_default()).collect();
        let build: String = Sha256::digest(sources)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        println!("cargo::rustc-env=CNI_TC_BUILD={build}");

        let out_dir = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
        for object in OBJECTS {
            let built = SkeletonBuilder::new()
                .source(format!("{SOURCES}/{object}.bpf.c"))
                .clang(&clang)
                .clang_args(clang_args())
                // No formatter: libbpf-cargo skips one that does not exist. In a toolchain without
                // the component, rustup's proxy for rustfmt would fail the build.
                .rustfmt(out_dir.join("no-rustfmt"))
                .build_and_generate(out_dir.join(format!("{object}.skel.rs")));
            if let Err(error) = built {
                println!("cargo::error={}", format!("{error:#}").replace('\n', " | "));
            }
        }
    }

    /// The C sources and headers in a directory.
    fn files(directory: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "c" || extension == "h")).collect()
    }

    fn warnings() -> Vec<&'static str> {
        let are_errors = env::var(WERROR).is_ok_and(|value| value == "1");
        // C99 forbids implicit declarations. libbpf would report a missing symbol.
        let always = ["-Wall", "-Wextra", "-Werror=implicit-function-declaration"];
        always.into_iter().chain(are_errors.then_some("-Werror")).collect()
    }

    fn clang_args() -> Vec<String> {
        let mut args: Vec<String> = warnings().into_iter().map(str::to_owned).collect();
        // Without this, the object would contain the path of the build, and differ between
        // directories.
        let folder = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        args.push(format!("-ffile-prefix-map={folder}=."));
        // Columns double the line information, which only the verifier's log uses: 19 kB.
        args.push("-gno-column-info".to_owned());
        // Debian and its derivatives keep `asm/types.h` in a directory per architecture, which
        // clang does not search for the target bpf. The second candidate belongs to a cross
        // compiler.
        let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
        let candidates = [format!("/usr/include/{arch}-linux-gnu"), format!("/usr/{arch}-linux-gnu/include")];
        let headers = candidates.iter().find(|folder| Path::new(folder).join("asm/types.h").exists());
        args.extend(headers.map(|folder| format!("-I{folder}")));
        args
    }
}
