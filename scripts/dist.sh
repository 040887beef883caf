#!/usr/bin/env bash
# Builds a release: the static binaries of plugin and agent in an archive for each architecture, and
# SHA256SUMS.
#
# usage: scripts/dist.sh [x86_64 | aarch64]...        this machine's architecture by default
#
# The same sources, compilers and headers give the same bytes in any folder.
#
# The C library is musl. A glibc program runs CPUID about seventy times at its start. On a virtual
# machine each of them traps into the hypervisor: 0.28 ms of an ADD that took 2 ms.
set -euo pipefail
shopt -s inherit_errexit
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

name=simple-ebpf-cni
# The largest allowed binaries in bytes. The limit of the plugin is its size with all commands, and
# a small reserve. It makes growth visible, because every node loads this file.
declare -A limits=([simple-ebpf-cni]=3300000 [simple-ebpf-agent]=10000000)
# No Rust panic unwinds through a C function, so the C libraries need no unwind tables.
no_unwinding=-fno-asynchronous-unwind-tables
host=$(uname -m)
architectures=("$@")
[ $# -gt 0 ] || architectures=("$host")
for arch in "${architectures[@]}"; do
    case $arch in x86_64 | aarch64) ;; *) fail "usage: scripts/dist.sh [x86_64 | aarch64]..." ;; esac
done

"$root/scripts/preflight.sh" dist "${architectures[@]}"
cd "$root"
target_dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")
# shellcheck disable=SC2016  # the caller's shell expands it
registries=$(as_caller sh -c 'echo "${CARGO_HOME:-$HOME/.cargo}/registry/src"')
dist=$(realpath -m "${DIST_DIR:-dist}")
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)

# Sources without git can set SIMPLE_EBPF_CNI_REVISION, or have no revision.
if git rev-parse --git-dir >/dev/null 2>&1; then
    SIMPLE_EBPF_CNI_REVISION=${SIMPLE_EBPF_CNI_REVISION-$(git describe --tags --always --abbrev=12 --dirty)}
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
fi
export SIMPLE_EBPF_CNI_REVISION=${SIMPLE_EBPF_CNI_REVISION-} SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0}

# The folder with usr/include of an architecture: Debian's headers of musl and the kernel. The
# headers of another architecture are downloaded and unpacked, not installed, because Debian's
# packages of two architectures can conflict.
system_root() {
    local arch=$1 debian=$2 unpacked=$target_dir/dist/$1/system
    [ "$arch" != "$host" ] || return 0
    if [ ! -d "$unpacked" ]; then
        local apt=$target_dir/dist/$arch/apt mirror
        mirror=$(debian_mirror) || fail "$no_debian_mirror"
        mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/unpacked"
        : >"$apt/status"
        # shellcheck source=/dev/null
        printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
            "$mirror" "$(. /etc/os-release && printf %s "$VERSION_CODENAME")" >"$apt/sources.list"
        cat >"$apt/apt.conf" <<END
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State "$apt";
Dir::State::Status "$apt/status";
Dir::Cache "$apt";
APT::Architecture "$debian";
APT::Architectures { "$debian"; };
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
#clear APT::Update;
END
        apt-get -q -c "$apt/apt.conf" update >&2 || fail "apt-get update failed: see above"
        (cd "$apt" && apt-get -q -c apt.conf download musl-dev linux-libc-dev) >&2 || fail "no musl-dev or linux-libc-dev for $debian"
        for package in "$apt"/*.deb; do dpkg -x "$package" "$apt/unpacked"; done
        mv "$apt/unpacked" "$unpacked"
    fi
    printf '%s\n' "$unpacked"
}

# The sources of the C libraries, unpacked by Cargo.
sources() {
    local version folder
    version=$(sed -n '/^name = "libbpf-sys"$/{n;s/^version = "\(.*\)"$/\1/p}' Cargo.lock)
    as_caller cargo fetch --locked >&2
    for folder in "$registries"/*/"libbpf-sys-$version"; do
        [ ! -d "$folder" ] || { printf '%s\n' "$folder" && return; }
    done
    fail "Cargo has not unpacked libbpf-sys $version below $registries"
}

# Builds static libraries with this compiler and these flags, in a folder of their own. In a folder
# of the distribution, the linker might find its libbpf.a and link that.
libraries() {
    local folder=$target_dir/dist/$1/lib compiler=$2 flags=$3 sources=$4
    as_caller rm -rf "$folder"
    as_caller make -s -j"$(nproc)" -f scripts/static/Makefile "OUT=$folder" "SOURCES=$sources" "CC=$compiler" \
        "CFLAGS=-Os -fPIC -ffunction-sections -fdata-sections $no_unwinding -w -ffile-prefix-map=$sources=. $flags" >&2
    printf '%s\n' "$folder"
}

# Compiler flags: a compiler for glibc uses the headers of musl, and no others.
for_musl() {
    local arch=$1 compiler=$2 system=$3 folder=$target_dir/dist/$1/include header
    # Otherwise gcc calls functions of a library that is linked only with glibc.
    [ "$arch" != aarch64 ] || printf '%s' '-mno-outline-atomics '
    as_caller mkdir -p "$folder"
    for header in linux asm-generic; do as_caller ln -sfn "$system/usr/include/$header" "$folder/$header"; done
    as_caller ln -sfn "$system/usr/include/$arch-linux-gnu/asm" "$folder/asm"
    printf '%s' "-nostdinc -isystem $("$compiler" -print-file-name=include)" \
        " -isystem $system/usr/include/$arch-linux-musl -isystem $folder"
}

# The folder with the name under which gcc looks for lld.
rust_lld() {
    local folder
    folder=$(as_caller rustc --print sysroot)/lib/rustlib/$host-unknown-linux-gnu/bin/gcc-ld
    [ -x "$folder/ld.lld" ] || fail "this Rust toolchain has no lld: $folder/ld.lld"
    printf '%s\n' "$folder"
}

# The folder with a copy of Rust's libunwind. The copy hides the function that the plugin replaces
# (stack_walk.rs). Otherwise the linker reports two functions with the same name.
unwinder() {
    local arch=$1 folder=$target_dir/dist/$1/unwind library
    library=$(as_caller rustc --print target-libdir --target "$arch-unknown-linux-musl")/self-contained/libunwind.a
    [ -f "$library" ] || fail "this Rust toolchain has no libunwind for musl: $library"
    as_caller mkdir -p "$folder"
    as_caller "$arch-linux-gnu-objcopy" --localize-symbol=_Unwind_Backtrace "$library" "$folder/libunwind.a"
    printf '%s\n' "$folder"
}

# Builds the binaries of an architecture. The last line of the output is their folder.
build() {
    local arch=$1 debian=$2 target=$1-unknown-linux-musl compiler=$1-linux-gnu-gcc system sources flags
    system=$(system_root "$arch" "$debian")
    sources=$(sources)
    flags=$(for_musl "$arch" "$compiler" "$system")
    local upper=${target^^}
    # libbpf-rs uses libbpf-sys in its build script and in the program, with the same features.
    # Static libraries for this machine are therefore needed, too.
    local settings=(
        "LIBBPF_SYS_LIBRARY_PATH_${host}_unknown_linux_gnu=$(libraries generator cc "" "$sources")"
        "LIBBPF_SYS_LIBRARY_PATH_${target//-/_}=$(libraries "$arch" "$compiler" "$flags" "$sources")"
        "CARGO_TARGET_${upper//-/_}_LINKER=$compiler"
        "CC_${target//-/_}=$compiler"
        "CFLAGS_${target//-/_}=$flags -I$sources/elfutils/libelf -I$sources/zlib"
        "LIBBPF_SYS_EXTRA_CFLAGS=$no_unwinding"
        "SIMPLE_EBPF_CNI_REVISION=$SIMPLE_EBPF_CNI_REVISION"
    )
    # With packed relocations, each address that the start-up code relocates takes one bit instead
    # of 24 bytes, if the linker supports them.
    local options=(--cfg=cnikit_static -Ctarget-feature=+crt-static "-Clink-arg=-Wl,-z,pack-relative-relocs") registry
    # Rust's own lld links functions with the same code once. No code compares their addresses.
    options+=("-Clink-arg=-B$(rust_lld)" -Clink-arg=-fuse-ld=lld "-Clink-arg=-Wl,--icf=all")
    # The code for backtraces is 6 % of the binary, and useless without debug information.
    options+=(--cfg=no_backtraces "-Lnative=$(unwinder "$arch")")
    # Paths in panics and debug information must not depend on the folder of the build.
    options+=("--remap-path-prefix=$root=." "--remap-path-prefix=$target_dir=target")
    for registry in "$registries"/*; do options+=("--remap-path-prefix=$registry=registry"); done
    # The build script of libbpf-sys runs again if the flags change, but its make keeps old objects.
    # The bytes of a release would then depend on earlier builds in this folder.
    as_caller rm -rf "$target_dir/$target/dist/build/"libbpf-sys-*/out/obj
    # One after the other: in one build, the plugin would get the features that the agent needs.
    for package in "${!limits[@]}"; do
        as_caller env "${settings[@]}" "CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && printf %s "${options[*]}")" \
            cargo build --profile dist --locked --target "$target" -p "$package" >&2
    done
    printf '%s\n' "$target_dir/$target/dist"
}

as_caller mkdir -p "$dist"
for arch in "${architectures[@]}"; do
    case $arch in x86_64) debian=amd64 ;; aarch64) debian=arm64 ;; esac
    step "Building for $arch"
    built=$(build "$arch" "$debian" | tail -n 1)
    binaries=()
    for program in "${!limits[@]}"; do
        binary=$built/$program
        size=$(stat -c %s "$binary")
        note "$binary: $size bytes"
        [ "$size" -le "${limits[$program]}" ] || fail "$program has $size bytes, more than ${limits[$program]}"
        ! readelf -d "$binary" | grep NEEDED || fail "$program needs the libraries above"
        binaries+=("$binary")
    done

    # deploy/Dockerfile copies from `dist/amd64/`: container builders use Debian's architecture
    # names.
    package=$name-$version-$arch
    staged=$dist/$debian
    as_caller rm -rf "$staged"
    as_caller mkdir -p "$staged"
    as_caller install -m 0755 "${binaries[@]}" "$staged/"
    as_caller install -m 0644 LICENSE-APACHE LICENSE-MIT README.md deploy/NOTICE deploy/10-podnet.conflist deploy/simple-ebpf-cni.yaml "$staged/"
    as_caller tar -C "$dist" --transform "s,^$debian,$package," --sort=name --format=ustar --owner=0 --group=0 --numeric-owner \
        --mode='u=rwX,go=rX' --mtime="@$SOURCE_DATE_EPOCH" -cf "$dist/$package.tar" "$debian"
    as_caller gzip -n -9 -f "$dist/$package.tar"
done
cd "$dist"
as_caller sh -c "sha256sum -- $name-$version-*.tar.gz >SHA256SUMS"
step "In $dist"
cat SHA256SUMS
