#!/usr/bin/env bash
# Runs the tests that depend on the kernel on Debian's packaged kernels. QEMU boots each kernel from
# an initramfs that holds the test binaries. The processor is emulated: slow, but the same on every
# machine, and without root.
#
# usage: scripts/kernels.sh [--quick] [VERSION...]
#        VERSION  a kernel series such as 6.1; the default is 5.10, 6.1 and 6.12
#        LIMIT    seconds after which a machine is stopped (3600)
#        TESTS    the test binaries (all that depend on the kernel)
#        FILTER   the tests in them: parts of test names, separated by commas, for example
#                 TESTS=blackbox FILTER=upgrade::,services::
#        --quick  runs the tests of the plugin on the first kernel only. Leaves out tests of bad
#                 input, which never reaches the kernel, and tests of many pods, many calls and a
#                 full flow table, which are slow on an emulated processor
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# Warnings about the C program are errors here.
export CNIKIT_BPF_WERROR=1

arguments=("$@")
quick=''
if [ "${1:-}" = --quick ]; then
    quick=1
    shift
fi
[ $# -gt 0 ] || set -- 5.10 6.1 6.12

# The tests of the plugin, which take most of the time. --quick runs them on the first kernel only.
plugin_tests=blackbox
# The test binaries that depend on the kernel, and the programs that they call.
read -ra tests <<<"${TESTS:-cnikit netlink netlink_fds netlink_background datapath datapath_fds isolation blackbox}"
programs=(mount umount mkfifo date sh bash script cat sleep timeout nsenter unshare setpriv env kill sysctl ip tc bridge ping nft bpftool ethtool iptables-nft iptables-restore ip6tables-restore)
# The address plugins in the tests of gateways and routes.
peers=(/usr/lib/cni/{host-local,sbr,static})
# The extensions that iptables-nft and iptables-restore load.
extensions=(/usr/lib/"$(uname -m)"-linux-gnu/xtables/*.so)
# The kernel modules that they need, if they are not built in.
modules=(veth bridge br_netfilter macvlan macvtap ipvlan 8021q vxlan vrf dummy ifb tun cls_bpf cls_u32 cls_matchall act_mirred sch_ingress sch_tbf sch_htb nf_tables nft_ct nft_chain_nat nft_nat nft_masq nft_redir nft_limit nft_log nf_log_syslog nf_log_ipv4 nf_log_ipv6 nft_reject nft_fib_inet nft_compat nft_counter xt_comment xt_conntrack xt_mark xt_MASQUERADE xt_nat xt_tcpudp ipt_REJECT ip6t_REJECT nft_reject_inet nft_reject_ipv4 nft_reject_ipv6 nft_reject_bridge nft_meta_bridge nf_conntrack_netlink nf_conntrack_bridge overlay)
# Seconds that a machine may run: several times the time that an idle processor needs.
limit=${LIMIT:-3600}

started=$SECONDS
skip() {
    if [ "${CNIKIT_REQUIRE_PRIVILEGED:-}" = 1 ] || [ -n "${CI:-}" ]; then fail "$*"; fi
    printf 'SKIP kernels: %s\n' "$*"
    exit 0
}
[ "$(uname -m)" = x86_64 ] || skip "the kernels are for x86-64, this machine is $(uname -m)"
"$root/scripts/preflight.sh" kernels || skip "QEMU, or what else it takes to boot a kernel, is missing: see above"
if [ -n "$caller" ]; then
    # The rest needs no root, and no file below target/ may belong to root.
    as_caller "$0" "${arguments[@]}"
    exit
fi
cd "$root"
PATH="$(bpftool_folder):$PATH"
logs=${CARGO_TARGET_DIR:-target}/kernels
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# pack FOLDER: prints a cpio archive of the folder. The kernel unpacks several archives in a row.
pack() { (cd "$1" && find . | cpio --quiet -o -H newc -R +0:+0); }

# stage_userland FOLDER: copies all files except the modules. Each file keeps its path on this
# machine, because the path of the built plugin is compiled into the tests.
stage_userland() {
    local stage=$1 built name file
    built=$(as_caller cargo test --locked --workspace --no-run --message-format=json |
        jq -r 'select(.executable != null) | [.target.name, .profile.test, .executable] | @tsv')
    executable() { awk -F '\t' -v name="$1" -v test="$2" '$1 == name && $2 == test { print $3 }' <<<"$built"; }

    mkdir -p "$stage"/{dev,proc,sys,tmp,run,root,opt,tests,var/lib/cni,usr/{bin,sbin,lib,lib64}}
    for name in bin sbin lib lib64; do ln -s "usr/$name" "$stage/$name"; done
    local binaries=("$(executable simple-ebpf-cni false)") libraries
    for name in "${tests[@]}"; do
        file=$(executable "$name" true)
        binaries+=("$file")
        ln -s "$file" "$stage/tests/$name"
    done
    for file in "${binaries[@]}"; do install -D -s "$file" "$stage/$file"; done
    check_skips "${binaries[@]:1}"
    for name in "${programs[@]}"; do binaries+=("$(type -P "$name")"); done
    binaries+=("${peers[@]}" "${extensions[@]}")
    mapfile -t libraries < <(ldd "${binaries[@]}" | grep -o '/[^ ]* (0x' | cut -d' ' -f1 | sort -u)
    for file in "${binaries[@]:1+${#tests[@]}}" "${libraries[@]}"; do install -D "$file" "$stage/$file"; done
    install "$(type -P busybox)" "$stage/usr/bin/busybox"
    install scripts/kernels-guest.sh "$stage/init"
}

# check_skips BINARY...: fails if kernels-guest.sh skips a test that no binary has, such as a
# renamed test.
check_skips() {
    local names pattern
    [ -z "${TESTS:-}" ] || return 0
    names=$(for file in "$@"; do "$file" --list; done)
    while read -r pattern; do
        grep -qF -- "$pattern" <<<"$names" || fail "scripts/kernels-guest.sh skips $pattern, and no test has this name"
    done < <(grep -oE -- '--skip [a-z_:]+' scripts/kernels-guest.sh | cut -d' ' -f2)
}

# stage_modules KERNEL FOLDER: copies the modules named above and their dependencies.
stage_modules() {
    local tree=$1/modules stage=$2/usr/lib/modules release file pattern
    release=$(ls "$tree")
    pattern=$(IFS='|' && printf '/(%s)\\.ko:' "${modules[*]}")
    for file in $(grep -E "$pattern" "$tree/$release/modules.dep" | tr -d ':'); do
        install -D -m 0644 "$tree/$release/$file" "$stage/$release/$file"
    done
    ln -s usr/lib "$2/lib"
    busybox depmod -b "$2" "$release"
    rm "$2/lib"
}

# emulated_processors: prints the options of QEMU for the processors.
#
# Before 8.1, a QEMU with several threads may run an old copy of an instruction that the kernel has
# patched (fixed by QEMU commit deba78709ae8). Linux patches itself while it runs, for example at
# the first ingress qdisc. It then loops at a breakpoint that is no longer in memory, and reports
# "soft lockup". With one thread, no other processor translates an instruction during the patch.
# More processors on one thread would only wait for each other.
emulated_processors() {
    local version
    version=$(qemu-system-x86_64 --version | sed -n 's/.* version \([0-9]*\.[0-9]*\).*/\1/p')
    if [ "$(printf '%s\n' 8.1 "$version" | sort -V | head -n 1)" = 8.1 ]; then
        printf '%s\n' -accel tcg,thread=multi -smp "$(nproc)"
    else
        printf '%s\n' -accel tcg,thread=single -smp 1
    fi
}

# boot KERNEL INITRAMFS LEFT_OUT: prints the console of a machine until it powers off or its time is
# over. LEFT_OUT is the binary that does not run.
boot() {
    # Emulated even if /dev/kvm exists: a /dev/kvm that opens may still fail. An emulated processor
    # needs no mitigations, and page table isolation would flush its TLB at each system call. AVX
    # and five-level paging are slow to emulate. A processor that is stuck for twice watchdog_thresh
    # seconds ends the machine, which would otherwise use all of its time.
    timeout --foreground "$limit" qemu-system-x86_64 -M pc "${processors[@]}" -cpu max,la57=off,-avx -m 1024 \
        -nodefaults -no-user-config -display none -serial stdio -no-reboot \
        -kernel "$1/vmlinuz" -initrd "$2" -append "console=ttyS0 quiet panic=-1 softlockup_panic=1 watchdog_thresh=60 mitigations=off QUICK=$quick LEFT_OUT=$3 FILTER=${FILTER:-}" </dev/null | sed -u 's/\r$//'
}

# tally LOG BINARY...: prints `binary passed failed skipped left-out` for each test binary. A binary
# that did not end counts as failed.
tally() {
    local name log=$1
    for name in "${@:2}"; do
        awk -v name="$name" '
            $1 == "BEGIN" && $2 == name { inside = 1 }
            inside && /^SKIP / { skips++ }
            inside && $1 " " $2 == "test result:" { passed = $4; failed = $6; skipped = $8; left = $12 }
            $1 == "END" && $2 == name { ended = 1; status = $3; inside = 0 }
            END {
                if (!ended || (status != 0 && !failed)) failed++
                print name, passed - skips, failed + 0, skipped + skips, left + 0
            }' "$log"
    done
}

step "Building the tests"
mkdir -p "$work/userland"
stage_userland "$work/userland"
pack "$work/userland" >"$work/userland.cpio"

mapfile -t processors < <(emulated_processors)
table=()
failed=()
left_out='' run=("${tests[@]}")
for version in "$@"; do
    kernel=$("$root/scripts/fetch-kernel.sh" "$version" | tail -n 1)
    release=$(ls "$kernel/modules")
    step "Booting Linux $release"
    mkdir -p "$work/modules-$version"
    stage_modules "$kernel" "$work/modules-$version"
    { cat "$work/userland.cpio" && pack "$work/modules-$version"; } >"$work/initramfs"
    log=$logs/$version.log
    began=$SECONDS
    boot "$kernel" "$work/initramfs" "$left_out" >"$log" || note "the machine was stopped after $limit s"
    seconds=$((SECONDS - began))
    faults=0
    while read -r name passed failures skipped left; do
        table+=("$(printf '%-34s %-12s %6d %6d %7d %8d' "$release" "$name" "$passed" "$failures" "$skipped" "$left")")
        faults=$((faults + failures))
    done < <(tally "$log" "${run[@]}")
    if [ -n "$left_out" ]; then note "NOT RUN on Linux $version: $left_out, because of --quick"; fi
    if [ -n "$quick" ] && [[ " ${tests[*]} " == *" $plugin_tests "* ]]; then left_out=$plugin_tests; fi
    run=()
    for name in "${tests[@]}"; do if [ "$name" != "$left_out" ]; then run+=("$name"); fi; done
    note "$seconds s; the console is in $log"
    if [ "$faults" != 0 ]; then
        failed+=("$version")
        # The output of each failed test, or the end of the console.
        if grep -q '^---- ' "$log"; then sed -n '/^---- /,/^failures:$/p' "$log"; else tail -n 20 "$log"; fi
    fi
done

printf '%-34s %-12s %6s %6s %7s %8s\n' kernel binary passed failed skipped left-out
printf '%s\n' "${table[@]}"
[ ${#failed[@]} = 0 ] || fail "failed on Linux ${failed[*]}"
printf '%skernels: OK (%d s)%s\n' "$green" $((SECONDS - started)) "$plain"
