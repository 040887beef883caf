/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Keys, values, flags and numbers that the programs share with userspace and with each other.
 *
 * Every member has a fixed width and all padding is explicit, so that clang's bpf target
 * and rustc agree on the layout. src/datapath/layout.rs mirrors this header, and a test
 * there compares both.
 *
 * A change of an existing key, value or map size needs a new pin layout: raise LAYOUT in
 * src/datapath/pins.rs and extend src/datapath/migrate.rs. These changes need no new layout:
 * a new map (add it to OPTIONAL_MAPS in src/datapath/maps.rs), a new flag, drop reason or stage.
 * A new member of struct packet in place of its reserved bytes needs none either.
 */
#ifndef CNI_ABI_H
#define CNI_ABI_H

#include <linux/types.h>

/*
 * Entries of a map that is keyed by address. A bridge has at most 1,023 ports, and a pod may
 * have several addresses. Entries take memory only while they exist (BPF_F_NO_PREALLOC).
 */
#define CNI_TC_MAX_ENDPOINTS 8192

/* The ports of a bridge, and as many again for entries that outlive their port. */
#define CNI_TC_MAX_PORTS 2048

/*
 * Entries of the flow table. An LRU map allocates its memory at creation: 3.5 MiB per network
 * for this number. It bounds the translated connections of the node's pods to other pods.
 */
#define CNI_TC_MAX_FLOWS 32768

/* Bytes of the filters flow_filter and port_filter. An array element takes 8 bytes: 64 KiB each. */
#define CNI_TC_FILTER_SIZE 8192

/* With room for later reasons, so that a new reason needs no new layout. */
#define CNI_TC_MAX_DROP_REASONS 16

/* Slots of `stages`, with room for later stages. */
#define CNI_TC_MAX_STAGES 16

/* Pod CIDRs of other nodes. An LPM trie takes memory only for its entries. */
#define CNI_TC_MAX_PEERS 16384

/* Addresses of other nodes. Entries take memory only while they exist (BPF_F_NO_PREALLOC). */
#define CNI_TC_MAX_NODE_ADDRESSES 32768

/*
 * The mark of a packet between a redirect of these programs and cni_up_egress, which clears it.
 * The whole value counts, not single bits, so no bit is taken from the masks of other tools.
 */
#define CNI_TC_REDIRECTED 0x7c3a94e5

/* An address, octet by octet: `bpftool map dump` prints it in network order. */
struct ipv4_key {
	__u8 octet[4];
} __attribute__((aligned(4)));

struct ipv6_key {
	__u8 octet[16];
} __attribute__((aligned(4)));

/*
 * Value of pkt_count: packets and bytes of one address, per CPU. A GSO super-frame counts as
 * one packet. Bytes include the Ethernet header.
 */
struct pod_counters {
	__u64 tx_packets; /* sent from the address, without those that the spoof check dropped */
	__u64 tx_bytes;
	__u64 tx_direct;  /* of tx_packets: redirected into the target pod, or to its node */
	__u64 rx_packets; /* delivered to the address, directly or by the bridge */
	__u64 rx_bytes;
	__u64 rx_direct; /* of rx_packets: redirected from the sending pod, or from its node */
};

/*
 * Value of pod_ifindex: the port of an address. For the gateway's addresses the port is the
 * bridge itself.
 */
struct endpoint {
	__u32 ifindex; /* host end of the pod's veth pair */
	__u8 mac[6];   /* pod end: destination MAC of frames to the pod */
	/*
	 * Written by the programs: the jiffies at the last look for a driver-mode XDP program
	 * of the pod. The lowest bit is the result. Userspace writes 0.
	 */
	__u16 xdp;
};

/* No direct delivery to or from this port, so that all packets pass its queueing discipline. */
#define CNI_PORT_STACK_ONLY (1 << 0)
/* The pod has other ports. Its route to another subnet may use one of them. */
#define CNI_PORT_HAS_SIBLINGS (1 << 1)

/* Value of port_config, keyed by ifindex. A port without an entry has no spoof check. */
struct port_config {
	__u8 mac[6]; /* pod end: the only allowed Ethernet source */
	__u8 flags;  /* CNI_PORT_* */
	__u8 reserved;
};

/* Redirect packets between pods. Without this flag, all packets go through the stack. */
#define CNI_NET_DIRECT_FORWARDING (1 << 0)
/* Drop packets with a source of another port. */
#define CNI_NET_SPOOF_CHECK (1 << 1)

/* Value of net_config, which has one entry. */
struct net_config {
	__u32 bridge_ifindex;
	/*
	 * The bridge's MAC: frames to it are routed. Userspace writes it. cni_tc_egress
	 * updates it when a routed packet shows that the bridge has a new MAC.
	 */
	__u8 gateway_mac[6];
	__u8 flags; /* CNI_NET_* */
	__u8 reserved;
};

/* Value of net_stats, which has one entry: verdicts on all IP packets of the network, per CPU. */
struct net_stats {
	__u64 direct;	       /* from a pod, redirected into the target pod, or to its node */
	__u64 to_stack;	       /* from a pod, passed to the bridge */
	__u64 to_host;	       /* received by the bridge device, for the host or to be routed */
	__u64 from_stack;      /* delivered to a pod by the bridge */
	__u64 arp_answers;     /* ARP requests for pods, answered by the programs */
	__u64 nd_answers;      /* neighbor solicitations for pods, answered by the programs */
	__u64 flows_added;     /* entries added to `flows` */
	__u64 flows_forgotten; /* of these, deleted: closed flows, when their ports were reused */
	struct pod_counters unknown; /* all addresses without an entry in pkt_count */
};

/*
 * Key of port_addresses: an address that the pod at a port has at another of its ports, in
 * this network or in another one. Linux answers from any port for any of its addresses. The
 * value is the ifindex of the other port.
 */
struct port_address {
	__u32 ifindex;		 /* the port that may send from the address */
	struct ipv6_key address; /* IPv4 addresses are IPv4-mapped: RFC 4291, section 2.5.5.2 */
};

/* Key of `peers`: a pod CIDR of another node. */
struct peer_key {
	__u32 prefix_length; /* in bits, from the next member on: 32 and the length of the CIDR */
	__u8 version;	     /* of IP: 4 or 6 */
	__u8 reserved[3];
	struct ipv6_key address; /* IPv4 addresses take the first four octets */
};

/*
 * The programs forward packets of this peer in both directions. Without the flag, the stack
 * forwards them in both directions.
 */
#define CNI_PEER_BYPASS (1 << 0)
/* Packets leave by the tunnel. */
#define CNI_PEER_TUNNEL (1 << 1)

/* Value of `peers`: the way to the pods of a node. */
struct peer {
	__u32 ifindex;	 /* the uplink, or the tunnel's link */
	__u32 node;	 /* number of the node, as in node_addresses */
	__u32 mtu;	 /* the longest IP packet of this way */
	__u32 tunnel_id; /* VNI, with CNI_PEER_TUNNEL */
	__u8 version;	 /* of `address`: 4 or 6 */
	__u8 flags;	 /* CNI_PEER_* */
	__u8 reserved[2];
	struct ipv6_key address; /* the next hop, or the other end of the tunnel */
};

/* Value of remote_stats, which has one entry: packets of pods on other nodes, per CPU. */
struct remote_stats {
	__u64 sent_direct; /* redirected to the uplink */
	__u64 sent_tunnel; /* redirected to the tunnel */
	__u64 received_direct; /* redirected from the uplink into a pod */
	__u64 received_tunnel; /* redirected from the tunnel into a pod */
	__u64 too_long;	   /* longer than the MTU of the way or of the pod: left to the stack */
	__u64 dropped_vni; /* from the tunnel: another VNI, or not IP */
	__u64 dropped_source; /* from the tunnel: the sending node does not own the source */
	__u64 reserved;
};

/* Value of remote_config, which has one entry. */
struct remote_config {
	__u32 tunnel_id; /* the VNI of received packets */
	__u32 pod_mtu;	 /* the smallest MTU of the pods on this node; 0: no limit */
};

/* Why a packet was dropped: the index into struct drops. */
enum drop_reason {
	CNI_DROP_MALFORMED,  /* a truncated header, or a length that exceeds the frame */
	CNI_DROP_VLAN,	     /* a VLAN tag, which could hide any packet */
	CNI_DROP_MAC_SOURCE, /* an Ethernet source other than the port's */
	CNI_DROP_IP_SOURCE,  /* an IP source that is not the pod's */
	CNI_DROP_ARP_SENDER, /* an ARP sender that is not the pod's */
	CNI_DROP_ND_OWNER,   /* an advertised address not the pod's, or a MAC not the port's */
	CNI_DROP_ROUTER,     /* router advertisements, redirects, errors about foreign packets */
	CNI_DROP_EXTENSIONS, /* more extension headers or options than the parser reads */
	CNI_DROP_REFLECTED,  /* a broadcast or multicast frame that the port itself sent */
	CNI_DROP_REASONS
};

/* Value of port_drops and net_drops: dropped packets by reason, per CPU. */
struct drops {
	__u64 packets[CNI_TC_MAX_DROP_REASONS]; /* by enum drop_reason */
};

/* Key of `flows`. Both directions share one entry, with the lower address as the source. */
struct flow_key {
	struct ipv6_key source; /* IPv4 addresses take the first four octets */
	struct ipv6_key destination;
	__be16 source_port; /* ICMP echo: the identifier, in both ports */
	__be16 destination_port;
	__u8 protocol;
	__u8 version; /* of IP: 4 or 6 */
	__u8 reserved[2];
};

/*
 * Indexes of `stages`, a program array. The programs tail-call the program in a slot; an empty
 * slot costs 2 ns and changes nothing. A stage program finds the parsed packet in
 * packet_scratch. It ends with a verdict, or continues with the next step through lib/stage.h
 * and lib/forward.h. The pin of the map keeps the slots filled. The kernel empties a program
 * array when the last file descriptor and the last pin are gone.
 *
 * Some kernels refuse tail calls in these programs: lib/stage.h. The map exists there too, but a
 * program in a slot never runs. Datapath::has_stages() detects it: the programs then do not use
 * the map, which their map ids show.
 */
enum stage {
	/* cni_tc_main, after spoof check and neighbor answers, before forwarding: IP packets. */
	CNI_STAGE_FROM_POD,
	/* cni_tc_egress, before the packet is counted: IP packets that the stack delivers. */
	CNI_STAGE_TO_POD,
	CNI_STAGES
};

/* An IP header and its extension headers: of the packet, or of the packet inside an ICMP error. */
struct ip_info {
	struct ipv6_key source; /* IPv4 addresses take the first four octets, the rest is 0 */
	struct ipv6_key destination;
	__u32 length; /* of headers and payload, from the header */
	__u32 l4;     /* offset of the upper-layer header in the frame */
	__u8 version;
	__u8 protocol;
	__u8 hop_limit;
	__u8 slow_path; /* a fragment, IPv4 options or a routing header: left to the stack */
	__u8 non_first_fragment; /* no upper-layer header */
	__u8 reserved[3];
};

/* RFC 826, for IPv4 over Ethernet. */
struct arp_message {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sender_mac[6];
	struct ipv4_key sender;
	__u8 target_mac[6];
	struct ipv4_key target;
} __attribute__((packed));

/*
 * Value of packet_scratch, which has one entry per CPU: the frame of the running program, as
 * lib/parse.h parsed it. Each program parses the frame first, so it never reads values of an
 * earlier packet.
 */
struct packet {
	__u8 dest_mac[6];
	__u8 source_mac[6];
	__u16 icmp_type; /* of ICMP and ICMPv6 with a complete header, else ICMP_NONE */
	__u8 is_v4;
	__u8 is_local_src; /* the source belongs to this port; set with the spoof check only */
	__u32 end;	   /* offset of the end of the IP packet in the frame */
	struct ip_info ip;
	/*
	 * The flow. An ICMP error has the flow of the packet inside, with the ports of this
	 * direction. Protocol 0: none.
	 */
	__be16 source_port;
	__be16 destination_port;
	__u8 flow_protocol;
	__u8 syn;	/* may open a flow: a TCP SYN, any datagram, an echo request */
	__u8 fin;	/* closes the sender's direction */
	__u8 rst;	/* closes both directions */
	__u8 is_error;	/* an ICMP or ICMPv6 error */
	__u8 has_inner; /* an error, with a valid `inner` */
	/* The sender of an ARP request is an address that is not known to be the pod's. */
	__u8 is_foreign_sender;
	__u8 drop_reason;
	struct ip_info inner;
	struct arp_message arp;
	struct ipv6_key asked; /* argument of is_asked_at_sibling(), IPv4-mapped */
	struct flow_key flow;  /* key of the last lookup in `flows` */
	__u8 reserved[44];
};

/* What bpf/find_xdp.bpf.c returns. */
enum find_xdp_verdict {
	FIND_XDP_NONE,
	FIND_XDP_FOUND,
	FIND_XDP_MORE, /* call it again */
};

/* Input and output of bpf/find_xdp.bpf.c. A frame must be longer than its header: padded. */
struct find_xdp {
	__u64 address; /* of the struct bpf_xdp_entity for the driver mode of the pod end; 0 at first */
	__u32 ifindex; /* host end */
	__u8 reserved[52];
};

_Static_assert(sizeof(struct ipv4_key) == 4, "key of pkt_count and pod_ifindex");
_Static_assert(sizeof(struct ipv6_key) == 16, "key of pkt_count_v6 and pod_ifindex_v6");
_Static_assert(sizeof(struct pod_counters) == 48, "value of pkt_count");
_Static_assert(sizeof(struct endpoint) == 12, "value of pod_ifindex");
_Static_assert(sizeof(struct port_config) == 8, "value of port_config");
_Static_assert(sizeof(struct net_config) == 12, "value of net_config");
_Static_assert(sizeof(struct net_stats) == 112, "value of net_stats");
_Static_assert(sizeof(struct drops) == 128, "value of port_drops and net_drops");
_Static_assert(sizeof(struct port_address) == 20, "key of port_addresses");
_Static_assert(sizeof(struct flow_key) == 40, "key of flows");
_Static_assert(sizeof(struct packet) == 256, "value of packet_scratch");
_Static_assert(sizeof(struct find_xdp) == 64, "data of find_xdp");
_Static_assert(sizeof(struct peer_key) == 24, "key of peers");
_Static_assert(sizeof(struct peer) == 36, "value of peers");
_Static_assert(sizeof(struct remote_stats) == 64, "value of remote_stats");
_Static_assert(sizeof(struct remote_config) == 8, "value of remote_config");
_Static_assert(CNI_DROP_REASONS <= CNI_TC_MAX_DROP_REASONS, "each reason has a counter");
_Static_assert(CNI_STAGES <= CNI_TC_MAX_STAGES, "each stage has a slot");

#endif /* CNI_ABI_H */
