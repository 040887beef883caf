// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Packets between pods of this node and pods of other nodes, at the links between the nodes.
 *
 * Hooks
 *	cni_up_ingress	TC ingress of an uplink: every frame that the node receives.
 *	cni_tun_ingress	TC ingress of the tunnel's link: the frames inside received packets.
 *	cni_up_egress	TC egress of an uplink and of the tunnel's link: every frame that leaves.
 *
 * Reads	net_config, port_config, port_filter, pod_ifindex, pod_ifindex_v6, port_xdp, peers,
 *		node_addresses, remote_config
 * Writes	pkt_count, pkt_count_v6, net_stats, remote_stats, flows, flow_filter,
 *		packet_scratch, endpoint.xdp
 *
 * Verdicts
 *	redirect	into a pod of this node
 *	TC_ACT_SHOT	from the tunnel: a packet that its sender must not send
 *	TC_ACT_UNSPEC	all other frames: later filters and the stack receive them
 *
 * A packet enters a pod directly only if its source is in the pod CIDR of a peer. The replies
 * must leave directly, too: lib/peers.h. Node addresses and all other sources are left to the
 * stack in both directions. The egress hook adds the flows that the stack forwards to a peer to
 * the flow table. These are translated flows, and packets that no program may forward.
 */
#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "lib/address.h"
#include "lib/antispoof.h"
#include "lib/ctx.h"
#include "lib/flow.h"
#include "lib/maps.h"
#include "lib/parse.h"
#include "lib/peers.h"
#include "lib/redirect.h"

/* The number of each other node, by its addresses. IPv4 addresses are IPv4-mapped. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CNI_TC_MAX_NODE_ADDRESSES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipv6_key);
	__type(value, __u32);
} node_addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct remote_config);
} remote_config SEC(".maps");

/* False until userspace has written net_config, and for frames that are not IP. */
static __always_inline bool start(struct __sk_buff *skb, struct ctx *ctx, struct packet **packet)
{
	__u32 zero = 0;

	ctx->skb = skb;
	ctx->port = NULL;
	ctx->config = bpf_map_lookup_elem(&net_config, &zero);
	ctx->stats = bpf_map_lookup_elem(&net_stats, &zero);
	*packet = bpf_map_lookup_elem(&packet_scratch, &zero);
	return ctx->config && ctx->stats && *packet && ctx->config->bridge_ifindex &&
	       parse_frame(skb, *packet) == FRAME_IP;
}

/* Whether the packet can enter the pod directly. Prepares the frame if so. */
static __always_inline bool can_enter(const struct ctx *ctx, struct packet *packet,
				      const struct peer *peer, const struct endpoint *target)
{
	const struct remote_config *config;
	__u32 zero = 0;

	if (!can_bypass(ctx, packet, peer) ||
	    port_flags(target->ifindex) & (CNI_PORT_STACK_ONLY | CNI_PORT_HAS_SIBLINGS) ||
	    flow_lookup(ctx, packet))
		return false;
	config = bpf_map_lookup_elem(&remote_config, &zero);
	if (config && config->pod_mtu && !fits(ctx->skb, packet, config->pod_mtu))
		return false;
	return route(ctx, packet, target);
}

/* Into the pod that has the destination, or to the stack. */
static __always_inline int enter(const struct ctx *ctx, struct packet *packet,
				 const struct peer *peer, bool tunnel)
{
	struct endpoint *target = find_endpoint(packet->is_v4, &packet->ip.destination);
	struct remote_stats *stats = find_remote_stats();
	struct pod_counters *received;

	if (!stats || !target || is_gateway(ctx, target) || !can_enter(ctx, packet, peer, target))
		return TC_ACT_UNSPEC;
	received = counters_of(ctx, packet->is_v4, &packet->ip.destination);
	received->rx_packets++;
	received->rx_bytes += ctx->skb->len;
	received->rx_direct++;
	if (tunnel)
		stats->received_tunnel++;
	else
		stats->received_direct++;
	return redirect(ctx, target);
}

SEC("tc")
int cni_up_ingress(struct __sk_buff *skb)
{
	const struct peer *peer;
	struct packet *packet;
	struct ctx ctx;

	/* A frame for another host: the uplink is promiscuous, or it floods. */
	if (skb->pkt_type != PACKET_HOST || !start(skb, &ctx, &packet))
		return TC_ACT_UNSPEC;
	peer = find_peer(packet, &packet->ip.source);
	return peer ? enter(&ctx, packet, peer, false) : TC_ACT_UNSPEC;
}

/* The number of the node with an address. 0: no node. */
static __always_inline __u32 node_of(const struct ipv6_key *mapped)
{
	const __u32 *node = bpf_map_lookup_elem(&node_addresses, mapped);

	return node ? *node : 0;
}

static __always_inline void map_ipv4(struct ipv6_key *mapped, const void *ipv4)
{
	__u32 *word = (__u32 *)mapped->octet;

	word[0] = word[1] = 0;
	word[2] = bpf_htonl(0xffff);
	word[3] = *(const __u32 *)ipv4;
}

/* The node that has sent the packet of the tunnel, if the packet has the right VNI. */
static __always_inline __u32 tunnel_sender(struct __sk_buff *skb)
{
	const struct remote_config *config;
	struct bpf_tunnel_key key = {};
	struct ipv6_key outer;
	__u32 zero = 0, ipv4;

	if (!bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_SIZE, 0)) {
		ipv4 = bpf_htonl(key.remote_ipv4);
		map_ipv4(&outer, &ipv4);
	} else if (!bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_SIZE, BPF_F_TUNINFO_IPV6)) {
		__builtin_memcpy(&outer, key.remote_ipv6, sizeof(outer));
	} else {
		return 0;
	}
	config = bpf_map_lookup_elem(&remote_config, &zero);
	if (!config || config->tunnel_id != key.tunnel_id)
		return 0;
	return node_of(&outer);
}

SEC("tc")
int cni_tun_ingress(struct __sk_buff *skb)
{
	struct remote_stats *stats = find_remote_stats();
	__u32 sender = tunnel_sender(skb), owner;
	struct ipv6_key source;
	const struct peer *peer;
	struct packet *packet;
	struct ctx ctx;

	if (!sender || !start(skb, &ctx, &packet)) {
		if (stats)
			stats->dropped_vni++;
		return TC_ACT_SHOT;
	}
	peer = find_peer(packet, &packet->ip.source);
	if (peer) {
		owner = peer->node;
	} else {
		/* A process of the node may send from an address of the node. */
		source = packet->ip.source;
		if (packet->is_v4)
			map_ipv4(&source, packet->ip.source.octet);
		owner = node_of(&source);
	}
	if (owner != sender) {
		if (stats)
			stats->dropped_source++;
		return TC_ACT_SHOT;
	}
	/* The MACs in the tunnel have no meaning, and the stack drops frames for other hosts. */
	if (bpf_skb_change_type(skb, PACKET_HOST))
		return TC_ACT_SHOT;
	return peer ? enter(&ctx, packet, peer, true) : TC_ACT_UNSPEC;
}

SEC("tc")
int cni_up_egress(struct __sk_buff *skb)
{
	const struct endpoint *sender;
	const struct peer *peer;
	struct packet *packet;
	struct ctx ctx;

	if (skb->mark == CNI_TC_REDIRECTED) {
		skb->mark = 0;
		return TC_ACT_UNSPEC;
	}
	if (!start(skb, &ctx, &packet) || !may_add_flow(packet))
		return TC_ACT_UNSPEC;
	sender = find_endpoint(packet->is_v4, &packet->ip.source);
	if (!sender || is_gateway(&ctx, sender))
		return TC_ACT_UNSPEC;
	peer = find_peer(packet, &packet->ip.destination);
	if (peer && peer->flags & CNI_PEER_BYPASS)
		flow_add(&ctx, packet, true);
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
