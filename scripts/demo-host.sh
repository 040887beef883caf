#!/usr/bin/env bash
# The part of the demo on the private host. demo.sh calls it in new net, mount and PID namespaces.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

plugin=$1
mode=${2:-}
pings=10
network=demo
conf=/etc/cni/net.d/10-$network.conf
pods=(pod-a pod-b)
# The shell has an empty namespace for an ADD by hand.
[ "$mode" != --shell ] || pods+=(pod-c)
declare -A address result

current="the start"
begin() {
    current="$*"
    step "$*"
}
reason=''
# A file passes the reason on, because most callers are subshells.
die() {
    printf '%s\n' "$1" >/run/reason
    exit 1
}
at_exit() {
    local status=$?
    [ "$status" != 0 ] || return 0
    [ ! -e /run/reason ] || reason=$(</run/reason)
    printf '%sdemo: FAILED at "%s": %s%s\n' "$red" "$current" "${reason:-see above}" "$plain"
}
trap at_exit EXIT
trap 'reason="\`$BASH_COMMAND\` ended with status $?"' ERR

indent() { sed 's/^/    /'; }

config() {
    jq -n --arg name "$network" --argjson more "${1:-null}" \
        '{cniVersion: "1.0.0", name: $name, type: "simple-ebpf-cni", bridge: "cbr0", subnet: "10.244.0.0/24"}
         + if $more then {prevResult: $more} else {} end'
}

# cni VERB POD [RESULT]: calls the plugin as a runtime does, and prints its output.
cni() {
    local out
    if ! out=$(config "${3:-null}" | env -i PATH="$PATH" CNI_COMMAND="$1" CNI_CONTAINERID="$2" CNI_NETNS="/run/netns/$2" \
        CNI_IFNAME=eth0 CNI_PATH="$(dirname "$plugin")" timeout 30 "$plugin"); then
        die "$1 of $2: $(jq -r '[.msg, .details] | map(select(. != null and . != "")) | join(": ")' <<<"$out" || echo "$out")"
    fi
    printf '%s' "$out"
}

pin() {
    local path
    path=$(find "/sys/fs/bpf/simple-ebpf-cni/$network" -name "$1" 2>/dev/null | head -n 1)
    [ -n "$path" ] || die "nothing is pinned as $1"
    printf '%s' "$path"
}

# The entries of pkt_count, summed over the CPUs: address, packets, bytes, packets that were
# forwarded directly, packets that the stack delivered.
counters() {
    bpftool -j map dump pinned "$(pin pkt_count)" | jq -r '
        .[].formatted | (.key.octet | map(tostring) | join(".")) as $address
        | [.values[].value] | reduce (.[] | to_entries[]) as $count ({}; .[$count.key] += $count.value)
        | [$address, .tx_packets, .tx_bytes, .tx_direct, .rx_packets - .rx_direct]
        | @tsv' | sort -V
}

counter_table() {
    printf '    %-15s %10s %10s %10s %10s\n' address packets bytes direct "by stack"
    counters | while IFS=$'\t' read -r from packets bytes direct stack; do
        printf '    %-15s %10s %10s %10s %10s\n' "$from" "$packets" "$bytes" "$direct" "$stack"
    done
}

# expect_direct [PACKETS]: checks that all packets of each pod were forwarded directly into the
# other pod, and that their number is PACKETS.
expect_direct() {
    local entries pod from packets direct stack
    entries=$(counters)
    for pod in pod-a pod-b; do
        IFS=$'\t' read -r from packets _ direct stack < <(grep -P "^\Q${address[$pod]}\E\t" <<<"$entries") ||
            die "no entry for ${address[$pod]} in pkt_count"
        [ -z "${1:-}" ] || [ "$packets" = "$1" ] || die "$from sent $1 packets, $packets were counted"
        [ "$packets" -gt 0 ] || die "no packet of $from was counted"
        [ "$packets" = "$direct" ] || die "$direct of $packets packets of $from were forwarded directly"
        [ "$stack" = 0 ] || die "$stack packets reached $from through the stack"
    done
}

# private_folder FOLDER: hides the machine's folder behind an empty one.
private_folder() {
    local parent layers
    parent=$(dirname "$1") layers=/run/layers/$(basename "$(dirname "$1")")
    if [ ! -d "$1" ]; then
        # The overlay keeps the new folder away from this machine.
        mkdir -p "$layers/upper" "$layers/work"
        mount -t overlay -o "lowerdir=$parent,upperdir=$layers/upper,workdir=$layers/work" overlay "$parent"
        mkdir "$1"
    fi
    mount -t tmpfs -o mode=755 tmpfs "$1"
}

begin "Creating a private host with two pods"
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmpfs /run
for folder in /var/lib/cni /etc/cni /opt/cni; do
    private_folder "$folder"
done
mkdir -p /opt/cni/bin "$(dirname "$conf")"
cp "$plugin" /opt/cni/bin/simple-ebpf-cni
plugin=/opt/cni/bin/simple-ebpf-cni
config >"$conf"
ip link set lo up
for pod in "${pods[@]}"; do
    ip netns add "$pod"
done
note "namespaces $(ip -j netns list | jq -r 'map(.name) | sort | join(", ")'); this machine's interfaces are not visible"

begin "ADD: connecting both pods"
for pod in pod-a pod-b; do
    result[$pod]=$(cni ADD "$pod") || exit 1
    address[$pod]=$(jq -r '.ips[0].address | sub("/.*"; "")' <<<"${result[$pod]}")
    printf '    %s: %s via %s, host side %s\n' "$pod" \
        "$(jq -r '.ips[0].address' <<<"${result[$pod]}")" "$(jq -r '.ips[0].gateway' <<<"${result[$pod]}")" \
        "$(jq -r '.interfaces[1].name' <<<"${result[$pod]}")"
done
note "the whole result of pod-a:"
jq . <<<"${result[pod-a]}" | indent

# The shell's variables and functions, which docs/tour.md uses.
shell_setup() {
    cat <<SETUP
PS1='demo# '
# The commands of docs/commands.md use the short name.
PATH=/opt/cni/bin:\$PATH
export PLUGIN=$plugin CONF=$conf A=${address[pod-a]} B=${address[pod-b]}
export PIN=$(dirname "$(pin pkt_count)")
# cni VERB POD: calls the plugin as a container runtime does.
cni() {
    env -i PATH="\$PATH" CNI_COMMAND="\$1" CNI_CONTAINERID="\$2" CNI_NETNS="/run/netns/\$2" CNI_IFNAME=eth0 \\
        CNI_PATH="\$(dirname "\$PLUGIN")" "\$PLUGIN" <"\$CONF"
}
network=$network
$(declare -f die pin counters counter_table)
# The dropped frames of the network by reason, summed over the CPUs.
drops() {
    bpftool -j map dump pinned "\$PIN/net_drops" |
        jq -c '.[].formatted.values | map(.value.packets) | transpose | map(add)'
}
SETUP
}

if [ "$mode" = --shell ]; then
    begin "A shell on the private host"
    shell_setup >/run/demo.bashrc
    if [ -t 0 ]; then
        note "The bridge is cbr0. pod-a has \$A (${address[pod-a]}), pod-b has \$B (${address[pod-b]}), pod-c is an empty namespace."
        cat <<'HINTS'
    Try:
      ip -br link; bridge fdb show br cbr0             the bridge and its ports
      ip -n pod-a addr; ip -n pod-a route              the view of a pod
      nsenter --net=/run/netns/pod-a ping -c 3 $B      three packets from pod to pod
      tc filter show dev cbr0 ingress                  the program in the shared block
      bpftool map dump pinned $PIN/pod_ifindex         the endpoint of each address
      counter_table; drops                             packets of each address; drops by reason
      cni ADD pod-c | jq .; cni DEL pod-c              the plugin, called as a runtime calls it
      simple-ebpf-cni status; simple-ebpf-cni doctor   the state of the network; the checks of the node
    `exit` or Ctrl-D detaches all pods and removes the private host.
HINTS
        bash --noprofile --rcfile /run/demo.bashrc -i || true
    else
        BASH_ENV=/run/demo.bashrc bash --noprofile || true
    fi
    begin "DEL: disconnecting all pods"
    for pod in "${pods[@]}"; do
        cni DEL "$pod" >/dev/null || exit 1
    done
    exit
fi

begin "The eBPF program on cbr0 and, through a shared block, on every pod's port"
filters=$(tc filter show dev cbr0 ingress)
grep -q cni_tc_main <<<"$filters" || die "cni_tc_main is not attached to cbr0"
indent <<<"$filters"
bpftool -j prog show pinned "$(pin cni_tc_main)" | jq -r '"    program \(.id) \(.name): \(.bytes_xlated) bytes, jited: \(.jited), maps \(.map_ids | map(tostring) | join(", "))"'

begin "Pinging both ways, $pings times each"
for way in "pod-a pod-b" "pod-b pod-a"; do
    read -r from to <<<"$way"
    ip netns exec "$from" ping -n -q -c "$pings" -i 0.02 -W 1 "${address[$to]}" | sed -n 's/^\([0-9]* packets\)/    '"$from -> $to"': \1/p; s/^rtt/    rtt/p'
done
counter_table
# Each ping is a request of one pod and a reply of the other. ARP is not counted.
expect_direct $((2 * pings))

begin "Fetching a page over TCP"
site=$(mktemp -d /run/site.XXXXXX)
head -c 1000000 /dev/zero | tr '\0' 'x' >"$site/page"
ip netns exec pod-b busybox httpd -f -p "${address[pod-b]}:8080" -h "$site" &
server=$!
for _ in $(seq 50); do
    [ -n "$(ip netns exec pod-b ss -Hlnt 'sport = :8080')" ] && break
    sleep 0.05
done
# timeout(1) sets the limit, because wget -T crashes in Debian's static busybox.
fetched=$(ip netns exec pod-a timeout 10 busybox wget -q -O - "http://${address[pod-b]}:8080/page" | wc -c)
[ "$fetched" = 1000000 ] || die "1000000 bytes were served, $fetched arrived"
kill "$server"
wait "$server" 2>/dev/null || true
printf '    pod-a -> http://%s:8080/page: %s bytes\n' "${address[pod-b]}" "$fetched"
counter_table
expect_direct
note "every packet was forwarded directly into the other pod, and none over the bridge"

begin "CHECK: both attachments match their results"
for pod in pod-a pod-b; do
    cni CHECK "$pod" "${result[$pod]}" >/dev/null || exit 1
    printf '    %s: ok\n' "$pod"
done

begin "DEL: disconnecting both pods"
for pod in pod-a pod-b; do
    cni DEL "$pod" "${result[$pod]}" >/dev/null || exit 1
done
veths=$(ip -j link show type veth | jq length)
entries=$(counters | wc -l)
leases=$(find /var/lib/cni -name '*@eth0*' -o -path '*/addresses/*' | wc -l)
inside=$(for pod in pod-a pod-b; do ip -n "$pod" -j link show | jq -r '.[].ifname'; done | grep -vcx lo || true)
printf '    left: %s veths, %s counter entries, %s leases, %s interfaces in the pods\n' "$veths" "$entries" "$leases" "$inside"
[ "$veths $entries $leases $inside" = "0 0 0 0" ] || die "DEL left something behind"
for pod in pod-a pod-b; do
    ip netns del "$pod"
done
note "the shared parts of the network (bridge, pinned programs and maps) end with the private host"
