#!/usr/bin/env bash
# Fuzzes each target for FUZZ_SECONDS (10), or those that are named. What is found beside the seeds stays below fuzz/target.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$root"
seconds=${FUZZ_SECONDS:-10}
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(args config ipam netlink result packet)

cargo() { as_caller cargo "$@"; }
cargo +nightly --version >/dev/null 2>&1 || fail "no nightly compiler: rustup toolchain install nightly --profile minimal"
cargo fuzz --version >/dev/null 2>&1 || fail "no cargo-fuzz: cargo install --locked cargo-fuzz"

for target in "${targets[@]}"; do
    features=()
    if [ "$target" = packet ]; then
        if [ "$(id -u)" != 0 ]; then
            note "NOT RUN: packet: the kernel runs programs for root alone"
            continue
        fi
        features=(--features bpf)
    fi
    step "$target, $seconds s"
    found=fuzz/target/corpus/$target
    mkdir -p "$found"
    # Some 4 KiB: what is longer says nothing new, and takes longer to say.
    cargo +nightly fuzz run "${features[@]}" "$target" "$found" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1
done
