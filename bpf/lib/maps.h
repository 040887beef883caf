/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* The pinned maps. The flow table has a header of its own. */
#ifndef CNI_MAPS_H
#define CNI_MAPS_H

#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "../abi.h"

/* Counters by address. Userspace adds and deletes entries. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, CNI_TC_MAX_ENDPOINTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipv4_key);
	__type(value, struct pod_counters);
} pkt_count SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, CNI_TC_MAX_ENDPOINTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipv6_key);
	__type(value, struct pod_counters);
} pkt_count_v6 SEC(".maps");

/* Port and MAC of each address. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CNI_TC_MAX_ENDPOINTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipv4_key);
	__type(value, struct endpoint);
} pod_ifindex SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CNI_TC_MAX_ENDPOINTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipv6_key);
	__type(value, struct endpoint);
} pod_ifindex_v6 SEC(".maps");

/* MAC and flags of each port, by ifindex. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CNI_TC_MAX_PORTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct port_config);
} port_config SEC(".maps");

/*
 * A filter in front of the receiver's port_config, by ifindex modulo its size: 1 if a port may
 * have flags. Few ports have any, and an element of an array costs 3 ns where an entry of a
 * hash costs 22 ns. Userspace sets the element before the flags, and never clears it. It sets
 * all elements if a build without the filter may have written flags.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CNI_TC_FILTER_SIZE);
	__type(key, __u32);
	__type(value, __u8);
} port_filter SEC(".maps");

/* Addresses that the pod at a port has at its other ports. Empty while each pod has one port. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CNI_TC_MAX_ENDPOINTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct port_address);
	__type(value, __u32);
} port_addresses SEC(".maps");

/*
 * The kernel address of the struct bpf_xdp_entity for the driver mode of a pod's interface,
 * by the ifindex of its host end. Empty if the kernel denies reads of its memory.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CNI_TC_MAX_PORTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u64);
} port_xdp SEC(".maps");

/* Dropped packets of each port, by ifindex. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, CNI_TC_MAX_PORTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct drops);
} port_drops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct drops);
} net_drops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct net_config);
} net_config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct net_stats);
} net_stats SEC(".maps");

/*
 * The parsed frame. It is not on the stack, because the verifier tracks the stack. The verifier
 * would then follow the rest of the program for each outcome of the parser (430,000
 * instructions). Two programs never interleave on one CPU, because both hooks run with softirqs
 * disabled.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct packet);
} packet_scratch SEC(".maps");

/*
 * Compiler barrier: keeps clang from merging two lookups into one with a variable map. The
 * verifier inlines a lookup only if the map is constant; else it is an indirect call.
 */
#define barrier() asm volatile("" ::: "memory")

/*
 * The endpoint of an address. The families differ here and in find_counters() only: an IPv4
 * key is the beginning of the IPv6 key.
 */
static __always_inline struct endpoint *find_endpoint(bool v4, const struct ipv6_key *address)
{
	struct endpoint *endpoint;

	if (!v4)
		return bpf_map_lookup_elem(&pod_ifindex_v6, address);
	endpoint = bpf_map_lookup_elem(&pod_ifindex, address);
	barrier();
	return endpoint;
}

/* The CNI_PORT_* flags of another port. */
static __always_inline __u8 port_flags(__u32 ifindex)
{
	const struct port_config *port;
	const __u8 *may_have_flags;
	__u32 index = ifindex % CNI_TC_FILTER_SIZE;

	may_have_flags = bpf_map_lookup_elem(&port_filter, &index);
	if (may_have_flags && !*may_have_flags)
		return 0;
	port = bpf_map_lookup_elem(&port_config, &ifindex);
	return port ? port->flags : 0;
}

static __always_inline struct pod_counters *find_counters(bool v4, const struct ipv6_key *address)
{
	struct pod_counters *counters;

	if (!v4)
		return bpf_map_lookup_elem(&pkt_count_v6, address);
	counters = bpf_map_lookup_elem(&pkt_count, address);
	barrier();
	return counters;
}

#endif /* CNI_MAPS_H */
