#!/usr/bin/env bash
# Tests our plugin, the example plugins and the reference plugins against the CNI specification. The
# reference plugins are Debian's, and newer ones if Go can build them.
#
#   scripts/conformance.sh [--docs] [NAME...]
#
# A NAME is a configuration in examples/cni-conformance/configs; the default is all of them. Fails
# if an example breaks any rule. Also fails if another plugin breaks a "must" rule that is not in
# examples/cni-conformance/known.json. The reports are in target/conformance. --docs writes both
# tables of docs/conformance.md.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# Warnings about the C programs are errors here.
export CNIKIT_BPF_WERROR=1

docs=''
if [ "${1:-}" = --docs ]; then docs=1 && shift; fi
cd "$root"
can_be_root || fail "the suite creates namespaces: run this as root or with sudo"
scripts/preflight.sh test
scripts/peers.sh
configs=examples/cni-conformance/configs
known=examples/cni-conformance/known.json
target=${CARGO_TARGET_DIR:-target}
reports=$target/conformance
names=("$@")
[ ${#names[@]} -gt 0 ] || names=(simple-ebpf-cni simple-ebpf-cni-delegating loopback macvlan-example ptp-ebpf tuning-example
    pool-ipam bridge ptp macvlan host-local tuning)

step "Build"
as_caller cargo build --locked --quiet -p cnikit -p cni-conformance -p simple-ebpf-cni -p ptp-ebpf \
    --bins --example macvlan --example tuning --example pool-ipam
mkdir -p "$reports" "$target/loopback"
# The binary serves this plugin under its name.
ln -sfn ../debug/simple-ebpf-cni "$target/loopback/loopback"

# is_example NAME: whether a plugin is for readers. It has no known violations. So has `loopback`,
# which is not in the comparison.
is_example() {
    case $1 in *-example | pool-ipam | ptp-ebpf | loopback) ;; *) return 1 ;; esac
}

# try NAME EXECUTABLE COLUMN: runs the suite on one plugin, and writes the exit status to a file.
try() {
    local name=$1 plugin=$2 column=$3 status=0 options=()
    is_example "$name" || options+=(--known "$known" --name "$column")
    if [ -x "$configs/$name.prepare" ]; then options+=(--prepare "$configs/$name.prepare"); fi
    # It delegates to Debian's plugins, which support no newer version.
    if [ "$name" = simple-ebpf-cni-delegating ]; then options+=(--cni-path /usr/lib/cni --version 1.0.0); fi
    if [ "$name" = tuning ]; then options+=(--chained); fi
    # Unchained, the suite expects a new interface, and `lo` exists in every namespace. The plugin
    # also runs alone, so it needs no prevResult. A namespace has one `lo`, so the second interface
    # of a pod cannot have its own.
    if [ "$name" = loopback ]; then options+=(--chained --skip chain.needs-prev-result --skip del.second-interface); fi
    as_root "$target/debug/cni-conformance" --plugin "$plugin" --config "$configs/$name.conf" "${options[@]}" \
        --format json --output "$reports/$column.json" >"$reports/$column.log" 2>&1 || status=$?
    if is_example "$name" && jq -e 'any(.findings[]; .outcome == "warned")' "$reports/$column.json" >/dev/null; then
        status=1
    fi
    echo "$status" >"$reports/$column.status"
}

step "Run"
columns=() running=0
for name in "${names[@]}"; do
    executable=$name
    case $name in
    simple-ebpf-cni*) executable=simple-ebpf-cni places=("$target/debug") ;;
    loopback) places=("$target/loopback") ;;
    ptp-ebpf) places=("$target/debug") ;;
    *-example | pool-ipam) executable=${name%-example} places=("$target/debug/examples") ;;
    *) places=(/usr/lib/cni "$target"/peers/v*) ;;
    esac
    for place in "${places[@]}"; do
        [ -x "$place/$executable" ] || continue
        case $place in
        */debug | */examples | */loopback) column=$name ;;
        /usr/lib/cni) column=$name-Debian ;;
        *) column=$name-${place##*/} ;;
        esac
        # A run mostly waits, so one run more than processors is allowed.
        if [ "$running" -gt "$(nproc)" ]; then wait -n && running=$((running - 1)); fi
        try "$name" "$place/$executable" "$column" &
        columns+=("$column") running=$((running + 1))
    done
done
wait

failed=()
for column in "${columns[@]}"; do
    case $(cat "$reports/$column.status") in
    0) note "$column: as expected, $(jq '.seconds | round' "$reports/$column.json") s" ;;
    1) note "$column: BROKEN" && failed+=("$column") ;;
    *) note "$column: NO VERDICT" && failed+=("$column") && rm -f "$reports/$column.json" ;;
    esac
    sed 's/^/        /' "$reports/$column.log"
done

tables=()
for column in "${columns[@]}"; do
    # The table compares plugins for production.
    if is_example "$column"; then continue; fi
    if [ -e "$reports/$column.json" ]; then tables+=("$reports/$column.json"); fi
done
table=''
if [ ${#tables[@]} -gt 0 ]; then table=$("$target/debug/cni-conformance" --compare "${tables[@]}"); fi
if [ -n "$docs" ]; then
    file=docs/conformance.md
    # between NAME: replaces the text between two marks of the file by standard input.
    between() {
        local text
        text=$(cat)
        {
            sed "/^<!-- $1 -->\$/q" "$file"
            printf '\n%s\n\n' "$text"
            sed -n "/^<!-- end of $1 -->\$/,\$p" "$file"
        } >"$reports/conformance.md"
        cat "$reports/conformance.md" >"$file"
    }
    between table <<<"$table"
    {
        printf '| rules, and the plugins that break them | verdict | why |\n|---|---|---|\n'
        jq -r '.[] | (.rules | to_entries | group_by(.value) | sort_by(-(.[0].value | length))
            | map((map("`\(.key)`") | join(", ")) + ": " + (.[0].value | join(", "))) | join("; ")) as $rules
            | "| \($rules) | \(.verdict) | \(.why) ([source](\(.source))) |"' "$known"
    } | between known
    note "$file has the tables"
elif [ -z "${CI:-}" ]; then
    printf '%s\n' "$table"
fi
[ ${#failed[@]} = 0 ] || fail "${failed[*]}: see $reports, and for one plugin: cni-conformance --plugin PATH --config $configs/NAME.conf"
printf '%sconformance: OK%s\n' "$green" "$plain"
