#!/usr/bin/env bash
# Builds the plugin in release mode. The last line of the output is the path of the binary.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

"$root/scripts/preflight.sh" build >&2
cd "$root"
as_caller cargo build --release --locked -p simple-ebpf-cni >&2
printf '%s\n' "${CARGO_TARGET_DIR:-$root/target}/release/simple-ebpf-cni"
