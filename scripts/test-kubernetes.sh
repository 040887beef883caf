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
# Before the list, because the compiler may be missing.
scripts/preflight.sh build
if [[ " $* " != *" --list "* ]] && [[ $(scripts/cluster.sh test --list "$@") == *upgrade::* ]]; then
    # Another build of the plugin for the test of upgrades, with other programs.
    folder=$(realpath -m "${CARGO_TARGET_DIR:-target}/kubernetes/next")
    step "Building the plugin with other programs, for the test of upgrades"
    as_caller rm -rf "$folder/sources"
    as_caller mkdir -p "$folder/sources"
    as_caller tar --exclude=./target --exclude=./.git --exclude=./dist -cf - . | as_caller tar -xf - -C "$folder/sources"
    # The digest of the sources names the programs, so a comment makes them others.
    echo '/* The next build. */' | as_caller tee -a "$folder/sources/bpf/pod.bpf.c" >/dev/null
    (cd "$folder/sources" && as_caller env CARGO_TARGET_DIR="$folder/target" SIMPLE_EBPF_CNI_REVISION=next \
        cargo build --quiet --locked --release -p simple-ebpf-cni)
    next=(--next-plugin "$folder/target/release/simple-ebpf-cni")
fi
scripts/cluster.sh test "${next[@]}" "$@"
printf '%stest-kubernetes: OK (%d s)%s\n' "$green" "$SECONDS" "$plain"
