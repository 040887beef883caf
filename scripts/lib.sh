# shellcheck shell=bash
# What the scripts share. Sourced, never run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export root

# System programs live where an ordinary user's PATH may not lead.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

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

# Whether as_root works. Where there is a terminal, sudo may ask for the password, once.
can_be_root() { [ "$(id -u)" = 0 ] || { have sudo && { sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; }; }; }; }

# Runs a command as root, with this PATH.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo env "PATH=$PATH" "$@"
    fi
}

# Whether this is root by sudo, and whoever typed that has a Rust of their own.
caller_builds() {
    [ "$(id -u)" = 0 ] && [ "${SUDO_USER:-root}" != root ] || return 1
    caller_path="$(getent passwd "$SUDO_USER" | cut -d: -f6)/.cargo/bin:$PATH"
    sudo -u "$SUDO_USER" -H env "PATH=$caller_path" cargo --version >/dev/null 2>&1
}
caller=''
if caller_builds; then caller=$SUDO_USER; fi

# Runs a command as whoever typed `sudo`, so that what is built belongs to them and their Rust is used.
as_caller() {
    if [ -n "$caller" ]; then
        sudo -u "$caller" -H env "PATH=$caller_path" ${CARGO_TARGET_DIR:+"CARGO_TARGET_DIR=$CARGO_TARGET_DIR"} \
            ${CNIKIT_BPF_WERROR:+"CNIKIT_BPF_WERROR=$CNIKIT_BPF_WERROR"} "$@"
    else
        env "PATH=${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH" "$@"
    fi
}

# This machine's own mirror of Debian's packages, or another that is named.
debian_mirror() {
    local mirror
    # shellcheck disable=SC2016  # the words in the quotes are apt's
    mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(SITE)' | grep -m 1 '/debian/*$' || true)}
    [ -n "$mirror" ] && printf '%s\n' "${mirror%/}"
}
export no_debian_mirror="apt knows no mirror of Debian's: name one that has /debian and /debian-security, as DEBIAN_MIRROR=http://.../debian"

# The folder of a bpftool that works. On Ubuntu the one in PATH is a wrapper that may lack the real one for this kernel.
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
