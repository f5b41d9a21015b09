/* attention.h - the ways in which the CUDA device attends, and the arithmetic most of them share.
 *
 *   attention.cu        any shape, F32 throughout: --compute f32, and what the others do not take.
 *   attention_many.cu   bf16 or bytes on wgmma, tiles of rows of one sequence: prompts.
 *   attention_few.cu    the same on mma, the heads of one row: decoding a few sequences.
 *   attention_rows.cu   the same of many rows, each from its heads to its result in one block.
 *   attention_one.cu    the same of one row alone, over a cluster of blocks.
 *
 * The last four share every sum: a row's bits do not depend on which of them it meets. Keys
 * are taken in blocks of 128 positions, cut where positions are multiples of that. Within a block:
 * scores are chains of 16 dimensions after the other; weights are 2^(score - the block's largest);
 * their sum is taken as add_weights says; they are rounded to bf16 and multiplied with values, 16
 * positions after the other. Blocks are then folded in ascending order (fold_of). Of bytes (whole
 * numbers, or e4m3) what they are before their scale is multiplied: a key's scale joins its score,
 * a value's its weight before that is rounded. */
#pragma once
#include "device/cuda/cuda.h"

enum { BLOCK = 128 };

__device__ __host__ static inline constexpr size_t cached_bytes(enum dtype dtype) {
    return dtype == BF16 ? 2 : dtype == F32 ? 4 : 1;
}

/* dtype_scaled: I8 and FP8. */
__device__ __host__ static inline constexpr bool in_bytes(enum dtype dtype) {
    return cached_bytes(dtype) == 1;
}

/* Pages: keys [kv_heads, page_tokens, k_dim], then values [kv_heads, page_tokens, v_dim]. Bytes,
 * never with v_in_k: then scales, F32 [kv_heads, 2, page_tokens], those of keys, then those of
 * values. */
__device__ __host__ static inline size_t values_at(const struct attend &a, size_t bytes) {
    return (size_t)a.kv_heads * (size_t)a.kv.page_tokens * (size_t)a.k_dim * bytes;
}

__device__ __host__ static inline size_t scales_at(const struct attend &a) {
    return (size_t)a.kv_heads * (size_t)a.kv.page_tokens * (size_t)(a.k_dim + a.v_dim);
}

__device__ static inline int page_of(const struct kv_view &kv, int seq, int page) {
    return kv.table[(int64_t)seq * kv.pages_max + page];
}

__device__ static inline int first_visible(const struct attend &a, int pos) {
    int low = 0;
    if (a.window && pos + 1 > a.window) low = pos + 1 - a.window;
    if (a.chunk) low = MAX(low, pos / a.chunk * a.chunk);
    return low;
}

__device__ static inline char *page_at(const struct kv_view &kv, int seq, int page) {
    return (char *)kv.pages + (size_t)page_of(kv, seq, page) * kv.page_bytes;
}

/* The scales of a page's keys (0) or values (1), a token after the other. */
__device__ static inline float *scales_of_page(const struct attend &a, char *page, int kv_head,
                                               int which) {
    return (float *)(page + scales_at(a)) + (2 * kv_head + which) * a.kv.page_tokens;
}

__device__ static inline float *scale_at(const struct attend &a, char *page, int kv_head, int which,
                                         int pos) {
    return scales_of_page(a, page, kv_head, which) + pos % a.kv.page_tokens;
}

/* Query head `i` of those that read kv_head. */
__device__ static inline int head_of(const struct attend &a, int kv_head, int i) {
    return a.tiled ? i * a.kv_heads + kv_head : kv_head * (a.heads / a.kv_heads) + i;
}

/* What a block leaves of a row and head: the largest score, the sum of weights, and the weighted
 * values; `partial` has [row, head, block]. */
__device__ static inline float *partial_at(float *partial, const struct attend &a, int64_t row,
                                           int head, int block, int blocks) {
    return partial + ((row * a.heads + head) * blocks + block) * (a.v_dim + 2);
}

static const float LOG2_E = 1.44269504f;

__device__ static inline float power_of_2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Scores as they are compared, and what they are multiplied with to be exponents of 2. */
__device__ static inline float capped(const struct attend &a, float score) {
    return a.softcap != 0 ? a.softcap * tanhf(score * a.scale / a.softcap) : score;
}

__device__ static inline float factor_of(const struct attend &a) {
    return a.softcap != 0 ? LOG2_E : a.scale * LOG2_E;
}

/* The largest exponent, to be subtracted: 0 where nothing is visible. */
__device__ static inline float finite(float max) { return max == -INFINITY ? 0 : max; }

/* x & mask | of, which is two operations where the compiler sees two constants. */
__device__ static inline unsigned masked_or(unsigned x, unsigned mask, unsigned of) {
    unsigned y;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(y) : "r"(x), "r"(mask), "r"(of));
    return y;
}

/* Two bytes in words of 16 bits as bf16. Whole numbers, in the low halves: of a bf16 seven bits lie
 * behind the point, so 128 and the low seven, less 128 or, where the sign is set, 256. */
__device__ static inline unsigned two_whole(unsigned two) {
    const unsigned low = masked_or(two, 0x007f007f, 0x43004300);
    const unsigned sign = masked_or(two, 0x00800080, 0x43004300);
    const __nv_bfloat162 both = __hsub2(*(const __nv_bfloat162 *)&low,
                                        *(const __nv_bfloat162 *)&sign);
    return *(const unsigned *)&both;
}

/* e4m3, in the high halves: moved to where a bf16 has its exponent it is its number over 2^120, a
 * subnormal one too. */
__device__ static inline unsigned two_e4m3(unsigned two) {
    const unsigned small = masked_or(two, 0x80008000, two >> 4 & 0x07f007f0);
    const unsigned scale = 0x7b807b80;           /* 2^120 */
    const __nv_bfloat162 both = __hmul2(*(const __nv_bfloat162 *)&small,
                                        *(const __nv_bfloat162 *)&scale);
    return *(const unsigned *)&both;
}

/* Neighbours. */
template <enum dtype D> __device__ static inline unsigned two_bytes(unsigned four, int first) {
    if (D == FP8) return two_e4m3(__byte_perm(four, 0, first ? 0x3424 : 0x1404));
    return two_whole(__byte_perm(four, 0, first ? 0x4342 : 0x4140));
}

/* Four of them: the first and the third, the second and the fourth. */
struct four { unsigned even, odd; };

template <enum dtype D> __device__ static inline struct four four_bytes(unsigned four) {
    if (D == FP8) return { two_e4m3(four << 8), two_e4m3(four) };
    return { two_whole(four), two_whole(four >> 8) };
}

/* A lane's part of the sum of 32 positions: its two of every eight. */
__device__ static inline float add_weights(float sum, float u, float v) { return sum + u + v; }

/* How blocks are folded: what was and what comes are both multiplied. */
struct fold { float max, before, now; };

__device__ static inline struct fold fold_of(float max, float block_max) {
    struct fold f = { fmaxf(max, block_max) };
    f.before = power_of_2(max - finite(f.max));
    f.now = power_of_2(block_max - finite(f.max));
    return f;
}

__device__ static inline float folded(const struct fold &f, float before, float now) {
    return fmaf(before, f.before, __fmul_rn(now, f.now));
}

/* An attention sink is one more block: a score without a value. */
__device__ static inline struct fold fold_sink(const struct attend &a, int head, float max,
                                               float *sum) {
    const struct fold f = fold_of(max, a.sinks[head] * LOG2_E);
    *sum = folded(f, *sum, 1.0f);
    return f;
}

/* False, and nothing done: the chip, the cache's dtype or a dimension is none of theirs. */
bool cuda_attention_mma(struct device *, struct tensor *y, const struct tensor *q,
                        const struct attend *);
