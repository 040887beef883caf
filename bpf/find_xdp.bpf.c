// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Finds where the kernel keeps the driver-mode XDP program of a pod's interface.
 *
 * bpf_redirect_peer bypasses the driver-mode XDP hook of veth, so cni_tc_main must know
 * whether the target's pod end has such a program. The kernel notifies no program when a pod
 * attaches one. It keeps the XDP program in the struct net_device of the pod end, as a struct
 * bpf_xdp_entity. Userspace writes the address of the struct to port_xdp, and cni_tc_main
 * reads it once in a jiffy for each address.
 *
 * Hook		none. Userspace calls find_xdp with BPF_PROG_TEST_RUN, in the network namespace
 *		of the host end, with a struct find_xdp as the data.
 *
 * Reads	the data, and kernel memory
 * Writes	find_xdp.address, in the data
 *
 * Returns
 *	FIND_XDP_FOUND	`address` points to the struct bpf_xdp_entity
 *	FIND_XDP_MORE	call again with the returned struct: the verifier verifies each step of
 *			a loop, so one call takes few steps
 *	FIND_XDP_NONE	the link is not the host end of a veth pair
 *
 * Userspace sets `layout` from the kernel's BTF before the load. CO-RE would do the same, but
 * libbpf takes 45 ms to relocate.
 */
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "abi.h"

/* NETDEV_HASHENTRIES, the same since Linux 2.6.24. */
#define INDEX_HASH 256

/* Links of one hash chain that a call visits. */
#define MAX_STEPS 16

/* Offsets of members in the structs of the running kernel, in bytes. */
const volatile struct kernel_layout {
	__u32 task_nsproxy;
	__u32 nsproxy_net;
	__u32 net_index_head;
	__u32 dev_ifindex;
	__u32 dev_index_hlist;
	__u32 dev_priv;
	__u32 dev_driver_xdp; /* xdp_state[XDP_MODE_DRV] */
} layout;

/* NULL if the memory cannot be read, which ends each walk below. */
static __always_inline const void *follow(const void *from, __u32 offset)
{
	const void *to;

	return bpf_probe_read_kernel(&to, sizeof(to), from + offset) ? NULL : to;
}

/* The first link in the chain of an ifindex. */
static __always_inline const void *first_node(__u32 ifindex)
{
	const void *task = (const void *)bpf_get_current_task();
	const void *net = follow(follow(task, layout.task_nsproxy), layout.nsproxy_net);
	const void *heads = follow(net, layout.net_index_head);

	return follow(heads, (ifindex & (INDEX_HASH - 1)) * sizeof(void *));
}

SEC("tc")
int find_xdp(struct __sk_buff *skb)
{
	const void *node, *host_end = NULL, *pod_end;
	struct find_xdp request;
	__u32 found;
	int verdict;

	if (bpf_skb_load_bytes(skb, 0, &request, sizeof(request)))
		return FIND_XDP_NONE;
	/* If the link was deleted since the last call, a read fails or the check below fails. */
	node = request.address ? (const void *)request.address : first_node(request.ifindex);
	for (int i = 0; i < MAX_STEPS && node; i++) {
		host_end = node - layout.dev_index_hlist;
		if (!bpf_probe_read_kernel(&found, sizeof(found), host_end + layout.dev_ifindex) &&
		    found == request.ifindex)
			break;
		host_end = NULL;
		node = follow(node, 0);
	}
	if (host_end) {
		/* The private data of a veth device begins with a pointer to the other end. */
		pod_end = follow(host_end, layout.dev_priv);
		/* The two ends of a pair point to each other. With a wrong offset, nothing does. */
		if (!pod_end || follow(pod_end, layout.dev_priv) != host_end)
			return FIND_XDP_NONE;
		request.address = (__u64)(pod_end + layout.dev_driver_xdp);
		verdict = FIND_XDP_FOUND;
	} else if (node) {
		request.address = (__u64)node;
		verdict = FIND_XDP_MORE;
	} else {
		return FIND_XDP_NONE;
	}
	return bpf_skb_store_bytes(skb, 0, &request, sizeof(request), 0) ? FIND_XDP_NONE : verdict;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
