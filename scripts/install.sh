#!/usr/bin/env bash
# Builds the plugin and installs it on this machine: BIN_DIR says where, /opt/cni/bin by default.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

folder=${BIN_DIR:-/opt/cni/bin}
binary=$("$root/scripts/build.sh" | tail -n 1)
# A new file under the old name: a runtime may be executing the one that is there.
as_root install -D -m 0755 "$binary" "$folder/.simple-ebpf-cni.new"
as_root mv -f "$folder/.simple-ebpf-cni.new" "$folder/simple-ebpf-cni"
step "Installed $folder/simple-ebpf-cni"
