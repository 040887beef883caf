/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* Comparing and copying MACs and IP addresses. */
#ifndef CNI_ADDRESS_H
#define CNI_ADDRESS_H

#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_endian.h>

#include "../abi.h"

/* Each MAC in the program's memory has an even offset, so that two octets are compared at once. */
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

/* An IPv4-mapped IPv6 address: RFC 4291, section 2.5.5.2. */
static __always_inline bool is_mapped(const struct ipv6_key *address)
{
	const __u32 *word = (const __u32 *)address->octet;

	return (word[0] | word[1] | (word[2] ^ bpf_htonl(0xffff))) == 0;
}

static __always_inline bool address_equal(const struct ipv6_key *a, const struct ipv6_key *b)
{
	const __u32 *x = (const __u32 *)a->octet, *y = (const __u32 *)b->octet;

	return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3])) == 0;
}

static __always_inline void ipv4_to_key(struct ipv6_key *to, const void *ipv4)
{
	__u32 *word = (__u32 *)to->octet;

	word[0] = *(const __u32 *)ipv4;
	word[1] = word[2] = word[3] = 0;
}

static __always_inline void ipv6_to_key(struct ipv6_key *to, const void *ipv6)
{
	__u32 *word = (__u32 *)to->octet;
	const __u32 *from = ipv6;

	word[0] = from[0];
	word[1] = from[1];
	word[2] = from[2];
	word[3] = from[3];
}

static __always_inline void copy_mac(__u8 *to, const void *mac)
{
	__u16 *half = (__u16 *)to;
	const __u16 *from = mac;

	half[0] = from[0];
	half[1] = from[1];
	half[2] = from[2];
}

#endif /* CNI_ADDRESS_H */
