/* attention_one.cu - attention of a row that is decoded alone, from what the products of q, k and v
 * left to the row that the next product reads, in one kernel: what the kernels of heads, of
 * attention and of the fold do one after the other costs more than the work itself. Bits are those
 * of dense.cu's heads and of attention_few.cu.
 *
 * A cluster has a kv head: its blocks of threads take blocks of positions in turn, send what they
 * have of each to the one that folds those columns, and that one folds them in order. In a block of
 * threads teams take blocks of positions in turn. A team has a ring of its own, for a wait names
 * only the parity of a phase: who does not see every phase of a slot takes one for another.
 *
 * Keys and values of before are asked for while the products still run: a step's first kernel waits
 * for all of the step before, so whoever comes after it may read what that one wrote. The new key
 * and value are put in place of what their page held. */
#include "device/cuda/attention_mma.h"
#include "device/cuda/heads.h"

enum { TEAM = 128, WARPS = TEAM / 32, FOLDERS = 64, HEADS = 8, CLUSTER = 8, SLOT = BLOCK / WARPS,
       SLOTS_MAX = 16, DIM_MAX = 128, ROWS_MOST = 1, AT_ONCE = 8, ALIGN = 1024,
       SHORT = CLUSTER,              /* blocks of a table: one for each block of threads */
       BESIDE = 111 << 10,           /* bytes: beside a block of the products before and after */
       ALONE = 225 << 10 };

/* What the threads of a team tell each other about a block of positions. */
struct one_words {
    __nv_bfloat16 weight[HEADS][BLOCK + 8];
    float max[2][WARPS][HEADS], sum[WARPS][HEADS][4];    /* max: of every other block */
};

/* Behind it: what is received, [blocks][own columns] of values and [blocks][group] of maximum and
 * sum, a barrier for each block, the pages of the own blocks; then a ring for each team that has
 * blocks, whose slots hold the keys that a warp multiplies, or as many values. */
template <int TEAMS> struct one_memory {
    __nv_bfloat16 q[HEADS][DIM_MAX + 8], fresh[2][DIM_MAX];      /* the new key, the new value */
    union {
        struct one_words team[TEAMS];
        float own[TEAMS * WARPS][HEADS_COLS];                    /* before any team begins */
    };
    float cosine[HEADS_COLS / 2], sine[HEADS_COLS / 2];
    uint64_t full[TEAMS][SLOTS_MAX], empty[TEAMS][SLOTS_MAX];
};

struct one_job {
    struct heads h;
    struct kv_maps maps;
    struct tensor y;
    char *few;                       /* the rows as fragments too; NULL */
    int bytes;                       /* of shared memory */
    int rings;                       /* teams that have blocks */
    bool whole;                      /* a box of the maps has all columns of a slot */
};

/* What a block of threads has: every CLUSTER-th block of positions, from first + rank on. */
template <int TEAMS> struct one {
    struct one_memory<TEAMS> *m;
    float2 *sums;
    float *values;
    uint64_t *received;
    int *pages;
    unsigned char *ring;
    int kv_head, group, rank, pos, first, last, own, slots;
    int pieces, each;                /* of eight columns of values: of all heads; of a block of
                                        threads */
};

__host__ __device__ static inline int pieces_each(const struct attend &a) {
    return (a.heads / a.kv_heads * (a.v_dim / 8) + CLUSTER - 1) / CLUSTER;
}

/* Bytes that a block of positions leaves with each block of threads. */
__host__ __device__ static inline int one_received(const struct attend &a) {
    return a.heads / a.kv_heads * (int)sizeof(float2) + pieces_each(a) * 8 * (int)sizeof(float) +
           (int)sizeof(uint64_t);
}

template <int TEAMS> __host__ __device__ static constexpr int words(void) {
    return (int)(sizeof(struct one_memory<TEAMS>) + 127) / 128 * 128;
}

template <int BOXES> struct slot { unsigned char box[BOXES][SLOT * ROW_BYTES]; };

template <int BOXES, int TEAMS>
__device__ static inline struct one<TEAMS> one_of(unsigned char *memory, const struct one_job &j,
                                                  int pos) {
    const struct attend &a = j.h.a;
    struct one<TEAMS> o = {};
    o.m = (struct one_memory<TEAMS> *)memory;
    o.kv_head = blockIdx.y;
    o.rank = blockIdx.x;
    o.group = a.heads / a.kv_heads;
    o.pos = pos;
    o.first = first_visible(a, pos) / BLOCK;
    o.last = pos / BLOCK;
    const int n = o.last + 1 - o.first;
    o.own = (n - o.rank + CLUSTER - 1) / CLUSTER;
    o.pieces = o.group * (a.v_dim / 8);
    o.each = pieces_each(a);
    o.values = (float *)(memory + words<TEAMS>());
    o.sums = (float2 *)(o.values + n * o.each * 8);
    o.received = (uint64_t *)(o.sums + n * o.group);
    o.pages = (int *)(o.received + n);
    unsigned char *end = (unsigned char *)(o.pages + o.own * (BLOCK / a.kv.page_tokens));
    o.ring = end + (ALIGN - shared_at(end) % ALIGN) % ALIGN;
    const int room = (int)(memory + j.bytes - o.ring) / (int)sizeof(struct slot<BOXES>);
    o.slots = MIN(room / j.rings, (int)SLOTS_MAX);
    return o;
}

/* The i-th of the own blocks: which of its positions are visible. */
struct seen { int block, begin, end; };

template <int TEAMS>
__device__ static inline struct seen seen_of(const struct one<TEAMS> &o, const struct attend &a,
                                             int i) {
    const int b = o.first + o.rank + CLUSTER * i;
    return { b, MAX(first_visible(a, o.pos), b * BLOCK), MIN(o.pos + 1, (b + 1) * BLOCK) };
}

/* A place of a team's ring, and the parity of the phase in which it is used. */
struct place { int at; unsigned phase; };

__device__ static inline struct place further(struct place p, int n, int slots) {
    p.at += n;
    if (p.at >= slots) p.at -= slots, p.phase ^= 1;
    return p;
}

/* ---- warps that fetch, one for each team ---- */

__device__ static inline bool elected(void) {
    int is = 0;
    HOPPER_ONLY(asm volatile("{ .reg .pred p; elect.sync _|p, 0xffffffff; selp.b32 %0, 1, 0, p; }"
                             : "=r"(is)));
    return is;
}

__device__ static inline void map_soon(const CUtensorMap *map) {
    HOPPER_ONLY(asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"));
}

/* Page number x of the team's, block after block, of the one sequence that there is. */
template <int TEAMS>
__device__ static inline int team_page(const struct attend &a, int first, int team, int x) {
    const int per = BLOCK / a.kv.page_tokens, i = team + TEAMS * (x / per);
    const int at = (first + (int)blockIdx.x + CLUSTER * i) * per + x % per;
    return at < a.kv.pages_max ? page_of(a.kv, 0, at) : -1;
}

/* A slot's pages that hold a visible position. */
template <int BOXES>
__device__ static inline void fetch_slot(struct slot<BOXES> *to, uint64_t *full,
                                         const struct one_job &j, const CUtensorMap *map,
                                         const int *page, int row, int begin, int end, int cols) {
    const int tokens = j.h.a.kv.page_tokens;
    if (j.whole) {
        const bool seen = begin < SLOT && end > 0;
        barrier_expect(full, seen ? SLOT * 2u * (unsigned)cols : 0);
        if (seen) whole_in(to->box[0], map, row, *page, full);
        return;
    }
    int count = 0;
    for (int p = 0; p < SLOT; p += tokens) count += begin < p + tokens && end > p;
    barrier_expect(full, (unsigned)(count * tokens * ROW_BYTES * BOXES));
    for (int p = 0; p < SLOT; p += tokens)
        for (int b = 0; b < BOXES && begin < p + tokens && end > p; b++)
            page_in(to->box[b] + p * ROW_BYTES, map, 64 * b, row, page[p / tokens], full);
}

template <int BOXES, int TEAMS>
__device__ static inline void one_fetch(const struct one<TEAMS> &o, const struct one_job &j,
                                        int team, int early) {
    const struct attend &a = j.h.a;
    const int tokens = a.kv.page_tokens, per = BLOCK / tokens, lane = threadIdx.x % 32;
    const int items = (o.own - team + TEAMS - 1) / TEAMS, row = o.kv_head * tokens;
    if (items <= 0) return;
    for (int x = lane; x < items * per; x += 32)
        o.pages[(team + x / per * TEAMS) * per + x % per] =
            x < 32 && early >= 0 ? early : team_page<TEAMS>(a, o.first, team, x);
    __syncwarp();
    if (!elected()) return;
    struct place p = { 0, 1 };
    writes_are_global();
    for (int i = team; i < o.own; i += TEAMS) {
        const struct seen s = seen_of(o, a, i);
        const int begin = s.begin - s.block * BLOCK, end = s.end - s.block * BLOCK;
#pragma unroll 1
        for (int k = 0; k < 2 * WARPS; k++, p = further(p, 1, o.slots)) {
            const int from = k % WARPS * SLOT;
            uint64_t *full = &o.m->full[team][p.at];
            barrier_wait(&o.m->empty[team][p.at], p.phase);
            fetch_slot<BOXES>((struct slot<BOXES> *)o.ring + team * o.slots + p.at, full, j,
                              k < WARPS ? &j.maps.k : &j.maps.v,
                              o.pages + i * per + from / tokens, row, begin - from, end - from,
                              k < WARPS ? a.k_dim : a.v_dim);
        }
    }
}

/* ---- warps that compute ---- */

/* A warp makes a head of the row ready: those of q that read the kv head; in the block of threads
 * that has the new position, its key and its value too. */
template <int TEAMS>
__device__ static inline void one_heads(const struct one<TEAMS> &o, const struct one_job &j,
                                        float freq) {
    constexpr int ALL = TEAMS * WARPS;
    const struct attend &a = j.h.a;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, half = (int)j.h.dims / 2;
    const bool news = (o.last - o.first) % CLUSTER == o.rank;
    const int all = o.group + (news ? 2 : 0), turn = threadIdx.x;
    if (turn < half) turn_of(&o.m->cosine[turn], &o.m->sine[turn], j.h.rope, &freq, o.pos, 0);
    named_sync(1, 32 * ALL);
    for (int i = warp; i < all; i += ALL) {
        const int which = i - o.group;           /* below 0: of q; 0: the key; 1: the value */
        const struct one_head h = head_at_row(j.h, 0, which < 0
                                              ? head_of(a, o.kv_head, i)
                                              : a.heads + which * a.kv_heads + o.kv_head);
        const struct kept g = warp_gain(h.gain, h.n, j.h.kind);
        char *to = which < 0 ? NULL : cached_at(j.h, 0, o.kv_head, which == 0);
        __nv_bfloat16 *kept = which < 0 ? o.m->q[i] : o.m->fresh[which];
        float *own = o.m->own[warp];
        after_previous();            /* all that products did not write was read before */
        warp_head(own, h, g, j.h, o.m->cosine, o.m->sine);
        for (int c = lane; c < HEADS_COLS; c += 32) {
            const __nv_bfloat16 v = __float2bfloat16_rn(c < h.n ? own[c] : 0);
            kept[c] = v;
            if (to && c < h.n) ((__nv_bfloat16 *)to)[c] = v;
        }
        __syncwarp();
    }
    after_previous();
    named_sync(1, 32 * ALL);
}

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

/* A warp's 32 positions: score[n][k], of position 8 n + lane / 4 and head 2 (lane % 4) + k. */
template <int BOXES>
__device__ static inline void one_scores(float score[4][2], const struct slot<BOXES> *keys,
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
        for (int n = 0; n < 8; n++) score[n / 2][n % 2] = capped(a, score[n / 2][n % 2]);
    const int at = s.block * BLOCK + warp * SLOT;
    if (s.begin <= at && s.end >= at + SLOT) return;
#pragma unroll
    for (int n = 0; n < 4; n++)
        if (at + n * 8 + lane / 4 < s.begin || at + n * 8 + lane / 4 >= s.end)
            score[n][0] = score[n][1] = -INFINITY;
}

/* The largest score of head i in a block, and the sum of its weights: what the four warps and the
 * four pairs have, in order. */
__device__ static inline float one_max(const float (*max)[HEADS], int i) {
    return fmaxf(fmaxf(max[0][i], max[1][i]), fmaxf(max[2][i], max[3][i]));
}

__device__ static inline float one_sum(const struct one_words *m, int i) {
    float part[4];
#pragma unroll
    for (int t = 0; t < 4; t++)
        part[t] = m->sum[0][i][t] + m->sum[1][i][t] + m->sum[2][i][t] + m->sum[3][i][t];
    return (part[0] + part[1]) + (part[2] + part[3]);
}

/* Scores become weights, when the team has met about the largest. */
__device__ static inline void one_weights(struct one_words *m, float (*max)[HEADS],
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
    for (int k = 0; k < 2; k++) x[k] = -finite(one_max(max, 2 * (lane % 4) + k) * factor);
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

/* Where eight columns of a head go: the place of the lane's two in the memory of who folds them,
 * and the barrier there, of the first block. to 0: nowhere. */
struct there { unsigned to, at; };

template <int TEAMS>
__device__ static inline struct there there_of(const struct one<TEAMS> &o, int v_dim, int eight) {
    const int piece = lanes_head() * (v_dim / 8) + eight;
    if (lanes_head() >= o.group || eight >= v_dim / 8) return {};
    const unsigned rank = (unsigned)(piece / o.each);
    return { at_rank(o.values + piece % o.each * 8 + 2 * lanes_pair(), rank),
             at_rank(o.received, rank) };
}

/* A warp has sixteen columns of every 64. */
template <int BOXES>
__device__ static inline void one_values(float (&sum)[BOXES][4],
                                         struct slot<BOXES> *const v[WARPS],
                                         const struct one_words *m) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % WARPS;
    struct eight_heads p[BLOCK / 16];
#pragma unroll
    for (int s = 0; s < BLOCK / 16; s++) p[s] = eight_of(m->weight[0], BLOCK + 8, 16 * s);
#pragma unroll
    for (int s = 0; s < BLOCK / 16; s++)
#pragma unroll
        for (int b = 0; b < BOXES; b++) {
            unsigned at[4];
            matrices_turned(at, unit_at(v[s / 2]->box[b],
                                        16 * (s % 2) + lane / 16 * 8 + lane % 8,
                                        2 * warp + lane / 8 % 2));
            mma(sum[b], at, p[s].at[0], p[s].at[1]);
        }
}

/* What a block's weights are the exponents of and their sum: to all. */
template <int TEAMS>
__device__ static inline void one_sums(const struct one<TEAMS> &o, const struct one_words *m,
                                       const float (*max)[HEADS], int block, float factor) {
    const int i = threadIdx.x % TEAM / CLUSTER;
    if (i >= o.group) return;
    const unsigned rank = threadIdx.x % CLUSTER;
    numbers_to(at_rank(&o.sums[block * o.group + i], rank), at_rank(&o.received[block], rank),
               make_float2(one_max(max, i) * factor, one_sum(m, i)));
}

template <int BOXES, int TEAMS>
__device__ static inline void one_blocks(const struct one<TEAMS> &o, const struct attend &a,
                                         const struct there (&to)[BOXES][2], int team) {
    const int warp = threadIdx.x / 32 % WARPS, lane = threadIdx.x % 32, news = o.pos % BLOCK;
    const float factor = factor_of(a);
    struct one_words *m = &o.m->team[team];
    struct slot<BOXES> *ring = (struct slot<BOXES> *)o.ring + team * o.slots;
    uint64_t *full = o.m->full[team], *empty = o.m->empty[team];
    struct eight_heads q[4 * BOXES];
    struct place at = {};
#pragma unroll
    for (int s = 0; s < 4 * BOXES; s++) q[s] = eight_of(o.m->q[0], DIM_MAX + 8, 16 * s);
#pragma unroll 1
    for (int i = team, turn = 0; i < o.own; i += TEAMS, turn ^= 1) {
        const struct seen s = seen_of(o, a, i);
        const bool fresh = s.block == o.last && news / SLOT == warp;
        float score[4][2], sum[BOXES][4] = {};
        const struct place own = further(at, warp, o.slots);
        barrier_wait(&full[own.at], own.phase);
        if (fresh) put_fresh<BOXES>(&ring[own.at], o.m->fresh[0], news, a.k_dim);
        __syncwarp();
        one_scores<BOXES>(score, &ring[own.at], q, s, a);
        __syncwarp();
        if (lane < WARPS) barrier_arrive(&empty[own.at]);
        one_weights(m, m->max[turn], score, team, factor);
        at = further(at, WARPS, o.slots);
        struct slot<BOXES> *v[WARPS];
#pragma unroll
        for (int k = 0; k < WARPS; k++) {
            const struct place p = further(at, k, o.slots);
            barrier_wait(&full[p.at], p.phase);
            v[k] = &ring[p.at];
        }
        if (s.end - s.begin < BLOCK)
#pragma unroll
            for (int k = 0; k < WARPS; k++) {
                const int from = s.block * BLOCK + k * SLOT;
                clear_unseen<BOXES>(v[k], s.begin - from, s.end - from);
            }
        if (fresh) put_fresh<BOXES>(&ring[further(at, warp, o.slots).at], o.m->fresh[1], news,
                                    a.v_dim);
        named_sync(2 + team, TEAM);
        one_values<BOXES>(sum, v, m);
        __syncwarp();
        if (lane < WARPS) barrier_arrive(&empty[further(at, lane, o.slots).at]);
        at = further(at, WARPS, o.slots);
#pragma unroll
        for (int k = 0; k < 2 * BOXES; k++) {
            const struct there &t = to[k / 2][k % 2];
            const unsigned block = s.block - o.first;
            const float2 pair = paired(sum[k / 2][k % 2 * 2], sum[k / 2][k % 2 * 2 + 1]);
            if (t.to)
                numbers_to(t.to + block * o.each * 32, t.at + block * (int)sizeof(uint64_t), pair);
        }
        one_sums(o, m, m->max[turn], s.block - o.first, factor);
    }
}

/* ---- warps that fold ---- */

/* A thread has a column of a head, or two. */
template <int TEAMS>
__device__ static inline void one_fold(const struct one<TEAMS> &o, const struct one_job &j,
                                       int own) {
    const struct attend &a = j.h.a;
    const int eights = a.v_dim / 8, begin = o.rank * o.each, n = o.last + 1 - o.first;
    const int cols = MIN(o.each, o.pieces - begin) * 8;
    const float *value = o.values + own;
    int head[2], col[2];
    const float2 *sums[2];
    float max[2] = { -INFINITY, -INFINITY }, sum[2] = {}, v[2] = {};
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const int at = own + k * FOLDERS, piece = begin + at / 8, i = piece / eights;
        head[k] = head_of(a, o.kv_head, i);
        col[k] = piece % eights * 8 + at % 8;
        sums[k] = o.sums + i;
    }
    for (int b = 0; b < n; b += AT_ONCE) {
#pragma unroll 1
        for (int u = b; u < MIN(b + AT_ONCE, n); u++) barrier_wait(&o.received[u], 0);
#pragma unroll
        for (int k = 0; k < 2; k++) {
            if (own + k * FOLDERS >= cols) break;
            float2 block[AT_ONCE];
            float now[AT_ONCE];
#pragma unroll
            for (int u = 0; u < AT_ONCE; u++) {
                const int at = MIN(b + u, n - 1);
                block[u] = sums[k][at * o.group];
                now[u] = value[at * o.each * 8 + k * FOLDERS];
            }
#pragma unroll
            for (int u = 0; u < AT_ONCE; u++) {
                if (b + u >= n) break;
                const struct fold f = fold_of(max[k], block[u].x);
                max[k] = f.max;
                sum[k] = folded(f, sum[k], block[u].y);
                v[k] = folded(f, v[k], now[u]);
            }
        }
    }
#pragma unroll
    for (int k = 0; k < 2; k++) {
        if (own + k * FOLDERS >= cols) break;
        struct fold f = { max[k], 1, 0 };
        if (a.sinks) f = fold_sink(a, head[k], max[k], &sum[k]);
        const float y = __fmul_rn(v[k], f.before) * (1.0f / sum[k]);
        ((float *)j.y.at)[head[k] * j.y.stride[1] + col[k]] = y;
        if (j.few) few_put(j.few, 0, head[k] * a.v_dim + col[k], a.heads * a.v_dim, y);
    }
}

/* Barriers of blocks, by those who wait for them. */
template <int TEAMS>
__device__ static inline void fold_begins(const struct one<TEAMS> &o, int own) {
    const int pieces = MAX(0, MIN(o.each, o.pieces - o.rank * o.each));
    const int n = o.last + 1 - o.first;
    for (int b = own; b < n; b += FOLDERS) barrier_init(&o.received[b], 1);
    barriers_are_set();
    for (int b = own; b < n; b += FOLDERS)
        barrier_expect(&o.received[b], (unsigned)(pieces * 32 + o.group * (int)sizeof(float2)));
    __syncwarp();
}

/* First the teams, then a warp for each of them that fetches, then those that fold. What does not
 * depend on the position is asked for before that is there. */
template <int TEAMS> __host__ __device__ static constexpr int one_threads(void) {
    return (TEAM + 32) * TEAMS + FOLDERS;
}

template <int BOXES, int TEAMS>
__global__ static void __cluster_dims__(CLUSTER, 1, 1)
__launch_bounds__(one_threads<TEAMS>(), TEAMS == 2 ? 2 : 1)
attend_one(const __grid_constant__ struct one_job j) {
    extern __shared__ __align__(128) unsigned char memory[];
    const struct attend &a = j.h.a;
    struct one_memory<TEAMS> *m = (struct one_memory<TEAMS> *)memory;
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), team = warp - TEAMS * WARPS;
    const int lane = threadIdx.x % 32, pos = j.h.rows.pos[0];
    if (team >= TEAMS) {
        const int own = threadIdx.x - (TEAM + 32) * TEAMS;
        const struct one<TEAMS> o = one_of<BOXES, TEAMS>(memory, j, pos);
        fold_begins(o, own);
        cluster_arrive_relaxed();
        after_previous();
        cluster_wait();
        one_fold(o, j, own);
    } else if (team >= 0) {
        int early = -1;
        map_soon(&j.maps.k);
        map_soon(&j.maps.v);
        if (!a.window && !a.chunk) early = team_page<TEAMS>(a, 0, team, lane);
        if (elected())
#pragma unroll 1
            for (int i = 0; i < SLOTS_MAX; i++) {
                barrier_init(&m->full[team][i], 1);
                barrier_init(&m->empty[team][i], WARPS);
            }
        barriers_are_set();
        __syncwarp();
        cluster_arrive_relaxed();
        one_fetch<BOXES>(one_of<BOXES, TEAMS>(memory, j, pos), j, team, early);
        __syncwarp();
        cluster_wait();
    } else {
        const int half = (int)j.h.dims / 2;
        struct there to[BOXES][2];
        float freq = 0;
        if ((int)threadIdx.x < half)
            freq = freq_of(j.h.rope, j.h.rows, half, 0)[threadIdx.x];
        let_next_begin();
        cluster_arrive_relaxed();
        const struct one<TEAMS> o = one_of<BOXES, TEAMS>(memory, j, pos);
#pragma unroll
        for (int i = 0; i < 2 * BOXES; i++)
            to[i / 2][i % 2] = there_of(o, a.v_dim, i / 2 * 8 + 2 * (warp % WARPS) + i % 2);
        one_heads(o, j, freq);
        cluster_wait();              /* all have their barriers */
        one_blocks<BOXES>(o, a, to, warp / WARPS);
    }
}

/* ---- a launch ---- */

static bool one_box(const struct attend &a) { return a.k_dim <= 64 && a.v_dim <= 64; }

static int table_blocks(const struct attend &a) {
    return (int)blocks_of((int64_t)a.kv.pages_max * a.kv.page_tokens, BLOCK);
}

/* Contexts for which a block of threads has one block of positions have little to fetch, and
 * products begin beside them; longer ones take all of a processor. */
static int teams_for(const struct attend &a) { return table_blocks(a) <= SHORT ? 2 : 3; }

static int rings_for(const struct attend &a) {
    return MIN(teams_for(a), (int)blocks_of(table_blocks(a), CLUSTER));
}

/* 0: too many. */
static int bytes_for(const struct attend &a) {
    const int blocks = table_blocks(a), teams = teams_for(a), rings = rings_for(a);
    const int each = (one_box(a) ? 1 : 2) * SLOT * ROW_BYTES;
    const int own = (int)blocks_of(blocks, CLUSTER);
    const int w = teams == 2 ? words<2>() : words<3>();
    const int fixed = w + (int)ALIGN + blocks * one_received(a) +
                      own * (BLOCK / a.kv.page_tokens) * (int)sizeof(int);
    const int slots = MIN(2 * WARPS * (int)blocks_of(own, rings), (int)SLOTS_MAX);
    const int most = blocks <= SHORT ? (int)BESIDE : (int)ALONE;
    const int least = rings * WARPS * each;
    return fixed + least > most ? 0 : MIN(most, fixed + MAX(least, rings * slots * each));
}

/* Where a box can have all columns of a slot: one copy instead of two. A second box of values that
 * are narrower than keys keeps what it had; one of keys would have to be zero. */
static bool whole_maps(struct kv_maps *to, const struct attend &a) {
    const int rows = a.kv_heads * a.kv.page_tokens;
    const char *values = (const char *)a.kv.pages + values_at(a, 2);
    struct kv_maps maps;
    if (a.kv.page_tokens != SLOT || a.k_dim % 64 != 0 || a.v_dim % 64 != 0 || a.k_dim < a.v_dim ||
        !cuda_page_map_whole(&maps.k, a.kv.pages, rows, a.k_dim, (int64_t)a.kv.page_bytes, SLOT) ||
        !cuda_page_map_whole(&maps.v, values, rows, a.v_dim, (int64_t)a.kv.page_bytes, SLOT))
        return false;
    *to = maps;
    return true;
}

bool cuda_one_waits(const struct cuda *c, const struct heads &h) {
    const struct attend &a = h.a;
    const int tokens = a.kv.page_tokens, n = h.rows.n_rows;
    return c->hopper && c->rounded && n <= ROWS_MOST && n == h.rows.n_seqs && !a.v_in_k &&
           a.kv.dtype == BF16 && a.heads <= HEADS * a.kv_heads && a.k_dim <= DIM_MAX &&
           a.v_dim <= DIM_MAX && a.k_dim % 8 == 0 && a.v_dim % 8 == 0 && tokens % 8 == 0 &&
           SLOT % tokens == 0 && h.q.shape[2] == a.k_dim && h.v.shape[2] == a.v_dim &&
           h.k.shape[2] == a.k_dim && h.q.shape[1] == a.heads && bytes_for(a) > 0;
}

bool cuda_one_can(const struct cuda *c, const struct attention_job &j) {
    if (!c->heads_wait) return false;
    const struct tensor &q = c->heads->q;
    const struct attend &a = c->heads->a;
    return q.at == j.q.at && q.stride[0] == j.q.stride[0] && q.stride[1] == j.q.stride[1] &&
           c->heads->rows.n_rows == j.a.rows->n_rows && c->heads->rows.pos == j.a.rows->pos &&
           a.kv.pages == j.a.kv.pages && a.kv.table == j.a.kv.table && a.heads == j.a.heads &&
           a.kv_heads == j.a.kv_heads;
}

template <int BOXES, int TEAMS>
static void start(struct cuda *c, const struct one_job &j) {
    cudaFuncSetAttribute(attend_one<BOXES, TEAMS>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         ALONE);
    cuda_start(c, attend_one<BOXES, TEAMS>, dim3(CLUSTER, (unsigned)j.h.a.kv_heads),
               one_threads<TEAMS>(), (size_t)j.bytes, j);
}

template <int BOXES>
static void by_teams(struct cuda *c, const struct one_job &j) {
    const int teams = teams_for(j.h.a);
    if (teams == 2) start<BOXES, 2>(c, j);
    else start<BOXES, 3>(c, j);
}

bool cuda_attention_one(struct cuda *c, const struct attention_job &attention) {
    struct one_job j = { *c->heads, attention.maps, attention.y, attention.few };
    const struct attend &a = attention.a;
    j.h.a = a;
    j.bytes = bytes_for(a);
    j.rings = rings_for(a);
    c->heads_wait = false;
    j.whole = whole_maps(&j.maps, a);
    if (one_box(a)) by_teams<1>(c, j);
    else by_teams<2>(c, j);
    return j.few != NULL;
}
