#!/bin/sh
# The first process of a machine that scripts/kernels.sh boots: runs each binary in /tests and says what came of it.
#
# What the console shows between `BEGIN name` and `END name status` is the test's.
export PATH=/usr/sbin:/usr/bin HOME=/root CNIKIT_REQUIRE_PRIVILEGED=1
# An emulated processor is some ten times as slow as the one that the tests' time limits were made for.
export CNIKIT_PATIENCE=10 CNIKIT_TEST_PODS=25

mounted() { busybox mount -t "$1" "$1" "$2"; }
mounted devtmpfs /dev
# For what opens a terminal, and for what reads a file that is its standard input.
busybox mkdir /dev/pts
mounted devpts /dev/pts
mounted proc /proc
busybox ln -s /proc/self/fd/0 /dev/stdin
mounted sysfs /sys
mounted bpf /sys/fs/bpf
mounted cgroup2 /sys/fs/cgroup
busybox ip link set lo up
# Ahead of time: the modprobe of busybox does not wait for a module that another one is just loading, and whoever asked
# the kernel for a device of that kind is told that there is none.
busybox find /lib/modules -name '*.ko' | while read -r module; do
    module=${module##*/}
    busybox modprobe "${module%.ko}"
done

# The programs of other projects are tested on the machine's own kernel. Most of them are not in here.
set -- --skip chain:: --skip dhcp:: --skip cnitool:: --skip delegation:: --skip a_delegate_is_a_step --skip another_plugin --skip parallel_adds_create_one_rule
# There is no repository in here to compare the version with.
set -- "$@" --skip help_and_version
# The commands for people ask the kernel nothing that the other tests do not, and want tools that are not in here.
set -- "$@" --skip broken_node:: --skip state_dir:: --skip doctor:: --skip install:: --skip pods:: --skip top:: --skip kubernetes::
# The fuzzer's seeds are not in here.
set -- "$@" --skip on_the_corpus --skip the_corpus_is_read
# From the kernel's command line.
if [ -n "$QUICK" ]; then
    set -- "$@" --skip bad_input:: --skip protocol:: --skip scale:: --skip a_full_table
    set -- "$@" --skip programs_and_model_agree
    # Files and words, in which kernels do not differ.
    set -- "$@" --skip leases:: --skip status:: --skip logs:: --skip log_file:: --skip pools:: --skip requested::
fi
IFS=,
# shellcheck disable=SC2086  # a list, by commas
set -- "$@" $FILTER
unset IFS

echo "RELEASE $(busybox uname -r)"
for test in /tests/*; do
    echo "BEGIN ${test##*/}"
    "$test" "$@" </dev/null 2>&1
    echo "END ${test##*/} $?"
done
echo "DONE"
busybox poweroff -f
