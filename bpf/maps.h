/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* The maps, and the few ways in which the programs use them. */
#ifndef CNI_TC_MAPS_H
#define CNI_TC_MAPS_H

#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "cni_tc.h"

/* Counters by address. ADD puts rows in and DEL takes them out; programs only look up. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, CNI_TC_MAX_ROWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipv4_key);
	__type(value, struct pod_counters);
} pkt_count SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, CNI_TC_MAX_ROWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipv6_key);
	__type(value, struct pod_counters);
} pkt_count_v6 SEC(".maps");

/* Who owns an address, and where to deliver what is for it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CNI_TC_MAX_ROWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipv4_key);
	__type(value, struct pod_port);
} pod_ifindex SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CNI_TC_MAX_ROWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipv6_key);
	__type(value, struct pod_port);
} pod_ifindex_v6 SEC(".maps");

/* What a port may do, by its ifindex. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CNI_TC_MAX_PORTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct port_config);
} port_config SEC(".maps");

/* The addresses that the pod at a port has at its other ports. Empty as long as each pod has one port. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CNI_TC_MAX_ROWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct port_address);
	__type(value, __u32);
} port_addresses SEC(".maps");

/*
 * Where the kernel keeps the driver-mode XDP program of a pod's interface, by the
 * ifindex of its host end: the address of a struct bpf_xdp_entity, which find_xdp
 * returned. Empty if the kernel denies the read of its memory.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CNI_TC_MAX_PORTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u64);
} port_xdp SEC(".maps");

/* Set before the load if the kernel allows the read. If not, the verifier removes it. */
const volatile bool reads_port_xdp = false;

/* What was dropped at a port, by its ifindex. */
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

/* What every hook needs: its port, and the rows that it works with. */
struct hook {
	struct __sk_buff *skb;
	struct net_config *config;
	struct net_stats *stats;
	const struct port_config *port; /* of a port that is guarded or restricted, else NULL */
};

/* False before the programs were told of their network. */
static __always_inline bool open_hook(struct __sk_buff *skb, struct hook *hook)
{
	__u32 only = 0, ifindex = skb->ifindex;

	hook->skb = skb;
	hook->config = bpf_map_lookup_elem(&net_config, &only);
	hook->stats = bpf_map_lookup_elem(&net_stats, &only);
	hook->port = bpf_map_lookup_elem(&port_config, &ifindex);
	return hook->config && hook->stats && hook->config->bridge_ifindex;
}

static __always_inline bool at_bridge(const struct hook *hook)
{
	return hook->skb->ifindex == hook->config->bridge_ifindex;
}

/*
 * Between two calls that are alike keeps the compiler from making one of them, with
 * the map as a variable. Of a map that it knows the kernel makes the look-up a part
 * of the program; any other is an indirect call.
 */
#define keep_apart() asm volatile("" ::: "memory")

/* The families part here and in the counters below; the key of the first is the beginning. */
static __always_inline struct pod_port *owner_of(bool v4, const struct ipv6_key *address)
{
	struct pod_port *owner;

	if (!v4)
		return bpf_map_lookup_elem(&pod_ifindex_v6, address);
	owner = bpf_map_lookup_elem(&pod_ifindex, address);
	keep_apart();
	return owner;
}

static __always_inline bool is_host(const struct hook *hook, const struct pod_port *owner)
{
	return owner->ifindex == hook->config->bridge_ifindex;
}

/* Not the host, and not the pod whose port this is: it reaches itself by way of the host. */
static __always_inline bool is_other_pod(const struct hook *hook, const struct pod_port *owner)
{
	return !is_host(hook, owner) && owner->ifindex != hook->skb->ifindex;
}

static __always_inline struct pod_counters *find_counters(bool v4, const struct ipv6_key *address)
{
	struct pod_counters *counters;

	if (!v4)
		return bpf_map_lookup_elem(&pkt_count_v6, address);
	counters = bpf_map_lookup_elem(&pkt_count, address);
	keep_apart();
	return counters;
}

static __always_inline struct pod_counters *counters_of(const struct hook *hook, bool v4,
							const struct ipv6_key *address)
{
	struct pod_counters *counters = find_counters(v4, address);

	return counters ? counters : &hook->stats->unknown;
}

/*
 * Reads whether a pod end has a driver-mode XDP program. The read of an address that is
 * gone with its pair fails or returns anything; either way the packet is lost with the
 * pod.
 */
static __always_inline bool read_driver_xdp(__u32 ifindex)
{
	/* The program, or the link that holds one: struct bpf_xdp_entity. */
	const void *entity[2];
	__u64 *address = bpf_map_lookup_elem(&port_xdp, &ifindex);

	return address &&
	       !bpf_probe_read_kernel(entity, sizeof(entity), (const void *)*address) &&
	       (entity[0] || entity[1]);
}

/*
 * Whether the pod end has a driver-mode XDP program, which bpf_redirect_peer would
 * bypass. The read takes 50 ns, so it is done once in a jiffy for each address: a program
 * sees all packets from some milliseconds after it was attached.
 */
static __always_inline bool has_driver_xdp(struct pod_port *target)
{
	__u16 now;

	if (!reads_port_xdp)
		return false;
	now = bpf_jiffies64() << 1;
	if ((target->xdp & ~1) != now)
		target->xdp = now | read_driver_xdp(target->ifindex);
	return target->xdp & 1;
}

#endif /* CNI_TC_MAPS_H */
