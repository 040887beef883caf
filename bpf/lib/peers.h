/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The pods of other nodes, and the way to them.
 *
 * The programs forward the packets of a flow in both directions, or in none. conntrack marks
 * packets as invalid if it sees one direction only. Each condition that leaves a packet to the
 * stack therefore has a counterpart in the other direction. If the stack forwards a packet in
 * one direction, its flow enters the flow table (flow.h). The flow table leaves the other
 * direction to the stack.
 */
#ifndef CNI_PEERS_H
#define CNI_PEERS_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "../abi.h"
#include "antispoof.h"
#include "ctx.h"
#include "parse.h"
#include "redirect.h"

/* Of <sys/socket.h>, which includes headers of the host's C library. */
#define AF_INET 2
#define AF_INET6 10

/* The hop limit of packets between nodes in the tunnel. */
#define TUNNEL_HOP_LIMIT 64

/*
 * The size of struct bpf_tunnel_key in Linux 5.10. Later kernels have appended members, and older
 * ones refuse a larger size.
 */
#define TUNNEL_KEY_SIZE offsetof(struct bpf_tunnel_key, local_ipv4)

/* The pod CIDRs of other nodes. Empty without the node agent. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, CNI_TC_MAX_PEERS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct peer_key);
	__type(value, struct peer);
} peers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct remote_stats);
} remote_stats SEC(".maps");

/* The peer that owns an address of the packet. */
static __always_inline const struct peer *find_peer(const struct packet *packet,
						    const struct ipv6_key *address)
{
	struct peer_key key = {
		.prefix_length = 32 + (packet->is_v4 ? 32 : 128),
		.version = packet->ip.version,
		.address = *address,
	};

	return bpf_map_lookup_elem(&peers, &key);
}

static __always_inline struct remote_stats *find_remote_stats(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&remote_stats, &zero);
}

/*
 * The length of the longest IP packet that the frame becomes. A GSO super-frame becomes segments
 * with gso_size bytes behind the headers.
 */
static __always_inline __u32 ip_length(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 headers = packet->ip.l4 - ETH_HLEN;
	__u8 data_offset;

	if (!skb->gso_size)
		return packet->ip.length;
	if (packet->ip.protocol != IPPROTO_TCP)
		return headers + L4_LEN + skb->gso_size;
	if (bpf_skb_load_bytes(skb, packet->ip.l4 + 12, &data_offset, sizeof(data_offset)))
		return ~0U;
	return headers + (data_offset >> 4) * 4 + skb->gso_size;
}

/*
 * Whether the packet is not longer than `mtu`. Redirects do not check it: the frame would be
 * lost, or fragmented inside the tunnel. The stack reports the MTU to the sender.
 */
static __always_inline bool fits(struct __sk_buff *skb, const struct packet *packet, __u32 mtu)
{
	struct remote_stats *stats;

	if (ip_length(skb, packet) <= mtu)
		return true;
	stats = find_remote_stats();
	if (stats)
		stats->too_long++;
	return false;
}

/* The properties of a packet that both directions of a flow have. */
static __always_inline bool can_bypass(const struct ctx *ctx, const struct packet *packet,
				       const struct peer *peer)
{
	/* Without the spoof check, a pod may have another MAC than its entry. */
	return peer->flags & CNI_PEER_BYPASS && has_spoof_check(ctx) &&
	       ctx->config->flags & CNI_NET_DIRECT_FORWARDING && !packet->ip.slow_path &&
	       packet->flow_protocol && !is_router_message(packet);
}

/*
 * Whether a packet from the pod at this port can leave for a peer. Its source must be an address
 * of this port, because replies enter the pod by the port of the address. A frame to another MAC
 * than the gateway's is for a third party, such as a pod that routes.
 */
static __always_inline bool can_leave(const struct ctx *ctx, const struct packet *packet,
				      const struct peer *peer)
{
	return can_bypass(ctx, packet, peer) && ctx->port && packet->is_local_src &&
	       !(ctx->port->flags & (CNI_PORT_STACK_ONLY | CNI_PORT_HAS_SIBLINGS)) &&
	       mac_equal(packet->dest_mac, ctx->config->gateway_mac) &&
	       fits(ctx->skb, packet, peer->mtu) && decrement_hop_limit(ctx->skb, packet);
}

/* To the uplink. The kernel resolves the MAC of the next hop. */
static __always_inline int leave_direct(const struct peer *peer)
{
	struct bpf_redir_neigh next_hop = {};

	if (peer->version == 4) {
		next_hop.nh_family = AF_INET;
		__builtin_memcpy(&next_hop.ipv4_nh, peer->address.octet, sizeof(next_hop.ipv4_nh));
	} else {
		next_hop.nh_family = AF_INET6;
		__builtin_memcpy(next_hop.ipv6_nh, peer->address.octet, sizeof(next_hop.ipv6_nh));
	}
	return bpf_redirect_neigh(peer->ifindex, &next_hop, sizeof(next_hop), 0);
}

/* Sets the destination for the tunnel's link. */
static __always_inline bool set_tunnel(struct __sk_buff *skb, const struct peer *peer)
{
	struct bpf_tunnel_key key = {};
	__u64 flags;

	key.tunnel_id = peer->tunnel_id;
	key.tunnel_ttl = TUNNEL_HOP_LIMIT;
	if (peer->version == 4) {
		/* RFC 7348, section 5: the checksum of the outer header SHOULD be zero. */
		flags = BPF_F_ZERO_CSUM_TX;
		__builtin_memcpy(&key.remote_ipv4, peer->address.octet, sizeof(key.remote_ipv4));
		key.remote_ipv4 = bpf_ntohl(key.remote_ipv4);
	} else {
		flags = BPF_F_TUNINFO_IPV6;
		__builtin_memcpy(key.remote_ipv6, peer->address.octet, sizeof(key.remote_ipv6));
	}
	return !bpf_skb_set_tunnel_key(skb, &key, TUNNEL_KEY_SIZE, flags);
}

/* To the node of the peer, or to the stack. */
static __always_inline int leave(struct __sk_buff *skb, const struct peer *peer)
{
	bool tunnel = peer->flags & CNI_PEER_TUNNEL;
	struct remote_stats *stats = find_remote_stats();

	if (!stats || (tunnel && !set_tunnel(skb, peer)))
		return TC_ACT_UNSPEC;
	skb->mark = CNI_TC_REDIRECTED;
	if (tunnel) {
		stats->sent_tunnel++;
		return bpf_redirect(peer->ifindex, 0);
	}
	stats->sent_direct++;
	return leave_direct(peer);
}

#endif /* CNI_PEERS_H */
