#!/usr/bin/env bash
# Format, lints, prose, every combination of features, and all tests.
#
# As root or with sudo, a test that is skipped because of missing privileges fails. Without, the
# script lists the tests that did not run.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# Warnings about the C programs are errors here.
export CNIKIT_BPF_WERROR=1

started=$SECONDS
cd "$root"
scripts/preflight.sh test
scripts/peers.sh
cnitool=$(realpath -m "${CARGO_TARGET_DIR:-target}/peers/cnitool")
if [ -x "$cnitool" ]; then export CNITOOL=$cnitool; fi
PATH="$(bpftool_folder):$PATH"
cargo() { as_caller cargo "$@"; }

step "Format"
cargo fmt --all --check

step "Lints"
cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
if have shellcheck; then
    shellcheck -x scripts/*.sh .ci/run
else
    note "NOT RUN: lints of the scripts: shellcheck is not installed"
fi

step "Prose"
if as_caller git ls-files >/dev/null 2>&1; then
    as_caller python3 scripts/prose.py
else
    note "NOT RUN: prose: git cannot list the files of this folder"
fi

step "Dependencies"
if cargo deny --version >/dev/null 2>&1; then
    cargo deny --locked check licenses bans sources
    if cargo deny fetch db >/dev/null 2>&1; then
        cargo deny --locked check advisories
    else
        note "NOT RUN: advisories on dependencies: the database cannot be downloaded"
    fi
else
    note "NOT RUN: licenses, sources and advisories of dependencies: cargo install --locked cargo-deny"
fi

# The plugin is a small program without an async runtime. Only the agent talks to the API server.
heavy=$(cargo tree --locked --quiet --prefix none --package simple-ebpf-cni --edges normal,build |
    grep -E '^(tokio|hyper|kube|rustls)[-_ ]' || true)
[ -z "$heavy" ] || fail "the plugin depends on $heavy: move the code that needs it to simple-ebpf-agent"

scripts/public-api.sh

step "Every combination of features"
for features in '' ipam netlink bpf datapath ipam,netlink ipam,bpf netlink,bpf netlink,datapath conformance; do
    note "cnikit with: ${features:-no features}"
    cargo clippy --locked --quiet -p cnikit --lib --no-default-features --features "$features" -- -D warnings
done
note "simple-ebpf-cni without the commands"
cargo clippy --locked --quiet -p simple-ebpf-cni --no-default-features -- -D warnings

step "Documentation"
document() { as_caller env RUSTDOCFLAGS="-D warnings" cargo doc --locked --quiet --no-deps "$@"; }
document --workspace
for features in '' ipam netlink bpf datapath conformance; do
    document -p cnikit --no-default-features --features "$features"
done

if [ "$(id -u)" = 0 ] && [ -z "$caller" ]; then
    step "Tests, as root"
    CNIKIT_REQUIRE_PRIVILEGED=1 cargo test --locked --workspace --no-fail-fast
elif can_be_root; then
    # The caller builds and root runs, so that no file below target/ belongs to root.
    step "Tests, built as $(as_caller id -un) and run as root"
    cargo test --locked --workspace --no-run
    binaries=$(cargo test --locked --quiet --workspace --no-run --message-format=json |
        jq -r 'select(.profile.test == true and .executable != null) | .executable + "\t" + .manifest_path')
    failed=()
    while IFS=$'\t' read -r binary manifest; do
        note "Running $binary"
        (cd "$(dirname "$manifest")" && as_root env CNIKIT_REQUIRE_PRIVILEGED=1 ${CNITOOL:+"CNITOOL=$CNITOOL"} "$binary" </dev/null) ||
            failed+=("$(basename "$binary")")
    done <<<"$binaries"
    cargo test --locked --workspace --doc
    [ ${#failed[@]} = 0 ] || fail "failed: ${failed[*]}"
else
    step "Tests, without privileges"
    cargo test --locked --workspace --no-fail-fast
    note "NOT RUN: namespaces (tier 1), BPF (tier 2), the binary (tier 3), runtimes (tier 4): these need root or sudo"
fi
scripts/package.sh
printf '%stest: OK (%d s)%s\n' "$green" $((SECONDS - started)) "$plain"
