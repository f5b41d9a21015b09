/* attention_eight.h - the arithmetic of rows that are decoded alone: up to eight heads that read a
 * kv head, and its keys and values, 128 positions after the other. A team of four warps shares
 * them. A warp has 32 positions of keys, and of values sixteen columns of every 64. Keys and values
 * are the first factor of the products, the heads the second, so that no half of them is zeros.
 *
 * A ring has slots of 32 positions: four of keys, four of values, the next four of keys. A warp
 * gives its slot of keys back alone, those of values when all four have read them.
 *
 * Of bytes the copies are half as long, and come with scales; a lane makes bf16 of what it reads,
 * which costs about what the shorter copies save one row, and much less than they save many. */
#pragma once
#include "device/cuda/attention_mma.h"
#include "device/cuda/heads.h"
#include "device/cuda/once.h"

enum { TEAM = 128, WARPS = TEAM / 32, HEADS = 8, SLOT = BLOCK / WARPS, DIM_MAX = 128 };

/* What heads are: PARTS of 64 columns, of bf16, whose boxes have a part each, or in bytes, whose
 * box has all columns and which come with scales. */
template <int P, enum dtype D> struct form {
    static constexpr enum dtype DTYPE = D;
    static constexpr bool BYTES = in_bytes(D);
    static constexpr int PARTS = P, BOXES = BYTES ? 1 : P;
};

/* What the threads of a team tell each other about a block of positions. */
struct eight_words {
    __nv_bfloat16 weight[HEADS][BLOCK + 8];
    float max[2][WARPS][HEADS], sum[WARPS][HEADS][4];    /* max: of every other block */
};

template <class F> struct slot { unsigned char box[F::BOXES][SLOT * ROW_BYTES]; };

/* Of bytes: what 32 positions' keys and values are multiplied with. They come with the keys. */
struct scales { float k[SLOT], v[SLOT]; };

/* The new key or the new value as the cache has it. */
struct fresh { alignas(16) unsigned char row[2 * DIM_MAX]; float scale; };

/* A team's slots, and what comes with them. The scales of bf16: none. */
template <class F> struct ring {
    struct slot<F> *slot;
    struct scales *scales;
    uint64_t *full, *empty;
    int slots;
};

template <class F> __host__ __device__ static constexpr int slot_bytes(void) {
    return (int)(sizeof(struct slot<F>) + (F::BYTES ? sizeof(struct scales) : 0));
}

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
    const size_t width = cached_bytes(a.kv.dtype);
    const char *values = (const char *)a.kv.pages + values_at(a, width);
    const bool boxes = a.k_dim % 64 == 0 && a.v_dim % 64 == 0 && a.k_dim >= a.v_dim;
    struct eight_maps w = { {}, true };
    if (a.kv.page_tokens == SLOT && (boxes || in_bytes(a.kv.dtype)) &&
        cuda_page_map_whole(&w.maps.k, a.kv.pages, rows, a.k_dim, bytes, SLOT, width) &&
        cuda_page_map_whole(&w.maps.v, values, rows, a.v_dim, bytes, SLOT, width))
        return w;
    return { pages, false };
}

/* Whether the kernels of this header serve such heads and such a cache. */
static inline bool eight_can(const struct attend &a) {
    const int tokens = a.kv.page_tokens, unit = in_bytes(a.kv.dtype) ? 16 : 8;
    return !a.v_in_k && a.kv.dtype != F32 && a.k_dim <= DIM_MAX &&
           a.v_dim <= DIM_MAX && a.k_dim % unit == 0 && a.v_dim % unit == 0 && tokens % 8 == 0 &&
           SLOT % tokens == 0 && a.kv.page_bytes % 16 == 0;
}

static inline bool eight_one_part(const struct attend &a) {
    return a.k_dim <= 64 && a.v_dim <= 64;
}

template <enum dtype D, class START>
static inline void eight_form_of(const struct attend &a, START start) {
    if (eight_one_part(a)) start(form<1, D>());
    else start(form<2, D>());
}

/* start(form) with the form of such heads. */
template <class START> static inline void eight_form(const struct attend &a, START start) {
    if (a.kv.dtype == I8) eight_form_of<I8>(a, start);
    else if (a.kv.dtype == FP8) eight_form_of<FP8>(a, start);
    else eight_form_of<BF16>(a, start);
}

/* Scales of a page's positions, of which the first is number `at` of the slot. */
__device__ static inline void fetch_scales(struct scales *to, uint64_t *full, int page, int kv_head,
                                           int at, const struct attend &a) {
    const int tokens = a.kv.page_tokens;
    const unsigned bytes = (unsigned)tokens * (unsigned)sizeof(float);
    char *there = (char *)a.kv.pages + (size_t)page * a.kv.page_bytes;
    const float *from = scales_of_page(a, there, kv_head, 0);
    if (tokens == SLOT) return bytes_in(to, from, sizeof *to, full);
    bytes_in(to->k + at, from, bytes, full);
    bytes_in(to->v + at, from + tokens, bytes, full);
}

template <class F>
__device__ static inline int boxes_of(const struct attend &a, bool values) {
    return F::BYTES ? 1 : (values ? a.v_dim : a.k_dim) / 64;
}

template <class F> __device__ static inline unsigned scale_bytes(bool values) {
    return F::BYTES && !values ? sizeof(struct scales) : 0;
}

/* A page that fills a slot. */
template <class F>
__device__ static inline void fetch_page(const struct ring<F> &r, int at,
                                         const struct eight_maps &m, bool values, int page,
                                         int kv_head, const struct attend &a, uint64_t policy) {
    const unsigned beside = scale_bytes<F>(values);
    barrier_expect(&r.full[at], (unsigned)(SLOT * ROW_BYTES * boxes_of<F>(a, values)) + beside);
    whole_in_once(r.slot[at].box[0], values ? &m.maps.v : &m.maps.k, kv_head * SLOT, page,
                  &r.full[at], policy);
    if (beside) fetch_scales(&r.scales[at], &r.full[at], page, kv_head, 0, a);
}

/* Eight rows of it after the other, those that hold one of the positions begin to end - 1. */
template <class F>
__device__ static inline void fetch_eights(const struct ring<F> &r, int at,
                                           const struct kv_maps &eights, bool values, int page,
                                           int kv_head, int begin, int end,
                                           const struct attend &a) {
    const int first = MAX(begin, 0) / 8 * 8, last = (MIN(end, (int)SLOT) + 7) / 8 * 8;
    const int boxes = boxes_of<F>(a, values);
    const unsigned beside = scale_bytes<F>(values);
    barrier_expect(&r.full[at], (unsigned)((last - first) * ROW_BYTES * boxes) + beside);
#pragma unroll 1
    for (int p = first; p < last; p += 8)
        for (int b = 0; b < boxes; b++)
            page_in(r.slot[at].box[b] + p * ROW_BYTES, values ? &eights.v : &eights.k, 64 * b,
                    kv_head * SLOT + p, page, &r.full[at]);
    if (beside) fetch_scales(&r.scales[at], &r.full[at], page, kv_head, 0, a);
}

/* Those of several pages that hold one of the positions. */
template <class F>
__device__ static inline void fetch_pages(const struct ring<F> &r, int at,
                                          const struct kv_maps &pages, bool values,
                                          const int *page, int kv_head, int begin, int end,
                                          const struct attend &a) {
    const int tokens = a.kv.page_tokens;
    const bool scaled = F::BYTES && !values;
    const unsigned each = ROW_BYTES * F::BOXES + (scaled ? 2 * sizeof(float) : 0);
    int count = 0;
    for (int p = 0; p < SLOT; p += tokens) count += begin < p + tokens && end > p;
    barrier_expect(&r.full[at], (unsigned)(count * tokens) * each);
#pragma unroll 1
    for (int p = 0; p < SLOT; p += tokens) {
        if (begin >= p + tokens || end <= p) continue;
        for (int b = 0; b < F::BOXES; b++)
            page_in(r.slot[at].box[b] + p * ROW_BYTES, values ? &pages.v : &pages.k, 64 * b,
                    kv_head * tokens, page[p / tokens], &r.full[at]);
        if (scaled) fetch_scales(&r.scales[at], &r.full[at], page[p / tokens], kv_head, p, a);
    }
}

/* What of a slot's pages holds a visible position, which are begin to end - 1 of the slot. Of whole
 * pages that are seen in part many rows take those eights of rows that they see, for the memory is
 * what they wait for; a row alone (eights NULL) does not, for it waits for the copies that it asks
 * for one after the other. */
template <class F>
__device__ static inline void fetch_slot(const struct ring<F> &r, int at,
                                         const struct eight_maps &m, const struct kv_maps *eights,
                                         bool values, const int *page, int kv_head, int begin,
                                         int end, const struct attend &a, uint64_t policy) {
    if (!m.whole) fetch_pages<F>(r, at, m.maps, values, page, kv_head, begin, end, a);
    else if (begin >= SLOT || end <= 0) barrier_expect(&r.full[at], 0);
    else if (eights && (begin > 0 || end < SLOT))
        fetch_eights<F>(r, at, *eights, values, *page, kv_head, begin, end, a);
    else fetch_page<F>(r, at, m, values, *page, kv_head, a, policy);
}

/* Keys or values of a block into the next four places of a ring, when they are empty. pages: of the
 * block. By a warp: its lanes wait for the places at once, and one asks for all four. (Lanes that
 * ask for one each, as they get through the wait, take each other's uniform registers.) */
template <class F>
__device__ static inline void fetch_half(const struct ring<F> &r, struct place &p,
                                         const struct eight_maps &m, const struct kv_maps *eights,
                                         bool values, const int *pages, int kv_head,
                                         const struct seen &s, const struct attend &a,
                                         uint64_t policy) {
    const int per = SLOT / a.kv.page_tokens, begin = s.begin - s.block * BLOCK;
    const int end = s.end - s.block * BLOCK;
    const struct place own = further(p, threadIdx.x % WARPS, r.slots);
    barrier_wait(&r.empty[own.at], own.phase);
    __syncwarp();
    const bool one = elected();
    if (one && m.whole && end - begin == BLOCK) {
#pragma unroll
        for (int k = 0; k < WARPS; k++)
            fetch_page<F>(r, further(p, k, r.slots).at, m, values, pages[k], kv_head, a, policy);
    } else if (one) {
#pragma unroll 1
        for (int k = 0; k < WARPS; k++)
            fetch_slot<F>(r, further(p, k, r.slots).at, m, eights, values, pages + k * per,
                          kv_head, begin - k * SLOT, end - k * SLOT, a, policy);
    }
    __syncwarp();
    p = further(p, WARPS, r.slots);
}

/* ---- warps that compute ---- */

/* A head that a warp made ready: number i of q, or (which 0 or 1) the new key or value, which goes
 * to the cache, too. */
template <class F>
__device__ static inline void keep_news(__nv_bfloat16 (*q)[DIM_MAX + 8], int i, struct fresh *fresh,
                                        int which, const struct place_of_head &cached,
                                        const float *own, int n) {
    if (which < 0) return warp_keep(q[i], NULL, own, n);
    struct fresh *f = &fresh[which];
    if (F::BYTES) warp_keep_bytes(f->row, &f->scale, cached, own, n, F::DTYPE);
    else warp_keep((__nv_bfloat16 *)f->row, (__nv_bfloat16 *)cached.at, own, n);
}

/* The new row takes its place in a slot. By a warp. */
template <class F>
__device__ static inline void put_fresh(struct slot<F> *to, const struct fresh &f, int pos,
                                        int dims) {
    const int unit = threadIdx.x % 32;
    if (unit >= dims / (F::BYTES ? 16 : 8)) return;
    *(uint4 *)(uintptr_t)unit_at(to->box[unit / 8], pos % SLOT, unit) =
        *(const uint4 *)(f.row + 16 * unit);
}

/* Eight heads and sixteen dimensions or positions, from rows in shared memory: what a lane has of
 * a product's second factor. Beside keys in bytes, of which a lane has four neighbours, dimensions
 * are taken as four_bytes gives those. */
struct eight_heads { unsigned at[2]; };

__device__ static inline struct eight_heads eight_of(const __nv_bfloat16 *rows, int row_cols,
                                                     int col) {
    const int lane = threadIdx.x % 32;
    const __nv_bfloat16 *at = rows + lane / 4 * row_cols + col + 2 * (lane % 4);
    return { { *(const unsigned *)at, *(const unsigned *)(at + 8) } };
}

__device__ static inline struct eight_heads eight_of_bytes(const __nv_bfloat16 *rows, int row_cols,
                                                           int col) {
    const int lane = threadIdx.x % 32;
    const uint2 at = *(const uint2 *)(rows + lane / 4 * row_cols + col + 4 * (lane % 4));
    return { { __byte_perm(at.x, at.y, 0x5410), __byte_perm(at.x, at.y, 0x7632) } };
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

/* A lane's two pairs of columns of every 64, when products are paired: whose they are, and what of
 * the sums. Of bytes a product has even columns, then odd ones, in the place of eight and eight
 * more: a lane has both of a pair, of two heads. */
struct lanes_two { int head, col; };

template <class F>
__device__ static inline struct lanes_two lanes_two_of(int k) {
    const int lane = threadIdx.x % 32, first = 16 * (threadIdx.x / 32 % WARPS);
    if (F::BYTES) return { 2 * (lane % 4) + k, first + lane / 4 * 2 };
    return { lanes_head(), first + 8 * k + 2 * lanes_pair() };
}

template <class F>
__device__ static inline float2 two_of(const float (&sum)[4], int k) {
    return F::BYTES ? make_float2(sum[k], sum[k + 2]) : paired(sum[2 * k], sum[2 * k + 1]);
}

/* `capped` out of line: most models have none, and a tangent is much code. */
__device__ static __noinline__ float eight_capped(float softcap, float scale, float score) {
    return softcap * tanhf(score * scale / softcap);
}

/* Sixteen keys and sixteen more times heads, for every 16 dimensions in turn. */
template <class F>
__device__ static inline void eight_dot(float (&sum)[2][4], const struct slot<F> *keys,
                                        const struct eight_heads *q) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 4 * F::PARTS; i++)
#pragma unroll
        for (int t = 0; t < 2; t++) {
            unsigned k[4];
            matrices(k, unit_at(keys->box[i / 4], 16 * t + lane % 16, 2 * (i % 4) + lane / 16));
            mma(sum[t], k, q[i].at[0], q[i].at[1]);
        }
}

template <class F>
__device__ static inline void eight_dot_bytes(float (&sum)[2][4], const struct slot<F> *keys,
                                              const struct eight_heads *q) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 4 * F::PARTS; i += 2)
#pragma unroll
        for (int t = 0; t < 2; t++) {
            unsigned k[4];
            matrices(k, unit_at(keys->box[0], 16 * t + lane % 16, i + lane / 16));
#pragma unroll
            for (int u = 0; u < 2; u++) {
                const struct four x = four_bytes<F::DTYPE>(k[2 * u]);
                const struct four y = four_bytes<F::DTYPE>(k[2 * u + 1]);
                const unsigned both[4] = { x.even, y.even, x.odd, y.odd };
                mma(sum[t], both, q[i + u].at[0], q[i + u].at[1]);
            }
        }
}

/* A warp's 32 positions: score[n][k], of position 8 n + lane / 4 and head 2 (lane % 4) + k. */
template <class F>
__device__ static inline void eight_scores(float score[4][2], const struct slot<F> *keys,
                                           const struct scales *scales,
                                           const struct eight_heads *q, const struct seen &s,
                                           const struct attend &a) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % WARPS;
    float sum[2][4] = {};
    if constexpr (F::BYTES) eight_dot_bytes<F>(sum, keys, q);
    else eight_dot<F>(sum, keys, q);
#pragma unroll
    for (int n = 0; n < 4; n++)
        for (int k = 0; k < 2; k++) {
            const float x = sum[n / 2][n % 2 * 2 + k];
            score[n][k] = F::BYTES ? x * scales->k[8 * n + lane / 4] : x;
        }
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

/* Of bytes: the scales of the values whose weights a lane makes. Those of positions that are not
 * visible may be anything, and are 0. */
struct lanes_scales { float2 of[4]; };

template <class F>
__device__ static inline struct lanes_scales value_scales(const struct scales *scales,
                                                          const struct seen &s) {
    struct lanes_scales v = {};
    if constexpr (F::BYTES) {
        const int first = s.block * BLOCK + threadIdx.x / 32 % WARPS * SLOT;
#pragma unroll
        for (int n = 0; n < 4; n++) {
            const int i = 8 * n + 2 * lanes_pair(), at = first + i;
            v.of[n] = *(const float2 *)(scales->v + i);
            if (at < s.begin || at >= s.end) v.of[n].x = 0;
            if (at + 1 < s.begin || at + 1 >= s.end) v.of[n].y = 0;
        }
    }
    return v;
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
template <class F>
__device__ static inline void eight_weights(struct eight_words *m, float (*max)[HEADS],
                                            const float score[4][2], const struct lanes_scales &v,
                                            int team, float factor) {
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
            F::BYTES ? __floats2bfloat162_rn(w.x * v.of[n].x, w.y * v.of[n].y)
                  : __floats2bfloat162_rn(w.x, w.y);
    }
    m->sum[warp][lanes_head()][lanes_pair()] = sum;
}

/* Values that are not visible may be anything, and 0 times that need not be 0. */
template <class F>
__device__ static inline void clear_unseen(struct slot<F> *v, int begin, int end) {
    if (begin <= 0 && end >= SLOT) return;
    for (int i = threadIdx.x % TEAM; i < SLOT * 8; i += TEAM)
        for (int b = 0; b < F::BOXES; b++)
            if (i / 8 < begin || i / 8 >= end) ((uint4 *)v->box[b])[i] = make_uint4(0, 0, 0, 0);
    writes_are_shared();
}

/* Weights of a slot's positions, from `first` of the block on, times their values. A warp has
 * sixteen columns of every 64. */
template <class F>
__device__ static inline void eight_values(float (&sum)[F::PARTS][4], const struct slot<F> *v,
                                           const struct eight_words *m, int first) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % WARPS;
#pragma unroll
    for (int s = 0; s < SLOT / 16; s++) {
        const struct eight_heads p = eight_of(m->weight[0], BLOCK + 8, first + 16 * s);
#pragma unroll
        for (int b = 0; b < F::PARTS; b++) {
            unsigned at[4];
            matrices_turned(at, unit_at(v->box[b], 16 * s + lane / 16 * 8 + lane % 8,
                                        2 * warp + lane / 8 % 2));
            mma(sum[b], at, p.at[0], p.at[1]);
        }
    }
}

/* Of bytes: a matrix of 16-bit pairs, turned, gives a lane two columns of two positions. */
template <class F>
__device__ static inline void eight_values_bytes(float (&sum)[F::PARTS][4],
                                                 const struct slot<F> *v,
                                                 const struct eight_words *m, int first) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % WARPS;
    unsigned at[F::PARTS][4];
#pragma unroll
    for (int b = 0; b < F::PARTS; b++)
        matrices_turned(at[b], unit_at(v->box[0], lane, 4 * b + warp));
#pragma unroll
    for (int s = 0; s < SLOT / 16; s++) {
        const struct eight_heads p = eight_of(m->weight[0], BLOCK + 8, first + 16 * s);
#pragma unroll
        for (int b = 0; b < F::PARTS; b++) {
            const struct four x = four_bytes<F::DTYPE>(at[b][2 * s]);
            const struct four y = four_bytes<F::DTYPE>(at[b][2 * s + 1]);
            const unsigned both[4] = { x.even, x.odd, y.even, y.odd };
            mma(sum[b], both, p.at[0], p.at[1]);
        }
    }
}

/* What a team works with. fresh: the new key and the new value, of position news. q: the heads. */
template <class F> struct eight {
    struct eight_words *m;
    struct ring<F> ring;
    const struct fresh *fresh;
    int team, news;
    float factor;
    struct place at;
    struct eight_heads q[4 * F::PARTS];
};

/* The heads' q, [HEADS] rows in shared memory. */
template <class F>
__device__ static inline void eight_query(struct eight<F> &e,
                                          const __nv_bfloat16 (*q)[DIM_MAX + 8]) {
#pragma unroll
    for (int s = 0; s < 4 * F::PARTS; s++)
        e.q[s] = F::BYTES ? eight_of_bytes(q[0], DIM_MAX + 8, 16 * s)
                       : eight_of(q[0], DIM_MAX + 8, 16 * s);
}

/* The slot that is `n` places further, when it is full. */
template <class F>
__device__ static inline struct slot<F> *when_full(const struct eight<F> &e, int n) {
    const struct place p = further(e.at, n, e.ring.slots);
    barrier_wait(&e.ring.full[p.at], p.phase);
    return &e.ring.slot[p.at];
}

/* The key that a warp's slot lacks, and the scales of both. */
template <class F>
__device__ static inline void put_news(const struct eight<F> &e, struct slot<F> *keys,
                                       struct scales *scales, const struct attend &a) {
    const int at = e.news % SLOT;
    put_fresh<F>(keys, e.fresh[0], at, a.k_dim);
    if constexpr (F::BYTES) {
        scales->k[at] = e.fresh[0].scale;
        scales->v[at] = e.fresh[1].scale;
    }
}

/* A block of positions: sum[b][c] of the columns 64 b + 16 warp + lane / 4, and eight more from c 2
 * on, and of head 2 (lane % 4) + c % 2; which columns they are of bytes, lanes_two_of says. The
 * largest scores go to `max` and what sums consist of to m->sum. The team meets twice on the way:
 * m->sum may be read until it meets for the next block, `max`, which is written before that, until
 * the one after. */
template <class F>
__device__ static inline void eight_block(float (&sum)[F::PARTS][4], struct eight<F> &e,
                                          const struct seen &s, float (*max)[HEADS],
                                          const struct attend &a) {
    const int warp = threadIdx.x / 32 % WARPS, lane = threadIdx.x % 32, news = e.news % BLOCK;
    const bool fresh = s.block == e.news / BLOCK && news / SLOT == warp;
    const int slots = e.ring.slots, own = further(e.at, warp, slots).at;
    struct slot<F> *keys = when_full(e, warp);
    float score[4][2];
    if (fresh) put_news<F>(e, keys, &e.ring.scales[own], a);
    __syncwarp();
    eight_scores<F>(score, keys, &e.ring.scales[own], e.q, s, a);
    const struct lanes_scales v = value_scales<F>(&e.ring.scales[own], s);
    __syncwarp();
    if (lane < WARPS) barrier_arrive(&e.ring.empty[own]);
    eight_weights<F>(e.m, max, score, v, e.team, e.factor);
    e.at = further(e.at, WARPS, slots);
    if (!F::BYTES && s.end - s.begin < BLOCK)
#pragma unroll 1
        for (int k = 0; k < WARPS; k++) {
            const int from = s.block * BLOCK + k * SLOT;
            clear_unseen<F>(when_full(e, k), s.begin - from, s.end - from);
        }
    if (fresh) put_fresh<F>(when_full(e, warp), e.fresh[1], news, a.v_dim);
    named_sync(2 + e.team, TEAM);
#pragma unroll 1
    for (int k = 0; k < WARPS; k++) {
        if constexpr (F::BYTES) eight_values_bytes<F>(sum, when_full(e, k), e.m, k * SLOT);
        else eight_values<F>(sum, when_full(e, k), e.m, k * SLOT);
        __syncwarp();
        if (lane == 0) barrier_arrive(&e.ring.empty[further(e.at, k, slots).at]);
    }
    e.at = further(e.at, WARPS, slots);
}
