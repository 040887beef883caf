#!/usr/bin/env bash
# Checks for Rust. Installs missing system packages and, for a release, Rust's musl target.
#
# usage: scripts/preflight.sh build | demo | test | fuzz | kernels | kubernetes | dist ARCHITECTURE...
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

stage=${1:-build}
case $stage in
build | demo | test | fuzz | kernels | kubernetes | dist) ;;
*) fail "usage: scripts/preflight.sh build | demo | test | fuzz | kernels | kubernetes | dist ARCHITECTURE..." ;;
esac
architectures=("${@:2}")

# The agent needs a newer Rust than the library and the plugin, which `build` and `demo` compile.
manifests=("$root/Cargo.toml")
case $stage in test | kernels | dist) manifests+=("$root/examples/simple-ebpf-agent/Cargo.toml") ;; esac
least=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "${manifests[@]}" | sort -V | tail -n 1)
found=$(as_caller rustc --version 2>/dev/null | cut -d' ' -f2) || found=''
if [ -z "$found" ] || ! as_caller cargo --version >/dev/null 2>&1; then
    fail "Rust is missing ($least or newer): curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"
elif [ "$(printf '%s\n' "$least" "${found%%-*}" | sort -V | head -n 1)" != "$least" ]; then
    if as_caller rustup --version >/dev/null 2>&1; then
        fail "Rust $found is too old ($least or newer): rustup update stable"
    fi
    fail "Rust $found is too old ($least or newer): curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"
fi
if [ "$stage" = test ]; then
    for component in rustfmt clippy; do
        as_caller cargo "${component/rust/}" --version >/dev/null 2>&1 ||
            fail "$component is missing: rustup component add $component"
    done
fi

# has_library TARGET: whether Rust can build for it.
has_library() { as_caller rustc --print target-libdir --target "$1" | xargs -d '\n' test -d; }

# In the project's folder, rustup selects the toolchain of the build.
cd "$root"
for arch in "${architectures[@]}"; do
    target=$arch-unknown-linux-musl
    if has_library "$target"; then continue; fi
    as_caller rustup --version >/dev/null 2>&1 ||
        fail "Rust $found has no library for $target, and rustup, which installs it, is missing: install this distribution's package of it, or Rust by rustup: https://rustup.rs"
    step "Installing Rust's library for $target: rustup target add $target"
    as_caller rustup target add "$target" || fail "rustup could not install the library for $target: see above"
    has_library "$target" ||
        fail "$(as_caller sh -c 'command -v rustc') is not rustup's and has no library for $target: remove it, or put rustup's before it in PATH"
done

missing=()
# want PACKAGE TEST...: the package is missing if the test fails.
want() {
    local package=$1
    shift
    "$@" || missing+=("$package")
}
# Not grep -q: it can end before busybox has written its list, and pipefail would report busybox.
static_busybox() { have busybox && busybox --list | grep -x httpd >/dev/null && ! ldd "$(command -v busybox)" >/dev/null 2>&1; }

want clang have clang
want libelf-dev test -e /usr/include/libelf.h
want zlib1g-dev test -e /usr/include/zlib.h
want pkg-config have pkg-config
want make have make
want gcc have cc
want libc6-dev test -e /usr/include/stdio.h
if [ "$stage" = fuzz ]; then
    want g++ have c++
elif [ "$stage" = dist ]; then
    for arch in "${architectures[@]}"; do
        if [ "$arch" = "$(uname -m)" ]; then
            want gcc have "$arch-linux-gnu-gcc"
            want musl-dev test -e "/usr/include/$arch-linux-musl/stdio.h"
        else
            # scripts/dist.sh downloads the headers.
            want "gcc-${arch/_/-}-linux-gnu" have "$arch-linux-gnu-gcc"
        fi
    done
elif [ "$stage" != build ]; then
    want iproute2 have tc
    want util-linux have nsenter
    want iputils-ping have ping
    want jq have jq
    want busybox-static static_busybox
    want bpftool bpftool_folder >/dev/null
fi
if [ "$stage" = test ]; then
    want containerd have containerd
    want runc have runc
    want curl have curl
    want podman have podman
    want dnsmasq-base have dnsmasq
    want python3 have python3
fi
if [ "$stage" = test ] || [ "$stage" = kernels ]; then
    want containernetworking-plugins test -x /usr/lib/cni/static
    want nftables have nft
    want iptables have iptables
    want ethtool have ethtool
    want procps have sysctl
    want bsdutils have script
fi
if [ "$stage" = kubernetes ]; then
    # The nodes.
    want containerd have containerd
    want runc have runc
    want iptables have iptables
    want nftables have nft
    want conntrack have conntrack
    want openssl have openssl
    want procps have sysctl
    want containernetworking-plugins test -x /usr/lib/cni/portmap
    # The image for the tests of Kubernetes.
    want curl have curl
    want wget have wget
    want netcat-openbsd have nc
    want bind9-dnsutils have dig
    want ca-certificates test -e /etc/ssl/certs/ca-certificates.crt
fi
if [ "$stage" = kernels ]; then
    want qemu-system-x86 have qemu-system-x86_64
    want cpio have cpio
    want xz-utils have xz
    want binutils have strip
    want apt have apt-get
    want dpkg have dpkg
    want debian-archive-keyring test -e /usr/share/keyrings/debian-archive-keyring.gpg
fi
[ ${#missing[@]} -gt 0 ] || exit 0

have apt-get || fail "missing: ${missing[*]} (names of Debian). Install them with this system's package manager, and run this again"
can_be_root || fail "missing: ${missing[*]}. Run as root: apt-get update && apt-get install -y ${missing[*]}"

step "Installing system packages: ${missing[*]}"
apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120 "$@"; }
apt update || note "apt-get update failed in part; continuing with the known packages"
packages=()
for package in "${missing[@]}"; do
    # Ubuntu has no package of this name. The tool is in the tools package of each kernel.
    if [ "$package" = bpftool ] && ! apt-cache show bpftool 2>/dev/null | grep -q '^Filename:'; then
        packages+=(linux-tools-common)
        tools="linux-tools-$(uname -r)"
        apt-cache show "$tools" >/dev/null 2>&1 || tools=linux-tools-generic
        packages+=("$tools")
    else
        packages+=("$package")
    fi
done
apt install -y --no-install-recommends "${packages[@]}" || fail "apt-get could not install: ${packages[*]}"
