/* attention_many.cu - attention of the rows of prompts: tiles of 128 queries (positions times the
 * heads that read one kv head), keys and values brought by the copy engine, products by wgmma. Two
 * warpgroups have 64 queries each: while one weighs, the other multiplies. */
#include "device/cuda/attention_mma.h"
#include "device/cuda/heads.h"
#include "device/cuda/linear.h"

enum { THREADS = 384, STAGES = 2, PRODUCER = 0, QUERIES = 64, RAW = 3,
       RAW_BARRIER = 4 };              /* and RAW more: named, of the producer */

template <int HALVES> struct alignas(1024) many_memory {
    unsigned char q[2][HALVES][QUERIES * 128];
    unsigned char k[STAGES][HALVES][BLOCK * 128], v[STAGES][HALVES][BLOCK * 128];
    uint64_t k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
};

/* Keys and values in bytes as they come, in turn, before the producer makes bf16 of them; the
 * scales of a stage's positions. */
struct alignas(1024) many_raw {
    unsigned char at[RAW][BLOCK * ROW_BYTES];
    float k_scale[STAGES][BLOCK], v_scale[STAGES][BLOCK];
    uint64_t full[RAW];
};

/* Rows of one sequence, and the blocks that they see. */
struct many_tile { int seq, kv_head, row, n_rows, first_pos, first, last, end; };

/* Sequences' tiles, counted up: above[s] are those before sequence s. */
__device__ static void count_tiles(int *above, const struct rows &rows, int each, int positions) {
    int sum = 0;
    for (int s = threadIdx.x % 32; s < (rows.n_seqs + 31) / 32 * 32; s += 32) {
        int n = s < rows.n_seqs ? rows.first[s + 1] - rows.first[s] : 0, total;
        n = n <= each ? 0 : (n + positions - 1) / positions;
        total = n;
        for (int k = 1; k < 32; k *= 2) {
            const int left = __shfl_up_sync(~0u, total, k);
            if (threadIdx.x % 32 >= k) total += left;
        }
        if (s < rows.n_seqs) above[s] = sum + total - n;
        sum += __shfl_sync(~0u, total, 31);
    }
    if (threadIdx.x % 32 == 0) above[rows.n_seqs] = sum;
}

/* Tiles with most blocks first, so that the last to end are short. */
__device__ static inline struct many_tile many_tile_at(const int *above, const struct rows &rows,
                                                       const struct attend &a, int positions,
                                                       int i) {
    const int tile = above[rows.n_seqs] - 1 - i / a.kv_heads;
    int low = 0, high = rows.n_seqs - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (above[middle] <= tile) low = middle;
        else high = middle - 1;
    }
    struct many_tile t = { low, i % a.kv_heads };
    const int skip = (tile - above[low]) * positions;
    t.row = rows.first[low] + skip;
    t.n_rows = MIN(positions, rows.first[low + 1] - t.row);
    t.first_pos = rows.pos[t.row];
    t.first = first_visible(a, t.first_pos) / BLOCK;
    t.last = (t.first_pos + t.n_rows - 1) / BLOCK;
    t.end = rows.pos[rows.first[low + 1] - 1] + 1;
    return t;
}

struct place { int at; unsigned phase; };

__device__ static inline void next(struct place &p) {
    if (++p.at < STAGES) return;
    p.at = 0;
    p.phase ^= 1;
}

/* A block's pages; one that is seen is read in place of those that are not there: its weights are
 * 0 there, or its values cleared. */
template <int HALVES>
__device__ static inline void fetch_block(unsigned char (*to)[BLOCK * 128], const CUtensorMap *map,
                                          uint64_t *full, uint64_t *empty, unsigned phase,
                                          const int *page, int pages, int row, int tokens) {
    barrier_wait(empty, phase);
    barrier_expect(full, BLOCK * 128 * HALVES);
    for (int i = 0; i < pages; i++)
        for (int h = 0; h < HALVES; h++)
            page_in(to[h] + i * tokens * 128, map, 64 * h, row, page[i], full);
}

enum { PAGES_OF_BLOCK = BLOCK / 8 };

template <int HALVES>
__device__ static inline void many_fetch(struct many_memory<HALVES> *m, const int *above,
                                         const struct rows &rows, const struct attend &a,
                                         const struct kv_maps &maps, int positions) {
    const int tiles = above[rows.n_seqs] * a.kv_heads, tokens = a.kv.page_tokens;
    const int pages = BLOCK / tokens;
    struct place p = { 0, 1 };
    for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
        const struct many_tile t = many_tile_at(above, rows, a, positions, i);
        const int last = (t.first_pos + t.n_rows - 1) / tokens;
        const int own = page_of(a.kv, t.seq, first_visible(a, t.first_pos) / tokens);
        for (int b = t.first; b <= t.last; b++, next(p)) {
            int page[PAGES_OF_BLOCK];
            for (int k = 0; k < pages; k++) {
                page[k] = b * pages + k <= last ? page_of(a.kv, t.seq, b * pages + k) : own;
                if (page[k] < 0) page[k] = own;
            }
            fetch_block<HALVES>(m->k[p.at], &maps.k, &m->k_full[p.at], &m->k_empty[p.at], p.phase,
                                page, pages, t.kv_head * tokens, tokens);
            fetch_block<HALVES>(m->v[p.at], &maps.v, &m->v_full[p.at], &m->v_empty[p.at], p.phase,
                                page, pages, t.kv_head * tokens, tokens);
        }
    }
}

/* ---- bytes: the producer's 128 threads make bf16 of them ---- */

/* What the producer's threads have of a tile: keys and values come one after the other, number i is
 * of block i / 2. own: a page that is seen, in place of those that are not there. */
struct raw_tile {
    struct many_tile t;
    int tokens, per, last, own, low;             /* per: pages of a block */
};

__device__ static inline struct raw_tile raw_tile_of(const struct many_tile &t,
                                                     const struct attend &a) {
    const int tokens = a.kv.page_tokens, low = first_visible(a, t.first_pos);
    return { t, tokens, BLOCK / tokens, (t.first_pos + t.n_rows - 1) / tokens,
             page_of(a.kv, t.seq, low / tokens), low };
}

/* Page number k of the block. */
__device__ static inline int raw_page(const struct raw_tile &r, const struct attend &a, int i,
                                      int k) {
    const int at = (r.t.first + i / 2) * r.per + k;
    const int page = k < r.per && at <= r.last ? page_of(a.kv, r.t.seq, at) : r.own;
    return page < 0 ? r.own : page;
}

/* By a warp; lane k has page number k, which was asked for long before the copy is. */
__device__ static inline void raw_fetch(struct many_raw *raw, const struct raw_tile &r,
                                        const struct kv_maps &maps, int i, int slot, int page) {
    const int lane = threadIdx.x % 32;
    if (lane == 0) barrier_expect(&raw->full[slot], BLOCK * ROW_BYTES);
    for (int k = 0; k < r.per; k++) {
        const int own = __shfl_sync(~0u, page, k);
        if (lane == 0)
            page_in(raw->at[slot] + k * r.tokens * ROW_BYTES, i % 2 ? &maps.v : &maps.k, 0,
                    r.t.kv_head * r.tokens, own, &raw->full[slot]);
    }
}

/* Eight numbers. */
template <enum dtype D>
__device__ static inline uint4 eight_wide(unsigned first, unsigned second) {
    return make_uint4(two_bytes<D>(first, 0), two_bytes<D>(first, 2), two_bytes<D>(second, 0),
                      two_bytes<D>(second, 2));
}

/* Rows to where page_in would have put them as bf16. A thread has 16 columns of every 16th or 32nd
 * row, whose units are exchanged alike. Those of a row's second half, which lie in the banks of the
 * first, are written the other way round. */
template <int HALVES, enum dtype D>
__device__ static inline void widen(unsigned char (*to)[BLOCK * 128], const unsigned char *from) {
    constexpr int UNITS = HALVES * 4;
    const int row = threadIdx.x / UNITS, unit = threadIdx.x % UNITS, second = unit / 4;
    const unsigned char *in = from + row * ROW_BYTES + ((unit ^ row) & 7) * 16;
    unsigned char *out = to[second] + row * 128;
    unsigned char *u = out + (((2 * unit + second) ^ row) & 7) * 16;
    unsigned char *v = out + (((2 * unit + 1 - second) ^ row) & 7) * 16;
#pragma unroll 2
    for (int r = 0; r < BLOCK; r += 128 / UNITS) {
        const uint4 x = *(const uint4 *)(in + r * ROW_BYTES);
        *(uint4 *)(u + r * 128) = eight_wide<D>(second ? x.z : x.x, second ? x.w : x.y);
        *(uint4 *)(v + r * 128) = eight_wide<D>(second ? x.x : x.z, second ? x.y : x.w);
    }
}

/* A thread's position in a block: which of its pages, and where there. */
struct own_place { int page, at; };

/* Its scale. Those of positions that nobody sees are 0: they may be anything in memory. */
__device__ static inline float scale_of(const struct attend &a, const struct raw_tile &r, int i,
                                        const struct own_place &own) {
    const int block = r.t.first + i / 2, pos = block * BLOCK + threadIdx.x;
    if (pos >= r.t.first_pos + r.t.n_rows || pos < r.low) return 0;
    char *page = page_at(a.kv, r.t.seq, block * r.per + own.page);
    return scales_of_page(a, page, r.t.kv_head, i % 2)[own.at];
}

/* The warps take turns at fetching, so that none is late each time by what that takes. The one
 * whose turn it is waits until all have read the slot; the others only say so. */
template <int HALVES, enum dtype D>
__device__ static inline void many_widen(struct many_memory<HALVES> *m, struct many_raw *raw,
                                         const int *above, const struct rows &rows,
                                         const struct attend &a, const struct kv_maps &maps,
                                         int positions) {
    const int tiles = above[rows.n_seqs] * a.kv_heads;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, tokens = a.kv.page_tokens;
    const struct own_place own = { (int)threadIdx.x / tokens, (int)threadIdx.x % tokens };
    struct place p = { 0, 1 };
    int slot = 0;
    unsigned phase = 0;
    for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
        const struct raw_tile r = raw_tile_of(many_tile_at(above, rows, a, positions, i), a);
        const int n = 2 * (r.t.last + 1 - r.t.first);
        named_sync(RAW_BARRIER + RAW, 128);      /* all slots have been read */
        for (int k = warp; k < MIN((int)RAW, n); k += 4)
            raw_fetch(raw, r, maps, k, (slot + k) % RAW, raw_page(r, a, k, lane));
        float scale = scale_of(a, r, 0, own);
        for (int k = 0; k < n; k++) {
            const bool value = k % 2, more = k + RAW < n, turn = more && k % 4 == warp;
            const float next_scale = k + 1 < n ? scale_of(a, r, k + 1, own) : 0;
            const int page = turn ? raw_page(r, a, k + RAW, lane) : 0;
            barrier_wait(value ? &m->v_empty[p.at] : &m->k_empty[p.at], p.phase);
            barrier_wait(&raw->full[slot], phase);
            (value ? raw->v_scale : raw->k_scale)[p.at][threadIdx.x] = scale;
            widen<HALVES, D>(value ? m->v[p.at] : m->k[p.at], raw->at[slot]);
            writes_are_shared();
            barrier_arrive(value ? &m->v_full[p.at] : &m->k_full[p.at]);
            if (turn) {
                named_sync(RAW_BARRIER + slot, 128);
                raw_fetch(raw, r, maps, k + RAW, slot, page);
            } else if (more) named_arrive(RAW_BARRIER + slot, 128);
            if (++slot == RAW) slot = 0, phase ^= 1;
            if (value) next(p);
            scale = next_scale;
        }
    }
}

/* ---- a warpgroup's 64 queries: number i is position i / group, head i % group ---- */

template <int HALVES>
__device__ static inline void take_queries(unsigned char (*to)[QUERIES * 128],
                                           const struct tensor &q, const struct many_tile &t,
                                           const struct attend &a, int skip) {
    const int group = a.heads / a.kv_heads, units = HALVES * 8;
    for (int i = threadIdx.x % 128; i < QUERIES * units; i += 128) {
        const int own = i / units, c = i % units * 8, row = skip + own / group;
        float v[8] = {};
        if (own < QUERIES / group * group && row < t.n_rows && c < a.k_dim) {
            const float *from = (const float *)q.at + (int64_t)(t.row + row) * q.stride[0] +
                                head_of(a, t.kv_head, own % group) * q.stride[1] + c;
            for (int k = 0; k < 8; k++) v[k] = from[k];
        }
        __nv_bfloat162 w[4];
        for (int k = 0; k < 4; k++) w[k] = __floats2bfloat162_rn(v[2 * k], v[2 * k + 1]);
        *(uint4 *)(to[c / 64] + own * 128 + ((c / 8 ^ own) & 7) * 16) = *(const uint4 *)w;
    }
}

/* What a lane knows of its two queries. */
struct query { int pos[2], low[2], end[2]; };

template <int N>
__device__ static inline void hide(float (&score)[N], const struct query &q, int begin) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < N / 4; n++)
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int at = begin + 8 * n + 2 * (lane % 4) + k % 2;
            if (at > q.pos[k / 2] || at < q.low[k / 2]) score[4 * n + k] = -INFINITY;
        }
}

/* A lane's two of every eight positions' scales. */
__device__ static inline float2 scales_of(const float *scale, int n) {
    return *(const float2 *)(scale + 8 * n + 2 * (threadIdx.x % 4));
}

__device__ static inline void scale_scores(float (&score)[BLOCK / 2], const float *scale) {
#pragma unroll
    for (int n = 0; n < BLOCK / 8; n++) {
        const float2 s = scales_of(scale, n);
#pragma unroll
        for (int k = 0; k < 4; k++) score[4 * n + k] *= k % 2 ? s.y : s.x;
    }
}

/* Scores become weights; what the block adds to the fold of each query. v_scale: of bytes. */
template <enum dtype D>
__device__ static inline void weigh(unsigned (&p)[BLOCK / 16][4], float (&score)[BLOCK / 2],
                                    float (&max)[2], float (&sum)[2], float (&before)[2],
                                    float (&now)[2], const struct attend &a, float factor,
                                    const float *v_scale) {
    float top[2] = { -INFINITY, -INFINITY }, part[2][4] = {};
#pragma unroll
    for (int i = 0; i < BLOCK / 2; i++) top[i % 4 / 2] = fmaxf(top[i % 4 / 2], score[i]);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        top[r] = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], 1));
        top[r] = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], 2)) * factor;
    }
#pragma unroll
    for (int n = 0; n < BLOCK / 8; n++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int i = 4 * n + 2 * r;
            const float u = power_of_2(fmaf(score[i], factor, -finite(top[r])));
            const float v = power_of_2(fmaf(score[i + 1], factor, -finite(top[r])));
            const float2 s = in_bytes(D) ? scales_of(v_scale, n) : make_float2(1, 1);
            const __nv_bfloat162 both = in_bytes(D) ? __floats2bfloat162_rn(u * s.x, v * s.y)
                                                    : __floats2bfloat162_rn(u, v);
            part[r][n / 4] = add_weights(part[r][n / 4], u, v);
            p[n / 2][n % 2 * 2 + r] = *(const unsigned *)&both;
        }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float s = part[r][0] + part[r][1] + part[r][2] + part[r][3];
        s += __shfl_xor_sync(~0u, s, 1);
        s += __shfl_xor_sync(~0u, s, 2);
        const struct fold f = fold_of(max[r], top[r]);
        max[r] = f.max;
        before[r] = f.before;
        now[r] = f.now;
        sum[r] = folded(f, sum[r], s);
    }
}

/* Values past the sequence's end may be anything: 0 times that need not be 0. Both warpgroups. */
template <int HALVES>
__device__ static inline void clear_values(unsigned char (*v)[BLOCK * 128], int from) {
    for (int i = threadIdx.x - 128 + from * 8; i < BLOCK * 8; i += 256)
        for (int h = 0; h < HALVES; h++) ((uint4 *)v[h])[i] = make_uint4(0, 0, 0, 0);
    writes_are_shared();
    named_sync(3, 256);
}

__device__ static inline struct query query_of(const struct many_tile &t, const struct attend &a,
                                               int skip) {
    const int group = a.heads / a.kv_heads, lane = threadIdx.x % 32;
    struct query q;
    for (int r = 0; r < 2; r++) {
        const int own = threadIdx.x / 32 % 4 * 16 + lane / 4 + 8 * r;
        q.pos[r] = t.first_pos + MIN(skip + own / group, t.n_rows - 1);
        q.low[r] = first_visible(a, q.pos[r]);
    }
    return q;
}

template <int HALVES>
__device__ static inline void put_values(struct tensor &y, __nv_bfloat16 *next,
                                         const struct many_tile &t, const struct attend &a,
                                         int skip, const float (&value)[HALVES * 32],
                                         const float (&max)[2], const float (&sum)[2]) {
    const int group = a.heads / a.kv_heads, lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int own = threadIdx.x / 32 % 4 * 16 + lane / 4 + 8 * r, row = skip + own / group;
        if (own >= QUERIES / group * group || row >= t.n_rows) continue;
        const int head = head_of(a, t.kv_head, own % group);
        struct fold f = { max[r], 1, 0 };
        float total = sum[r];
        if (a.sinks) f = fold_sink(a, head, max[r], &total);
        const float inverse = 1.0f / total;
        float *to = (float *)y.at + (int64_t)(t.row + row) * y.stride[0] + head * y.stride[1] +
                    2 * (lane % 4);
        __nv_bfloat16 *rounded = next + ((int64_t)(t.row + row) * a.heads + head) * a.v_dim +
                                 2 * (lane % 4);
#pragma unroll
        for (int n = 0; n < HALVES * 8; n++) {
            if (8 * n >= a.v_dim) continue;
            const float u = __fmul_rn(value[4 * n + 2 * r], f.before) * inverse;
            const float v = __fmul_rn(value[4 * n + 2 * r + 1], f.before) * inverse;
            *(float2 *)(to + 8 * n) = make_float2(u, v);
            if (next) *(__nv_bfloat162 *)(rounded + 8 * n) = __floats2bfloat162_rn(u, v);
        }
    }
}

template <int HALVES, enum dtype D>
__device__ static inline void one_block(struct many_memory<HALVES> *m, const struct many_raw *raw,
                                        const struct place &p,
                                        int group, float (&value)[HALVES * 32], float (&max)[2],
                                        float (&sum)[2], const struct query &q, int block, int end,
                                        const struct attend &a, float factor) {
    float score[BLOCK / 2], now[HALVES * 32], before_by[2], now_by[2];
    unsigned w[BLOCK / 16][4];
    barrier_wait(&m->k_full[p.at], p.phase);
    wgmma_begin();
#pragma unroll
    for (int s = 0; s < HALVES * 4; s++)
        wgmma(score, rows_of_64(m->q[group][s / 4]) + 2 * (s % 4),
              rows_of_64(m->k[p.at][s / 4]) + 2 * (s % 4), s > 0);
    wgmma_commit();
    wgmma_wait<0>();
    const int begin = block * BLOCK;
    if constexpr (in_bytes(D)) {
        scale_scores(score, raw->k_scale[p.at]);
        named_sync(1 + group, 128);
    }
    if (threadIdx.x % 128 == 0) barrier_arrive(&m->k_empty[p.at]);
    if (a.softcap != 0) {
#pragma unroll
        for (int i = 0; i < BLOCK / 2; i++) score[i] = capped(a, score[i]);
    }
    if (begin + BLOCK - 1 > MIN(q.pos[0], q.pos[1]) || begin < MAX(q.low[0], q.low[1]))
        hide(score, q, begin);
    if constexpr (in_bytes(D)) barrier_wait(&m->v_full[p.at], p.phase);
    weigh<D>(w, score, max, sum, before_by, now_by, a, factor, raw->v_scale[p.at]);
    barrier_wait(&m->v_full[p.at], p.phase);
    if (!in_bytes(D) && begin + BLOCK > end) clear_values<HALVES>(m->v[p.at], end - begin);
    wgmma_begin();
#pragma unroll
    for (int s = 0; s < BLOCK / 16; s++)
        wgmma_turned(now, w[s], rows_turned(m->v[p.at], BLOCK * 128) + 128 * s, s > 0);
    wgmma_commit();
    wgmma_wait<0>();
    if (in_bytes(D)) named_sync(1 + group, 128);      /* all have read the scales */
    if (threadIdx.x % 128 == 0) barrier_arrive(&m->v_empty[p.at]);
#pragma unroll
    for (int i = 0; i < HALVES * 32; i++) {
        const struct fold f = { 0, before_by[i % 4 / 2], now_by[i % 4 / 2] };
        value[i] = folded(f, value[i], now[i]);
    }
}

template <int HALVES, enum dtype D>
__device__ static inline void many_attend(struct many_memory<HALVES> *m,
                                          const struct many_raw *raw, struct tensor &y,
                                          __nv_bfloat16 *next_rows, const int *above,
                                          const struct rows &rows,
                                          const struct attend &a, const struct tensor &q,
                                          int positions) {
    const int tiles = above[rows.n_seqs] * a.kv_heads, group = threadIdx.x / 128 - 1;
    const int skip = group * positions / 2;
    const float factor = factor_of(a);
    struct place p = { 0, 0 };
    for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
        const struct many_tile t = many_tile_at(above, rows, a, positions, i);
        float value[HALVES * 32] = {}, max[2] = { -INFINITY, -INFINITY }, sum[2] = {};
        named_sync(1 + group, 128);      /* nobody reads the last tile's queries any more */
        take_queries<HALVES>(m->q[group], q, t, a, skip);
        writes_are_shared();
        named_sync(1 + group, 128);
        const struct query own = query_of(t, a, skip);
        for (int b = t.first; b <= t.last; b++, next(p))
            one_block<HALVES, D>(m, raw, p, group, value, max, sum, own, b, t.end, a, factor);
        put_values<HALVES>(y, next_rows, t, a, skip, value, max, sum);
    }
}

template <int HALVES, enum dtype D>
__device__ static inline void many_barriers(struct many_memory<HALVES> *m, struct many_raw *raw) {
    for (int i = 0; i < STAGES; i++) {
        barrier_init(&m->k_full[i], in_bytes(D) ? 128 : 1);
        barrier_init(&m->v_full[i], in_bytes(D) ? 128 : 1);
        barrier_init(&m->k_empty[i], 2);
        barrier_init(&m->v_empty[i], 2);
    }
    for (int i = 0; in_bytes(D) && i < RAW; i++) barrier_init(&raw->full[i], 1);
    barriers_are_set();
}

template <int HALVES, enum dtype D>
__global__ static void __launch_bounds__(THREADS, 1)
attend_many(struct tensor y, __nv_bfloat16 *next_rows, struct tensor q, struct attend a,
            struct rows rows, int each, int positions,
            const __grid_constant__ struct kv_maps maps) {
    extern __shared__ unsigned char memory[];
    struct many_memory<HALVES> *m =
        (struct many_memory<HALVES> *)(memory + (1024 - shared_at(memory) % 1024) % 1024);
    struct many_raw *raw = (struct many_raw *)(m + 1);
    int *above = in_bytes(D) ? (int *)(raw + 1) : (int *)raw;
    if (threadIdx.x < 32) count_tiles(above, rows, each, positions);
    if (threadIdx.x == 0) many_barriers<HALVES, D>(m, raw);
    __syncthreads();
    if (threadIdx.x / 128 == PRODUCER) {
        registers_less<40>();
        if constexpr (in_bytes(D)) many_widen<HALVES, D>(m, raw, above, rows, a, maps, positions);
        else if (threadIdx.x == 0) many_fetch<HALVES>(m, above, rows, a, maps, positions);
    } else {
        registers_more<232>();
        many_attend<HALVES, D>(m, raw, y, next_rows, above, rows, a, q, positions);
    }
}

template <int HALVES, enum dtype D>
static void start_many(struct cuda *c, const struct attention_job &j) {
    const int group = j.a.heads / j.a.kv_heads, positions = 2 * (QUERIES / group);
    const size_t raw = in_bytes(D) ? sizeof(struct many_raw) : 0;
    const size_t bytes = sizeof(struct many_memory<HALVES>) + raw + 1024 +
                         ((size_t)j.a.rows->n_seqs + 1) * sizeof(int);
    cudaFuncSetAttribute(attend_many<HALVES, D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         (int)bytes);
    const int tiles = (j.a.rows->n_rows / positions + j.a.rows->n_seqs) * j.a.kv_heads;
    attend_many<HALVES, D><<<(unsigned)MIN(tiles, c->processors), THREADS, bytes, c->stream>>>(
        j.y, j.next, j.q, j.a, *j.a.rows, j.each, positions, j.maps);
}

template <enum dtype D> static void by_width(struct cuda *c, const struct attention_job &j) {
    if (j.a.k_dim <= 64 && j.a.v_dim <= 64) start_many<1, D>(c, j);
    else start_many<2, D>(c, j);
}

void cuda_attention_many(struct cuda *c, const struct attention_job &j) {
    if (j.a.kv.dtype == I8) by_width<I8>(c, j);
    else if (j.a.kv.dtype == FP8) by_width<FP8>(c, j);
    else by_width<BF16>(c, j);
}

/* Alone or nearly: rows of decoding, and of drafts that are checked. */
enum { EACH = 4, SEQS_MAX = 2048 };

static bool takes(const struct cuda *c, const struct tensor *y, const struct tensor *q,
                  const struct attend *a) {
    const int tokens = a->kv.page_tokens, group = a->heads / a->kv_heads;
    const int unit = in_bytes(a->kv.dtype) ? 16 : 8;
    return c->hopper && c->rounded && a->kv.dtype != F32 && !a->v_in_k && a->k_dim <= 128 &&
           a->v_dim <= 128 && a->k_dim % unit == 0 && a->v_dim % unit == 0 && group <= QUERIES &&
           tokens % 8 == 0 && BLOCK % tokens == 0 && a->rows->n_seqs <= SEQS_MAX &&
           y->stride[0] % 2 == 0 && y->stride[1] % 2 == 0 && (uintptr_t)y->at % 8 == 0 &&
           (uintptr_t)q->at % 4 == 0;
}

bool cuda_attention_mma(struct device *dev, struct tensor *y, const struct tensor *q,
                        const struct attend *args) {
    struct cuda *c = cuda_of(dev);
    struct attention_job j = { *y, *q };
    j.a = *args;
    if (!takes(c, y, q, args) ||
        !kv_maps_of(&j.maps, *args, args->kv.page_tokens, cached_bytes(args->kv.dtype)))
        return false;
    j.a.sinks = (const float *)cuda_there(dev, args->sinks);
    j.blocks = (int)blocks_of((int64_t)args->kv.pages_max * args->kv.page_tokens, BLOCK);
    j.each = args->rows->n_rows == args->rows->n_seqs ? 1 : EACH;
    const int n = args->rows->n_rows, cols = args->heads * args->v_dim;
    const bool whole = y->stride[0] == cols && y->stride[1] == args->v_dim;
    bool left = false;
    const bool fits = cuda_one_can(c, j), one = fits && cuda_one_waits(c, *c->heads);
    if (!fits) cuda_settle(c);
    if (whole && n > FEW_ROWS) j.next = cuda_many_next(c, n, cols);
    else if (whole && n == args->rows->n_seqs && cols % 64 == 0 && cols <= CUDA_FEW_COLS)
        j.few = cuda_few_next(c);
    if (one) left = cuda_attention_one(c, j);
    else if (args->rows->n_seqs > 1 || n <= EACH) left = cuda_attention_few(c, j);
    if (n > args->rows->n_seqs && n > EACH) cuda_attention_many(c, j);
    cuda_check(dev);
    const struct cuda_few is = { (const float *)y->at, cols, n, cols };
    if (j.next) cuda_many_done(c, is);
    if (left) cuda_few_done(c, is);
    return true;
}
