/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * What the TC programs and userspace agree on: keys and values of the maps.
 *
 * Every member has a fixed width and every hole is named, so that the layout is
 * the same for clang's bpf target and for rustc; src/datapath/layout.rs mirrors
 * it and a test there compares both. A change here is a new pin layout: raise
 * LAYOUT in src/datapath/pins.rs with it, and teach src/datapath/migrate.rs.
 */
#ifndef CNI_TC_H
#define CNI_TC_H

#include <linux/types.h>

/*
 * Rows that a map of addresses can hold. A bridge has at most 1,023 ports, a pod
 * may have a few addresses; rows cost memory only while they exist
 * (BPF_F_NO_PREALLOC).
 */
#define CNI_TC_MAX_ROWS 8192

/* Ports of a bridge, and as many again for rows that outlived theirs. */
#define CNI_TC_MAX_PORTS 2048

/*
 * Flows that are remembered. An LRU map has its memory from the start, so this
 * weighs 3.5 MiB for each network against how many translated connections
 * between its pods on this node are kept apart from direct ones.
 */
#define CNI_TC_MAX_FLOWS 32768

/* Room for reasons to come: a new one then is no new layout. */
#define CNI_TC_MAX_DROP_REASONS 16

/* An address, octet by octet: `bpftool map dump` shows it as it travels. */
struct ipv4_key {
	__u8 octet[4];
} __attribute__((aligned(4)));

struct ipv6_key {
	__u8 octet[16];
} __attribute__((aligned(4)));

/*
 * What one address has sent and received, counted on each CPU. A GSO super-frame
 * is one packet; bytes include the Ethernet header.
 */
struct pod_counters {
	__u64 tx_packets; /* sent from the address, and not dropped by the guard */
	__u64 tx_bytes;
	__u64 tx_direct;  /* of tx_packets: redirected straight into the target pod */
	__u64 rx_packets; /* delivered to the address, either way */
	__u64 rx_bytes;
	__u64 rx_direct; /* of rx_packets: redirected straight from the sending pod */
};

/* Who owns an address: a pod, or the gateway, whose port is the bridge itself. */
struct pod_port {
	__u32 ifindex; /* host end of the pod's veth pair */
	__u8 mac[6];   /* pod end: frames for the pod are addressed to it */
	/*
	 * The programs' own: when they last looked for a driver-mode XDP program of the
	 * pod, in jiffies, with the answer in the lowest bit. Userspace writes 0.
	 */
	__u16 xdp;
};

/* Never deliver directly to or from this port, so that its queueing discipline has its say. */
#define CNI_PORT_STACK_ONLY (1 << 0)
/* The pod has other ports. Its route to another subnet may lead by one of these. */
#define CNI_PORT_HAS_SIBLINGS (1 << 1)

/* What a port may do, by its ifindex. A port without a row is nobody's yet, and not guarded. */
struct port_config {
	__u8 mac[6]; /* pod end: the only Ethernet source */
	__u8 flags;  /* CNI_PORT_* */
	__u8 reserved;
};

/* Deliver packets between pods directly; without it all go through the stack. */
#define CNI_NET_DIRECT (1 << 0)
/* Drop what a pod sends in another's name. */
#define CNI_NET_GUARD (1 << 1)

/* What the programs must know of their network. One row. */
struct net_config {
	__u32 bridge_ifindex;
	/*
	 * The bridge's own: frames to it are routed. Userspace writes it, and
	 * cni_tc_egress when a routed packet shows that the bridge has another.
	 */
	__u8 gateway_mac[6];
	__u8 flags;	     /* CNI_NET_* */
	__u8 reserved;
};

/* The verdicts on all IP packets of the network, counted on each CPU. One row. */
struct net_stats {
	__u64 direct;	       /* from a pod, redirected straight into the target pod */
	__u64 to_stack;	       /* from a pod, left to the bridge */
	__u64 to_host;	       /* came up to the bridge device: for the host, or to be routed */
	__u64 from_stack;      /* delivered to a pod by the bridge */
	__u64 arp_answers;     /* ARP requests about pods, answered here */
	__u64 nd_answers;      /* neighbour solicitations about pods, answered here */
	__u64 flows_added;     /* flows of the stack's that were remembered */
	__u64 flows_forgotten; /* of these: that were closed, and whose ports were used again */
	struct pod_counters unknown; /* of all addresses without a row in pkt_count */
};

/*
 * An address that the pod at a port has at another of its ports, of this network or of
 * another one. Linux answers from any port of a host for any of its addresses. The value
 * is the ifindex of that other port.
 */
struct port_address {
	__u32 ifindex;		 /* of the port that may send from the address */
	struct ipv6_key address; /* of IPv4: IPv4-mapped, RFC 4291, section 2.5.5.2 */
};

/* Why a packet was dropped: the index into struct drops. */
enum drop_reason {
	CNI_DROP_MALFORMED,  /* a header cut short, or at odds with the frame */
	CNI_DROP_VLAN,	     /* a VLAN tag, behind which anything could hide */
	CNI_DROP_MAC_SOURCE, /* an Ethernet source other than the port's */
	CNI_DROP_IP_SOURCE,  /* an IP source that is not the pod's */
	CNI_DROP_ARP_SENDER, /* an ARP sender that is not the pod's */
	CNI_DROP_ND_OWNER,   /* an advertised address that is not the pod's, or MAC that is not the port's */
	CNI_DROP_ROUTER,     /* what only a router says: an advertisement, a redirect, an error about a packet for others */
	CNI_DROP_EXTENSIONS, /* more headers or options in a row than can be looked through */
	CNI_DROP_REFLECTED,  /* a broadcast or multicast frame that the port itself sent */
	CNI_DROP_REASONS
};

/* Dropped packets, counted on each CPU: of one port, or of all. */
struct drops {
	__u64 packets[CNI_TC_MAX_DROP_REASONS]; /* by enum drop_reason */
};

/* The row of a conversation is that of the direction with the lower source. */
struct flow_key {
	struct ipv6_key source; /* of an IPv4 address the first four octets */
	struct ipv6_key destination;
	__be16 source_port; /* of an ICMP echo: its identifier, twice */
	__be16 destination_port;
	__u8 protocol;
	__u8 version; /* of IP: 4 or 6 */
	__u8 reserved[2];
};

/* What bpf/find_xdp.bpf.c returns. */
enum find_xdp_verdict {
	FIND_XDP_NONE,
	FIND_XDP_FOUND,
	FIND_XDP_MORE, /* call it again */
};

/* What userspace asks of bpf/find_xdp.bpf.c, and the answer. Padded, as a frame must be longer than its header. */
struct find_xdp {
	__u64 address; /* of the kernel's struct bpf_xdp_entity for the driver mode of the pod end; first 0 */
	__u32 ifindex; /* host end */
	__u8 reserved[52];
};

_Static_assert(sizeof(struct ipv4_key) == 4, "key of pkt_count and pod_ifindex");
_Static_assert(sizeof(struct ipv6_key) == 16, "key of pkt_count_v6 and pod_ifindex_v6");
_Static_assert(sizeof(struct pod_counters) == 48, "value of pkt_count");
_Static_assert(sizeof(struct pod_port) == 12, "value of pod_ifindex");
_Static_assert(sizeof(struct port_config) == 8, "value of port_config");
_Static_assert(sizeof(struct net_config) == 12, "value of net_config");
_Static_assert(sizeof(struct net_stats) == 112, "value of net_stats");
_Static_assert(sizeof(struct drops) == 128, "value of port_drops and net_drops");
_Static_assert(sizeof(struct port_address) == 20, "key of port_addresses");
_Static_assert(sizeof(struct flow_key) == 40, "key of flows");
_Static_assert(sizeof(struct find_xdp) == 64, "data of find_xdp");
_Static_assert(CNI_DROP_REASONS <= CNI_TC_MAX_DROP_REASONS, "every reason has its count");

#endif /* CNI_TC_H */
