#!/usr/bin/env bash
# Fuzzes the named targets, or all of them, for FUZZ_SECONDS (10) each. New inputs stay below
# fuzz/target.
#
# usage: scripts/fuzz.sh [--minimize] [TARGET...]
#
# --minimize merges the seeds and the new inputs by coverage into fuzz/target/minimized, without
# fuzzing: see fuzz/README.md.
#
# cargo-fuzz is not needed: the stable compiler emits the coverage counters of libFuzzer. A panic,
# an overflow or a failed assertion ends a run. FUZZ_ASAN=1 adds AddressSanitizer for the `unsafe`
# code of dependencies, which needs a nightly compiler.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$root"
scripts/preflight.sh fuzz
seconds=${FUZZ_SECONDS:-10}
minimize=''
if [ "${1:-}" = --minimize ]; then
    minimize=1
    shift
fi
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(args config ipam netlink result packet)
work=$root/fuzz/target
host=$(as_caller rustc -vV | sed -n 's/^host: //p')
toolchain=()
# The coverage options: https://clang.llvm.org/docs/SanitizerCoverage.html. opt-level=1, because CI
# builds the targets for a few seconds of work.
flags=(--cfg fuzzing -Copt-level=1 -Cdebug-assertions -Coverflow-checks -Cdebuginfo=line-tables-only -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-{level=4,inline-8bit-counters,pc-table,trace-compares})
if [ -n "${FUZZ_ASAN:-}" ]; then
    as_caller cargo +nightly --version >/dev/null 2>&1 || fail "the nightly compiler is missing: rustup toolchain install nightly --profile minimal"
    toolchain=(+nightly)
    flags+=(-Zsanitizer=address)
    work=$work/asan
fi

runs() { [ "$1" != packet ] || can_be_root; }
bins=() features=()
for target in "${targets[@]}"; do
    [ -e "fuzz/fuzz_targets/$target.rs" ] || fail "no target $target: the targets are$(printf ' %s' fuzz/fuzz_targets/*.rs | sed 's|fuzz/fuzz_targets/||g; s|\.rs||g')"
    if ! runs "$target"; then
        note "SKIP packet: running BPF programs needs root"
        continue
    fi
    bins+=(--bin "$target")
    [ "$target" != packet ] || features=(--features datapath)
done
[ ${#bins[@]} -gt 0 ] || exit 0
step "Building the fuzz targets"
# --target limits RUSTFLAGS to the fuzz targets: build scripts and macros get no coverage counters.
as_caller env RUSTFLAGS="${flags[*]}" CARGO_INCREMENTAL=0 cargo "${toolchain[@]}" build --locked --quiet --manifest-path fuzz/Cargo.toml \
    --target-dir "$work" --target "$host" "${features[@]}" "${bins[@]}"

# minimize TARGET RUNNER: a seed keeps its name; a new input has its SHA-1 as name.
minimize() {
    local target=$1 as=$2 into=$work/minimized/$1 seed input
    "$as" rm -rf "$into"
    as_caller mkdir -p "$into"
    "$as" "$work/$host/debug/$target" -set_cover_merge=1 -max_len=4096 "$into" "fuzz/corpus/$target" "$work/corpus/$target" 2>&1 </dev/null |
        grep -a '^MERGE-OUTER: .*new coverage' || return 1
    for seed in "fuzz/corpus/$target"/*; do
        input=$into/$(sha1sum <"$seed" | cut -d' ' -f1)
        [ ! -e "$input" ] || "$as" mv "$input" "$into/${seed##*/}"
    done
    [ "$as" = as_caller ] || as_root chown -R --reference=fuzz "$into"
    note "$into: $(find "$into" -type f | wc -l) inputs; fuzz/corpus/$target: $(find "fuzz/corpus/$target" -type f | wc -l) seeds"
}

failed=()
for target in "${targets[@]}"; do
    runs "$target" || continue
    found=$work/corpus/$target artifacts=$work/artifacts/$target
    as_caller mkdir -p "$found" "$artifacts"
    as=as_caller
    [ "$target" != packet ] || as=as_root
    if [ -n "$minimize" ]; then
        step "$target, minimize"
        minimize "$target" "$as" || fail "$target: the merge failed"
        continue
    fi
    step "$target, $seconds s"
    # 4 KiB: longer inputs run slower and reach no further code. grep drops the line of each new
    # input.
    "$as" "$work/$host/debug/$target" "$found" "fuzz/corpus/$target" -max_total_time="$seconds" -max_len=4096 -timeout=10 \
        -rss_limit_mb=2048 -artifact_prefix="$artifacts/" 2>&1 </dev/null |
        grep --line-buffered -avE '^#[0-9]+\s+(NEW|REDUCE|RELOAD) |NEW_FUNC|^INFO: |^WARNING: Failed to find|^"|^###### ' || failed+=("$target")
    [ "$as" = as_caller ] || as_root chown -R --reference=fuzz "$found" "$artifacts"
done
if [ ${#failed[@]} -gt 0 ]; then
    for target in "${failed[@]}"; do
        note "The inputs that $target failed at are in $work/artifacts/$target. To run them again:"
        note "  $work/$host/debug/$target $work/artifacts/$target/*"
        note "Fix the bug, and copy the input to fuzz/corpus/$target: every cargo test replays the seeds."
    done
    fail "failed: ${failed[*]}"
fi
printf '%sfuzz: OK%s\n' "$green" "$plain"
