/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* The last step at each hook: counts a packet, and forwards it or leaves it to the stack. */
#ifndef CNI_FORWARD_H
#define CNI_FORWARD_H

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "address.h"
#include "antispoof.h"
#include "ctx.h"
#include "flow.h"
#include "maps.h"
#include "parse.h"
#include "peers.h"
#include "redirect.h"

/*
 * Whether the reply to the packet can be delivered directly, too. conntrack marks packets of
 * a flow as invalid if it sees one direction only.
 *
 * The source must be a pod's address, and the frame must have the pod's MAC. A virtual machine
 * in the pod may have another MAC, and the bridge delivers replies to it. The address may be of
 * another port of the pod, because Linux answers from any port. Only addresses of pods have
 * counters, which saves the lookup of the endpoint.
 */
static __always_inline bool can_reply_directly(const struct ctx *ctx, const struct packet *packet,
					       bool has_counters)
{
	const struct endpoint *endpoint;

	if (is_checked(ctx) && packet->is_local_src)
		return true;
	if (ctx->port && !mac_equal(packet->source_mac, ctx->port->mac))
		return false;
	if (ctx->port && has_counters)
		return true;
	endpoint = find_endpoint(packet->is_v4, &packet->ip.source);
	return endpoint && !is_gateway(ctx, endpoint) &&
	       (ctx->port || mac_equal(packet->source_mac, endpoint->mac));
}

/* Whether the packet can be redirected to `target`. Prepares the frame if so. */
static __always_inline bool can_redirect(const struct ctx *ctx, const struct packet *packet,
					 bool has_counters, const struct endpoint *target)
{
	bool has_siblings;
	__u8 flags;

	if (!(ctx->config->flags & CNI_NET_DIRECT_FORWARDING) || packet->ip.slow_path ||
	    !packet->flow_protocol)
		return false;
	if (!can_reply_directly(ctx, packet, has_counters))
		return false;
	/* The egress hook of the target drops it. */
	if (is_router_message(packet))
		return false;
	flags = port_flags(target->ifindex);
	if (ctx->port)
		flags |= ctx->port->flags;
	if (flags & CNI_PORT_STACK_ONLY)
		return false;
	has_siblings = flags & CNI_PORT_HAS_SIBLINGS;
	/* Without the spoof check, any port of a pod answers ARP for all of its addresses. */
	if (has_siblings && !has_spoof_check(ctx))
		return false;
	if (!mac_equal(packet->dest_mac, target->mac)) {
		/* A third party, such as a pod that routes, receives the frame. */
		if (!mac_equal(packet->dest_mac, ctx->config->gateway_mac))
			return false;
		/*
		 * Without the spoof check, the pod may have a MAC that differs from its
		 * entry. A pod with several ports may reply by another port through the
		 * host, and conntrack would see that direction only.
		 */
		if (!has_spoof_check(ctx) || has_siblings || !route(ctx, packet, target))
			return false;
	}
	/*
	 * The kernel set the frame's type for the MAC of the host veth, so it is "for another
	 * host". Kernels before 6.15 keep the type across the redirect, and the pod would
	 * drop the packet.
	 */
	return !bpf_skb_change_type(ctx->skb, PACKET_HOST);
}

/*
 * Addresses the frame to the gateway, for a flow that the host routed. Without br_netfilter, a
 * bridge does not show the stack a frame that is addressed to another pod.
 */
static __always_inline void set_gateway_dmac(const struct ctx *ctx)
{
	__u8 mac[ETH_ALEN];

	__builtin_memcpy(mac, ctx->config->gateway_mac, ETH_ALEN);
	/* If it fails, the bridge delivers the frame, which is correct without translation. */
	bpf_skb_store_bytes(ctx->skb, 0, mac, sizeof(mac), 0);
}

/* A packet from the pod at this port: into another pod, to another node, or to the stack. */
static __always_inline int forward(const struct ctx *ctx, struct packet *packet)
{
	struct pod_counters *sent = find_counters(packet->is_v4, &packet->ip.source);
	struct endpoint *target = find_endpoint(packet->is_v4, &packet->ip.destination);
	const struct peer *peer = target ? NULL : find_peer(packet, &packet->ip.destination);
	bool has_counters = sent;
	struct pod_counters *received;
	__u32 len = ctx->skb->len;
	const __u8 *flow;

	if (!sent)
		sent = &ctx->stats->unknown;
	sent->tx_packets++;
	sent->tx_bytes += len;
	if (target && !is_other_pod(ctx, target))
		target = NULL;
	flow = target || peer ? flow_lookup(ctx, packet) : NULL;
	if (flow && *flow & FLOW_ROUTED)
		set_gateway_dmac(ctx);
	if (flow)
		target = NULL;
	if (peer && !flow && can_leave(ctx, packet, peer)) {
		sent->tx_direct++;
		ctx->stats->direct++;
		return leave(ctx->skb, peer);
	}
	if (!target || !can_redirect(ctx, packet, has_counters, target)) {
		ctx->stats->to_stack++;
		return TC_ACT_UNSPEC;
	}

	received = counters_of(ctx, packet->is_v4, &packet->ip.destination);
	received->rx_packets++;
	received->rx_bytes += len;
	received->rx_direct++;
	sent->tx_direct++;
	ctx->stats->direct++;
	return redirect(ctx, target);
}

/* At a pod's egress: tracks the flow of a packet from another pod, on this node or on another. */
static __always_inline void flow_track(const struct ctx *ctx, struct packet *packet)
{
	const struct endpoint *sender;
	const struct peer *peer;

	if (!may_add_flow(packet))
		return;
	sender = find_endpoint(packet->is_v4, &packet->ip.source);
	if (sender && !is_other_pod(ctx, sender))
		return;
	if (!sender) {
		peer = find_peer(packet, &packet->ip.source);
		if (!peer || !(peer->flags & CNI_PEER_BYPASS))
			return;
	}
	flow_add(ctx, packet, is_routed(ctx, packet));
}

/* A packet that the stack delivers to the pod at this port. */
static __always_inline int receive(const struct ctx *ctx, struct packet *packet)
{
	struct pod_counters *received = counters_of(ctx, packet->is_v4, &packet->ip.destination);

	ctx->stats->from_stack++;
	received->rx_packets++;
	received->rx_bytes += ctx->skb->len;
	flow_track(ctx, packet);
	return TC_ACT_UNSPEC;
}

#endif /* CNI_FORWARD_H */
