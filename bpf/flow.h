/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The memory of conversations that the stack delivers from one pod to another.
 *
 * Such a conversation may have been translated on its way: pod A sent to a
 * service's address, the stack made pod B of it. B's answer is addressed to A;
 * delivered directly it would miss the translation back, and A would refuse it.
 * So the egress hook of B's port remembers the two ends, and the ingress hooks
 * leave to the stack what goes between them, either way: A may talk to B itself
 * from the port that it talks to the service from. For B that is one and the same
 * pair of ends, and only conntrack, which has to see both, can tell them apart.
 *
 * When the table is full, the flow that has been unused for longest is forgotten
 * (roughly: the kernel looks at a few candidates). Its next packet from the
 * client is remembered again; until then an answer would go directly and be
 * refused, by TCP with a reset. So the table is to be larger than the number of
 * translated connections between pods of one node: CNI_TC_MAX_FLOWS.
 *
 * Flows are remembered whether or not DIRECT is set, because it may be set while
 * they are running.
 */
#ifndef CNI_TC_FLOW_H
#define CNI_TC_FLOW_H

#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "maps.h"
#include "packet.h"

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, CNI_TC_MAX_FLOWS);
	__type(key, struct flow_key);
	__type(value, __u8); /* of enum flow_state */
} flows SEC(".maps");

enum flow_state {
	FLOW_ROUTED = 2, /* by the host; else bridged, where br_netfilter may have translated it */
	/* Once both ends have closed it, or one has reset it, their ports may be used again. */
	FLOW_LOWER_CLOSED = 4,
	FLOW_HIGHER_CLOSED = 8,
	FLOW_CLOSED = FLOW_LOWER_CLOSED | FLOW_HIGHER_CLOSED,
};

/* The directions of the conversation that the packet closes. */
static __always_inline __u8 closed_by(const struct packet *packet)
{
	if (packet->resets)
		return FLOW_CLOSED;
	if (packet->closes)
		return packet->from_lower ? FLOW_LOWER_CLOSED : FLOW_HIGHER_CLOSED;
	return 0;
}

/*
 * At a pod's egress: whether the host sent the frame, and not another pod by the bridge.
 *
 * A packet that came up to the bridge device and leaves by it again has the bridge's
 * MAC as its source, which the kernel wrote. If that differs from the copy here, the
 * bridge has a new MAC.
 */
static __always_inline bool is_from_host(const struct hook *hook, const struct packet *packet)
{
	const __u8 *source = packet->ethernet.h_source;

	if (mac_equal(source, hook->config->gateway_mac))
		return true;
	if (hook->skb->ingress_ifindex != hook->config->bridge_ifindex)
		return false;
	__builtin_memcpy(hook->config->gateway_mac, source, ETH_ALEN);
	return true;
}

/* At a pod's egress: writes for the first packet of a flow, and when its state changes. */
static __always_inline void remember_flow(const struct hook *hook, const struct packet *packet)
{
	const struct pod_port *sender;
	__u8 *known, state;

	/* An error begins no conversation, and its sender need not be one of the two that have it. */
	if (!packet->flow.protocol || packet->is_error)
		return;
	sender = owner_of(packet->v4, &packet->ip.source);
	if (!sender || !is_other_pod(hook, sender))
		return;
	state = closed_by(packet);
	if (is_from_host(hook, packet))
		state |= FLOW_ROUTED;
	known = bpf_map_lookup_elem(&flows, &packet->flow);
	if (known) {
		if (!packet->opens)
			state |= *known & FLOW_CLOSED;
		if (*known != state)
			*known = state;
		return;
	}
	/* May fail for want of a free row on this CPU; the flow's next packet tries again. */
	if (!bpf_map_update_elem(&flows, &packet->flow, &state, BPF_NOEXIST))
		hook->stats->flows_added++;
}

/*
 * At a pod's ingress: the state of the flow that the packet has to follow to the
 * stack, NULL if there is none. A closed one is forgotten when its ports are used
 * again: by a conversation that the stack has not delivered.
 */
static __always_inline const __u8 *followed_flow(const struct hook *hook,
						 const struct packet *packet)
{
	__u8 *known, state;

	if (!packet->flow.protocol)
		return NULL;
	known = bpf_map_lookup_elem(&flows, &packet->flow);
	if (!known)
		return NULL;
	if (packet->opens && (*known & FLOW_CLOSED) == FLOW_CLOSED) {
		if (!bpf_map_delete_elem(&flows, &packet->flow))
			hook->stats->flows_forgotten++;
		return NULL;
	}
	state = *known | closed_by(packet);
	if (*known != state)
		*known = state;
	return known;
}

#endif /* CNI_TC_FLOW_H */
