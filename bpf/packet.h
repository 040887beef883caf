/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Reading a frame, once, into what the verdict needs. Headers are copied with
 * bpf_skb_load_bytes(), which reads linear and paged data alike and leaves no
 * packet pointer to be invalidated by a helper that writes.
 *
 * What was read lies in a map and not on the stack, because the verifier does not
 * follow what a map holds: it would try the rest of the program with the outcome
 * of every branch here (430,000 instructions then). A program is not interrupted
 * by another of this kind on its CPU: both directions run with softirqs off.
 */
#ifndef CNI_TC_PACKET_H
#define CNI_TC_PACKET_H

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

#include "cni_tc.h"

/*
 * Extension headers that are looked through. RFC 8200, section 4.1, knows six that
 * may stand before the upper layer, each to be used once, Destination Options twice.
 */
#define MAX_EXTENSIONS 7

/* Flags and offset of the IPv4 header: RFC 791. */
#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV4_OFFSET 0x1fff
/* The offset of an IPv6 fragment header (RFC 8200, section 4.5). */
#define IPV6_OFFSET 0xfff8

/* RFC 792. <linux/icmp.h> drags in headers of the host's C library. */
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_SOURCE_QUENCH 4
#define ICMP_REDIRECT 5
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMP_NONE 0x100 /* beyond all types */

#define TCP_FLAGS_AT 13
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define ARP_REQUEST 1
#define ARP_REPLY 2

enum frame {
	FRAME_OTHER,  /* neither IP nor ARP */
	FRAME_TAGGED, /* with a VLAN tag, whatever is behind it */
	FRAME_MALFORMED,
	FRAME_ARP,
	FRAME_IP,
};

/* An IP header with the extensions behind it, of the packet or of one that an error quotes. */
struct network {
	struct ipv6_key source; /* of an IPv4 address the first four octets, the others 0 */
	struct ipv6_key destination;
	__u32 length; /* of headers and payload, as the header says */
	__u32 upper;  /* where in the frame the upper layer begins */
	__u8 version;
	__u8 protocol;
	__u8 hop_limit;
	bool detour; /* a fragment, or with options or a routing header: for the stack */
	bool later;  /* not the first fragment: there is no upper-layer header */
};

/* RFC 826, for IPv4 over Ethernet. */
struct arp_message {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	struct ipv4_key sender;
	__u8 target_mac[ETH_ALEN];
	struct ipv4_key target;
} __attribute__((packed));

struct packet {
	__u8 align[2]; /* has what follows the Ethernet header lie at a multiple of four */
	struct ethhdr ethernet;
	union {
		struct iphdr v4;
		struct ipv6hdr v6;
	} header; /* of an IP packet */
	bool v4;
	/* Of an IP packet. */
	bool opens;	/* may be the first packet of a conversation */
	bool closes;	/* its sender's side of one */
	bool resets;	/* one */
	bool is_error;	/* of ICMP or ICMPv6 */
	bool quotes;	/* and it can be read what packet it is about */
	__u16 icmp_type; /* of ICMP and ICMPv6 with a whole header, else ICMP_NONE */
	__u32 end;	/* where in the frame the packet ends */
	struct network ip;
	bool own_source; /* the address is this port's; set at a guarded port alone */
	bool from_lower; /* the packet goes from the source of `flow` to its destination */
	struct flow_key flow; /* of an error that of what it quotes; protocol 0: of none that is known */
	/* Of an ARP message. */
	struct arp_message arp;
	bool in_foreign_name; /* a request whose sender address is not known to be the pod's */
	/* Of an ICMP error: the packet that it is about. */
	struct network quoted;
	struct ipv6_key asked; /* the argument of asked_is_at_another_port(), IPv4-mapped */
	/* Of a frame that is dropped. */
	volatile __u8 drop_reason;
};

/* Not offsetof(), which libbpf's helpers make an expression that is no constant. */
_Static_assert(__builtin_offsetof(struct packet, header) ==
		       __builtin_offsetof(struct packet, ethernet) + ETH_HLEN,
	       "both headers are read at once");

/* A place to work at, not state: a build has its own. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct packet);
} scratch SEC(".maps");

/* What every upper-layer header has at least: all of UDP, and of an ICMP error what is no quote. */
#define UPPER_LEN 8

union upper {
	struct {
		__be16 source;
		__be16 destination;
	} port;
	struct {
		__u8 before_flags[TCP_FLAGS_AT];
		__u8 flags;
	} tcp;
	struct {
		__u8 type;
		__u8 code;
		__be16 checksum;
		__be16 echo_id;
		__be16 echo_sequence;
	} icmp; /* an error's quote begins behind it, in both families */
};

/* Every MAC here begins at an even offset, so that two octets are compared at once. */
static __always_inline bool mac_equal(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;

	return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2])) == 0;
}

static __always_inline bool is_multicast_mac(const __u8 *mac)
{
	return mac[0] & 0x01;
}

static __always_inline bool is_unspecified(const struct ipv6_key *address)
{
	const __u32 *word = (const __u32 *)address->octet;

	return (word[0] | word[1] | word[2] | word[3]) == 0;
}

/* An IPv4 address as IPv6 writes it: RFC 4291, section 2.5.5.2. */
static __always_inline bool is_mapped(const struct ipv6_key *address)
{
	const __u32 *word = (const __u32 *)address->octet;

	return (word[0] | word[1] | (word[2] ^ bpf_htonl(0xffff))) == 0;
}

static __always_inline void widen(struct ipv6_key *to, const void *ipv4)
{
	__builtin_memset(to, 0, sizeof(*to));
	__builtin_memcpy(to, ipv4, sizeof(struct ipv4_key));
}

/* The other family's is no message that anybody would take for one. */
static __always_inline bool is_icmp(const struct packet *packet)
{
	return packet->ip.protocol == (packet->v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

static __always_inline bool address_equal(const struct ipv6_key *a, const struct ipv6_key *b)
{
	const __u32 *x = (const __u32 *)a->octet, *y = (const __u32 *)b->octet;

	return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3])) == 0;
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

/* Takes in a header that begins at `offset`. */
static __always_inline bool take_ipv4(const struct iphdr *ip, __u32 offset, struct network *network)
{
	__u16 fragment = bpf_ntohs(ip->frag_off);

	if (ip->version != 4 || ip->ihl < 5)
		return false;
	widen(&network->source, &ip->saddr);
	widen(&network->destination, &ip->daddr);
	network->version = 4;
	network->length = bpf_ntohs(ip->tot_len);
	network->upper = offset + ip->ihl * 4;
	network->protocol = ip->protocol;
	network->hop_limit = ip->ttl;
	network->detour = ip->ihl > 5 || fragment & (IPV4_MORE_FRAGMENTS | IPV4_OFFSET);
	network->later = fragment & IPV4_OFFSET;
	return true;
}

/* The same, and the extensions behind it. */
static __always_inline bool take_ipv6(struct __sk_buff *skb, const struct ipv6hdr *ip, __u32 offset,
				      struct network *network)
{
	struct {
		__u8 next;
		__u8 length;
		__be16 fragment;
	} extension;

	if (ip->version != 6)
		return false;
	__builtin_memcpy(&network->source, &ip->saddr, sizeof(ip->saddr));
	__builtin_memcpy(&network->destination, &ip->daddr, sizeof(ip->daddr));
	network->version = 6;
	network->length = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	network->upper = offset + sizeof(*ip);
	network->protocol = ip->nexthdr;
	network->hop_limit = ip->hop_limit;
	network->detour = false;
	network->later = false;

#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		if (network->later || !is_extension(network->protocol))
			break;
		if (bpf_skb_load_bytes(skb, network->upper, &extension, sizeof(extension)))
			return false;
		/* AH counts in words of four octets, less two: RFC 4302. */
		if (network->protocol == IPPROTO_FRAGMENT) {
			network->upper += 8;
			network->detour = true;
			network->later = bpf_ntohs(extension.fragment) & IPV6_OFFSET;
		} else if (network->protocol == IPPROTO_AH) {
			network->upper += (extension.length + 2) * 4;
		} else {
			network->upper += (extension.length + 1) * 8;
			network->detour |= network->protocol == IPPROTO_ROUTING;
		}
		network->protocol = extension.next;
	}
	return true;
}

static __always_inline bool is_lower(const struct ipv6_key *a, const struct ipv6_key *b)
{
	const __u32 *x = (const __u32 *)a->octet, *y = (const __u32 *)b->octet;
	__u64 high_x = (__u64)x[0] << 32 | x[1], high_y = (__u64)y[0] << 32 | y[1];
	__u64 low_x = (__u64)x[2] << 32 | x[3], low_y = (__u64)y[2] << 32 | y[3];

	return high_x != high_y ? high_x < high_y : low_x < low_y;
}

/*
 * Names the conversation that a packet belongs to, if its protocol is known. Both
 * directions have one name: that of the direction with the lower source.
 */
static __always_inline void name_flow(const struct network *network, const union upper *upper,
				      struct packet *packet)
{
	struct flow_key *flow = &packet->flow;
	bool lower = is_lower(&network->source, &network->destination);

	packet->from_lower = lower;
	flow->source = lower ? network->source : network->destination;
	flow->destination = lower ? network->destination : network->source;
	switch (network->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
		flow->source_port = lower ? upper->port.source : upper->port.destination;
		flow->destination_port = lower ? upper->port.destination : upper->port.source;
		break;
	case IPPROTO_ICMP:
		if (network->version != 4 ||
		    (upper->icmp.type != ICMP_ECHO && upper->icmp.type != ICMP_ECHOREPLY))
			return;
		flow->source_port = flow->destination_port = upper->icmp.echo_id;
		break;
	case IPPROTO_ICMPV6:
		if (network->version != 6 || (upper->icmp.type != ICMPV6_ECHO_REQUEST &&
					      upper->icmp.type != ICMPV6_ECHO_REPLY))
			return;
		flow->source_port = flow->destination_port = upper->icmp.echo_id;
		break;
	default:
		return;
	}
	flow->protocol = network->protocol;
	flow->version = network->version;
}

static __always_inline bool read_quoted_ip(struct __sk_buff *skb, const struct packet *packet,
					   __u32 offset, struct network *quoted)
{
	struct ipv6hdr v6;
	struct iphdr v4;

	if (packet->v4)
		return !bpf_skb_load_bytes(skb, offset, &v4, sizeof(v4)) &&
		       take_ipv4(&v4, offset, quoted);
	return !bpf_skb_load_bytes(skb, offset, &v6, sizeof(v6)) &&
	       take_ipv6(skb, &v6, offset, quoted);
}

/*
 * An error belongs to the conversation of the packet that it quotes. Only who got
 * that packet may complain of it, and to whom it came from: else a pod could speak
 * in the name of conversations of others.
 */
static __always_inline void read_quote(struct __sk_buff *skb, struct packet *packet)
{
	struct network *quoted = &packet->quoted;
	union upper upper;

	/* The frame may go on behind the packet, with padding. */
	packet->quotes = read_quoted_ip(skb, packet, packet->ip.upper + UPPER_LEN, quoted) &&
			 quoted->upper <= packet->end;
	if (packet->quotes && !quoted->later && quoted->upper + UPPER_LEN <= packet->end &&
	    address_equal(&quoted->source, &packet->ip.destination) &&
	    address_equal(&quoted->destination, &packet->ip.source) &&
	    !bpf_skb_load_bytes(skb, quoted->upper, &upper, UPPER_LEN))
		name_flow(quoted, &upper, packet);
}

static __always_inline void read_upper(struct __sk_buff *skb, struct packet *packet)
{
	__u32 offset = packet->ip.upper;
	__u8 protocol = packet->ip.protocol;
	union upper upper;

	packet->icmp_type = ICMP_NONE;
	packet->is_error = false;
	packet->quotes = false;
	packet->opens = true;
	packet->closes = false;
	packet->resets = false;
	if (packet->ip.later || offset + UPPER_LEN > packet->end)
		return;
	/* The shortest fragment has no more than that, and then what TCP's flags say is not known. */
	upper.tcp.flags = TCP_ACK;
	if (protocol == IPPROTO_TCP && offset + sizeof(upper.tcp) <= packet->end) {
		if (bpf_skb_load_bytes(skb, offset, &upper, sizeof(upper.tcp)))
			return;
	} else if (bpf_skb_load_bytes(skb, offset, &upper, UPPER_LEN)) {
		return;
	}

	if (is_icmp(packet)) {
		packet->icmp_type = upper.icmp.type;
		packet->opens = upper.icmp.type ==
				(packet->v4 ? ICMP_ECHO : ICMPV6_ECHO_REQUEST);
		packet->is_error = is_icmp_error(protocol, upper.icmp.type);
		if (packet->is_error) {
			read_quote(skb, packet);
			return;
		}
	} else if (protocol == IPPROTO_TCP) {
		packet->opens = (upper.tcp.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
		packet->closes = upper.tcp.flags & TCP_FIN;
		packet->resets = upper.tcp.flags & TCP_RST;
	}
	name_flow(&packet->ip, &upper, packet);
}

/* Of both headers, Ethernet's and IP's, at once: each call costs more than what it copies. */
static __always_inline enum frame read_ip(struct __sk_buff *skb, struct packet *packet)
{
	__u32 received = skb->len - ETH_HLEN;
	struct network *ip = &packet->ip;
	__u32 fixed;

	if (packet->v4) {
		fixed = 0;
		if (bpf_skb_load_bytes(skb, 0, &packet->ethernet,
				       ETH_HLEN + sizeof(packet->header.v4)) ||
		    !take_ipv4(&packet->header.v4, ETH_HLEN, ip))
			return FRAME_MALFORMED;
	} else {
		fixed = sizeof(packet->header.v6);
		if (bpf_skb_load_bytes(skb, 0, &packet->ethernet,
				       ETH_HLEN + sizeof(packet->header.v6)) ||
		    !take_ipv6(skb, &packet->header.v6, ETH_HLEN, ip))
			return FRAME_MALFORMED;
	}
	/* A GSO super-frame of more than 64 KiB has no room for its length: BIG TCP leaves it 0. */
	if (ip->length == fixed && skb->gso_size)
		ip->length = received;
	if (ip->length > received || ip->upper > ETH_HLEN + ip->length)
		return FRAME_MALFORMED;
	packet->end = ETH_HLEN + ip->length;
	read_upper(skb, packet);
	return FRAME_IP;
}

static __always_inline enum frame read_arp(struct __sk_buff *skb, struct packet *packet)
{
	struct arp_message *arp = &packet->arp;

	packet->in_foreign_name = false;
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

static __always_inline enum frame read_frame(struct __sk_buff *skb, struct packet *packet)
{
	if (is_tagged(skb))
		return FRAME_TAGGED;
	packet->flow.protocol = 0;
	packet->v4 = skb->protocol == bpf_htons(ETH_P_IP);
	if (packet->v4 || skb->protocol == bpf_htons(ETH_P_IPV6))
		return read_ip(skb, packet);
	if (bpf_skb_load_bytes(skb, 0, &packet->ethernet, sizeof(packet->ethernet)))
		return FRAME_MALFORMED;
	return skb->protocol == bpf_htons(ETH_P_ARP) ? read_arp(skb, packet) : FRAME_OTHER;
}

#endif /* CNI_TC_PACKET_H */
