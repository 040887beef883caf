#!/usr/bin/env bash
# Compares the public API of the library with docs/public-api.txt.
#
# usage: scripts/public-api.sh [--update | --required]
#
# --update writes the file. Otherwise a difference is an error, so that each change of the API is in
# the diff of a commit. With --required, a missing tool is an error too. Types of the crates below
# must not be in the API, because a new major version of them would be one of this library.
#
# The tool reads the JSON of rustdoc. Only nightly compilers write it, and its format changes.
# The text also changes with the paths of the standard library. Therefore both have fixed versions:
#
#   cargo install --locked cargo-public-api@0.52.0
#   rustup toolchain install nightly-2026-05-20 --profile minimal
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

tool='0.52.0'
nightly='nightly-2026-05-20'
# `rustc --version` contains the day of the last commit, which is the day before the release.
commit_day='2026-05-19'
hidden=(neli rustix zerocopy libbpf_rs libbpf_sys libc)
file=docs/public-api.txt

cd "$root"
case ${1:-} in
'' | --update | --required) ;;
*) fail "usage: scripts/public-api.sh [--update | --required]" ;;
esac
not_run() {
    [ -z "$1" ] || fail "$2"
    note "NOT RUN: the public API: $2"
    exit 0
}

step "Public API of cnikit"
found=$(as_caller cargo public-api --version 2>/dev/null) || found=''
[ "${found##* }" = "$tool" ] ||
    not_run "${1:-}" "cargo-public-api $tool is missing: cargo install --locked cargo-public-api@$tool"
toolchain=''
for candidate in "$nightly" nightly; do
    version=$(as_caller env RUSTUP_AUTO_INSTALL=0 rustc "+$candidate" --version 2>/dev/null) || continue
    if [[ $version == *" $commit_day)" ]]; then
        toolchain=$candidate
        break
    fi
done
[ -n "$toolchain" ] || not_run "${1:-}" "$nightly is missing: rustup toolchain install $nightly --profile minimal"

# A separate folder: the two compilers would replace the results of each other.
CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")/public-api
export CARGO_TARGET_DIR
as_caller cargo fetch --locked --quiet
text=$(as_caller cargo "+$toolchain" public-api -p cnikit --all-features -sss --color never)
# The crate itself, not a module of cnikit with such a name.
if grep -E "(^|[^a-z0-9_:])($(
    IFS='|'
    echo "${hidden[*]}"
))::" <<<"$text"; then
    fail "the public API contains types of ${hidden[*]}: wrap them in types of cnikit"
fi
if [ "${1:-}" = --update ]; then
    printf '%s\n' "$text" | as_caller tee "$file" >/dev/null
    note "$(wc -l <"$file") lines in $file"
elif ! diff -u --label "$file" --label 'the sources' "$file" <(printf '%s\n' "$text"); then
    fail "$file differs from the sources: run scripts/public-api.sh --update and commit the file"
fi
