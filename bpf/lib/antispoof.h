/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* The spoof check: a port may send from the addresses of its pod and from its own MAC only. */
#ifndef CNI_ANTISPOOF_H
#define CNI_ANTISPOOF_H

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/icmpv6.h>
#include <linux/if_ether.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "address.h"
#include "ctx.h"
#include "maps.h"
#include "parse.h"

/* Neighbor discovery and multicast listener types: RFC 4861, 2710, 3810. */
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
/* IPv4 router discovery: RFC 1256. */
#define ICMP_ROUTER_ADVERTISEMENT 9

/* Options of a neighbor message that are checked. RFC 4861 and 3971 define five for one message. */
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

/* Whether this port's frames are checked. A port without an entry has no pod yet. */
static __always_inline bool is_checked(const struct ctx *ctx)
{
	return ctx->port && has_spoof_check(ctx);
}

/* Whether the address is an endpoint at this port. */
static __always_inline bool is_endpoint_here(const struct ctx *ctx, bool v4,
					     const struct ipv6_key *address)
{
	const struct endpoint *endpoint = find_endpoint(v4, address);

	return endpoint && endpoint->ifindex == ctx->skb->ifindex;
}

/*
 * Whether the pod at this port has the address `asked` of the scratch packet at another port.
 * Networks may overlap: an address that another pod of this network or the node has here is
 * not the pod's.
 *
 * A global function, because the verifier verifies it once, and inlined code once for each
 * state of its callers.
 */
__attribute__((noinline)) int is_asked_at_sibling(struct __sk_buff *skb)
{
	struct port_address key = { .ifindex = skb->ifindex };
	const struct endpoint *endpoint;
	struct packet *packet;
	const __u32 *sibling;
	__u32 zero = 0;

	packet = bpf_map_lookup_elem(&packet_scratch, &zero);
	if (!packet)
		return 0;
	key.address = packet->asked;
	sibling = bpf_map_lookup_elem(&port_addresses, &key);
	if (!sibling)
		return 0;
	if (is_mapped(&key.address))
		endpoint = bpf_map_lookup_elem(&pod_ifindex, key.address.octet + 12);
	else
		endpoint = bpf_map_lookup_elem(&pod_ifindex_v6, &key.address);
	return !endpoint || endpoint->ifindex == *sibling;
}

static __always_inline bool is_at_sibling(const struct ctx *ctx, struct packet *packet, bool v4,
					  const struct ipv6_key *address)
{
	if (v4) {
		__builtin_memset(&packet->asked, 0, sizeof(packet->asked));
		packet->asked.octet[10] = packet->asked.octet[11] = 0xff;
		__builtin_memcpy(packet->asked.octet + 12, address, sizeof(struct ipv4_key));
	} else if (is_mapped(address)) {
		return false; /* such a key stands for the IPv4 address */
	} else {
		packet->asked = *address;
	}
	return is_asked_at_sibling(ctx->skb);
}

/* Whether the pod at this port may use the address as a source. */
static __always_inline bool is_local_src(const struct ctx *ctx, struct packet *packet, bool v4,
					 const struct ipv6_key *address)
{
	return is_endpoint_here(ctx, v4, address) || is_at_sibling(ctx, packet, v4, address);
}

/*
 * The sender address of an ARP request is the source of the packet that waits for the reply.
 * It may be an address that the pod configured itself, such as a bridge for containers inside
 * the pod has. Such a request passes, and answer_arp() hides the sender address. A reply or an
 * announcement would write the address to the neighbor tables of other hosts: it is dropped.
 */
static __always_inline enum drop_reason check_arp(const struct ctx *ctx, struct packet *packet)
{
	const struct arp_message *arp = &packet->arp;
	bool is_request = arp->operation == bpf_htons(ARP_REQUEST);
	struct ipv6_key sender, target;

	if (!mac_equal(arp->sender_mac, ctx->port->mac))
		return CNI_DROP_ARP_SENDER;
	ipv4_to_key(&sender, &arp->sender);
	/* A probe has no sender: RFC 5227, section 1.1. */
	if ((is_request && is_unspecified(&sender)) || is_local_src(ctx, packet, true, &sender))
		return PASS;
	ipv4_to_key(&target, &arp->target);
	if (!is_request || address_equal(&sender, &target) || find_endpoint(true, &sender))
		return CNI_DROP_ARP_SENDER;
	packet->is_foreign_sender = true;
	return PASS;
}

/* A pod without an address may request one by DHCP, probe for duplicates, and join groups. */
static __always_inline bool may_be_unspecified(const struct packet *packet)
{
	if (packet->is_v4)
		return *(const __u32 *)packet->ip.destination.octet == bpf_htonl(IPV4_BROADCAST) &&
		       packet->flow_protocol == IPPROTO_UDP &&
		       packet->source_port == bpf_htons(DHCP_CLIENT) &&
		       packet->destination_port == bpf_htons(DHCP_SERVER);
	return packet->ip.protocol == IPPROTO_ICMPV6 && packet->ip.destination.octet[0] == 0xff &&
	       (packet->icmp_type == ND_SOLICITATION || packet->icmp_type == MLD_REPORT ||
		packet->icmp_type == MLD_DONE || packet->icmp_type == MLD2_REPORT);
}

/*
 * PASS, or the reason to drop a neighbor message because of its options, which begin at
 * `offset`. A global function, so that the verifier verifies the loop once.
 */
__attribute__((noinline)) int check_nd_options(struct __sk_buff *skb, __u32 offset)
{
	__u32 zero = 0, ifindex = skb->ifindex;
	struct port_config *port = bpf_map_lookup_elem(&port_config, &ifindex);
	struct packet *packet = bpf_map_lookup_elem(&packet_scratch, &zero);
	struct nd_option option;

	if (!port || !packet)
		return CNI_DROP_MALFORMED;

#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_ND_OPTIONS; i++) {
		if (offset == packet->end)
			return PASS;
		if (offset + sizeof(option) > packet->end ||
		    bpf_skb_load_bytes(skb, offset, &option, sizeof(option)) || option.length == 0)
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

static __always_inline enum drop_reason check_icmpv6(const struct ctx *ctx, struct packet *packet)
{
	__u32 offset = packet->ip.l4;
	struct nd_message nd;

	if (packet->ip.non_first_fragment)
		return PASS;
	switch (packet->icmp_type) {
	case ICMP_NONE:
		/* A first fragment that ends before its ICMPv6 header: RFC 7112 forbids it. */
		return CNI_DROP_MALFORMED;
	case ND_ROUTER_ADVERTISEMENT:
	case ND_REDIRECT:
		return CNI_DROP_ROUTER;
	case ND_ROUTER_SOLICITATION:
		return check_nd_options(ctx->skb, offset + sizeof(nd.icmp));
	case ND_SOLICITATION:
	case ND_ADVERTISEMENT:
		if (offset + sizeof(nd) > packet->end ||
		    bpf_skb_load_bytes(ctx->skb, offset, &nd, sizeof(nd)))
			return CNI_DROP_MALFORMED;
		if (packet->icmp_type == ND_ADVERTISEMENT &&
		    !is_local_src(ctx, packet, false, &nd.target))
			return CNI_DROP_ND_OWNER;
		return check_nd_options(ctx->skb, offset + sizeof(nd));
	default:
		return PASS;
	}
}

static __always_inline enum drop_reason check_ip(const struct ctx *ctx, struct packet *packet)
{
	packet->is_local_src = is_endpoint_here(ctx, packet->is_v4, &packet->ip.source);
	if (!packet->is_local_src &&
	    !(is_unspecified(&packet->ip.source) && may_be_unspecified(packet)) &&
	    !is_at_sibling(ctx, packet, packet->is_v4, &packet->ip.source))
		return CNI_DROP_IP_SOURCE;
	/* Such an error could lower the path MTU between other hosts, or end their connections. */
	if (packet->has_inner &&
	    !is_local_src(ctx, packet, packet->is_v4, &packet->inner.destination))
		return CNI_DROP_ROUTER;
	if (packet->is_v4)
		return packet->ip.protocol == IPPROTO_ICMP &&
				       (packet->icmp_type == ICMP_REDIRECT ||
					packet->icmp_type == ICMP_ROUTER_ADVERTISEMENT)
			       ? CNI_DROP_ROUTER
			       : PASS;
	/* The headers behind could be anything, such as a router advertisement. */
	if (!packet->ip.non_first_fragment && is_extension(packet->ip.protocol))
		return CNI_DROP_EXTENSIONS;
	return packet->ip.protocol == IPPROTO_ICMPV6 ? check_icmpv6(ctx, packet) : PASS;
}

/* A redirect or an IPv6 router advertisement. Pods keep the routes that ADD configured. */
static __always_inline bool is_router_message(const struct packet *packet)
{
	if (packet->is_v4)
		return packet->ip.protocol == IPPROTO_ICMP && packet->icmp_type == ICMP_REDIRECT;
	return packet->ip.protocol == IPPROTO_ICMPV6 &&
	       (packet->icmp_type == ND_REDIRECT || packet->icmp_type == ND_ROUTER_ADVERTISEMENT);
}

/* PASS, or the reason to drop a frame from this port. */
static __always_inline enum drop_reason check_frame(const struct ctx *ctx, enum frame frame,
						    struct packet *packet)
{
	if (frame == FRAME_TAGGED)
		return CNI_DROP_VLAN;
	if (frame == FRAME_MALFORMED)
		return CNI_DROP_MALFORMED;
	if (!mac_equal(packet->source_mac, ctx->port->mac))
		return CNI_DROP_MAC_SOURCE;
	if (frame == FRAME_ARP)
		return check_arp(ctx, packet);
	return frame == FRAME_IP ? check_ip(ctx, packet) : PASS;
}

#endif /* CNI_ANTISPOOF_H */
