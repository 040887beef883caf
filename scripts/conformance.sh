#!/usr/bin/env bash
# Holds our plugin and the reference plugins that are installed to the specification.
#
#   scripts/conformance.sh [--docs] [NAME...]
#
# A NAME is one of examples/cni-conformance/configs; all of them by default. The reference plugins are looked for in
# /usr/lib/cni (Debian), /opt/cni/bin and, where REFERENCE_BIN names one, in that directory; REFERENCE_NAME is what the
# table calls those. Fails when our own plugin breaks a rule. The reports lie in target/conformance; --docs puts them into the table of docs/conformance.md.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

docs=''
if [ "${1:-}" = --docs ]; then docs=1 && shift; fi
cd "$root"
can_be_root || fail "the suite makes namespaces: run it as root, or with sudo at hand"
configs=examples/cni-conformance/configs
target=${CARGO_TARGET_DIR:-target}
reports=$target/conformance
names=("$@")
[ ${#names[@]} -gt 0 ] || names=(simple-ebpf-cni bridge ptp macvlan host-local)

step "Build"
as_caller cargo build --locked --quiet -p cni-conformance -p simple-ebpf-cni
mkdir -p "$reports"

columns=() ours=0
# Runs the suite on one plugin: its name, its executable, the heading of its column.
try() {
    local name=$1 plugin=$2 column=$3 status=0 prepare=()
    step "$column"
    if [ -x "$configs/$name.prepare" ]; then prepare=(--prepare "$configs/$name.prepare"); fi
    as_root "$target/debug/cni-conformance" --plugin "$plugin" --config "$configs/$name.conf" "${prepare[@]}" \
        --format json --output "$reports/$column.json" || status=$?
    case $status in
    0) note "every rule that must be kept is kept" ;;
    1) note "some rules that must be kept are broken" ;;
    *) note "no verdict" && rm -f "$reports/$column.json" && return "$status" ;;
    esac
    columns+=("$reports/$column.json")
    return "$status"
}

for name in "${names[@]}"; do
    if [ "$name" = simple-ebpf-cni ]; then
        try "$name" "$target/debug/simple-ebpf-cni" "$name" || ours=$?
        continue
    fi
    found=''
    for place in Debian:/usr/lib/cni opt:/opt/cni/bin "${REFERENCE_NAME:-reference}:${REFERENCE_BIN:-}"; do
        plugin=${place#*:}/$name
        if [ -z "${place#*:}" ] || [ ! -x "$plugin" ]; then continue; fi
        try "$name" "$plugin" "$name-${place%%:*}" || true
        found=1
    done
    [ -n "$found" ] || note "$name is not installed: see docs/conformance.md"
done

table=$("$target/debug/cni-conformance" --compare "${columns[@]}")
if [ -n "$docs" ]; then
    file=docs/conformance.md
    {
        sed '/^<!-- table -->$/q' "$file"
        printf '\n%s\n\n' "$table"
        sed -n '/^<!-- end of table -->$/,$p' "$file"
    } >"$reports/conformance.md"
    cat "$reports/conformance.md" >"$file"
    note "$file has the table"
else
    printf '%s\n' "$table"
fi
[ "$ours" = 0 ] || fail "simple-ebpf-cni does not conform: cni-conformance --plugin $target/debug/simple-ebpf-cni --config $configs/simple-ebpf-cni.conf"
