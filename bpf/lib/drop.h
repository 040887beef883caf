/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* Dropping a packet, with a numbered reason. */
#ifndef CNI_DROP_H
#define CNI_DROP_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

#include "ctx.h"
#include "maps.h"

/* All drops of the programs end here. Counts the reason for the port and for the network. */
static __always_inline int drop(const struct ctx *ctx, struct packet *packet,
				enum drop_reason reason)
{
	__u32 zero = 0, ifindex = ctx->skb->ifindex;
	struct drops *drops;

	/*
	 * Through memory: to a loader without CAP_PERFMON, the verifier refuses an index that
	 * is a different constant on each path.
	 */
	*(volatile __u8 *)&packet->drop_reason = reason;
	reason = *(volatile __u8 *)&packet->drop_reason & (CNI_TC_MAX_DROP_REASONS - 1);
	drops = bpf_map_lookup_elem(&port_drops, &ifindex);
	if (drops)
		drops->packets[reason]++;
	drops = bpf_map_lookup_elem(&net_drops, &zero);
	if (drops)
		drops->packets[reason]++;
	return TC_ACT_SHOT;
}

#endif /* CNI_DROP_H */
