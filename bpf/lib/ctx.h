/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* The context of a program run: the frame, the network and the port. */
#ifndef CNI_CTX_H
#define CNI_CTX_H

#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "maps.h"

struct ctx {
	struct __sk_buff *skb;
	struct net_config *config;
	struct net_stats *stats;
	const struct port_config *port; /* NULL at a port without an entry */
};

/* False until userspace has written net_config. */
static __always_inline bool ctx_init(struct __sk_buff *skb, struct ctx *ctx)
{
	__u32 zero = 0, ifindex = skb->ifindex;

	ctx->skb = skb;
	ctx->config = bpf_map_lookup_elem(&net_config, &zero);
	ctx->stats = bpf_map_lookup_elem(&net_stats, &zero);
	ctx->port = bpf_map_lookup_elem(&port_config, &ifindex);
	return ctx->config && ctx->stats && ctx->config->bridge_ifindex;
}

static __always_inline bool is_at_bridge(const struct ctx *ctx)
{
	return ctx->skb->ifindex == ctx->config->bridge_ifindex;
}

static __always_inline bool has_spoof_check(const struct ctx *ctx)
{
	return ctx->config->flags & CNI_NET_SPOOF_CHECK;
}

/* Whether the endpoint is the gateway: its port is the bridge. */
static __always_inline bool is_gateway(const struct ctx *ctx, const struct endpoint *endpoint)
{
	return endpoint->ifindex == ctx->config->bridge_ifindex;
}

/* A pod at another port. A pod reaches its own addresses through the host. */
static __always_inline bool is_other_pod(const struct ctx *ctx, const struct endpoint *endpoint)
{
	return !is_gateway(ctx, endpoint) && endpoint->ifindex != ctx->skb->ifindex;
}

/* The counters of an address, or of all unknown addresses. */
static __always_inline struct pod_counters *counters_of(const struct ctx *ctx, bool v4,
							const struct ipv6_key *address)
{
	struct pod_counters *counters = find_counters(v4, address);

	return counters ? counters : &ctx->stats->unknown;
}

#endif /* CNI_CTX_H */
