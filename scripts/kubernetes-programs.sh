#!/usr/bin/env bash
# Builds the programs of a Kubernetes cluster from their Go modules, if they are missing or older
# than their sources in tests/kubernetes. They are in target/kubernetes/bin.
#
# usage: scripts/kubernetes-programs.sh [--tests] [--containerd]
#        --tests        also the [sig-network] tests of Kubernetes
#        --containerd   also containerd 2.2, for a cluster with another runtime than this machine's
#
# KUBERNETES_BIN_DIR   a folder with prebuilt programs. Only those that it lacks are built
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cluster=(kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl etcd coredns agnhost pause)
tests=(ginkgo e2e.test boom-server)
runtime=(containerd containerd-shim-runc-v2 ctr portmap)
wanted=("${cluster[@]}")
runtime_wanted=()
for argument in "$@"; do
    case $argument in
        --tests) wanted+=("${tests[@]}") ;;
        --containerd) runtime_wanted=("${runtime[@]}") ;;
        *) fail "usage: scripts/kubernetes-programs.sh [--tests] [--containerd]" ;;
    esac
done

[ -z "${KUBERNETES_BIN_DIR:-}" ] || [ -d "$KUBERNETES_BIN_DIR" ] || fail "KUBERNETES_BIN_DIR=$KUBERNETES_BIN_DIR is not a folder"
cd "$root"
folder=$(realpath -m "${CARGO_TARGET_DIR:-target}/kubernetes/bin")
sources=tests/kubernetes
kubernetes=$(sed -n 's/^\tk8s.io\/kubernetes \(v[0-9.]*\)$/\1/p' $sources/programs/go.mod)
minor=${kubernetes#v1.}
# The version that the API server reports. Without it, clients take the server for an old one.
flags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags+=" -X $package.gitVersion=$kubernetes -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*} -X $package.gitTreeState=clean"
done

# package_of PROGRAM: the Go package of a program.
package_of() {
    case $1 in
        kube-* | kubelet | kubectl) echo "k8s.io/kubernetes/cmd/$1" ;;
        etcd) echo go.etcd.io/etcd/server/v3 ;;
        agnhost) echo k8s.io/kubernetes/test/images/agnhost ;;
        boom-server) echo k8s.io/kubernetes/test/images/regression-issue-74839 ;;
        ginkgo) echo github.com/onsi/ginkgo/v2/ginkgo ;;
        containerd* | ctr) echo "github.com/containerd/containerd/v2/cmd/$1" ;;
        portmap) echo github.com/containernetworking/plugins/plugins/meta/portmap ;;
        *) echo "./$1" ;;
    esac
}

# file_of PROGRAM: the name that go gives to the program.
file_of() {
    case $1 in
        etcd) echo server ;;
        boom-server) echo regression-issue-74839 ;;
        *) echo "$1" ;;
    esac
}

require_go() {
    can_build_go || fail "Go 1.21 or newer is necessary to build Kubernetes: install it from https://go.dev/dl, or set KUBERNETES_BIN_DIR to a folder with ${missing[*]}"
}

# count TOTAL: reads the names of compiled packages, and prints the number of them.
count() {
    local total=$1 done=0 line
    while read -r line; do
        # An error message is not the name of a package.
        if [[ $line == *[[:space:]]* ]]; then printf '%s\n' "$line" >&2 && continue; fi
        done=$((done + 1))
        if [ -t 1 ]; then
            printf '\r    %s%d of at most %d packages%s' "$dim" "$done" "$total" "$plain"
        elif [ $((done % 200)) = 0 ]; then
            note "$done of at most $total packages, $SECONDS s"
        fi
    done
    if [ -t 1 ] && [ "$done" -gt 0 ]; then printf '\n'; fi
}

# build MODULE FOLDER PROGRAM...: builds the programs of a module that are missing or outdated.
build() {
    local module=$sources/$1 out=$2 program digest packages=() total
    shift 2
    missing=()
    digest=$(find "$module" -type f ! -name '*.md' -exec sha256sum {} + | sort -k 2 | sha256sum | cut -d' ' -f1)
    for program in "$@"; do
        # The runtime is built in any case: another containerd would be of an unknown version.
        [ "$out" = "$folder" ] && [ -x "${KUBERNETES_BIN_DIR:-/nowhere}/$program" ] && continue
        [ -x "$out/$program" ] && [ "$(cat "$out/.$program" 2>/dev/null)" = "$digest" ] || missing+=("$program")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    require_go
    step "Building ${missing[*]} (once; five to fifteen minutes on two processors without a Go cache)"
    local began=$SECONDS
    as_caller mkdir -p "$out/new"
    go() { (cd "$module" && as_caller env CGO_ENABLED=0 GOTOOLCHAIN="${GOTOOLCHAIN:-auto}" GOFLAGS="${GOFLAGS:-} -buildvcs=false" go "$@"); }
    for program in "${missing[@]}"; do
        [ "$program" = e2e.test ] || packages+=("$(package_of "$program")")
    done
    note "Downloading the modules"
    go mod download
    total=$(go list -test -deps "${packages[@]}" ./... | wc -l)
    # -v prints each compiled package.
    if [ ${#packages[@]} -gt 0 ]; then
        go build -v -trimpath -tags "$tags" -ldflags "$flags" -o "$out/new/" "${packages[@]}" 2>&1 | count "$total"
    fi
    for program in "${missing[@]}"; do
        if [ "$program" = e2e.test ]; then
            go test -c -v -trimpath -ldflags "$flags" -o "$out/new/$program" ./network-tests 2>&1 | count "$total"
        fi
        as_caller mv "$out/new/$(file_of "$program")" "$out/$program"
        echo "$digest" | as_caller tee "$out/.$program" >/dev/null
    done
    as_caller rmdir "$out/new"
    note "built in $((SECONDS - began)) s"
}

tags=''
build programs "$folder" "${wanted[@]}"
if [ ${#runtime_wanted[@]} -gt 0 ]; then
    # The drivers of these file systems need C libraries.
    tags=no_btrfs,no_zfs,no_devmapper
    build containerd "$folder/containerd-2" "${runtime_wanted[@]}"
fi
