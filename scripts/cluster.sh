#!/usr/bin/env bash
# A Kubernetes cluster in private namespaces, with the plugin of this checkout.
#
# usage: scripts/cluster.sh up [--nodes NUMBER] [--dual-stack] [--proxy nftables] [--runtime 2.2]
#        scripts/cluster.sh down
#        scripts/cluster.sh on NODE COMMAND...
#
# `up --help` lists all options. KUBERNETES_BIN_DIR is a folder with prebuilt programs.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

command=${1:-}
case $command in
    up | down | on | kubectl | reboot | test) shift ;;
    *)
        sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0"
        [ "$command" = -h ] || [ "$command" = --help ] && exit
        exit 2
        ;;
esac
folder=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")
# run ARGUMENTS...: the program that starts and stops clusters, as root.
run() {
    as_root env "NO_COLOR=${NO_COLOR:-}" ${KUBERNETES_BIN_DIR:+"KUBERNETES_BIN_DIR=$KUBERNETES_BIN_DIR"} \
        "$folder/debug/cluster" --dir "$folder/kubernetes" "$command" "$@"
}

cd "$root"
if [ "$command" = down ] && [ ! -x "$folder/debug/cluster" ]; then
    note "No cluster runs: none was built"
    exit
fi
# For a test, the clusters and tests that it selects.
listed=''
if [ "$command" = test ]; then
    scripts/preflight.sh build
    as_caller cargo build --quiet --locked -p kubernetes-cluster
    listing=(--plugin none "$@")
    [[ " $* " == *" --list "* ]] || listing+=(--list)
    listed=$(as_caller "$folder/debug/cluster" test "${listing[@]}")
    if [[ " $* " == *" --list "* ]]; then
        printf '%s\n' "$listed"
        exit
    fi
fi
if [ "$command" = up ] || [ "$command" = test ]; then
    scripts/preflight.sh kubernetes || exit 1
    can_be_root || fail "namespaces need root: run this as root or with sudo"
    PATH="$(bpftool_folder):$PATH"
    programs=()
    if [ "$command" = test ]; then programs+=(--tests); fi
    if [[ " $* " == *" 2.2 "* ]] || [[ $listed == *"containerd 2.2"* ]]; then programs+=(--containerd); fi
    as_caller mkdir -p "$folder/kubernetes"
    scripts/kubernetes-programs.sh "${programs[@]}"
    step "Building the cluster's own program, the agent and the plugin"
    # The agent is built without optimization, because it spends its time waiting.
    as_caller cargo build --quiet --locked -p kubernetes-cluster
    as_caller cargo build --quiet --locked -p simple-ebpf-agent
    plugin=${SIMPLE_EBPF_CNI_BINARY:-$(scripts/build.sh | tail -n 1)}
    set -- --plugin "$plugin" --agent "$folder/debug/simple-ebpf-agent" "$@"
fi
run "$@"
