#!/usr/bin/env bash
# Tests the plugin on real Kubernetes clusters: docs/testing.md.
#
# usage: scripts/test-kubernetes.sh [--short] [--cluster TEXT] [--running] [--list] [NAME...]
#
# --short      one node, and the tests that fit into a few minutes.
# --cluster    only the clusters with this text in their summary, such as nftables.
# --running    the cluster of `make cluster`, which keeps running.
# --list       list the clusters and tests.
# NAME         only the tests with one of these texts in their name.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$root"
if [[ " $* " == *" --help "* ]]; then
    sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0"
    exit
fi
next=()
if [[ " $* " != *" --list "* ]] && [[ $(scripts/cluster.sh test --list "$@") == *upgrade::* ]]; then
    # Another build of the plugin for the test of upgrades: a later version with other programs.
    folder=$(realpath -m "${CARGO_TARGET_DIR:-target}/kubernetes/next")
    step "Building another version of the plugin, for the test of upgrades"
    scripts/preflight.sh kubernetes
    as_caller rm -rf "$folder/sources"
    as_caller mkdir -p "$folder/sources"
    as_caller tar --exclude=./target --exclude=./.git --exclude=./dist -cf - . | as_caller tar -xf - -C "$folder/sources"
    as_caller sed -i 's/^version = "0\.1\.0"$/version = "0.1.1"/' "$folder/sources/Cargo.toml"
    # The digest of the sources names the programs, so a comment makes them others.
    echo '/* The next version. */' | as_caller tee -a "$folder/sources/bpf/pod.bpf.c" >/dev/null
    (cd "$folder/sources" && as_caller env CARGO_TARGET_DIR="$folder/target" SIMPLE_EBPF_CNI_REVISION=next \
        cargo build --quiet --release -p simple-ebpf-cni)
    next=(--next-plugin "$folder/target/release/simple-ebpf-cni")
fi
scripts/cluster.sh test "${next[@]}" "$@"
printf '%stest-kubernetes: OK (%d s)%s\n' "$green" "$SECONDS" "$plain"
