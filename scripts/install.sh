#!/usr/bin/env bash
# Builds the plugin, and runs its `install` on this machine with the arguments of this script.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

binary=$("$root/scripts/build.sh" | tail -n 1)
as_root "$binary" install "$@"
