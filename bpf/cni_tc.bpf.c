// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Counts what pods send and delivers it straight into the target pod.
 *
 * cni_tc_main	 runs at the TC ingress of every host veth, so it sees each frame
 *		 that a pod sends, and at the TC ingress of the bridge device, where
 *		 only what goes up to the host arrives.
 * cni_tc_egress runs at the TC egress of the same devices; on a host veth that is
 *		 each frame which the bridge delivers to the pod. What is redirected
 *		 into a pod does not pass here.
 *
 * Verdicts: bpf_redirect_peer() for a packet to a pod of this network, else
 * TC_ACT_UNSPEC, which lets later filters and then the bridge have the frame.
 * The bridge alone is a complete data path: without these programs, or without
 * a row in a map, packets arrive all the same.
 *
 * Malformed packets: what cannot be read as far as the end of the fixed IPv4
 * header is neither counted nor redirected. It is the stack's to judge.
 */
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "cni_tc.h"

/* Counters by source address. ADD puts rows in and DEL takes them out; programs only look up. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, CNI_TC_MAX_ROWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipv4_key);
	__type(value, struct pod_counters);
} pkt_count SEC(".maps");

/* Where to deliver, by destination address. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CNI_TC_MAX_ROWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipv4_key);
	__type(value, struct pod_port);
} pod_ifindex SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct net_config);
} net_config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct net_stats);
} net_stats SEC(".maps");

/* What the verdict needs of a packet, read once: helpers that write invalidate packet pointers. */
struct packet {
	struct ipv4_key source;
	struct ipv4_key destination;
	__u8 destination_mac[ETH_ALEN];
	__u8 ttl;
	__u8 protocol;
};

static __always_inline bool mac_equal(const __u8 *a, const __u8 *b)
{
	__u8 difference = 0;

#pragma unroll
	for (int i = 0; i < ETH_ALEN; i++)
		difference |= a[i] ^ b[i];
	return difference == 0;
}

static __always_inline bool parse(struct __sk_buff *skb, struct packet *packet)
{
	const __u32 header_len = sizeof(struct ethhdr) + sizeof(struct iphdr);
	const struct ethhdr *eth;
	const struct iphdr *ip;

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return false;
	/* A frame that was not made by the pod's own stack may keep its headers in fragments. */
	if ((void *)(long)skb->data + header_len > (void *)(long)skb->data_end &&
	    bpf_skb_pull_data(skb, header_len))
		return false;

	eth = (void *)(long)skb->data;
	ip = (void *)(eth + 1);
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return false;
	if (ip->version != 4)
		return false;

	__builtin_memcpy(&packet->source, &ip->saddr, sizeof(packet->source));
	__builtin_memcpy(&packet->destination, &ip->daddr, sizeof(packet->destination));
	__builtin_memcpy(packet->destination_mac, eth->h_dest, ETH_ALEN);
	packet->ttl = ip->ttl;
	packet->protocol = ip->protocol;
	return true;
}

/*
 * Does to a packet for the gateway what routing it would: one hop less to live,
 * from the gateway's MAC to the pod's. False where the packet may not be routed.
 */
static __always_inline bool route(struct __sk_buff *skb, const struct packet *packet,
				  const struct net_config *config, const struct pod_port *port)
{
	const __u32 ip = sizeof(struct ethhdr);
	__u8 ttl = packet->ttl - 1;
	__u8 macs[2 * ETH_ALEN];

	if (packet->ttl <= 1)
		return false; /* the stack tells the sender: ICMP time exceeded */

	__builtin_memcpy(macs, port->mac, ETH_ALEN);
	__builtin_memcpy(macs + ETH_ALEN, config->gateway_mac, ETH_ALEN);
	/* TTL and protocol share the 16-bit word that the header checksum runs over. */
	return !bpf_l3_csum_replace(skb, ip + offsetof(struct iphdr, check),
				    bpf_htons(packet->ttl << 8 | packet->protocol),
				    bpf_htons(ttl << 8 | packet->protocol), sizeof(__u16)) &&
	       !bpf_skb_store_bytes(skb, ip + offsetof(struct iphdr, ttl), &ttl, sizeof(ttl), 0) &&
	       !bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0);
}

/* Whether the packet may go straight to `port`, and made ready for it. */
static __always_inline bool deliverable(struct __sk_buff *skb, const struct packet *packet,
					const struct net_config *config,
					const struct pod_port *port)
{
	/* A pod that talks to itself by way of the host, or inside a VLAN: the bridge's business.
	 */
	if (port->ifindex == skb->ifindex || skb->vlan_present)
		return false;
	/* Addressed to a third party, a pod that routes for instance: it is to have the packet. */
	if (!mac_equal(packet->destination_mac, port->mac) &&
	    !(mac_equal(packet->destination_mac, config->gateway_mac) &&
	      route(skb, packet, config, port)))
		return false;
	/*
	 * The frame was typed at the host veth, whose MAC is not the target's. Kernels
	 * before 6.15 keep that type across the redirect, and the pod would drop the
	 * packet as meant for another host.
	 */
	return !bpf_skb_change_type(skb, PACKET_HOST);
}

SEC("tc")
int cni_tc_main(struct __sk_buff *skb)
{
	struct pod_counters *counters;
	const struct net_config *config;
	const struct pod_port *port;
	struct packet packet;
	struct net_stats *stats;
	__u32 only = 0;

	config = bpf_map_lookup_elem(&net_config, &only);
	stats = bpf_map_lookup_elem(&net_stats, &only);
	if (!config || !stats || !parse(skb, &packet))
		return TC_ACT_UNSPEC;

	/* Counted already, at the port it came in by. */
	if (skb->ifindex == config->bridge_ifindex) {
		stats->to_host++;
		return TC_ACT_UNSPEC;
	}

	counters = bpf_map_lookup_elem(&pkt_count, &packet.source);
	if (counters) {
		counters->tx_packets++;
		counters->tx_bytes += skb->len;
	} else {
		stats->unknown_source++;
	}

	port = bpf_map_lookup_elem(&pod_ifindex, &packet.destination);
	if (!port || !deliverable(skb, &packet, config, port)) {
		stats->to_stack++;
		return TC_ACT_UNSPEC;
	}

	stats->direct++;
	if (counters)
		counters->tx_direct++;
	return bpf_redirect_peer(port->ifindex, 0);
}

SEC("tc")
int cni_tc_egress(struct __sk_buff *skb)
{
	struct pod_counters *counters;
	const struct net_config *config;
	struct packet packet;
	struct net_stats *stats;
	__u32 only = 0;

	config = bpf_map_lookup_elem(&net_config, &only);
	stats = bpf_map_lookup_elem(&net_stats, &only);
	if (!config || !stats || !parse(skb, &packet))
		return TC_ACT_UNSPEC;

	/* What the host sends passes here on its way to the port, where it is counted. */
	if (skb->ifindex == config->bridge_ifindex)
		return TC_ACT_UNSPEC;

	stats->from_stack++;
	counters = bpf_map_lookup_elem(&pkt_count, &packet.destination);
	if (counters)
		counters->rx_stack++;
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
