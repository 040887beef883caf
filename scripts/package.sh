#!/usr/bin/env bash
# Packs the library as `cargo publish` does, and builds and tests the package outside of the
# repository. Without root, because a user's test must not need it.
#
# The tests replace the verification of `cargo package`, which would build the library once more.
# They share the target folder, so most dependencies are built already.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$root"
CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR
folder=$CARGO_TARGET_DIR/package

step "Package of cnikit"
# The registry and docs.rs show this file without the folders of the repository.
if grep -n '](\.\|](/' src/README.md; then
    fail "src/README.md has relative links, which lead nowhere in the registry: write the name of the file"
fi
as_caller cargo fetch --locked --quiet
# The package leaves out the tests and benchmarks of the repository on purpose.
as_caller cargo package --locked --offline -p cnikit --no-verify --allow-dirty 2>&1 |
    { grep -v '^warning: ignoring \(test\|benchmark\) ' || true; }
version=$(as_caller cargo metadata --locked --offline --no-deps --format-version 1 |
    jq -r '.packages[] | select(.name == "cnikit").version')
unpacked=$folder/test/cnikit-$version
as_caller rm -rf "$folder/test"
as_caller mkdir -p "$folder/test"
# With the present time: the times in the archive are constant, so Cargo would not see a change.
as_caller tar -xzmf "$folder/cnikit-$version.crate" -C "$folder/test"
# The folder of the target can be inside of the repository's workspace.
printf '\n[workspace]\n' | as_caller tee -a "$unpacked/Cargo.toml" >/dev/null
cd "$unpacked"
# Built once, so neither incremental nor with debug information.
as_caller env CARGO_INCREMENTAL=0 cargo test --locked --offline --quiet --config 'profile.dev.package.cnikit.debug=0'
note "$(du -k "$folder/cnikit-$version.crate" | cut -f 1) kB, $(find . -type f | wc -l) files"
