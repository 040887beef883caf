#!/usr/bin/env bash
# Builds programs of the CNI project for tests and benchmarks, if Go is installed: cnitool, and
# reference plugins newer than Debian's. They are in target/peers; the plugins have a folder with
# their version.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cnitool=v1.3.0
plugins=v1.9.1

cd "$root"
peers=$(realpath -m "${CARGO_TARGET_DIR:-target}/peers")
missing() {
    note "NOT RUN: $*: tests with cnitool and the newer reference plugins are skipped"
    exit 0
}
can_build_go || missing "Go 1.21 or newer is not installed"

# build FOLDER PACKAGE@VERSION...: builds the missing programs.
build() {
    local folder=$1 package name
    for package in "${@:2}"; do
        name=${package##*/}
        [ -x "$folder/${name%@*}" ] || as_caller env GOBIN="$folder" go install "github.com/containernetworking/$package" ||
            if [ -n "${CI:-}" ]; then fail "cannot build $package: see above"; else missing "cannot build $package"; fi
    done
}
build "$peers" "cni/cnitool@$cnitool"
build "$peers/$plugins" plugins/plugins/{main/bridge,main/ptp,main/macvlan,ipam/host-local}"@$plugins"
