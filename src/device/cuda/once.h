/* once.h - copies of what a kernel reads once: they leave the second cache to what is read
 * again. */
#pragma once
#include "device/cuda/hopper.h"

__device__ static inline uint64_t read_once(void) {
    uint64_t policy = 0;
    HOPPER_ONLY(asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;"
                             : "=l"(policy)));
    return policy;
}

/* A box of cuda_page_map_whole. */
__device__ static inline void whole_in_once(void *to, const CUtensorMap *from, int row, int page,
                                            uint64_t *b, uint64_t policy) {
    HOPPER_ONLY(asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
        ".L2::cache_hint [%0], [%1, {%2, %3, %2, %4}], [%5], %6;" ::"r"(shared_at(to)),
        "l"(from), "r"(0), "r"(row), "r"(page), "r"(shared_at(b)), "l"(policy) : "memory"));
}

/* box_in_all. */
__device__ static inline void box_in_all_once(void *to, const CUtensorMap *from, int col, int row,
                                              uint64_t *b, unsigned short mask, uint64_t policy) {
    HOPPER_ONLY(asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
        ".multicast::cluster.L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5, %6;" ::
        "r"(shared_at(to)), "l"(from), "r"(col), "r"(row), "r"(shared_at(b)), "h"(mask),
        "l"(policy) : "memory"));
}
