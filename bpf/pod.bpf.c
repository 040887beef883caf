// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Spoof check, counters and direct forwarding at the ports of pods.
 *
 * Hooks
 *	cni_tc_main	TC ingress of each host veth: every frame that the pod sends.
 *			TC ingress of the bridge device: frames for the host. Counted only.
 *	cni_tc_egress	TC egress of each host veth: every frame that the bridge delivers to
 *			the pod. Redirected packets do not pass here, except if the pod has a
 *			driver-mode XDP program.
 *			TC egress of the bridge device: every frame that the host sends.
 *
 * Reads	net_config, port_config, port_filter, port_addresses, pod_ifindex,
 *		pod_ifindex_v6, port_xdp, stages
 * Writes	pkt_count, pkt_count_v6, net_stats, port_drops, net_drops, flows, flow_filter,
 *		packet_scratch, endpoint.xdp, net_config.gateway_mac
 *
 * Verdicts
 *	TC_ACT_SHOT	the spoof check failed: drop() counts the reason
 *	redirect	into another pod, or back with the answer to a neighbor request
 *	TC_ACT_UNSPEC	all other frames: later filters and then the bridge receive them
 *	of a stage	if its slot in `stages` is filled: lib/stage.h
 *
 * The bridge alone is a complete datapath: without these programs, or with empty maps, all
 * packets arrive.
 *
 * A packet is malformed if its fixed headers are truncated, or if their lengths exceed the
 * frame. The headers are Ethernet, then ARP, IPv4, or IPv6 with its extension headers. The
 * spoof check drops a malformed packet, as the stack would. Without the spoof check, the stack
 * receives it. It is neither counted nor redirected.
 */
#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "lib/address.h"
#include "lib/antispoof.h"
#include "lib/ctx.h"
#include "lib/drop.h"
#include "lib/flow.h"
#include "lib/forward.h"
#include "lib/maps.h"
#include "lib/neighbors.h"
#include "lib/parse.h"
#include "lib/stage.h"
#include "lib/xdp.h"

SEC("tc")
int cni_tc_main(struct __sk_buff *skb)
{
	enum drop_reason reason;
	struct packet *packet;
	enum frame frame;
	struct ctx ctx;
	__u32 zero = 0;
	int verdict;

	packet = bpf_map_lookup_elem(&packet_scratch, &zero);
	if (!packet || !ctx_init(skb, &ctx))
		return TC_ACT_UNSPEC;
	/* The program at the pod's port has checked and counted the packet. */
	if (is_at_bridge(&ctx)) {
		if (skb->protocol == bpf_htons(ETH_P_IP) || skb->protocol == bpf_htons(ETH_P_IPV6))
			ctx.stats->to_host++;
		return TC_ACT_UNSPEC;
	}

	frame = parse_frame(skb, packet);
	if (is_checked(&ctx)) {
		reason = check_frame(&ctx, frame, packet);
		if (reason != PASS)
			return drop(&ctx, packet, reason);
	}
	verdict = answer_neighbor(&ctx, frame, packet);
	if (verdict != TC_ACT_UNSPEC || frame != FRAME_IP)
		return verdict;
	stage(skb, CNI_STAGE_FROM_POD);
	return forward(&ctx, packet);
}

static __always_inline bool is_group_frame(struct __sk_buff *skb)
{
	__u8 first;

	return !bpf_skb_load_bytes(skb, 0, &first, sizeof(first)) && is_multicast_mac(&first);
}

/*
 * Whether a broadcast or multicast frame leaves by the port that it came from, as a hairpin
 * port sends it. A bridge inside the pod would learn its own machines at the wrong port, and a
 * probe for duplicate addresses would find itself.
 */
static __always_inline bool is_reflected(struct __sk_buff *skb)
{
	return skb->ingress_ifindex == skb->ifindex && is_group_frame(skb);
}

/*
 * At a pod's egress: whether redirect() sent the frame. Other unicast frames rarely have the
 * type "broadcast": a neighbor solicitation that was broadcast, or a broadcast frame that
 * br_netfilter has translated. So the pod must have a driver-mode XDP program, too. A global
 * function, which the verifier verifies once.
 */
__attribute__((noinline)) int is_redirected(struct __sk_buff *skb)
{
	return reads_port_xdp && skb->pkt_type == PACKET_BROADCAST && !is_group_frame(skb) &&
	       read_driver_xdp(skb->ifindex);
}

SEC("tc")
int cni_tc_egress(struct __sk_buff *skb)
{
	struct packet *packet;
	enum frame frame;
	struct ctx ctx;
	__u32 zero = 0;

	packet = bpf_map_lookup_elem(&packet_scratch, &zero);
	if (!packet || !ctx_init(skb, &ctx))
		return TC_ACT_UNSPEC;
	if (!is_at_bridge(&ctx) && is_reflected(skb))
		return drop(&ctx, packet, CNI_DROP_REFLECTED);
	if (is_redirected(skb))
		return TC_ACT_UNSPEC;
	frame = parse_frame(skb, packet);
	if (is_at_bridge(&ctx))
		return answer_neighbor(&ctx, frame, packet);
	if (frame != FRAME_IP)
		return TC_ACT_UNSPEC;
	/* Another route could bypass the translation of a service. */
	if (is_router_message(packet))
		return drop(&ctx, packet, CNI_DROP_ROUTER);
	stage(skb, CNI_STAGE_TO_POD);
	return receive(&ctx, packet);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
