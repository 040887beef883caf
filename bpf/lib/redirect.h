/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* Routing a packet in the program, and redirecting it into a pod. */
#ifndef CNI_REDIRECT_H
#define CNI_REDIRECT_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "ctx.h"
#include "parse.h"
#include "xdp.h"

/*
 * Decrements the hop limit, as a router does. False if the packet must not be routed here: the
 * stack then reports "time exceeded" to the sender.
 */
static __always_inline bool decrement_hop_limit(struct __sk_buff *skb, const struct packet *packet)
{
	__u8 hop_limit = packet->ip.hop_limit - 1;

	if (packet->ip.hop_limit <= 1)
		return false;
	/* Makes all headers writable, so that none of the writes below fails alone. */
	if (bpf_skb_pull_data(skb, packet->ip.l4))
		return false;
	if (!packet->is_v4)
		return !bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, hop_limit),
					    &hop_limit, sizeof(hop_limit), 0);
	/* TTL and protocol share a 16-bit word of the header checksum. */
	return !bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check),
				    bpf_htons(packet->ip.hop_limit << 8 | packet->ip.protocol),
				    bpf_htons(hop_limit << 8 | packet->ip.protocol),
				    sizeof(__u16)) &&
	       !bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, ttl), &hop_limit,
				    sizeof(hop_limit), 0);
}

/*
 * Routes a packet into a pod: decrements the hop limit, and writes the MACs of gateway and pod.
 * False if the packet must not be routed here.
 */
static __always_inline bool route(const struct ctx *ctx, const struct packet *packet,
				  const struct endpoint *target)
{
	__u8 macs[2 * ETH_ALEN];

	if (!decrement_hop_limit(ctx->skb, packet))
		return false;
	__builtin_memcpy(macs, target->mac, ETH_ALEN);
	__builtin_memcpy(macs + ETH_ALEN, ctx->config->gateway_mac, ETH_ALEN);
	return !bpf_skb_store_bytes(ctx->skb, 0, macs, sizeof(macs), 0);
}

/*
 * Redirects into the pod. If the pod end has a driver-mode XDP program, the packet leaves by
 * the host end instead, and veth passes it to that program. The type "broadcast" marks the
 * packet as counted for the egress hook. veth sets the type again for the pod.
 */
static __always_inline int redirect(const struct ctx *ctx, struct endpoint *target)
{
	if (has_driver_xdp(target) && !bpf_skb_change_type(ctx->skb, PACKET_BROADCAST))
		return bpf_redirect(target->ifindex, 0);
	return bpf_redirect_peer(target->ifindex, 0);
}

#endif /* CNI_REDIRECT_H */
