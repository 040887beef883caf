/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Parses a frame, once, into struct packet.
 *
 * The fixed headers are read by direct packet access, which saves two helper calls (24 ns of
 * 240). Few packets have headers at a variable offset: extension headers, and the packet inside
 * an ICMP error. bpf_skb_load_bytes() copies these, and reads linear and paged data alike.
 */
#ifndef CNI_PARSE_H
#define CNI_PARSE_H

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "address.h"
#include "maps.h"

/*
 * Extension headers that the parser reads. RFC 8200, section 4.1, defines six that may stand
 * before the upper layer, each once, and Destination Options twice.
 */
#define MAX_EXTENSIONS 7

/* Flags and offset of the IPv4 header: RFC 791. */
#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV4_OFFSET 0x1fff
/* The offset of an IPv6 fragment header: RFC 8200, section 4.5. */
#define IPV6_OFFSET 0xfff8

/* RFC 792. <linux/icmp.h> includes headers of the host's C library. */
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_SOURCE_QUENCH 4
#define ICMP_REDIRECT 5
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMP_NONE 0x100 /* greater than all types */

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define ARP_REQUEST 1
#define ARP_REPLY 2

enum frame {
	FRAME_OTHER,  /* neither IP nor ARP */
	FRAME_TAGGED, /* with a VLAN tag */
	FRAME_MALFORMED,
	FRAME_ARP,
	FRAME_IP,
};

/* The least length of an upper-layer header: UDP's, and ICMP's before the packet in an error. */
#define L4_LEN 8

/* The length of a TCP header up to its flags. */
#define TCP_LEN 14

/* The members of an upper-layer header that are read. */
struct l4 {
	union {
		struct {
			__be16 source;
			__be16 destination;
		} port;
		struct {
			__u8 type;
			__u8 code;
			__be16 checksum;
		} icmp;
		__u32 first;
	};
	union {
		struct {
			__be16 id;
			__be16 sequence;
		} echo;
		__u32 second;
	};
	__u8 tcp_flags;
	__u8 len; /* bytes that preload_l4() has read: 0, L4_LEN or TCP_LEN */
};

/* ICMP of the packet's own family. No stack accepts the other one. */
static __always_inline bool is_icmp(const struct packet *packet)
{
	return packet->ip.protocol == (packet->is_v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

static __always_inline bool is_icmp_error(__u8 protocol, __u8 type)
{
	if (protocol == IPPROTO_ICMPV6)
		return type < ICMPV6_ECHO_REQUEST;
	return type == ICMP_DEST_UNREACH || type == ICMP_SOURCE_QUENCH || type == ICMP_REDIRECT ||
	       type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETERPROB;
}

static __always_inline bool is_extension(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING ||
	       protocol == IPPROTO_FRAGMENT || protocol == IPPROTO_AH ||
	       protocol == IPPROTO_DSTOPTS;
}

/*
 * Points to the first `len` bytes of the frame. Returns false if the frame is shorter. Any helper
 * that writes to the frame invalidates the pointer. To a loader without CAP_PERFMON, the verifier
 * refuses a comparison of the pointer with NULL, so NULL cannot report a failure.
 */
static __always_inline bool frame_start(struct __sk_buff *skb, __u32 len, const void **frame)
{
	*frame = (void *)(long)skb->data;
	if (*frame + len <= (void *)(long)skb->data_end)
		return true;
	/* The headers are in pages, or the frame ends before. */
	if (bpf_skb_pull_data(skb, len))
		return false;
	*frame = (void *)(long)skb->data;
	return *frame + len <= (void *)(long)skb->data_end;
}

/* Parses a header at `offset` of the frame. */
static __always_inline bool parse_ipv4(const struct iphdr *header, __u32 offset, struct ip_info *ip)
{
	__u8 version_ihl = *(const __u8 *)header;
	__u16 fragment = bpf_ntohs(header->frag_off);

	if (version_ihl >> 4 != 4 || (version_ihl & 0xf) < 5)
		return false;
	ipv4_to_key(&ip->source, &header->saddr);
	ipv4_to_key(&ip->destination, &header->daddr);
	ip->version = 4;
	ip->length = bpf_ntohs(header->tot_len);
	ip->l4 = offset + (version_ihl & 0xf) * 4;
	ip->protocol = header->protocol;
	ip->hop_limit = header->ttl;
	ip->slow_path = version_ihl != 0x45 || fragment & (IPV4_MORE_FRAGMENTS | IPV4_OFFSET);
	ip->non_first_fragment = (fragment & IPV4_OFFSET) != 0;
	return true;
}

/* The same, without the extension headers. */
static __always_inline bool parse_ipv6(const struct ipv6hdr *header, __u32 offset,
				       struct ip_info *ip)
{
	if (*(const __u8 *)header >> 4 != 6)
		return false;
	ipv6_to_key(&ip->source, &header->saddr);
	ipv6_to_key(&ip->destination, &header->daddr);
	ip->version = 6;
	ip->length = sizeof(*header) + bpf_ntohs(header->payload_len);
	ip->l4 = offset + sizeof(*header);
	ip->protocol = header->nexthdr;
	ip->hop_limit = header->hop_limit;
	ip->slow_path = false;
	ip->non_first_fragment = false;
	return true;
}

/* What skip_extensions() returns: the offset of the upper layer, and these. */
#define EXTENSIONS_PROTOCOL_SHIFT 16
#define EXTENSIONS_SLOW_PATH (1 << 24)
#define EXTENSIONS_NON_FIRST (1 << 25)

/*
 * Reads the extension headers from `offset` on; `protocol` is the type of the first. Negative
 * if they exceed the frame. A global function, so that the verifier verifies the loop once, and
 * not for each state of its callers.
 */
__attribute__((noinline)) int skip_extensions(struct __sk_buff *skb, __u32 offset, __u32 protocol)
{
	struct {
		__u8 next;
		__u8 length;
		__be16 fragment;
	} extension;
	__u32 flags = 0;

#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		if (flags & EXTENSIONS_NON_FIRST || !is_extension(protocol))
			break;
		if (bpf_skb_load_bytes(skb, offset, &extension, sizeof(extension)))
			return -1;
		if (protocol == IPPROTO_FRAGMENT) {
			offset += 8;
			flags |= EXTENSIONS_SLOW_PATH;
			if (bpf_ntohs(extension.fragment) & IPV6_OFFSET)
				flags |= EXTENSIONS_NON_FIRST;
		} else if (protocol == IPPROTO_AH) {
			/* AH counts words of four octets, minus two: RFC 4302. */
			offset += (extension.length + 2) * 4;
		} else {
			offset += (extension.length + 1) * 8;
			if (protocol == IPPROTO_ROUTING)
				flags |= EXTENSIONS_SLOW_PATH;
		}
		protocol = extension.next;
	}
	/* Seven headers of 2 KiB behind two IP headers: 16 bits are enough. */
	return (offset & 0xffff) | (protocol & 0xff) << EXTENSIONS_PROTOCOL_SHIFT | flags;
}

static __always_inline bool parse_extensions(struct __sk_buff *skb, struct ip_info *ip)
{
	int found;

	if (!is_extension(ip->protocol))
		return true;
	found = skip_extensions(skb, ip->l4, ip->protocol);
	if (found < 0)
		return false;
	ip->l4 = found & 0xffff;
	ip->protocol = found >> EXTENSIONS_PROTOCOL_SHIFT;
	ip->slow_path = (found & EXTENSIONS_SLOW_PATH) != 0;
	ip->non_first_fragment = (found & EXTENSIONS_NON_FIRST) != 0;
	return true;
}

/*
 * Sets the flow of a packet, if the protocol has one. `reversed` for the packet inside an ICMP
 * error, which goes the other way.
 */
static __always_inline void flow_key_from(const struct ip_info *ip, const struct l4 *l4,
					  bool reversed, struct packet *packet)
{
	__be16 source = l4->port.source, destination = l4->port.destination;
	__u8 type = l4->icmp.type;

	switch (ip->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
		break;
	case IPPROTO_ICMP:
		if (ip->version != 4 || (type != ICMP_ECHO && type != ICMP_ECHOREPLY))
			return;
		source = destination = l4->echo.id;
		break;
	case IPPROTO_ICMPV6:
		if (ip->version != 6 || (type != ICMPV6_ECHO_REQUEST && type != ICMPV6_ECHO_REPLY))
			return;
		source = destination = l4->echo.id;
		break;
	default:
		return;
	}
	packet->source_port = reversed ? destination : source;
	packet->destination_port = reversed ? source : destination;
	packet->flow_protocol = ip->protocol;
}

static __always_inline bool parse_inner_ip(struct __sk_buff *skb, const struct packet *packet,
					   __u32 offset, struct ip_info *inner)
{
	struct ipv6hdr v6;
	struct iphdr v4;

	if (packet->is_v4)
		return !bpf_skb_load_bytes(skb, offset, &v4, sizeof(v4)) &&
		       parse_ipv4(&v4, offset, inner);
	return !bpf_skb_load_bytes(skb, offset, &v6, sizeof(v6)) &&
	       parse_ipv6(&v6, offset, inner) && parse_extensions(skb, inner);
}

/*
 * An ICMP error belongs to the flow of the packet inside it, but only if it answers that
 * packet: from its destination, to its source. Otherwise a pod could send errors in flows of
 * other pods.
 */
__attribute__((noinline)) int parse_icmp_inner(struct __sk_buff *skb)
{
	struct packet *packet;
	struct ip_info *inner;
	struct l4 l4 = {};
	__u32 zero = 0;

	packet = bpf_map_lookup_elem(&packet_scratch, &zero);
	if (!packet)
		return 0;
	inner = &packet->inner;
	/* The frame may be longer than the packet, because of padding. */
	packet->has_inner = parse_inner_ip(skb, packet, packet->ip.l4 + L4_LEN, inner) &&
			    inner->l4 <= packet->end;
	if (packet->has_inner && !inner->non_first_fragment && inner->l4 + L4_LEN <= packet->end &&
	    address_equal(&inner->source, &packet->ip.destination) &&
	    address_equal(&inner->destination, &packet->ip.source) &&
	    !bpf_skb_load_bytes(skb, inner->l4, &l4, L4_LEN))
		flow_key_from(inner, &l4, true, packet);
	return 0;
}

/*
 * Reads an upper-layer header behind a fixed IP header, by direct packet access. `offset` must
 * be a constant: to a loader without CAP_PERFMON, the verifier refuses any other.
 */
static __always_inline void preload_l4(struct __sk_buff *skb, const void *frame, __u32 offset,
				       struct l4 *l4)
{
	const void *end = (void *)(long)skb->data_end;

	if (frame + offset + L4_LEN > end)
		return;
	l4->first = *(const __u32 *)(frame + offset);
	l4->second = *(const __u32 *)(frame + offset + 4);
	l4->len = L4_LEN;
	if (frame + offset + TCP_LEN > end)
		return;
	l4->tcp_flags = *(const __u8 *)(frame + offset + TCP_LEN - 1);
	l4->len = TCP_LEN;
}

/* Parses the upper layer. `fixed` is the offset that `l4` was preloaded from. */
static __always_inline void parse_l4(struct __sk_buff *skb, struct packet *packet, __u32 fixed,
				     struct l4 *l4)
{
	__u32 offset = packet->ip.l4;
	__u8 protocol = packet->ip.protocol;
	__u8 len = L4_LEN;

	packet->icmp_type = ICMP_NONE;
	packet->is_error = false;
	packet->has_inner = false;
	packet->syn = true;
	packet->fin = false;
	packet->rst = false;
	if (packet->ip.non_first_fragment || offset + L4_LEN > packet->end)
		return;
	if (protocol == IPPROTO_TCP && offset + TCP_LEN <= packet->end)
		len = TCP_LEN;
	if (offset != fixed || l4->len < len) {
		if (bpf_skb_load_bytes(skb, offset, l4, L4_LEN))
			return;
		if (len == TCP_LEN &&
		    bpf_skb_load_bytes(skb, offset + TCP_LEN - 1, &l4->tcp_flags, 1))
			return;
	}

	if (is_icmp(packet)) {
		packet->icmp_type = l4->icmp.type;
		packet->syn = l4->icmp.type == (packet->is_v4 ? ICMP_ECHO : ICMPV6_ECHO_REQUEST);
		packet->is_error = is_icmp_error(protocol, l4->icmp.type);
		if (packet->is_error) {
			parse_icmp_inner(skb);
			return;
		}
	} else if (len == TCP_LEN) {
		packet->syn = (l4->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
		packet->fin = (l4->tcp_flags & TCP_FIN) != 0;
		packet->rst = (l4->tcp_flags & TCP_RST) != 0;
	} else if (protocol == IPPROTO_TCP) {
		/* A fragment that ends before the flags neither opens nor closes a flow. */
		packet->syn = false;
	}
	flow_key_from(&packet->ip, l4, false, packet);
}

/* Of the Ethernet header. */
static __always_inline void parse_macs(const void *frame, struct packet *packet)
{
	copy_mac(packet->dest_mac, frame);
	copy_mac(packet->source_mac, frame + ETH_ALEN);
}

static __always_inline enum frame parse_ip(struct __sk_buff *skb, struct packet *packet)
{
	__u32 received = skb->len - ETH_HLEN;
	struct ip_info *ip = &packet->ip;
	struct l4 l4 = {};
	const void *frame;
	__u32 fixed;

	if (packet->is_v4) {
		fixed = 0;
		if (!frame_start(skb, ETH_HLEN + sizeof(struct iphdr), &frame) ||
		    !parse_ipv4(frame + ETH_HLEN, ETH_HLEN, ip))
			return FRAME_MALFORMED;
		parse_macs(frame, packet);
		preload_l4(skb, frame, ETH_HLEN + sizeof(struct iphdr), &l4);
		/* Keeps clang from merging this with the other one, at a variable offset. */
		barrier();
	} else {
		fixed = sizeof(struct ipv6hdr);
		if (!frame_start(skb, ETH_HLEN + sizeof(struct ipv6hdr), &frame) ||
		    !parse_ipv6(frame + ETH_HLEN, ETH_HLEN, ip))
			return FRAME_MALFORMED;
		parse_macs(frame, packet);
		preload_l4(skb, frame, ETH_HLEN + sizeof(struct ipv6hdr), &l4);
		if (!parse_extensions(skb, ip))
			return FRAME_MALFORMED;
	}
	/* BIG TCP: a GSO super-frame of more than 64 KiB has a length of 0. */
	if (ip->length == fixed && skb->gso_size)
		ip->length = received;
	if (ip->length > received || ip->l4 > ETH_HLEN + ip->length)
		return FRAME_MALFORMED;
	packet->end = ETH_HLEN + ip->length;
	parse_l4(skb, packet, packet->is_v4 ? ETH_HLEN + sizeof(struct iphdr) : ETH_HLEN + fixed,
		 &l4);
	return FRAME_IP;
}

static __always_inline enum frame parse_arp(struct __sk_buff *skb, struct packet *packet)
{
	struct arp_message *arp = &packet->arp;

	packet->is_foreign_sender = false;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, arp, sizeof(*arp)) || arp->hardware != bpf_htons(1) ||
	    arp->protocol != bpf_htons(ETH_P_IP) || arp->hardware_len != ETH_ALEN ||
	    arp->protocol_len != sizeof(arp->sender))
		return FRAME_MALFORMED;
	return FRAME_ARP;
}

static __always_inline bool is_tagged(const struct __sk_buff *skb)
{
	return skb->vlan_present || skb->protocol == bpf_htons(ETH_P_8021Q) ||
	       skb->protocol == bpf_htons(ETH_P_8021AD);
}

static __always_inline enum frame parse_frame(struct __sk_buff *skb, struct packet *packet)
{
	const void *frame;

	if (is_tagged(skb))
		return FRAME_TAGGED;
	packet->flow_protocol = 0;
	packet->is_v4 = skb->protocol == bpf_htons(ETH_P_IP);
	if (packet->is_v4 || skb->protocol == bpf_htons(ETH_P_IPV6))
		return parse_ip(skb, packet);
	if (!frame_start(skb, ETH_HLEN, &frame))
		return FRAME_MALFORMED;
	parse_macs(frame, packet);
	return skb->protocol == bpf_htons(ETH_P_ARP) ? parse_arp(skb, packet) : FRAME_OTHER;
}

#endif /* CNI_PARSE_H */
