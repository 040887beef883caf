/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* Slots for programs of other authors and later builds. */
#ifndef CNI_STAGE_H
#define CNI_STAGE_H

#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "../abi.h"

/* Programs by enum stage. Empty unless userspace fills a slot. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, CNI_TC_MAX_STAGES);
	__type(key, __u32);
	__type(value, __u32);
} stages SEC(".maps");

/*
 * Cleared before the load if the kernel refuses tail calls in a program with global functions:
 * arm64 before 6.0, and any kernel without the JIT. The verifier then removes the call, and the
 * loader removes the reference to the map.
 */
const volatile bool has_stages = true;

/*
 * Runs the program in a slot in place of the rest of this one. Returns if the slot is empty.
 * `slot` must be a constant: the JIT then patches the call into the code when a slot changes.
 */
static __always_inline void stage(struct __sk_buff *skb, enum stage slot)
{
	if (has_stages)
		bpf_tail_call(skb, &stages, slot);
}

#endif /* CNI_STAGE_H */
