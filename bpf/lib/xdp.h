/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* Driver-mode XDP programs of pods, which bpf_redirect_peer would bypass. */
#ifndef CNI_XDP_H
#define CNI_XDP_H

#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "maps.h"

/* Set before the load if the kernel allows the read. If not, the verifier removes it. */
const volatile bool reads_port_xdp = false;

/*
 * Whether a pod end has a driver-mode XDP program. If the pair is deleted, the read of its
 * address fails or returns anything: in both cases the pod of the packet no longer exists.
 */
static __always_inline bool read_driver_xdp(__u32 ifindex)
{
	/* struct bpf_xdp_entity: the program, or the link that holds one. */
	const void *entity[2];
	__u64 *address = bpf_map_lookup_elem(&port_xdp, &ifindex);

	return address && !bpf_probe_read_kernel(entity, sizeof(entity), (const void *)*address) &&
	       (entity[0] || entity[1]);
}

/*
 * The same, cached. The read takes 50 ns, so it happens once in a jiffy for each address. A
 * program sees all packets from some milliseconds after it was attached.
 */
static __always_inline bool has_driver_xdp(struct endpoint *target)
{
	__u16 now;

	if (!reads_port_xdp)
		return false;
	now = bpf_jiffies64() << 1;
	if ((target->xdp & ~1) != now)
		target->xdp = now | read_driver_xdp(target->ifindex);
	return target->xdp & 1;
}

#endif /* CNI_XDP_H */
