#!/usr/bin/env bash
# Fetches a packaged kernel of Debian's and prints the folder in which it lies, as the last line: `vmlinuz`, and
# `modules/` below a folder of the release's name. Nothing is installed, and nothing here needs root.
#
# usage: scripts/fetch-kernel.sh VERSION        such as 6.1: the newest package of that series
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

version=${1:?usage: scripts/fetch-kernel.sh VERSION}
suites=('debian-security bullseye-security' 'debian-security bookworm-security' 'debian trixie-backports')
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

cache=${CARGO_TARGET_DIR:-$root/target}/kernels
mkdir -p "$cache"
cache=$(realpath "$cache")
kernel=$cache/$version
if [ -e "$kernel/vmlinuz" ]; then
    printf '%s\n' "$kernel"
    exit
fi

# An apt of its own, so that this machine's sources and lists are neither read nor changed. Its proxies are used.
apt=$cache/apt
mkdir -p "$apt/lists/partial" "$apt/archives/partial"
: >"$apt/status"
printf "deb [arch=amd64 signed-by=$keyring] http://deb.debian.org/%s main\n" "${suites[@]}" >"$apt/sources.list"
cat >"$apt/apt.conf" <<END
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State "$apt";
Dir::State::Status "$apt/status";
Dir::Cache "$apt";
APT::Architecture "amd64";
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
#clear APT::Update;
END
step "Fetching Linux $version" >&2
apt-get -q -c "$apt/apt.conf" update >&2 || fail "apt-get update failed: see above"
package=$(apt-cache -c "$apt/apt.conf" search --names-only "^linux-image-${version//./\\.}[.+][^ ]*-cloud-amd64\$" |
    cut -d' ' -f1 | sort -V | tail -n 1)
[ -n "$package" ] || fail "there is no kernel $version in ${suites[*]#* }"

# Renamed when it is whole, so that an interrupted run leaves nothing that looks like a kernel.
loading=$cache/loading-$version
rm -rf "$loading"
mkdir -p "$loading"
(cd "$loading" && apt-get -q -c "$apt/apt.conf" download "$package") >&2 || fail "cannot download $package: see above"
dpkg -x "$loading"/linux-image-*.deb "$loading/unpacked"
find "$loading/unpacked" -name '*.ko.xz' -exec xz -d {} +
busybox depmod -b "$loading/unpacked" "${package#linux-image-}"
mv "$loading/unpacked/lib/modules" "$loading/modules"
mv "$loading"/unpacked/boot/vmlinuz-* "$loading/vmlinuz"
rm -rf "$loading/unpacked" "$loading"/*.deb
mv "$loading" "$kernel"
printf '%s\n' "$kernel"
