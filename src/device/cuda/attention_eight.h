/* attention_eight.h - the arithmetic of rows that are decoded alone: up to eight heads that read a
 * kv head, and its keys and values, 128 positions after the other. A team of four warps shares
 * them. A warp has 32 positions of keys, and of values sixteen columns of every 64. Keys and values
 * are the first factor of the products, the heads the second, so that no half of them is zeros.
 *
 * A ring has slots of 32 positions: four of keys, four of values, the next four of keys. A warp
 * gives its slot of keys back alone, those of values when all four have read them. */
#pragma once
#include "device/cuda/attention_mma.h"
#include "device/cuda/once.h"

enum { TEAM = 128, WARPS = TEAM / 32, HEADS = 8, SLOT = BLOCK / WARPS, DIM_MAX = 128 };

/* What the threads of a team tell each other about a block of positions. */
struct eight_words {
    __nv_bfloat16 weight[HEADS][BLOCK + 8];
    float max[2][WARPS][HEADS], sum[WARPS][HEADS][4];    /* max: of every other block */
};

template <int BOXES> struct slot { unsigned char box[BOXES][SLOT * ROW_BYTES]; };

/* A block of positions, and which of them are visible. */
struct seen { int block, begin, end; };

/* visible: the first position that the row at `pos` sees. */
__device__ static inline struct seen seen_of(int block, int visible, int pos) {
    return { block, MAX(visible, block * BLOCK), MIN(pos + 1, (block + 1) * BLOCK) };
}

/* A place of a team's ring, and the parity of the phase in which it is used. */
struct place { int at; unsigned phase; };

__device__ static inline struct place further(struct place p, int n, int slots) {
    p.at += n;
    if (p.at >= slots) p.at -= slots, p.phase ^= 1;
    return p;
}

/* ---- a warp that fetches ---- */

/* The maps of keys and values. whole: a box has all columns of a slot; else 64 of a page. */
struct eight_maps { struct kv_maps maps; bool whole; };

__device__ static inline bool elected(void) {
    int is = 0;
    HOPPER_ONLY(asm volatile("{ .reg .pred p; elect.sync _|p, 0xffffffff; selp.b32 %0, 1, 0, p; }"
                             : "=r"(is)));
    return is;
}

__device__ static inline void maps_soon(const struct eight_maps &m) {
    HOPPER_ONLY(asm volatile("prefetch.tensormap [%0];" ::"l"(&m.maps.k) : "memory"));
    HOPPER_ONLY(asm volatile("prefetch.tensormap [%0];" ::"l"(&m.maps.v) : "memory"));
}

/* Boxes with all columns of a slot: one copy instead of two. A second box of values that are
 * narrower than keys keeps what it had; one of keys would have to be zero. */
static inline struct eight_maps eight_maps_of(const struct attend &a, const struct kv_maps &pages) {
    const int rows = a.kv_heads * a.kv.page_tokens;
    const int64_t bytes = (int64_t)a.kv.page_bytes;
    const char *values = (const char *)a.kv.pages + values_at(a, 2);
    struct eight_maps w = { {}, true };
    if (a.kv.page_tokens == SLOT && a.k_dim % 64 == 0 && a.v_dim % 64 == 0 && a.k_dim >= a.v_dim &&
        cuda_page_map_whole(&w.maps.k, a.kv.pages, rows, a.k_dim, bytes, SLOT) &&
        cuda_page_map_whole(&w.maps.v, values, rows, a.v_dim, bytes, SLOT))
        return w;
    return { pages, false };
}

/* Whether the kernels of this header serve such heads and such a cache. */
static inline bool eight_can(const struct attend &a) {
    const int tokens = a.kv.page_tokens;
    return !a.v_in_k && a.kv.dtype == BF16 && a.k_dim <= DIM_MAX && a.v_dim <= DIM_MAX &&
           a.k_dim % 8 == 0 && a.v_dim % 8 == 0 && tokens % 8 == 0 && SLOT % tokens == 0;
}

static inline bool eight_one_box(const struct attend &a) { return a.k_dim <= 64 && a.v_dim <= 64; }

/* Eight rows after the other, those that hold one of the positions begin to end - 1 of a slot. */
template <int BOXES>
__device__ static inline void fetch_eights(struct slot<BOXES> *to, uint64_t *full,
                                           const CUtensorMap *map, int page, int row, int boxes,
                                           int begin, int end) {
    const int first = MAX(begin, 0) / 8 * 8, last = (MIN(end, (int)SLOT) + 7) / 8 * 8;
    barrier_expect(full, (unsigned)(MAX(last - first, 0) * ROW_BYTES * boxes));
    for (int p = first; p < last; p += 8)
        for (int b = 0; b < boxes; b++)
            page_in(to->box[b] + p * ROW_BYTES, map, 64 * b, row + p, page, full);
}

/* What of a slot's pages holds a visible position, which are begin to end - 1 of the slot. Of whole
 * pages that are seen in part many rows take those eights of rows that they see, for the memory is
 * what they wait for; a row alone (eights NULL) does not, for it waits for the copies that it asks
 * for one after the other. */
template <int BOXES>
__device__ static inline void fetch_slot(struct slot<BOXES> *to, uint64_t *full,
                                         const struct eight_maps &m, const struct kv_maps *eights,
                                         bool values, const int *page, int kv_head, int begin,
                                         int end, const struct attend &a, uint64_t policy) {
    const int tokens = a.kv.page_tokens, row = kv_head * tokens, cols = values ? a.v_dim : a.k_dim;
    const CUtensorMap *map = values ? &m.maps.v : &m.maps.k;
    if (eights && m.whole && (begin > 0 || end < SLOT)) {
        fetch_eights<BOXES>(to, full, values ? &eights->v : &eights->k, *page, row, cols / 64,
                            begin, end);
        return;
    }
    if (m.whole) {
        const bool seen = eights || (begin < SLOT && end > 0);
        barrier_expect(full, seen ? SLOT * 2u * (unsigned)cols : 0);
        if (seen) whole_in_once(to->box[0], map, row, *page, full, policy);
        return;
    }
    int count = 0;
    for (int p = 0; p < SLOT; p += tokens) count += begin < p + tokens && end > p;
    barrier_expect(full, (unsigned)(count * tokens * ROW_BYTES * BOXES));
    for (int p = 0; p < SLOT; p += tokens)
        for (int b = 0; b < BOXES && begin < p + tokens && end > p; b++)
            page_in(to->box[b] + p * ROW_BYTES, map, 64 * b, row, page[p / tokens], full);
}

/* Keys and values of a block into the next eight places of a ring, when they are empty. pages: of
 * the block. By one thread. */
template <int BOXES>
__device__ static inline void fetch_block(struct slot<BOXES> *ring, uint64_t *full, uint64_t *empty,
                                          int slots, struct place &p, const struct eight_maps &m,
                                          const struct kv_maps *eights, const int *pages,
                                          int kv_head, const struct seen &s,
                                          const struct attend &a) {
    const int begin = s.begin - s.block * BLOCK, end = s.end - s.block * BLOCK;
    const uint64_t policy = read_once();
#pragma unroll 1
    for (int k = 0; k < 2 * WARPS; k++, p = further(p, 1, slots)) {
        const int from = k % WARPS * SLOT;
        barrier_wait(&empty[p.at], p.phase);
        fetch_slot<BOXES>(&ring[p.at], &full[p.at], m, eights, k >= WARPS,
                          pages + from / a.kv.page_tokens, kv_head, begin - from, end - from, a,
                          policy);
    }
}

/* ---- warps that compute ---- */

/* The new row takes its place in a slot. By a warp. */
template <int BOXES>
__device__ static inline void put_fresh(struct slot<BOXES> *to, const __nv_bfloat16 *row, int pos,
                                        int dims) {
    const int unit = threadIdx.x % 32;
    if (unit >= dims / 8) return;
    *(uint4 *)(uintptr_t)unit_at(to->box[unit / 8], pos % SLOT, unit) =
        *(const uint4 *)(row + 8 * unit);
}

/* Eight heads and sixteen dimensions or positions, from rows in shared memory: what a lane has of
 * a product's second factor. */
struct eight_heads { unsigned at[2]; };

__device__ static inline struct eight_heads eight_of(const __nv_bfloat16 *rows, int row_cols,
                                                     int col) {
    const int lane = threadIdx.x % 32;
    const __nv_bfloat16 *at = rows + lane / 4 * row_cols + col + 2 * (lane % 4);
    return { { *(const unsigned *)at, *(const unsigned *)(at + 8) } };
}

/* Products have a lane with two heads, 2 (lane % 4) and the next, and every eighth position or
 * column from lane / 4 on. Its neighbour at lane ^ 4 has the position beside: of two heads and a
 * position a lane makes one head, 2 (lane % 4) + lane / 4 % 2, and two positions, from
 * lane / 8 * 2 on. */
__device__ static inline int lanes_head(void) {
    return 2 * (threadIdx.x % 4) + threadIdx.x % 32 / 4 % 2;
}
__device__ static inline int lanes_pair(void) { return threadIdx.x % 32 / 8; }

__device__ static inline float2 paired(float first_head, float second_head) {
    const bool odd = threadIdx.x % 32 / 4 % 2;
    const float other = __shfl_xor_sync(~0u, odd ? first_head : second_head, 4);
    return odd ? make_float2(other, second_head) : make_float2(first_head, other);
}

/* `capped` out of line: most models have none, and a tangent is much code. */
__device__ static __noinline__ float eight_capped(float softcap, float scale, float score) {
    return softcap * tanhf(score * scale / softcap);
}

/* A warp's 32 positions: score[n][k], of position 8 n + lane / 4 and head 2 (lane % 4) + k. */
template <int BOXES>
__device__ static inline void eight_scores(float score[4][2], const struct slot<BOXES> *keys,
                                           const struct eight_heads *q, const struct seen &s,
                                           const struct attend &a) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % WARPS;
    float sum[2][4] = {};
#pragma unroll
    for (int i = 0; i < 4 * BOXES; i++)
#pragma unroll
        for (int t = 0; t < 2; t++) {
            unsigned k[4];
            matrices(k, unit_at(keys->box[i / 4], 16 * t + lane % 16, 2 * (i % 4) + lane / 16));
            mma(sum[t], k, q[i].at[0], q[i].at[1]);
        }
#pragma unroll
    for (int n = 0; n < 4; n++)
        for (int k = 0; k < 2; k++) score[n][k] = sum[n / 2][n % 2 * 2 + k];
    if (a.softcap != 0)
#pragma unroll
        for (int n = 0; n < 8; n++)
            score[n / 2][n % 2] = eight_capped(a.softcap, a.scale, score[n / 2][n % 2]);
    const int at = s.block * BLOCK + warp * SLOT;
    if (s.begin <= at && s.end >= at + SLOT) return;
#pragma unroll
    for (int n = 0; n < 4; n++)
        if (at + n * 8 + lane / 4 < s.begin || at + n * 8 + lane / 4 >= s.end)
            score[n][0] = score[n][1] = -INFINITY;
}

/* The largest score of head i in a block, and the sum of its weights: what the four warps and the
 * four pairs have, in order. */
__device__ static inline float eight_max(const float (*max)[HEADS], int i) {
    return fmaxf(fmaxf(max[0][i], max[1][i]), fmaxf(max[2][i], max[3][i]));
}

__device__ static inline float eight_sum(const struct eight_words *m, int i) {
    float part[4];
#pragma unroll
    for (int t = 0; t < 4; t++)
        part[t] = m->sum[0][i][t] + m->sum[1][i][t] + m->sum[2][i][t] + m->sum[3][i][t];
    return (part[0] + part[1]) + (part[2] + part[3]);
}

/* Scores become weights, when the team has met about the largest. */
__device__ static inline void eight_weights(struct eight_words *m, float (*max)[HEADS],
                                          const float score[4][2], int team, float factor) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % WARPS;
    float x[2], sum = 0;
#pragma unroll
    for (int k = 0; k < 2; k++) {
        x[k] = fmaxf(fmaxf(score[0][k], score[1][k]), fmaxf(score[2][k], score[3][k]));
        for (int i = 4; i < 32; i *= 2) x[k] = fmaxf(x[k], __shfl_xor_sync(~0u, x[k], i));
    }
    if (lane < 4) *(float2 *)&max[warp][2 * lane] = make_float2(x[0], x[1]);
    named_sync(2 + team, TEAM);
#pragma unroll
    for (int k = 0; k < 2; k++) x[k] = -finite(eight_max(max, 2 * (lane % 4) + k) * factor);
#pragma unroll
    for (int n = 0; n < 4; n++) {
        const float2 w = paired(power_of_2(fmaf(score[n][0], factor, x[0])),
                                power_of_2(fmaf(score[n][1], factor, x[1])));
        sum = add_weights(sum, w.x, w.y);
        *(__nv_bfloat162 *)&m->weight[lanes_head()][warp * SLOT + n * 8 + 2 * lanes_pair()] =
            __floats2bfloat162_rn(w.x, w.y);
    }
    m->sum[warp][lanes_head()][lanes_pair()] = sum;
}

/* Values that are not visible may be anything, and 0 times that need not be 0. */
template <int BOXES>
__device__ static inline void clear_unseen(struct slot<BOXES> *v, int begin, int end) {
    if (begin <= 0 && end >= SLOT) return;
    for (int i = threadIdx.x % TEAM; i < SLOT * 8; i += TEAM)
        for (int b = 0; b < BOXES; b++)
            if (i / 8 < begin || i / 8 >= end) ((uint4 *)v->box[b])[i] = make_uint4(0, 0, 0, 0);
    writes_are_shared();
}

/* Weights of a slot's positions, from `first` of the block on, times their values. A warp has
 * sixteen columns of every 64. */
template <int BOXES>
__device__ static inline void eight_values(float (&sum)[BOXES][4], const struct slot<BOXES> *v,
                                           const struct eight_words *m, int first) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % WARPS;
#pragma unroll
    for (int s = 0; s < SLOT / 16; s++) {
        const struct eight_heads p = eight_of(m->weight[0], BLOCK + 8, first + 16 * s);
#pragma unroll
        for (int b = 0; b < BOXES; b++) {
            unsigned at[4];
            matrices_turned(at, unit_at(v->box[b], 16 * s + lane / 16 * 8 + lane % 8,
                                        2 * warp + lane / 8 % 2));
            mma(sum[b], at, p.at[0], p.at[1]);
        }
    }
}

/* What a team works with. fresh: the new key and the new value, of position news. q: the heads. */
template <int BOXES> struct eight {
    struct eight_words *m;
    struct slot<BOXES> *ring;
    uint64_t *full, *empty;
    const __nv_bfloat16 (*fresh)[DIM_MAX];
    int slots, team, news;
    float factor;
    struct place at;
    struct eight_heads q[4 * BOXES];
};

/* The heads' q, [HEADS] rows in shared memory. */
template <int BOXES>
__device__ static inline void eight_query(struct eight<BOXES> &e,
                                          const __nv_bfloat16 (*q)[DIM_MAX + 8]) {
#pragma unroll
    for (int s = 0; s < 4 * BOXES; s++) e.q[s] = eight_of(q[0], DIM_MAX + 8, 16 * s);
}

/* The slot that is `n` places further, when it is full. */
template <int BOXES>
__device__ static inline struct slot<BOXES> *when_full(const struct eight<BOXES> &e, int n) {
    const struct place p = further(e.at, n, e.slots);
    barrier_wait(&e.full[p.at], p.phase);
    return &e.ring[p.at];
}

/* A block of positions: sum[b][c] of the columns 64 b + 16 warp + lane / 4, and eight more from c 2
 * on, and of head 2 (lane % 4) + c % 2. The largest scores go to `max` and what sums consist of to
 * m->sum. The team meets twice on the way: m->sum may be read until it meets for the next block,
 * `max`, which is written before that, until the one after. */
template <int BOXES>
__device__ static inline void eight_block(float (&sum)[BOXES][4], struct eight<BOXES> &e,
                                          const struct seen &s, float (*max)[HEADS],
                                          const struct attend &a) {
    const int warp = threadIdx.x / 32 % WARPS, lane = threadIdx.x % 32, news = e.news % BLOCK;
    const bool fresh = s.block == e.news / BLOCK && news / SLOT == warp;
    struct slot<BOXES> *keys = when_full(e, warp);
    float score[4][2];
    if (fresh) put_fresh<BOXES>(keys, e.fresh[0], news, a.k_dim);
    __syncwarp();
    eight_scores<BOXES>(score, keys, e.q, s, a);
    __syncwarp();
    if (lane < WARPS) barrier_arrive(&e.empty[further(e.at, warp, e.slots).at]);
    eight_weights(e.m, max, score, e.team, e.factor);
    e.at = further(e.at, WARPS, e.slots);
    if (s.end - s.begin < BLOCK)
#pragma unroll 1
        for (int k = 0; k < WARPS; k++) {
            const int from = s.block * BLOCK + k * SLOT;
            clear_unseen<BOXES>(when_full(e, k), s.begin - from, s.end - from);
        }
    if (fresh) put_fresh<BOXES>(when_full(e, warp), e.fresh[1], news, a.v_dim);
    named_sync(2 + e.team, TEAM);
#pragma unroll 1
    for (int k = 0; k < WARPS; k++) {
        eight_values<BOXES>(sum, when_full(e, k), e.m, k * SLOT);
        __syncwarp();
        if (lane == 0) barrier_arrive(&e.empty[further(e.at, k, e.slots).at]);
    }
    e.at = further(e.at, WARPS, e.slots);
}
