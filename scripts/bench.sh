#!/usr/bin/env bash
# Builds the plugin and the benchmark program, and runs `cnikit-bench add`, `net` or `plot`.
#
#   scripts/bench.sh add [OPTION...]        the verbs, compared with the reference plugins
#   scripts/bench.sh net [OPTION...]        packets from pod to pod, on one node and to another
#   scripts/bench.sh library [OPTION...]    the library with criterion, collected in docs/benchmarks
#   scripts/bench.sh plot                   tables and plots of docs/benchmarks.md, from its JSON
#
# Measures the static binary if `make dist` built it from this commit, and else the release build.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

[ $# -gt 0 ] || fail "usage: scripts/bench.sh add | net | library | plot [OPTION...]"
cd "$root"
target=${CARGO_TARGET_DIR:-target}
what=$1
shift

"$root/scripts/preflight.sh" build >&2
as_caller cargo build --release --locked --quiet -p cnikit-bench >&2
if [ "$what" = plot ]; then exec "$target/release/cnikit-bench" plot "$@"; fi
can_be_root || fail "the benchmarks create namespaces: run this as root or with sudo"

if [ "$what" = library ]; then
    json=docs/benchmarks/library.json
    # The caller builds. Root runs the result, because maps and netlink need root.
    executables=$(as_caller cargo bench --locked --quiet --no-run --message-format=json |
        jq -r 'select(.target.kind == ["bench"] and .executable != null) | .executable')
    for executable in $executables; do
        as_root env "CRITERION_HOME=$(realpath -m "$target/criterion")" "$executable" --bench --noplot "$@"
    done
    exec "$target/release/cnikit-bench" library --criterion "$target/criterion" --json "$json"
fi

# `--version` of the binary of `make dist` names its commit. New benchmark results do not change it.
plugin=dist/$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')/simple-ebpf-cni
revision=$(git describe --tags --always --abbrev=12 2>/dev/null || true)
is_current() {
    [ -n "$revision" ] && "$plugin" --version 2>/dev/null | grep -qF "($revision)" &&
        git diff --quiet HEAD -- Cargo.toml Cargo.lock build.rs src bpf examples
}
if is_current; then
    note "measuring the static binary of $revision" >&2
else
    plugin=$(scripts/build.sh)
fi
scripts/peers.sh >&2
peers=/usr/lib/cni
for place in "$target"/peers/v*; do
    if [ -x "$place/bridge" ]; then peers=$place; fi
done
as_root "$target/release/cnikit-bench" "$what" --plugin "$plugin" --peers "$peers" "$@"
