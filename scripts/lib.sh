# shellcheck shell=bash
# Functions for all scripts. Sourced, not run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export root

# System programs are in folders that a user's PATH may lack, and Go in one that root's may lack.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/go/bin"

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
else
    bold='' dim='' green='' red='' plain=''
fi
export bold dim green red plain

step() { printf '%s==> %s%s\n' "$bold" "$*" "$plain"; }
note() { printf '    %s%s%s\n' "$dim" "$*" "$plain"; }
fail() {
    printf '%s%s: %s%s\n' "$red" "$(basename "$0")" "$*" "$plain" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# Whether as_root works. With a terminal, sudo may ask for the password once.
can_be_root() { [ "$(id -u)" = 0 ] || { have sudo && { sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; }; }; }; }

# Runs a command as root, with this PATH.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo env "PATH=$PATH" "$@"
    fi
}

# Succeeds if the script runs under sudo and the calling user has a Rust toolchain.
caller_builds() {
    [ "$(id -u)" = 0 ] && [ "${SUDO_USER:-root}" != root ] || return 1
    caller_path="$(getent passwd "$SUDO_USER" | cut -d: -f6)/.cargo/bin:$PATH"
    sudo -u "$SUDO_USER" -H env "PATH=$caller_path" cargo --version >/dev/null 2>&1
}
caller=''
if caller_builds; then caller=$SUDO_USER; fi

# Runs a command as the caller of `sudo`, so that build results belong to the caller and the
# caller's Rust is used.
as_caller() {
    if [ -n "$caller" ]; then
        sudo -u "$caller" -H env "PATH=$caller_path" ${CARGO_TARGET_DIR:+"CARGO_TARGET_DIR=$CARGO_TARGET_DIR"} \
            ${CNIKIT_BPF_WERROR:+"CNIKIT_BPF_WERROR=$CNIKIT_BPF_WERROR"} "$@"
    else
        env "PATH=${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH" "$@"
    fi
}

# The mirror of Debian's packages: DEBIAN_MIRROR, or the mirror of this machine's apt.
debian_mirror() {
    local mirror
    # shellcheck disable=SC2016  # apt expands it
    mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(SITE)' | grep -m 1 '/debian/*$' || true)}
    [ -n "$mirror" ] && printf '%s\n' "${mirror%/}"
}
export no_debian_mirror="apt has no Debian mirror: set DEBIAN_MIRROR=http://.../debian to a mirror with /debian and /debian-security"

# The folder of a working bpftool. On Ubuntu, the bpftool in PATH is a wrapper, which may lack the
# real program for this kernel.
bpftool_folder() {
    local candidate
    for candidate in "$(command -v bpftool)" /usr/lib/linux-tools/*/bpftool /usr/lib/linux-tools-*/bpftool; do
        if [ -x "$candidate" ] && "$candidate" version >/dev/null 2>&1; then
            dirname "$candidate"
            return
        fi
    done
    return 1
}

# Whether Go is installed and can download the release that a module requires: from 1.21 on.
can_build_go() {
    local found
    found=$(as_caller go version 2>/dev/null | sed -n 's/^go version go\([0-9.]*\).*/\1/p') || found=''
    [ -n "$found" ] && [ "$(printf '%s\n' 1.21 "$found" | sort -V | head -n 1)" = 1.21 ]
}
