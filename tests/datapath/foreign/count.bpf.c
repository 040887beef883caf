// SPDX-License-Identifier: MIT OR Apache-2.0
/* A map and a program of another author. */

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;

struct {
	int (*type)[2]; /* BPF_MAP_TYPE_ARRAY */
	unsigned int *key;
	unsigned long long *value;
	int (*max_entries)[ENTRIES];
} hits __attribute__((section(".maps"), used));

__attribute__((section("tc"), used)) int count_packets(void *packet)
{
	unsigned int key = 0;
	unsigned long long *hit = bpf_map_lookup_elem(&hits, &key);

	if (hit)
		__sync_fetch_and_add(hit + OFFSET, 1);
	return VERDICT;
}

#ifdef EXTRA
__attribute__((section("tc"), used)) int extra(void *packet)
{
	return VERDICT;
}
#endif

char _license[] __attribute__((section("license"), used)) = "GPL";
