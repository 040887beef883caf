/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* What a port may send: what is in its own name. */
#ifndef CNI_TC_GUARD_H
#define CNI_TC_GUARD_H

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "maps.h"
#include "packet.h"

/* Neighbour discovery and multicast listener types (RFC 4861, 2710, 3810). */
#define MLD_REPORT 131
#define MLD_DONE 132
#define MLD2_REPORT 143
#define ND_ROUTER_SOLICITATION 133
#define ND_ROUTER_ADVERTISEMENT 134
#define ND_SOLICITATION 135
#define ND_ADVERTISEMENT 136
#define ND_REDIRECT 137
#define ND_SOURCE_MAC 1
#define ND_TARGET_MAC 2
/* IPv4 has its own router discovery (RFC 1256). */
#define ICMP_ROUTER_ADVERTISEMENT 9

/* Options of a neighbour message that are looked through: RFC 4861 and 3971 define five for one. */
#define MAX_ND_OPTIONS 6

#define IPV4_BROADCAST 0xffffffff
#define DHCP_CLIENT 68
#define DHCP_SERVER 67

/* No reason to drop. */
#define PASS CNI_DROP_REASONS

struct nd_message {
	struct icmp6hdr icmp;
	struct ipv6_key target; /* of solicitations and advertisements */
};

struct nd_option {
	__u8 type;
	__u8 length; /* in units of eight octets */
	__u8 mac[ETH_ALEN];
} __attribute__((aligned(2))); /* for mac_equal() */

/* Whether the frame's port is to be guarded. A port without a row is nobody's yet. */
static __always_inline bool is_guarded(const struct hook *hook)
{
	return hook->port && hook->config->flags & CNI_NET_GUARD;
}

/* Whether the address belongs to the port that the frame came in by. */
static __always_inline bool is_of_port(const struct hook *hook, bool v4,
				       const struct ipv6_key *address)
{
	const struct pod_port *owner = owner_of(v4, address);

	return owner && owner->ifindex == hook->skb->ifindex;
}

/*
 * Whether `asked` of the scratch packet is an address that the pod at this port has at
 * another port. Networks may overlap: if another pod of this network or the node owns
 * the address, it is not this pod's here.
 *
 * A function of its own, because the verifier follows a global function once, and code
 * that is inlined once for each state in which it comes there.
 */
__attribute__((noinline)) int asked_is_at_another_port(struct __sk_buff *skb)
{
	struct port_address key = { .ifindex = skb->ifindex };
	const struct pod_port *owner;
	struct packet *packet;
	const __u32 *sibling;
	__u32 only = 0;

	packet = bpf_map_lookup_elem(&scratch, &only);
	if (!packet)
		return 0;
	key.address = packet->asked;
	sibling = bpf_map_lookup_elem(&port_addresses, &key);
	if (!sibling)
		return 0;
	if (is_mapped(&key.address))
		owner = bpf_map_lookup_elem(&pod_ifindex, key.address.octet + 12);
	else
		owner = bpf_map_lookup_elem(&pod_ifindex_v6, &key.address);
	return !owner || owner->ifindex == *sibling;
}

static __always_inline bool is_at_another_port(const struct hook *hook, struct packet *packet,
					       bool v4, const struct ipv6_key *address)
{
	if (v4) {
		__builtin_memset(&packet->asked, 0, sizeof(packet->asked));
		packet->asked.octet[10] = packet->asked.octet[11] = 0xff;
		__builtin_memcpy(packet->asked.octet + 12, address, sizeof(struct ipv4_key));
	} else if (is_mapped(address)) {
		return false; /* The entry is of the IPv4 address. */
	} else {
		packet->asked = *address;
	}
	return asked_is_at_another_port(hook->skb);
}

/* Whether the address belongs to the pod at this port. */
static __always_inline bool is_own(const struct hook *hook, struct packet *packet, bool v4,
				   const struct ipv6_key *address)
{
	return is_of_port(hook, v4, address) || is_at_another_port(hook, packet, v4, address);
}

/*
 * The sender address of an ARP request is the source address of the packet that waits
 * for the answer. The pod may have configured that address itself, for a bridge inside
 * it for instance. Such a request passes, but answer_arp() hides its sender address. A
 * reply or an announcement would put the address into the neighbours' tables.
 */
static __always_inline enum drop_reason check_arp(const struct hook *hook, struct packet *packet)
{
	const struct arp_message *arp = &packet->arp;
	bool is_request = arp->operation == bpf_htons(ARP_REQUEST);
	struct ipv6_key sender, target;

	if (!mac_equal(arp->sender_mac, hook->port->mac))
		return CNI_DROP_ARP_SENDER;
	widen(&sender, &arp->sender);
	/* A probe names no sender: RFC 5227, section 1.1. */
	if ((is_request && is_unspecified(&sender)) || is_own(hook, packet, true, &sender))
		return PASS;
	widen(&target, &arp->target);
	if (!is_request || address_equal(&sender, &target) || owner_of(true, &sender))
		return CNI_DROP_ARP_SENDER;
	packet->in_foreign_name = true;
	return PASS;
}

/*
 * A pod without an address may ask for one, or whether one is taken, and listen to
 * groups. No address is lower than the unspecified one, so `flow` has its direction.
 */
static __always_inline bool may_be_unspecified(const struct packet *packet)
{
	if (packet->v4)
		return *(const __u32 *)packet->ip.destination.octet == bpf_htonl(IPV4_BROADCAST) &&
		       packet->flow.protocol == IPPROTO_UDP &&
		       packet->flow.source_port == bpf_htons(DHCP_CLIENT) &&
		       packet->flow.destination_port == bpf_htons(DHCP_SERVER);
	return packet->ip.protocol == IPPROTO_ICMPV6 && packet->ip.destination.octet[0] == 0xff &&
	       (packet->icmp_type == ND_SOLICITATION || packet->icmp_type == MLD_REPORT ||
		packet->icmp_type == MLD_DONE || packet->icmp_type == MLD2_REPORT);
}

/*
 * PASS, or the reason to drop a neighbour message because of its options, which begin
 * at `offset`. The verifier follows the loop once, as this is a global function.
 */
__attribute__((noinline)) int check_nd_options(struct __sk_buff *skb, __u32 offset)
{
	__u32 only = 0, ifindex = skb->ifindex;
	struct port_config *port = bpf_map_lookup_elem(&port_config, &ifindex);
	struct packet *packet = bpf_map_lookup_elem(&scratch, &only);
	struct nd_option option;

	if (!port || !packet)
		return CNI_DROP_MALFORMED;

#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_ND_OPTIONS; i++) {
		if (offset == packet->end)
			return PASS;
		if (offset + sizeof(option) > packet->end ||
		    bpf_skb_load_bytes(skb, offset, &option, sizeof(option)) ||
		    option.length == 0)
			return CNI_DROP_MALFORMED;
		if ((option.type == ND_SOURCE_MAC || option.type == ND_TARGET_MAC) &&
		    !mac_equal(option.mac, port->mac))
			return CNI_DROP_ND_OWNER;
		offset += option.length * sizeof(option);
		if (offset > packet->end)
			return CNI_DROP_MALFORMED;
	}
	return offset == packet->end ? PASS : CNI_DROP_EXTENSIONS;
}

static __always_inline enum drop_reason check_icmpv6(const struct hook *hook,
						     struct packet *packet)
{
	__u32 offset = packet->ip.upper;
	struct nd_message nd;

	if (packet->ip.later)
		return PASS;
	switch (packet->icmp_type) {
	case ICMP_NONE:
		/* What a first fragment leaves to the second, nobody could judge: RFC 7112. */
		return CNI_DROP_MALFORMED;
	case ND_ROUTER_ADVERTISEMENT:
	case ND_REDIRECT:
		return CNI_DROP_ROUTER;
	case ND_ROUTER_SOLICITATION:
		return check_nd_options(hook->skb, offset + sizeof(nd.icmp));
	case ND_SOLICITATION:
	case ND_ADVERTISEMENT:
		if (offset + sizeof(nd) > packet->end ||
		    bpf_skb_load_bytes(hook->skb, offset, &nd, sizeof(nd)))
			return CNI_DROP_MALFORMED;
		if (packet->icmp_type == ND_ADVERTISEMENT && !is_own(hook, packet, false, &nd.target))
			return CNI_DROP_ND_OWNER;
		return check_nd_options(hook->skb, offset + sizeof(nd));
	default:
		return PASS;
	}
}

static __always_inline enum drop_reason check_ip(const struct hook *hook, struct packet *packet)
{
	packet->own_source = is_of_port(hook, packet->v4, &packet->ip.source);
	if (!packet->own_source &&
	    !(is_unspecified(&packet->ip.source) && may_be_unspecified(packet)) &&
	    !is_at_another_port(hook, packet, packet->v4, &packet->ip.source))
		return CNI_DROP_IP_SOURCE;
	/* It would shorten the packets that others send each other, or end what they say. */
	if (packet->quotes && !is_own(hook, packet, packet->v4, &packet->quoted.destination))
		return CNI_DROP_ROUTER;
	if (packet->v4)
		return packet->ip.protocol == IPPROTO_ICMP &&
				       (packet->icmp_type == ICMP_REDIRECT ||
					packet->icmp_type == ICMP_ROUTER_ADVERTISEMENT)
			       ? CNI_DROP_ROUTER
			       : PASS;
	/* What stands behind them could be anything, such as a router advertisement. */
	if (!packet->ip.later && is_extension(packet->ip.protocol))
		return CNI_DROP_EXTENSIONS;
	return packet->ip.protocol == IPPROTO_ICMPV6 ? check_icmpv6(hook, packet) : PASS;
}

/* Whether a router says where to send packets: to itself, or a shorter way. */
static __always_inline bool is_from_router(const struct packet *packet)
{
	if (packet->v4)
		return packet->ip.protocol == IPPROTO_ICMP && packet->icmp_type == ICMP_REDIRECT;
	return packet->ip.protocol == IPPROTO_ICMPV6 &&
	       (packet->icmp_type == ND_REDIRECT || packet->icmp_type == ND_ROUTER_ADVERTISEMENT);
}

/* PASS, or why the frame may not come in by this port. */
static __always_inline enum drop_reason check_frame(const struct hook *hook, enum frame frame,
						    struct packet *packet)
{
	if (frame == FRAME_TAGGED)
		return CNI_DROP_VLAN;
	if (frame == FRAME_MALFORMED)
		return CNI_DROP_MALFORMED;
	if (!mac_equal(packet->ethernet.h_source, hook->port->mac))
		return CNI_DROP_MAC_SOURCE;
	if (frame == FRAME_ARP)
		return check_arp(hook, packet);
	return frame == FRAME_IP ? check_ip(hook, packet) : PASS;
}

/* The one way to drop a packet. */
static __always_inline int drop(const struct hook *hook, struct packet *packet,
				enum drop_reason reason)
{
	__u32 only = 0, ifindex = hook->skb->ifindex;
	struct drops *drops;

	/*
	 * By way of memory: to a loader without CAP_PERFMON the verifier refuses an index
	 * that it knows to be one constant on this path and another on that.
	 */
	packet->drop_reason = reason;
	reason = packet->drop_reason & (CNI_TC_MAX_DROP_REASONS - 1);
	drops = bpf_map_lookup_elem(&port_drops, &ifindex);
	if (drops)
		drops->packets[reason]++;
	drops = bpf_map_lookup_elem(&net_drops, &only);
	if (drops)
		drops->packets[reason]++;
	return TC_ACT_SHOT;
}

#endif /* CNI_TC_GUARD_H */
