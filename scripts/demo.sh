#!/usr/bin/env bash
# Builds the plugin, and connects two pods on a private host. No interface, file or BPF object of
# this machine is changed.
#
#   scripts/demo.sh [--shell]
#
# --shell opens a shell on the private host, with both pods attached, instead of the checks. Without
# a terminal it runs the commands from standard input. docs/tour.md uses this shell.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

started=$SECONDS
failed() {
    printf '%sdemo: FAILED at %s%s\n' "$red" "$1" "$plain"
    exit 1
}

mode=${1:-}
case $mode in
    '' | --shell) ;;
    -h | --help)
        sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0"
        exit
        ;;
    *)
        printf 'usage: scripts/demo.sh [--shell]\n' >&2
        exit 2
        ;;
esac

# Prints the missing requirements in one line.
"$root/scripts/preflight.sh" demo || exit 1
can_be_root || failed "preparing the machine: namespaces need root: run as root or with sudo"
PATH="$(bpftool_folder):$PATH"

step "Building simple-ebpf-cni"
binary=$("$root/scripts/build.sh" | tail -n 1) || failed "building the plugin: see above"

# The PID namespace ends all processes of the demo, also after an error or a kill.
as_root unshare --net --mount --pid --fork --kill-child --mount-proc \
    env "NO_COLOR=${NO_COLOR:-}" "$root/scripts/demo-host.sh" "$binary" "$mode" || exit 1
if [ "$mode" = --shell ]; then
    printf '%sdemo: the private host is gone, with all that was in it%s\n' "$green" "$plain"
    exit
fi
printf '%sdemo: OK: two pods talked through eBPF, and nothing is left behind (%d s)%s\n' \
    "$green" $((SECONDS - started)) "$plain"
