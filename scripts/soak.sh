#!/usr/bin/env bash
# The long forms of the tests in examples/simple-ebpf-cni/tests/reliability: every point of every sweep, 1,000 kills,
# longer races, 10,000 cycles. Some twenty minutes; it says how far it is.
#
#   scripts/soak.sh [FILTER...]
#
# A FILTER is a part of the names of the tests that are run, such as soak:: or kill::; all of them by default.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# Warnings about the C program are errors here.
export CNIKIT_BPF_WERROR=1

cd "$root"
can_be_root || fail "the tests make namespaces: run it as root, or with sudo at hand"
scripts/preflight.sh test

step "Build"
binary=$(as_caller cargo test --locked --quiet -p simple-ebpf-cni --test reliability --no-run --message-format=json |
    jq -r 'select(.profile.test == true and .executable != null) | .executable')

filters=("$@")
[ ${#filters[@]} -gt 0 ] || filters=(kill:: fail:: first:: race:: storm:: soak::)
cd examples/simple-ebpf-cni
# One after the other: what is under load, or measured, must be alone.
for filter in "${filters[@]}"; do
    step "$filter"
    as_root env CNIKIT_LONG_TESTS=1 CNIKIT_REQUIRE_PRIVILEGED=1 "PATH=$PATH:$(bpftool_folder)" \
        "$binary" "$filter" --nocapture --test-threads=1 </dev/null
done
printf '%ssoak: OK (%d s)%s\n' "$green" "$SECONDS" "$plain"
