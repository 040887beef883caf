/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Answers ARP requests and neighbor solicitations for the addresses of pods, so that no other
 * pod on the bridge receives them. The spoof check binds a pod to its addresses and MAC, so
 * the map entry of the address is correct.
 *
 * A request for the gateway goes to the host and to no pod. The host answers it, because its
 * addresses and its MAC can change at any time.
 *
 * The bridge receives all other requests: for an address of the sender's own port
 * (announcements, duplicate address probes), without a sender address, for unknown addresses.
 */
#ifndef CNI_NEIGHBORS_H
#define CNI_NEIGHBORS_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "antispoof.h"
#include "ctx.h"
#include "drop.h"
#include "maps.h"
#include "parse.h"

#define ND_HOP_LIMIT 255 /* no router has forwarded it: RFC 4861 */
#define ND_SOLICITED 0x40
#define ND_OVERRIDE 0x20

struct arp_frame {
	struct ethhdr ethernet;
	struct arp_message arp;
} __attribute__((packed));

/* A solicitation with the sender's MAC as its first option, and an advertisement. */
struct nd_packet {
	struct ipv6hdr ip;
	struct nd_message nd;
	struct nd_option option;
};

/* Back to the sender: out of the pod's port, or at the bridge up into the host. */
static __always_inline int send_back(const struct ctx *ctx)
{
	return bpf_redirect(ctx->skb->ifindex, is_at_bridge(ctx) ? BPF_F_INGRESS : 0);
}

/* To the host through the bridge device, as if the bridge had flooded the frame. */
static __always_inline int send_to_host(const struct ctx *ctx)
{
	return bpf_redirect(ctx->config->bridge_ifindex, BPF_F_INGRESS);
}

/* The endpoint of an address at another port. */
static __always_inline const struct endpoint *find_other_endpoint(const struct ctx *ctx, bool v4,
								  const struct ipv6_key *address)
{
	const struct endpoint *endpoint = find_endpoint(v4, address);

	return endpoint && endpoint->ifindex != ctx->skb->ifindex ? endpoint : NULL;
}

static __always_inline int answer_arp(const struct ctx *ctx, struct packet *packet)
{
	const struct arp_message *request = &packet->arp;
	const struct endpoint *endpoint;
	struct ipv6_key sender, target;
	struct arp_frame reply;
	__u32 no_sender = 0;

	ipv4_to_key(&sender, &request->sender);
	ipv4_to_key(&target, &request->target);
	if (request->operation != bpf_htons(ARP_REQUEST) || is_unspecified(&sender))
		return TC_ACT_UNSPEC;
	endpoint = find_other_endpoint(ctx, true, &target);
	/*
	 * Hosts store the sender of a request: RFC 826. A request with a foreign sender becomes
	 * a probe, which hosts answer and do not store: RFC 5227, section 1.1.
	 */
	if (packet->is_foreign_sender && (!endpoint || is_gateway(ctx, endpoint)) &&
	    bpf_skb_store_bytes(ctx->skb, ETH_HLEN + __builtin_offsetof(struct arp_message, sender),
				&no_sender, sizeof(request->sender), 0))
		return drop(ctx, packet, CNI_DROP_ARP_SENDER);
	if (!endpoint)
		return TC_ACT_UNSPEC;
	if (is_gateway(ctx, endpoint))
		return send_to_host(ctx);

	__builtin_memcpy(reply.ethernet.h_dest, request->sender_mac, ETH_ALEN);
	__builtin_memcpy(reply.ethernet.h_source, endpoint->mac, ETH_ALEN);
	reply.ethernet.h_proto = bpf_htons(ETH_P_ARP);
	reply.arp = *request;
	reply.arp.operation = bpf_htons(ARP_REPLY);
	__builtin_memcpy(reply.arp.sender_mac, endpoint->mac, ETH_ALEN);
	reply.arp.sender = request->target;
	__builtin_memcpy(reply.arp.target_mac, request->sender_mac, ETH_ALEN);
	reply.arp.target = request->sender;
	if (bpf_skb_store_bytes(ctx->skb, 0, &reply, sizeof(reply), 0))
		return TC_ACT_UNSPEC;
	ctx->stats->arp_answers++;
	return send_back(ctx);
}

/* Over the pseudo-header (addresses, length, protocol) and the message: RFC 4443. */
static __always_inline __sum16 nd_checksum(const struct nd_packet *packet)
{
	__s64 sum = bpf_htons(sizeof(*packet) - sizeof(packet->ip)) + bpf_htons(IPPROTO_ICMPV6);

	sum = bpf_csum_diff(NULL, 0, (__be32 *)&packet->ip.saddr,
			    sizeof(*packet) - offsetof(struct nd_packet, ip.saddr), sum);
	sum = (sum & 0xffff) + ((sum >> 16) & 0xffff);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline int answer_nd(const struct ctx *ctx, const struct packet *packet)
{
	const __u32 frame_len = ETH_HLEN + sizeof(struct nd_packet);
	const struct endpoint *endpoint;
	struct ethhdr ethernet;
	struct nd_packet nd;

	if (packet->icmp_type != ND_SOLICITATION || packet->ip.protocol != IPPROTO_ICMPV6 ||
	    packet->ip.hop_limit != ND_HOP_LIMIT || packet->ip.slow_path ||
	    packet->ip.l4 != ETH_HLEN + sizeof(nd.ip) || packet->end < frame_len ||
	    is_unspecified(&packet->ip.source) ||
	    bpf_skb_load_bytes(ctx->skb, ETH_HLEN, &nd, sizeof(nd)) || nd.nd.icmp.icmp6_code ||
	    nd.option.type != ND_SOURCE_MAC || nd.option.length != 1)
		return TC_ACT_UNSPEC;
	endpoint = find_other_endpoint(ctx, false, &nd.nd.target);
	if (!endpoint)
		return TC_ACT_UNSPEC;
	if (is_gateway(ctx, endpoint))
		return send_to_host(ctx);

	__builtin_memcpy(ethernet.h_dest, nd.option.mac, ETH_ALEN);
	__builtin_memcpy(ethernet.h_source, endpoint->mac, ETH_ALEN);
	ethernet.h_proto = bpf_htons(ETH_P_IPV6);
	nd.ip.payload_len = bpf_htons(sizeof(nd) - sizeof(nd.ip));
	nd.ip.daddr = nd.ip.saddr;
	__builtin_memcpy(&nd.ip.saddr, &nd.nd.target, sizeof(nd.ip.saddr));
	nd.nd.icmp.icmp6_type = ND_ADVERTISEMENT;
	nd.nd.icmp.icmp6_cksum = 0;
	nd.nd.icmp.icmp6_dataun.un_data32[0] = bpf_htonl((ND_SOLICITED | ND_OVERRIDE) << 24);
	nd.option.type = ND_TARGET_MAC;
	__builtin_memcpy(nd.option.mac, endpoint->mac, ETH_ALEN);
	nd.nd.icmp.icmp6_cksum = nd_checksum(&nd);

	/* The solicitation may have had more options. */
	if (bpf_skb_change_tail(ctx->skb, frame_len, 0) ||
	    bpf_skb_store_bytes(ctx->skb, 0, &ethernet, sizeof(ethernet), 0) ||
	    bpf_skb_store_bytes(ctx->skb, ETH_HLEN, &nd, sizeof(nd), 0))
		return TC_ACT_UNSPEC;
	ctx->stats->nd_answers++;
	return send_back(ctx);
}

/*
 * TC_ACT_UNSPEC for all other frames. Without the spoof check, pods may change their addresses
 * and MACs, so they answer themselves.
 */
static __always_inline int answer_neighbor(const struct ctx *ctx, enum frame frame,
					   struct packet *packet)
{
	if (!has_spoof_check(ctx))
		return TC_ACT_UNSPEC;
	if (frame == FRAME_ARP)
		return answer_arp(ctx, packet);
	return frame == FRAME_IP && !packet->is_v4 ? answer_nd(ctx, packet) : TC_ACT_UNSPEC;
}

#endif /* CNI_NEIGHBORS_H */
