// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Guards and counts what pods send, and delivers it straight into the target pod.
 *
 * cni_tc_main	 runs at the TC ingress of every host veth, so it sees each frame
 *		 that a pod sends, and at the TC ingress of the bridge device, where
 *		 only what goes up to the host arrives.
 * cni_tc_egress runs at the TC egress of the same devices: on a host veth that is
 *		 each frame which the bridge delivers to the pod, on the bridge each
 *		 that the host sends. What is redirected into a pod does not pass
 *		 here, except if the pod has a driver-mode XDP program.
 *
 * Verdicts: TC_ACT_SHOT for what a guarded port may not send; a redirect for a
 * packet to a pod of this network and for an answer to a neighbour question;
 * else TC_ACT_UNSPEC, which lets later filters and then the bridge have the
 * frame. The bridge alone is a complete data path: without these programs, or
 * with empty maps, packets arrive all the same.
 *
 * Malformed packets: what cannot be read as far as the end of the fixed headers
 * (Ethernet, then ARP, IPv4 or IPv6 with its extensions), or whose headers claim
 * more than the frame holds, is neither counted nor redirected. A guarded port
 * has it dropped, with a reason of its own, as the stack would; any other leaves
 * it to the stack.
 */
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "cni_tc.h"
#include "flow.h"
#include "guard.h"
#include "maps.h"
#include "neighbour.h"
#include "packet.h"

/*
 * Does to a packet for the gateway what routing it would: one hop less to live,
 * from the gateway's MAC to the pod's. False where the packet may not be routed.
 */
static __always_inline bool route(const struct hook *hook, const struct packet *packet,
				  const struct pod_port *target)
{
	__u8 hop_limit = packet->ip.hop_limit - 1;
	struct __sk_buff *skb = hook->skb;
	__u8 macs[2 * ETH_ALEN];

	if (packet->ip.hop_limit <= 1)
		return false; /* the stack tells the sender: time exceeded */
	/* Makes the headers writable, so that none of the writes below fails alone. */
	if (bpf_skb_pull_data(skb, packet->ip.upper))
		return false;

	__builtin_memcpy(macs, target->mac, ETH_ALEN);
	__builtin_memcpy(macs + ETH_ALEN, hook->config->gateway_mac, ETH_ALEN);
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return false;
	if (!packet->v4)
		return !bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, hop_limit),
					    &hop_limit, sizeof(hop_limit), 0);
	/* TTL and protocol share the 16-bit word that the header checksum runs over. */
	return !bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check),
				    bpf_htons(packet->ip.hop_limit << 8 | packet->ip.protocol),
				    bpf_htons(hop_limit << 8 | packet->ip.protocol),
				    sizeof(__u16)) &&
	       !bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, ttl), &hop_limit,
				    sizeof(hop_limit), 0);
}

static __always_inline bool has_flag(const struct port_config *port, __u8 flag)
{
	return port && port->flags & flag;
}

static __always_inline bool has_siblings(const struct port_config *port)
{
	return has_flag(port, CNI_PORT_HAS_SIBLINGS);
}

/*
 * Whether a packet for the gateway may be routed here. A pod that is not guarded may have
 * another MAC than its entry says. A pod with several ports may answer by another one,
 * by way of the host, and conntrack would see that direction alone.
 */
static __always_inline bool is_routable(const struct hook *hook, const struct port_config *receiver)
{
	return hook->config->flags & CNI_NET_GUARD && !has_siblings(hook->port) &&
	       !has_siblings(receiver);
}

/*
 * Whether the answer to the packet can be delivered directly, too. conntrack marks the
 * packets of a conversation as invalid if it sees only one direction.
 *
 * The source must be a pod's address, and the frame must come from the pod's MAC: a
 * virtual machine in the pod may have another one, and answers to that are bridged.
 * The address may be one of another port of the pod, because Linux answers from any
 * port. Only pods' addresses have counters, which spares the look-up of the owner.
 */
static __always_inline bool is_answerable(const struct hook *hook, const struct packet *packet,
					  bool counts_source)
{
	const __u8 *mac = packet->ethernet.h_source;
	const struct pod_port *owner;

	if (is_guarded(hook) && packet->own_source)
		return true;
	if (hook->port && !mac_equal(mac, hook->port->mac))
		return false;
	if (hook->port && counts_source)
		return true;
	owner = owner_of(packet->v4, &packet->ip.source);
	return owner && !is_host(hook, owner) && (hook->port || mac_equal(mac, owner->mac));
}

/* Whether the packet may go straight to `target`, and made ready for it. */
static __always_inline bool deliverable(const struct hook *hook, const struct packet *packet,
					bool counts_source, const struct pod_port *target)
{
	const struct port_config *receiver;
	__u32 ifindex = target->ifindex;

	if (!(hook->config->flags & CNI_NET_DIRECT) || packet->ip.detour || !packet->flow.protocol)
		return false;
	if (!is_answerable(hook, packet, counts_source))
		return false;
	/* To be dropped at the other port. */
	if (is_from_router(packet))
		return false;
	receiver = bpf_map_lookup_elem(&port_config, &ifindex);
	if (has_flag(hook->port, CNI_PORT_STACK_ONLY) || has_flag(receiver, CNI_PORT_STACK_ONLY))
		return false;
	/* Without the guard, any port of a pod answers ARP for all of its addresses. */
	if (!(hook->config->flags & CNI_NET_GUARD) && (has_siblings(hook->port) || has_siblings(receiver)))
		return false;
	/* Addressed to a third party, a pod that routes for instance: it is to have the packet. */
	if (!mac_equal(packet->ethernet.h_dest, target->mac) &&
	    !(mac_equal(packet->ethernet.h_dest, hook->config->gateway_mac) &&
	      is_routable(hook, receiver) && route(hook, packet, target)))
		return false;
	/*
	 * The frame was typed at the host veth, whose MAC is not the target's. Kernels
	 * before 6.15 keep that type across the redirect, and the pod would drop the
	 * packet as meant for another host.
	 */
	return !bpf_skb_change_type(hook->skb, PACKET_HOST);
}

/*
 * Delivers into the pod. If the pod end has a driver-mode XDP program, the packet
 * leaves by the host end instead: veth then runs that program on it. The type of a broadcast tells the egress hook that this packet is counted
 * already; veth sets it anew for the pod.
 */
static __always_inline int deliver(const struct hook *hook, struct pod_port *target)
{
	if (has_driver_xdp(target) && !bpf_skb_change_type(hook->skb, PACKET_BROADCAST))
		return bpf_redirect(target->ifindex, 0);
	return bpf_redirect_peer(target->ifindex, 0);
}

/* Whether the frame is addressed to a group. */
static __always_inline bool is_for_group(struct __sk_buff *skb)
{
	__u8 first;

	return !bpf_skb_load_bytes(skb, 0, &first, sizeof(first)) && is_multicast_mac(&first);
}

/*
 * At a pod's egress: whether deliver() sent the frame. Other frames to one station
 * rarely have that type: a neighbour solicitation that was broadcast, for instance, or
 * a broadcast frame that br_netfilter has translated. So the pod must have a
 * driver-mode XDP program, too. A global function, which the verifier follows once.
 */
__attribute__((noinline)) int is_delivered(struct __sk_buff *skb)
{
	return reads_port_xdp && skb->pkt_type == PACKET_BROADCAST && !is_for_group(skb) &&
	       read_driver_xdp(skb->ifindex);
}

/*
 * Leads to the host what belongs to a flow that the host routed: a bridge without
 * br_netfilter shows the stack no frame that is addressed to another pod.
 */
static __always_inline void lead_to_host(const struct hook *hook)
{
	__u8 mac[ETH_ALEN];

	__builtin_memcpy(mac, hook->config->gateway_mac, ETH_ALEN);
	/* Should it fail, the bridge delivers the frame: that is right if nothing was translated. */
	bpf_skb_store_bytes(hook->skb, 0, mac, sizeof(mac), 0);
}

/* Counts a packet of a pod, and finds its way. */
static __always_inline int forward(const struct hook *hook, const struct packet *packet)
{
	struct pod_counters *sent = find_counters(packet->v4, &packet->ip.source);
	struct pod_port *target = owner_of(packet->v4, &packet->ip.destination);
	bool counts_source = sent;
	struct pod_counters *received;
	__u32 len = hook->skb->len;
	const __u8 *flow;

	if (!sent)
		sent = &hook->stats->unknown;
	sent->tx_packets++;
	sent->tx_bytes += len;
	/* For the host, or of a pod that talks to itself by way of the host. */
	if (target && !is_other_pod(hook, target))
		target = NULL;
	flow = target ? followed_flow(hook, packet) : NULL;
	if (flow && *flow & FLOW_ROUTED)
		lead_to_host(hook);
	if (flow)
		target = NULL;
	if (!target || !deliverable(hook, packet, counts_source, target)) {
		hook->stats->to_stack++;
		return TC_ACT_UNSPEC;
	}

	received = counters_of(hook, packet->v4, &packet->ip.destination);
	received->rx_packets++;
	received->rx_bytes += len;
	received->rx_direct++;
	sent->tx_direct++;
	hook->stats->direct++;
	return deliver(hook, target);
}

SEC("tc")
int cni_tc_main(struct __sk_buff *skb)
{
	enum drop_reason reason;
	struct packet *packet;
	enum frame frame;
	struct hook hook;
	__u32 only = 0;
	int verdict;

	packet = bpf_map_lookup_elem(&scratch, &only);
	if (!packet || !open_hook(skb, &hook))
		return TC_ACT_UNSPEC;
	/* Judged and counted already, at the port it came in by. */
	if (at_bridge(&hook)) {
		if (skb->protocol == bpf_htons(ETH_P_IP) || skb->protocol == bpf_htons(ETH_P_IPV6))
			hook.stats->to_host++;
		return TC_ACT_UNSPEC;
	}

	frame = read_frame(skb, packet);
	if (is_guarded(&hook)) {
		reason = check_frame(&hook, frame, packet);
		if (reason != PASS)
			return drop(&hook, packet, reason);
	}
	verdict = answer_neighbour(&hook, frame, packet);
	if (verdict != TC_ACT_UNSPEC || frame != FRAME_IP)
		return verdict;
	return forward(&hook, packet);
}

/*
 * Whether the bridge sends a broadcast or multicast frame back to the port that it
 * came in by, which a bridge does at a hairpin port. A bridge inside the pod would
 * learn its own machines at the wrong port, and a probe for duplicate addresses
 * would find itself.
 */
static __always_inline bool is_reflected(struct __sk_buff *skb)
{
	return skb->ingress_ifindex == skb->ifindex && is_for_group(skb);
}

SEC("tc")
int cni_tc_egress(struct __sk_buff *skb)
{
	struct pod_counters *received;
	struct packet *packet;
	enum frame frame;
	struct hook hook;
	__u32 only = 0;

	packet = bpf_map_lookup_elem(&scratch, &only);
	if (!packet || !open_hook(skb, &hook))
		return TC_ACT_UNSPEC;
	if (!at_bridge(&hook) && is_reflected(skb))
		return drop(&hook, packet, CNI_DROP_REFLECTED);
	if (is_delivered(skb))
		return TC_ACT_UNSPEC;
	frame = read_frame(skb, packet);
	if (at_bridge(&hook))
		return answer_neighbour(&hook, frame, packet);
	if (frame != FRAME_IP)
		return TC_ACT_UNSPEC;
	/* Pods have the routes that they were given; another way could lead past the translation. */
	if (is_from_router(packet))
		return drop(&hook, packet, CNI_DROP_ROUTER);

	hook.stats->from_stack++;
	received = counters_of(&hook, packet->v4, &packet->ip.destination);
	received->rx_packets++;
	received->rx_bytes += skb->len;
	remember_flow(&hook, packet);
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
