#!/bin/sh
# The first process of a machine that scripts/kernels.sh boots. It runs each binary in /tests.
#
# The console shows the output of a test binary between `BEGIN name` and `END name status`.
export PATH=/usr/sbin:/usr/bin HOME=/root CNIKIT_REQUIRE_PRIVILEGED=1
# An emulated processor is about ten times slower than the processors that the tests' timeouts fit.
export CNIKIT_PATIENCE=10 CNIKIT_TEST_PODS=25

mounted() { busybox mount -t "$1" "$1" "$2"; }
mounted devtmpfs /dev
# Some tests open a terminal, or read a file that is their standard input.
busybox mkdir /dev/pts
mounted devpts /dev/pts
mounted proc /proc
busybox ln -s /proc/self/fd/0 /dev/stdin
mounted sysfs /sys
mounted bpf /sys/fs/bpf
mounted cgroup2 /sys/fs/cgroup
busybox ip link set lo up
# The modprobe of busybox does not wait for a module that another process is loading, and a request
# for such a device then fails. So all modules are loaded before the tests.
busybox find /lib/modules -name '*.ko' | while read -r module; do
    module=${module##*/}
    busybox modprobe "${module%.ko}"
done

# The programs of other projects are tested on the machine's own kernel. Most of them are not in
# here.
set -- --skip chain:: --skip dhcp:: --skip cnitool:: --skip delegation:: --skip a_delegate_is_a_step --skip another_plugin --skip parallel_adds_create_one_rule
# The guest has no repository to compare the version with.
set -- "$@" --skip help_and_version
# The tests of the commands use no other kernel features than the tests above, and need tools that
# the guest lacks.
set -- "$@" --skip broken_node:: --skip state_dir:: --skip doctor:: --skip install:: --skip pods:: --skip top:: --skip kubernetes::
# Loads take seconds on an emulated processor, and callers wait for the lock of the pins for 5 s.
set -- "$@" --skip a_concurrent_removal_leaves
# A process that must outlive its caller seldom does so on one emulated processor.
set -- "$@" --skip caller_leaves_nothing_open
# The tests of PinSet compile programs with clang, which the guest lacks.
set -- "$@" --skip pin_set:: --skip pin_set_kill::
# The guest has no fuzz seeds.
set -- "$@" --skip on_the_corpus --skip corpus_is_decoded
# From the kernel's command line.
if [ -n "$QUICK" ]; then
    set -- "$@" --skip bad_input:: --skip protocol:: --skip scale:: --skip a_full_flow_table
    set -- "$@" --skip programs_and_model_agree
    # Each has two nodes, and each node loads the programs. The tests of both ways to a node run.
    set -- "$@" --skip remote::packets:: --skip remote::services:: --skip strict_reverse_path
    # Files and texts, which do not depend on the kernel.
    set -- "$@" --skip ipam:: --skip spec:: --skip plugin:: --skip runtime::
    set -- "$@" --skip leases:: --skip status:: --skip logs:: --skip log_file:: --skip pools:: --skip requested::
    set -- "$@" --skip keys:: --skip malformed_input::
    # Many calls at once, which are slow on an emulated processor.
    set -- "$@" --skip concurrency::
fi
IFS=,
# shellcheck disable=SC2086  # a list, by commas
set -- "$@" $FILTER
unset IFS

echo "RELEASE $(busybox uname -r)"
for test in /tests/*; do
    # From the kernel's command line.
    [ "${test##*/}" != "$LEFT_OUT" ] || continue
    echo "BEGIN ${test##*/}"
    "$test" "$@" </dev/null 2>&1
    echo "END ${test##*/} $?"
done
echo "DONE"
busybox poweroff -f
