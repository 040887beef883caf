/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Answers to ARP requests and neighbour solicitations about the addresses of pods:
 * no other pod on the bridge needs to hear the question. The port that is asked
 * about is guarded, so its map entry is the truth.
 *
 * A question about the gateway goes to the host and to no pod. The host answers
 * itself, because its addresses and its MAC can change at any time.
 *
 * These questions go their usual way: about an address of the asker's own port
 * (announcements, probes for duplicates), by a sender without an address, and
 * about addresses without a map entry.
 */
#ifndef CNI_TC_NEIGHBOUR_H
#define CNI_TC_NEIGHBOUR_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "guard.h"
#include "maps.h"
#include "packet.h"

#define ND_HOP_LIMIT 255 /* RFC 4861: no router has forwarded it */
#define ND_SOLICITED 0x40
#define ND_OVERRIDE 0x20

struct arp_frame {
	struct ethhdr ethernet;
	struct arp_message arp;
} __attribute__((packed));

/* A solicitation with the asker's MAC as its first option, and an advertisement. */
struct nd_packet {
	struct ipv6hdr ip;
	struct nd_message nd;
	struct nd_option option;
};

/* To where the question came from: out of the pod's port, or by the bridge up into the host. */
static __always_inline int send_back(const struct hook *hook)
{
	return bpf_redirect(hook->skb->ifindex, at_bridge(hook) ? BPF_F_INGRESS : 0);
}

/* Up into the host by the bridge device, as if the bridge had flooded it. */
static __always_inline int ask_host(const struct hook *hook)
{
	return bpf_redirect(hook->config->bridge_ifindex, BPF_F_INGRESS);
}

/* The owner of an address that the asker may be told of. */
static __always_inline const struct pod_port *other_owner(const struct hook *hook, bool v4,
							  const struct ipv6_key *target)
{
	const struct pod_port *owner = owner_of(v4, target);

	return owner && owner->ifindex != hook->skb->ifindex ? owner : NULL;
}

static __always_inline int answer_arp(const struct hook *hook, const struct packet *packet)
{
	const struct arp_message *asked = &packet->arp;
	const struct pod_port *owner;
	struct ipv6_key sender, target;
	struct arp_frame answer;
	__u32 nobody = 0;

	widen(&sender, &asked->sender);
	widen(&target, &asked->target);
	if (asked->operation != bpf_htons(ARP_REQUEST) || is_unspecified(&sender))
		return TC_ACT_UNSPEC;
	owner = other_owner(hook, true, &target);
	/*
	 * Each host that receives a request stores its sender: RFC 826. A foreign sender
	 * becomes that of a probe, which hosts answer and do not store: RFC 5227,
	 * section 1.1.
	 */
	if (packet->in_foreign_name && (!owner || is_host(hook, owner)) &&
	    bpf_skb_store_bytes(hook->skb,
				ETH_HLEN + __builtin_offsetof(struct arp_message, sender),
				&nobody, sizeof(asked->sender), 0))
		return TC_ACT_SHOT;
	if (!owner)
		return TC_ACT_UNSPEC;
	if (is_host(hook, owner))
		return ask_host(hook);

	__builtin_memcpy(answer.ethernet.h_dest, asked->sender_mac, ETH_ALEN);
	__builtin_memcpy(answer.ethernet.h_source, owner->mac, ETH_ALEN);
	answer.ethernet.h_proto = bpf_htons(ETH_P_ARP);
	answer.arp = *asked;
	answer.arp.operation = bpf_htons(ARP_REPLY);
	__builtin_memcpy(answer.arp.sender_mac, owner->mac, ETH_ALEN);
	answer.arp.sender = asked->target;
	__builtin_memcpy(answer.arp.target_mac, asked->sender_mac, ETH_ALEN);
	answer.arp.target = asked->sender;
	if (bpf_skb_store_bytes(hook->skb, 0, &answer, sizeof(answer), 0))
		return TC_ACT_UNSPEC;
	hook->stats->arp_answers++;
	return send_back(hook);
}

/* Over a pseudo-header of addresses, length and protocol, and the message: RFC 4443. */
static __always_inline __sum16 nd_checksum(const struct nd_packet *packet)
{
	__s64 sum = bpf_htons(sizeof(*packet) - sizeof(packet->ip)) + bpf_htons(IPPROTO_ICMPV6);

	sum = bpf_csum_diff(NULL, 0, (__be32 *)&packet->ip.saddr,
			    sizeof(*packet) - offsetof(struct nd_packet, ip.saddr), sum);
	sum = (sum & 0xffff) + ((sum >> 16) & 0xffff);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline int answer_nd(const struct hook *hook, const struct packet *packet)
{
	const __u32 frame_len = ETH_HLEN + sizeof(struct nd_packet);
	struct ethhdr ethernet = packet->ethernet;
	const struct pod_port *owner;
	struct nd_packet nd;

	if (packet->icmp_type != ND_SOLICITATION || packet->ip.protocol != IPPROTO_ICMPV6 ||
	    packet->ip.hop_limit != ND_HOP_LIMIT || packet->ip.detour ||
	    packet->ip.upper != ETH_HLEN + sizeof(nd.ip) || packet->end < frame_len ||
	    is_unspecified(&packet->ip.source) ||
	    bpf_skb_load_bytes(hook->skb, ETH_HLEN, &nd, sizeof(nd)) || nd.nd.icmp.icmp6_code ||
	    nd.option.type != ND_SOURCE_MAC || nd.option.length != 1)
		return TC_ACT_UNSPEC;
	owner = other_owner(hook, false, &nd.nd.target);
	if (!owner)
		return TC_ACT_UNSPEC;
	if (is_host(hook, owner))
		return ask_host(hook);

	__builtin_memcpy(ethernet.h_dest, nd.option.mac, ETH_ALEN);
	__builtin_memcpy(ethernet.h_source, owner->mac, ETH_ALEN);
	nd.ip.payload_len = bpf_htons(sizeof(nd) - sizeof(nd.ip));
	nd.ip.daddr = nd.ip.saddr;
	__builtin_memcpy(&nd.ip.saddr, &nd.nd.target, sizeof(nd.ip.saddr));
	nd.nd.icmp.icmp6_type = ND_ADVERTISEMENT;
	nd.nd.icmp.icmp6_cksum = 0;
	nd.nd.icmp.icmp6_dataun.un_data32[0] = bpf_htonl((ND_SOLICITED | ND_OVERRIDE) << 24);
	nd.option.type = ND_TARGET_MAC;
	__builtin_memcpy(nd.option.mac, owner->mac, ETH_ALEN);
	nd.nd.icmp.icmp6_cksum = nd_checksum(&nd);

	/* The question may have had more options. */
	if (bpf_skb_change_tail(hook->skb, frame_len, 0) ||
	    bpf_skb_store_bytes(hook->skb, 0, &ethernet, sizeof(ethernet), 0) ||
	    bpf_skb_store_bytes(hook->skb, ETH_HLEN, &nd, sizeof(nd), 0))
		return TC_ACT_UNSPEC;
	hook->stats->nd_answers++;
	return send_back(hook);
}

/*
 * TC_ACT_UNSPEC for what is not answered here. Where pods are not held to their
 * addresses and MACs, they may have changed them, and answer for themselves.
 */
static __always_inline int answer_neighbour(const struct hook *hook, enum frame frame,
					    const struct packet *packet)
{
	if (!(hook->config->flags & CNI_NET_GUARD))
		return TC_ACT_UNSPEC;
	if (frame == FRAME_ARP)
		return answer_arp(hook, packet);
	return frame == FRAME_IP && !packet->v4 ? answer_nd(hook, packet) : TC_ACT_UNSPEC;
}

#endif /* CNI_TC_NEIGHBOUR_H */
