/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * What the TC programs and userspace agree on: keys and values of the maps.
 *
 * Every member has a fixed width and every hole is named, so that the layout is
 * the same for clang's bpf target and for rustc; src/datapath/layout.rs mirrors
 * it and a test there compares both. A change here is a new pin layout: raise
 * LAYOUT in src/datapath/pins.rs with it.
 */
#ifndef CNI_TC_H
#define CNI_TC_H

#include <linux/types.h>

/*
 * Rows that a map can hold. A bridge has at most 1,023 ports, a pod may have a
 * few addresses; rows cost memory only while they exist (BPF_F_NO_PREALLOC).
 */
#define CNI_TC_MAX_ROWS 8192

/* An IPv4 address, octet by octet: `bpftool map dump` shows it as people write it. */
struct ipv4_key {
	__u8 octet[4];
};

/* What one pod address has sent and received, counted on each CPU. */
struct pod_counters {
	__u64 tx_packets; /* sent by the pod; a GSO super-frame is one packet */
	__u64 tx_bytes;	  /* of tx_packets, Ethernet header included */
	__u64 tx_direct;  /* of tx_packets: redirected straight into the target pod */
	__u64 rx_stack;	  /* packets that the bridge delivered to the pod */
};

/* Where a pod address lives. */
struct pod_port {
	__u32 ifindex; /* host end of the pod's veth pair */
	__u8 mac[6];   /* pod end: frames for the pod are addressed to it */
	__u8 reserved[2];
};

/* What the programs must know of their network. One row. */
struct net_config {
	__u32 bridge_ifindex;
	__u8 gateway_mac[6]; /* the bridge's own: frames to it are to be routed */
	__u8 reserved[2];
};

/* The verdicts on all IPv4 packets of the network, counted on each CPU. One row. */
struct net_stats {
	__u64 direct;	      /* from a pod, redirected straight into the target pod */
	__u64 to_stack;	      /* from a pod, left to the bridge */
	__u64 to_host;	      /* came up to the bridge device: for the host, or to be routed */
	__u64 from_stack;     /* delivered to a pod by the bridge */
	__u64 unknown_source; /* from a pod, with a source address that has no row in pkt_count */
};

_Static_assert(sizeof(struct ipv4_key) == 4, "key of pkt_count and pod_ifindex");
_Static_assert(sizeof(struct pod_counters) == 32, "value of pkt_count");
_Static_assert(sizeof(struct pod_port) == 12, "value of pod_ifindex");
_Static_assert(sizeof(struct net_config) == 12, "value of net_config");
_Static_assert(sizeof(struct net_stats) == 40, "value of net_stats");

#endif /* CNI_TC_H */
