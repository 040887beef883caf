/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The flow table: flows between pods that the stack forwards, on this node and to other nodes.
 *
 * The stack may have translated such a flow: pod A sent to a service address, which became
 * pod B. B's reply is addressed to A. Delivered directly, it would miss the reverse
 * translation, and A would refuse it. So the egress hook of B's port tracks the flow, and the
 * ingress hooks leave both directions to the stack. Both, because A's kernel may reuse the
 * source port of its connection to the service for a connection to B itself. For B these are
 * one flow. Only conntrack can distinguish them, and must see both directions.
 *
 * If the table is full, the kernel evicts one of the longest unused flows. The next packet of
 * the client adds the flow again. A packet of the server before that goes directly, and TCP
 * resets the connection. CNI_TC_MAX_FLOWS must therefore exceed the number of translated
 * connections that the node's pods have with other pods.
 *
 * Flows are tracked also without CNI_NET_DIRECT_FORWARDING, which may be set later.
 */
#ifndef CNI_FLOW_H
#define CNI_FLOW_H

#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "address.h"
#include "ctx.h"
#include "maps.h"
#include "parse.h"

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, CNI_TC_MAX_FLOWS);
	__type(key, struct flow_key);
	__type(value, __u8); /* of enum flow_state */
} flows SEC(".maps");

/*
 * A filter in front of `flows`: 1 if a flow between two addresses with this hash may be in
 * there. An array element costs 3 ns, a miss in `flows` 28 ns with its key. flow_track() sets
 * the byte before it adds a flow. Userspace sets all bytes if programs without the filter may
 * have added flows. No byte is cleared, so the filter never hides a flow that is in the table.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CNI_TC_FILTER_SIZE);
	__type(key, __u32);
	__type(value, __u8);
} flow_filter SEC(".maps");

enum flow_state {
	FLOW_ROUTED = 2, /* by the host; else bridged, where br_netfilter may have translated it */
	/* Both ends have closed the flow, or one has reset it: its ports may be reused. */
	FLOW_LOWER_CLOSED = 4,
	FLOW_HIGHER_CLOSED = 8,
	FLOW_CLOSED = FLOW_LOWER_CLOSED | FLOW_HIGHER_CLOSED,
};

static __always_inline bool is_lower(const struct ipv6_key *a, const struct ipv6_key *b)
{
	const __u32 *x = (const __u32 *)a->octet, *y = (const __u32 *)b->octet;
	__u64 high_x = (__u64)x[0] << 32 | x[1], high_y = (__u64)y[0] << 32 | y[1];
	__u64 low_x = (__u64)x[2] << 32 | x[3], low_y = (__u64)y[2] << 32 | y[3];

	return high_x != high_y ? high_x < high_y : low_x < low_y;
}

/*
 * Writes the key of the packet's flow, which is the same for both directions. Returns the
 * directions that the packet closes.
 */
static __always_inline __u8 flow_key_normalize(struct packet *packet)
{
	struct flow_key *key = &packet->flow;
	bool lower = is_lower(&packet->ip.source, &packet->ip.destination);
	__be16 source_port = packet->source_port, destination_port = packet->destination_port;

	/*
	 * Keeps clang from selecting the offset of a member instead of its value: to a loader
	 * without CAP_PERFMON, the verifier refuses such an offset.
	 */
	barrier();
	key->source = lower ? packet->ip.source : packet->ip.destination;
	key->destination = lower ? packet->ip.destination : packet->ip.source;
	key->source_port = lower ? source_port : destination_port;
	key->destination_port = lower ? destination_port : source_port;
	key->protocol = packet->flow_protocol;
	key->version = packet->ip.version;
	/* Part of the key, and programs of other builds write packet_scratch, too. */
	__builtin_memset(key->reserved, 0, sizeof(key->reserved));
	if (packet->rst)
		return FLOW_CLOSED;
	if (packet->fin)
		return lower ? FLOW_LOWER_CLOSED : FLOW_HIGHER_CLOSED;
	return 0;
}

/*
 * The element of the filter for the two addresses of a packet, the same for both directions.
 * Sum and exclusive-or together differ for almost all pairs of one subnet, where either alone
 * has few values.
 */
static __always_inline __u8 *flow_filter_element(const struct packet *packet)
{
	const __u32 *x = (const __u32 *)packet->ip.source.octet;
	const __u32 *y = (const __u32 *)packet->ip.destination.octet;
	__u64 a = x[0] ^ x[1] ^ x[2] ^ x[3], b = y[0] ^ y[1] ^ y[2] ^ y[3];
	__u64 hash = ((a + b) * 0x9e3779b97f4a7c15) ^ ((a ^ b) * 0xc2b2ae3d27d4eb4f);
	__u32 index = (hash >> 32) % CNI_TC_FILTER_SIZE;

	return bpf_map_lookup_elem(&flow_filter, &index);
}

/*
 * At a pod's egress: whether the host routed the frame. If not, the bridge forwarded it.
 *
 * A packet that entered and leaves by the bridge device has the bridge's MAC as its source,
 * written by the kernel. If it differs from gateway_mac, the bridge has a new MAC.
 */
static __always_inline bool is_routed(const struct ctx *ctx, const struct packet *packet)
{
	if (mac_equal(packet->source_mac, ctx->config->gateway_mac))
		return true;
	if (ctx->skb->ingress_ifindex != ctx->config->bridge_ifindex)
		return false;
	copy_mac(ctx->config->gateway_mac, packet->source_mac);
	return true;
}

/* Adds the flow of a packet that the stack forwards, or updates its state. */
static __always_inline void flow_add(const struct ctx *ctx, struct packet *packet, bool routed)
{
	__u8 *known, *filter, state;

	/* Set the filter first, so that no reply is missed between the two writes. */
	filter = flow_filter_element(packet);
	if (filter && !*filter)
		*filter = 1;
	state = flow_key_normalize(packet);
	if (routed)
		state |= FLOW_ROUTED;
	known = bpf_map_lookup_elem(&flows, &packet->flow);
	if (known) {
		if (!packet->syn)
			state |= *known & FLOW_CLOSED;
		if (*known != state)
			*known = state;
		return;
	}
	/* Fails if this CPU has no free entry. The next packet of the flow tries again. */
	if (!bpf_map_update_elem(&flows, &packet->flow, &state, BPF_NOEXIST))
		ctx->stats->flows_added++;
}

/* Whether the packet belongs to a flow. ICMP errors create none, and may be of a third party. */
static __always_inline bool may_add_flow(const struct packet *packet)
{
	return packet->flow_protocol && !packet->is_error;
}

/*
 * At a pod's ingress: the state of the tracked flow that the packet belongs to, or NULL. A
 * closed flow is deleted when its ports are reused, by a flow that the stack has not delivered.
 */
static __always_inline const __u8 *flow_lookup(const struct ctx *ctx, struct packet *packet)
{
	__u8 *known, *filter, state, closes;

	if (!packet->flow_protocol)
		return NULL;
	filter = flow_filter_element(packet);
	if (filter && !*filter)
		return NULL;
	closes = flow_key_normalize(packet);
	known = bpf_map_lookup_elem(&flows, &packet->flow);
	if (!known)
		return NULL;
	if (packet->syn && (*known & FLOW_CLOSED) == FLOW_CLOSED) {
		if (!bpf_map_delete_elem(&flows, &packet->flow))
			ctx->stats->flows_forgotten++;
		return NULL;
	}
	state = *known | closes;
	if (*known != state)
		*known = state;
	return known;
}

#endif /* CNI_FLOW_H */
