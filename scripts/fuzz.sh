#!/usr/bin/env bash
# Fuzzes each target for FUZZ_SECONDS (10), or those that are named. What is found beside the seeds stays below fuzz/target.
#
# No cargo-fuzz: the stable compiler can tell libFuzzer which branches were taken, and panics, overflows and failed assertions
# are found by it. FUZZ_ASAN=1 has AddressSanitizer watch as well, for what other crates do in `unsafe`: by a nightly compiler.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$root"
scripts/preflight.sh fuzz
seconds=${FUZZ_SECONDS:-10}
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(args config ipam netlink result packet)
work=$root/fuzz/target
host=$(as_caller rustc -vV | sed -n 's/^host: //p')
toolchain=()
# How libFuzzer wants to be told: https://clang.llvm.org/docs/SanitizerCoverage.html. Optimised a little, as CI builds this for a few
# seconds of work.
flags=(--cfg fuzzing -Copt-level=1 -Cdebug-assertions -Coverflow-checks -Cdebuginfo=line-tables-only -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-{level=4,inline-8bit-counters,pc-table,trace-compares})
if [ -n "${FUZZ_ASAN:-}" ]; then
    as_caller cargo +nightly --version >/dev/null 2>&1 || fail "no nightly compiler: rustup toolchain install nightly --profile minimal"
    toolchain=(+nightly)
    flags+=(-Zsanitizer=address)
    work=$work/asan
fi

runs() { [ "$1" != packet ] || can_be_root; }
bins=() features=()
for target in "${targets[@]}"; do
    [ -e "fuzz/fuzz_targets/$target.rs" ] || fail "no target $target: there are$(printf ' %s' fuzz/fuzz_targets/*.rs | sed 's|fuzz/fuzz_targets/||g; s|\.rs||g')"
    if ! runs "$target"; then
        note "NOT RUN: packet: the kernel runs programs for root alone"
        continue
    fi
    bins+=(--bin "$target")
    [ "$target" != packet ] || features=(--features bpf)
done
[ ${#bins[@]} -gt 0 ] || exit 0
step "Building the fuzz targets"
# The target is named so that the flags are for it alone: what runs while building is not to be fuzzed.
as_caller env RUSTFLAGS="${flags[*]}" CARGO_INCREMENTAL=0 cargo "${toolchain[@]}" build --locked --quiet --manifest-path fuzz/Cargo.toml \
    --target-dir "$work" --target "$host" "${features[@]}" "${bins[@]}"

failed=()
for target in "${targets[@]}"; do
    runs "$target" || continue
    step "$target, $seconds s"
    found=$work/corpus/$target artifacts=$work/artifacts/$target
    as_caller mkdir -p "$found" "$artifacts"
    as=as_caller
    [ "$target" != packet ] || as=as_root
    # Some 4 KiB: what is longer says nothing new, and takes longer to say. Each input that is new would be a line, too.
    "$as" "$work/$host/debug/$target" "$found" "fuzz/corpus/$target" -max_total_time="$seconds" -max_len=4096 -timeout=10 \
        -rss_limit_mb=2048 -artifact_prefix="$artifacts/" 2>&1 </dev/null |
        grep --line-buffered -avE '^#[0-9]+\s+(NEW|REDUCE|RELOAD) |NEW_FUNC|^INFO: |^WARNING: Failed to find|^"|^###### ' || failed+=("$target")
    [ "$as" = as_caller ] || as_root chown -R --reference=fuzz "$found" "$artifacts"
done
if [ ${#failed[@]} -gt 0 ]; then
    for target in "${failed[@]}"; do
        note "What $target failed at is in $work/artifacts/$target. To see it again:"
        note "  $work/$host/debug/$target $work/artifacts/$target/*"
        note "Mend it, and copy the input to fuzz/corpus/$target: every cargo test tries what is there."
    done
    fail "failed: ${failed[*]}"
fi
printf '%sfuzz: OK%s\n' "$green" "$plain"
