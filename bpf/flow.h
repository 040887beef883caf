/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The memory of flows that the stack delivers from one pod to another.
 *
 * Such a flow may have been translated on its way: pod A sent to a service's
 * address, the stack made pod B of it. B's answer is addressed to A; delivered
 * directly it would miss the translation back, and A would refuse it. So the
 * egress hook of B's port remembers the flow, and the ingress hook leads what
 * answers it to the stack.
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
	__type(value, __u8); /* enum way */
} flows SEC(".maps");

/* How a flow came: an answer must go back by the same way to be translated. */
enum way {
	WAY_BRIDGED = 1, /* with br_netfilter, which translates what the bridge forwards */
	WAY_ROUTED,	 /* by the host */
};

/* At a pod's egress: writes for the first packet of a flow, and only looks up for the others. */
static __always_inline void remember_flow(const struct hook *hook, const struct packet *packet)
{
	const struct pod_port *sender;
	__u8 *known, way;

	/* An error begins no conversation, and its sender need not be one of the two that have it. */
	if (!packet->flow.protocol || packet->is_error)
		return;
	sender = owner_of(packet->v4, &packet->ip.source);
	if (!sender || !is_other_pod(hook, sender))
		return;
	way = mac_equal(packet->ethernet.h_source, hook->config->gateway_mac) ? WAY_ROUTED
									       : WAY_BRIDGED;
	known = bpf_map_lookup_elem(&flows, &packet->flow);
	if (known) {
		if (*known != way)
			*known = way;
		return;
	}
	/* May fail for want of a free row on this CPU; the flow's next packet tries again. */
	if (!bpf_map_update_elem(&flows, &packet->flow, &way, BPF_NOEXIST))
		hook->stats->flows_added++;
}

/* How the flow came that the packet answers; NULL if the stack delivered none such. */
static __always_inline const __u8 *way_back(const struct packet *packet)
{
	struct flow_key answered;

	reverse(&packet->flow, &answered);
	return bpf_map_lookup_elem(&flows, &answered);
}

/*
 * A conversation that begins directly has taken over the ports of one that went
 * through the stack: were that still remembered, the answers would pass by a
 * conntrack that has not seen the questions.
 */
static __always_inline void forget_flow(const struct hook *hook, const struct packet *packet)
{
	if (packet->opens && bpf_map_lookup_elem(&flows, &packet->flow) &&
	    !bpf_map_delete_elem(&flows, &packet->flow))
		hook->stats->flows_forgotten++;
}

#endif /* CNI_TC_FLOW_H */
