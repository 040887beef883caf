#!/usr/bin/env bash
# The long variants of the tests in examples/simple-ebpf-cni/tests/reliability: every point of every
# sweep, 1,000 kills, longer races, 10,000 cycles. Takes about twenty minutes, and prints progress.
#
#   scripts/soak.sh [FILTER...]
#
# A FILTER is a part of a test's name, such as soak:: or kill::. The default is all of these tests.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# Warnings about the C programs are errors here.
export CNIKIT_BPF_WERROR=1

cd "$root"
can_be_root || fail "the tests create namespaces: run this as root or with sudo"
scripts/preflight.sh test

step "Build"
binary=$(as_caller cargo test --locked --quiet -p simple-ebpf-cni --test reliability --no-run --message-format=json |
    jq -r 'select(.profile.test == true and .executable != null) | .executable')

filters=("$@")
[ ${#filters[@]} -gt 0 ] || filters=(kill:: fail:: first:: race:: storm:: soak::)
cd examples/simple-ebpf-cni
# One at a time, because load tests and measurements must not run beside other tests.
for filter in "${filters[@]}"; do
    step "$filter"
    as_root env CNIKIT_LONG_TESTS=1 CNIKIT_REQUIRE_PRIVILEGED=1 "PATH=$PATH:$(bpftool_folder)" \
        "$binary" "$filter" --nocapture --test-threads=1 </dev/null
done
printf '%ssoak: OK (%d s)%s\n' "$green" "$SECONDS" "$plain"
