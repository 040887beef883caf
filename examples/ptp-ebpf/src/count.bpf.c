// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Counts the packets of each pod.
 *
 * Hooks	TC ingress (count_sent) and egress (count_received) of the host end of the veth pair
 * Writes	packets. Userspace creates and deletes the entries.
 * Verdict	TC_ACT_UNSPEC: later programs and the stack receive the packet
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

struct packets {
	__u64 sent;
	__u64 received;
};

/* By the index of the host end. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct packets);
} packets SEC(".maps");

SEC("tc")
int count_sent(struct __sk_buff *skb)
{
	__u32 pod = skb->ifindex;
	struct packets *counter = bpf_map_lookup_elem(&packets, &pod);

	if (counter)
		__sync_fetch_and_add(&counter->sent, 1);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int count_received(struct __sk_buff *skb)
{
	__u32 pod = skb->ifindex;
	struct packets *counter = bpf_map_lookup_elem(&packets, &pod);

	if (counter)
		__sync_fetch_and_add(&counter->received, 1);
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
