#!/usr/bin/env bash
# Downloads a kernel package of Debian. The last line of the output is its folder, with `vmlinuz`
# and `modules/RELEASE/`. It installs nothing and does not need root.
#
# usage: scripts/fetch-kernel.sh VERSION
#
# VERSION is a series such as 6.1. The newest package of the series is used, or an earlier download.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

version=${1:?usage: scripts/fetch-kernel.sh VERSION}
mirror=$(debian_mirror) || fail "$no_debian_mirror"
suites=("$mirror-security bullseye-security" "$mirror-security bookworm-security" "$mirror trixie-backports")
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

cache=${CARGO_TARGET_DIR:-$root/target}/kernels
mkdir -p "$cache"
cache=$(realpath "$cache")
kernel=$cache/$version
if [ -e "$kernel/vmlinuz" ]; then
    printf '%s\n' "$kernel"
    exit
fi

# A separate apt state: this machine's sources and lists are not read or changed. Its proxies are
# used.
apt=$cache/apt
mkdir -p "$apt/lists/partial" "$apt/archives/partial"
: >"$apt/status"
printf "deb [arch=amd64 signed-by=$keyring] %s main\n" "${suites[@]}" >"$apt/sources.list"
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
[ -n "$package" ] || fail "there is no kernel $version in ${suites[*]##* }"
release=${package#linux-image-}
# Newer image packages are empty, and depend on the packages with kernel and modules.
mapfile -t parts < <(apt-cache -c "$apt/apt.conf" depends "$package" |
    sed -n "s/^ *Depends: \(linux-.*-${release//./\\.}\)\$/\1/p")

# Rename the folder when it is complete, so that an interrupted run leaves no broken kernel folder.
loading=$cache/loading-$version
rm -rf "$loading"
mkdir -p "$loading"
(cd "$loading" && apt-get -q -c "$apt/apt.conf" download "$package" "${parts[@]}") >&2 ||
    fail "cannot download $package: see above"
for package in "$loading"/*.deb; do dpkg -x "$package" "$loading/unpacked"; done
# Modules are below /lib or /usr/lib. The kernel is in /boot or beside its modules.
mkdir -p "$loading/lib/modules"
mv "$(find "$loading/unpacked" -type d -path "*/lib/modules/$release")" "$loading/lib/modules/"
mv "$(find "$loading" -type f -name 'vmlinuz*')" "$loading/vmlinuz"
find "$loading/lib" -name '*.ko.xz' -exec xz -d {} +
busybox depmod -b "$loading" "$release"
mv "$loading/lib/modules" "$loading/modules"
rm -rf "${loading:?}/lib" "$loading/unpacked" "$loading"/*.deb
mv "$loading" "$kernel"
printf '%s\n' "$kernel"
