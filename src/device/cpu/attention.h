/* attention.h - how attention lays a page out on the CPU. Private to its two files.
 *
 * With heads of their own: keys [kv_heads, k_dim, page_tokens], values
 * [kv_heads, page_tokens, v_dim]; a head's part of a page is two runs of memory, and keys
 * meet queries a vector of tokens at a time. A latent that is key and value (v_in_k) is
 * [page_tokens, k_dim]. Bytes, not of latents: then the scales, F32 [kv_heads, 2, page_tokens],
 * those of keys and those of values: a head of a token is whole numbers to 127 (I8), or e4m3 to
 * 448 (FP8), times its own.
 *
 * For kernels that round, bf16 and bytes lie in pairs of neighbouring dimensions, or of tokens:
 * keys [kv_heads, k_dim / 2, page_tokens, 2], values [kv_heads, page_tokens / 2, v_dim, 2]. */
#pragma once
#include "device/cpu/cpu.h"

struct page_layout { size_t bytes, v_at, scales_at; };   /* bytes of one number */

static inline struct page_layout page_layout(const struct attend *a) {
    struct page_layout l = { .bytes = dtype_bytes(a->kv.dtype) };
    const size_t tokens = (size_t)a->kv.page_tokens, heads = (size_t)a->kv_heads;
    l.v_at = tokens * heads * (size_t)a->k_dim * l.bytes;
    l.scales_at = l.v_at + (a->v_in_k ? 0 : tokens * heads * (size_t)a->v_dim * l.bytes);
    return l;
}

/* Whether attention is by kernels that round. */
static inline bool attention_rounds(const struct cpu *cpu, const struct attend *a) {
    const int most = a->kv.dtype == BF16 ? ROUNDED_DIM : ROUNDED_BYTES_DIM;
    return cpu->kernels->attention_rounded && !cpu->scratch.exact && a->kv.dtype != F32 &&
           a->kv.page_tokens == ROUNDED_TOKENS && !a->v_in_k && a->k_dim % 32 == 0 &&
           a->v_dim % 16 == 0 && MAX(a->k_dim, a->v_dim) <= most;
}

static inline float *page_scales(const struct attend *a, char *page, int kv_head, int which) {
    float *scales = (float *)(void *)(page + page_layout(a).scales_at);
    return scales + (2 * kv_head + which) * a->kv.page_tokens;
}

static inline char *page_at(const struct attend *a, int seq, int page) {
    int number = a->kv.table[(int64_t)seq * a->kv.pages_max + page];
    return (char *)a->kv.pages + (size_t)number * a->kv.page_bytes;
}
