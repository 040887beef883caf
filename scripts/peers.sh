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
# From 1.21 on, go downloads the release that a module requires.
found=$(as_caller go version 2>/dev/null | sed -n 's/^go version go\([0-9.]*\).*/\1/p') || found=''
[ -n "$found" ] || missing "Go is not installed"
[ "$(printf '%s\n' 1.21 "$found" | sort -V | head -n 1)" = 1.21 ] || missing "Go $found is too old"

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
