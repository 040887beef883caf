#!/usr/bin/env bash
# Builds the plugin and has it install itself on this machine; the arguments are those of `simple-ebpf-cni install`.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

binary=$("$root/scripts/build.sh" | tail -n 1)
as_root "$binary" install "$@"
