/* attention_one.cu - attention of a row or two that are decoded alone, from what the products of q,
 * k and v left to the row that the next product reads, in one kernel: what the kernels of heads, of
 * attention and of the fold do one after the other costs more than the work itself. Bits are those
 * of dense.cu's heads and of attention_few.cu.
 *
 * A cluster has a kv head of a row: its blocks of threads take blocks of positions in turn, send
 * what they have of each to the one that folds those columns, and that one folds them in order.
 * Keys and values of before are asked for while the products still run: a step's first kernel waits
 * for all of the step before, so whoever comes after it may read what that one wrote; and in a step
 * of single rows nobody reads what another row of it writes. The new key and value are put in place
 * of what their page held. */
#include "device/cuda/attention_mma.h"
#include "device/cuda/heads.h"

enum { TEAM = 128, TEAMS = 2, WORKERS = TEAM * TEAMS, WARPS = TEAM / 32, HEADS = 8, CLUSTER = 8,
       HALF = BLOCK / 2, SLOTS_MAX = 12, DIM_MAX = 128, ROWS_MOST = 1,
       BLOCKS_MOST = CLUSTER,        /* of a table: one for each block of threads */
       MOST_THREADS = 384,
       BESIDE = 111 << 10 };         /* bytes: beside a block of the products before and after */

/* What the threads of a team tell each other about a block of positions. */
struct one_words {
    __nv_bfloat16 weight[HEADS][BLOCK + 8];
    float max[WARPS][HEADS], sum[WARPS][HEADS][4];
};

/* Behind it: what is received, [blocks][group] of maximum and sum, [blocks][own columns] of values;
 * then the ring, whose slots hold keys, or values, of half a block. */
struct one_memory {
    __nv_bfloat16 q[HEADS][DIM_MAX + 8], fresh[2][DIM_MAX];      /* the new key, the new value */
    union {
        struct one_words team[TEAMS];
        float own[WORKERS / 32][HEADS_COLS];                     /* before any team begins */
    };
    float cosine[HEADS_COLS / 2], sine[HEADS_COLS / 2];
    uint64_t full[SLOTS_MAX], empty[SLOTS_MAX], received;
};

struct one_job {
    struct heads h;
    struct kv_maps maps;
    struct tensor y;
    char *few;                       /* the rows as fragments too; NULL */
    int bytes;                       /* of shared memory */
};

/* What a block of threads has: every CLUSTER-th block of positions, from first + rank on. */
struct one {
    struct one_memory *m;
    float2 *sums;
    float *values;
    unsigned char *ring;
    int64_t row;
    int kv_head, group, rank, pos, seq, visible, first, last, own, slots;
    int pieces, each;                /* of eight columns of values: of all heads; of a block of
                                        threads */
};

__host__ __device__ static inline int pieces_each(const struct attend &a) {
    return (a.heads / a.kv_heads * (a.v_dim / 8) + CLUSTER - 1) / CLUSTER;
}

/* Bytes that a block of positions leaves with each block of threads. */
__host__ __device__ static inline int one_received(const struct attend &a) {
    return a.heads / a.kv_heads * (int)sizeof(float2) + pieces_each(a) * 8 * (int)sizeof(float);
}

enum { WORDS = (sizeof(struct one_memory) + 127) / 128 * 128, ALIGN = 1024 };

template <int BOXES> struct slot { unsigned char box[BOXES][HALF * ROW_BYTES]; };

template <int BOXES>
__device__ static inline struct one one_of(unsigned char *memory, const struct one_job &j) {
    const struct attend &a = j.h.a;
    struct one o = {};
    o.m = (struct one_memory *)memory;
    o.row = blockIdx.z;
    o.kv_head = blockIdx.y;
    o.rank = blockIdx.x;
    o.group = a.heads / a.kv_heads;
    o.pos = j.h.rows.pos[o.row];
    o.seq = j.h.rows.seq[o.row];
    o.visible = first_visible(a, o.pos);
    o.first = o.visible / BLOCK;
    o.last = o.pos / BLOCK;
    const int n = o.last + 1 - o.first;
    o.own = (n - o.rank + CLUSTER - 1) / CLUSTER;
    o.pieces = o.group * (a.v_dim / 8);
    o.each = pieces_each(a);
    o.values = (float *)(memory + WORDS);
    o.sums = (float2 *)(o.values + n * o.each * 8);
    unsigned char *end = (unsigned char *)(o.sums + n * o.group);
    o.ring = end + (ALIGN - shared_at(end) % ALIGN) % ALIGN;
    const int room = (int)(memory + j.bytes - o.ring) / (int)sizeof(struct slot<BOXES>);
    o.slots = MIN(room, (int)SLOTS_MAX);
    return o;
}

/* The i-th of the own blocks: which of its positions are visible. */
struct seen { int block, begin, end; };

__device__ static inline struct seen seen_of(const struct one &o, int i) {
    const int b = o.first + o.rank + CLUSTER * i;
    return { b, MAX(o.visible, b * BLOCK), MIN(o.pos + 1, (b + 1) * BLOCK) };
}

/* Keys of a block and its values are two halves each. Keys are fetched before the values of the
 * block before, so that values come when their weights are about to be there: the number of a
 * block's first half of keys, or of values, among all. */
__device__ static inline int first_half(const struct one &o, int i, bool values) {
    if (values) return i + 1 < o.own ? 4 * i + 4 : 4 * o.own - 2;
    return i ? 4 * i - 2 : 0;
}

/* ---- a warp that fetches ---- */

/* The page of the lane's positions in the i-th own block; -1: nothing is visible in it. */
__device__ static inline int lanes_page(const struct one &o, const struct attend &a, int i) {
    const int tokens = a.kv.page_tokens, lane = threadIdx.x % 32;
    if (i >= o.own || lane >= BLOCK / tokens) return -1;
    const struct seen s = seen_of(o, i);
    const int at = s.block * (BLOCK / tokens) + lane;
    if ((at + 1) * tokens <= s.begin || at * tokens >= s.end) return -1;
    return page_of(a.kv, o.seq, at);
}

template <int BOXES>
__device__ static inline void fetch_half(const struct one &o, const struct one_job &j, int n,
                                         int page, int half, bool values) {
    const int tokens = j.h.a.kv.page_tokens, pages = HALF / tokens, lane = threadIdx.x % 32;
    const int at = n % o.slots;
    const bool mine = page >= 0 && lane / pages == half;
    const int count = __popc(__ballot_sync(~0u, mine));
    if (n >= o.slots) barrier_wait(&o.m->empty[at], (unsigned)(n / o.slots - 1) & 1);
    if (lane == 0)
        barrier_expect(&o.m->full[at], (unsigned)(count * tokens * ROW_BYTES * BOXES));
    __syncwarp();
    struct slot<BOXES> *to = (struct slot<BOXES> *)o.ring + at;
    for (int b = 0; b < BOXES && mine; b++)
        page_in(to->box[b] + lane % pages * tokens * ROW_BYTES,
                values ? &j.maps.v : &j.maps.k, 64 * b, o.kv_head * tokens, page,
                &o.m->full[at]);
}

template <int BOXES>
__device__ static inline void one_fetch(const struct one &o, const struct one_job &j) {
    int before = -1, page = lanes_page(o, j.h.a, 0), n = 0;
    writes_are_global();
    for (int i = 0; i <= o.own; i++) {
        const int next = lanes_page(o, j.h.a, i + 1);
        for (int half = 0; half < 2 && i < o.own; half++)
            fetch_half<BOXES>(o, j, n++, page, half, false);
        for (int half = 0; half < 2 && i > 0; half++)
            fetch_half<BOXES>(o, j, n++, before, half, true);
        before = page;
        page = next;
    }
}

/* ---- warps that compute ---- */

/* Where number n of the halves is, when it is there. */
template <int BOXES>
__device__ static inline struct slot<BOXES> *slot_of(const struct one &o, int n) {
    const int at = n % o.slots;
    barrier_wait(&o.m->full[at], (unsigned)(n / o.slots) & 1);
    return (struct slot<BOXES> *)o.ring + at;
}

/* By one thread: two halves are read no more. */
__device__ static inline void let_go(const struct one &o, int n) {
    barrier_arrive(&o.m->empty[n % o.slots]);
    barrier_arrive(&o.m->empty[(n + 1) % o.slots]);
}

/* What heads of the row a warp makes ready, and where their numbers go: those of q that read the kv
 * head; in the block of threads that has the new position, its key and its value too. */
__device__ static inline void one_heads(const struct one &o, const struct one_job &j) {
    const struct attend &a = j.h.a;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, half = (int)j.h.dims / 2;
    const bool news = (o.last - o.first) % CLUSTER == o.rank;
    const int all = o.group + (news ? 2 : 0);
    const auto head_at = [&](int i) {
        return head_at_row(j.h, o.row, i < o.group ? head_of(a, o.kv_head, i)
                                                   : a.heads + (i - o.group) * a.kv_heads +
                                                         o.kv_head);
    };
    struct one_head h = head_at(MIN(warp, all - 1));
    struct kept g = warp_gain(h.gain, h.n, j.h.kind);
    char *to[2] = {};
    if (news) {
        to[0] = cached_at(j.h, o.row, o.kv_head, true);
        to[1] = cached_at(j.h, o.row, o.kv_head, false);
    }
    for (int i = threadIdx.x; i < half; i += WORKERS)
        turn_of(&o.m->cosine[i], &o.m->sine[i], j.h.rope, freq_of(j.h.rope, j.h.rows, half, o.row),
                o.pos, i);
    named_sync(1, WORKERS);
    after_previous();
    for (int i = warp; i < all; i += WORKERS / 32) {
        float *own = o.m->own[warp];
        if (i != warp) {
            h = head_at(i);
            g = warp_gain(h.gain, h.n, j.h.kind);
        }
        warp_head(own, h, g, j.h, o.m->cosine, o.m->sine);
        const bool is_q = i < o.group;
        const int which = i - o.group;
        __nv_bfloat16 *kept = is_q ? o.m->q[i] : o.m->fresh[which];
        for (int c = lane; c < HEADS_COLS; c += 32) {
            const __nv_bfloat16 v = __float2bfloat16_rn(c < h.n ? own[c] : 0);
            kept[c] = v;
            if (!is_q && c < h.n) ((__nv_bfloat16 *)to[which])[c] = v;
        }
        __syncwarp();
    }
    named_sync(1, WORKERS);
}

/* The new row takes its place in a half. By a warp. */
template <int BOXES>
__device__ static inline void put_fresh(struct slot<BOXES> *half, const __nv_bfloat16 *row, int pos,
                                        int dims) {
    const int unit = threadIdx.x % 32;
    if (unit >= dims / 8) return;
    unsigned char *to = (unsigned char *)(uintptr_t)unit_at(half->box[unit / 8], pos % HALF, unit);
    *(uint4 *)to = *(const uint4 *)(row + 8 * unit);
}

/* Eight heads' rows of a product; the other eight are zeros. */
struct eight_heads { unsigned at[2]; };

__device__ static inline void mma_eight(float c[4], const struct eight_heads &h, unsigned b0,
                                        unsigned b1) {
    const unsigned a[4] = { h.at[0], 0, h.at[1], 0 };
    mma(c, a, b0, b1);
}

/* Sixteen columns of them, from rows in shared memory. */
__device__ static inline struct eight_heads eight_of(const __nv_bfloat16 *rows, int row_cols,
                                                     int col) {
    const int lane = threadIdx.x % 32;
    const __nv_bfloat16 *at = rows + lane / 4 * row_cols + col + 2 * (lane % 4);
    return { { *(const unsigned *)at, *(const unsigned *)(at + 8) } };
}

/* A warp's 32 positions, of head lane / 4. */
template <int BOXES>
__device__ static inline void one_scores(float score[4][2], const struct slot<BOXES> *keys,
                                         const struct eight_heads *q, const struct seen &s,
                                         const struct attend &a) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % WARPS;
#pragma unroll
    for (int n = 0; n < 4; n++) {
        float sum[4] = {};
        const int key = warp % 2 * 32 + n * 8 + lane % 8;
#pragma unroll
        for (int h = 0; h < BOXES; h++)
#pragma unroll
            for (int i = 0; i < 4; i += 2) {
                unsigned b[4];
                matrices(b, unit_at(keys->box[h], key, 2 * i + lane / 8));
                mma_eight(sum, q[4 * h + i], b[0], b[1]);
                mma_eight(sum, q[4 * h + i + 1], b[2], b[3]);
            }
        score[n][0] = sum[0];
        score[n][1] = sum[1];
    }
    if (a.softcap != 0) {            /* by itself, for all code between counts: see linear_few.h */
#pragma unroll
        for (int n = 0; n < 8; n++) score[n / 2][n % 2] = capped(a, score[n / 2][n % 2]);
    }
#pragma unroll
    for (int n = 0; n < 8; n++) {
        const int at = s.block * BLOCK + warp * 32 + n / 2 * 8 + 2 * (lane % 4) + n % 2;
        if (at < s.begin || at >= s.end) score[n / 2][n % 2] = -INFINITY;
    }
}

/* The largest score of head i in a block, and the sum of its weights: what the four warps and the
 * four lanes have, in order. */
__device__ static inline float one_max(const struct one_words *m, int i) {
    return fmaxf(fmaxf(m->max[0][i], m->max[1][i]), fmaxf(m->max[2][i], m->max[3][i]));
}

__device__ static inline float one_sum(const struct one_words *m, int i) {
    float part[4];
#pragma unroll
    for (int t = 0; t < 4; t++)
        part[t] = m->sum[0][i][t] + m->sum[1][i][t] + m->sum[2][i][t] + m->sum[3][i][t];
    return (part[0] + part[1]) + (part[2] + part[3]);
}

/* Scores become weights, when the team has met about the largest. */
__device__ static inline void one_weights(struct one_words *m, const float score[4][2], int team,
                                          float factor) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % WARPS, i = lane / 4;
    float x = -INFINITY, sum = 0;
#pragma unroll
    for (int n = 0; n < 4; n++) x = fmaxf(x, fmaxf(score[n][0], score[n][1]));
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 2));
    if (lane % 4 == 0) m->max[warp][i] = x;
    named_sync(2 + team, TEAM);
    const float max = one_max(m, i) * factor;
#pragma unroll
    for (int n = 0; n < 4; n++) {
        const float u = power_of_2(fmaf(score[n][0], factor, -finite(max)));
        const float v = power_of_2(fmaf(score[n][1], factor, -finite(max)));
        sum = add_weights(sum, u, v);
        *(__nv_bfloat162 *)&m->weight[i][warp * 32 + n * 8 + 2 * (lane % 4)] =
            __floats2bfloat162_rn(u, v);
    }
    m->sum[warp][i][lane % 4] = sum;
}

/* Values that are not visible may be anything, and 0 times that need not be 0. */
template <int BOXES>
__device__ static inline void clear_unseen(struct slot<BOXES> *const v[2], const struct seen &s) {
    const int begin = s.begin - s.block * BLOCK, end = s.end - s.block * BLOCK;
    if (begin == 0 && end == BLOCK) return;
    for (int i = threadIdx.x % TEAM; i < BLOCK * 8; i += TEAM)
        for (int b = 0; b < BOXES; b++)
            if (i / 8 < begin || i / 8 >= end)
                ((uint4 *)v[i / 8 / HALF]->box[b])[i % (HALF * 8)] = make_uint4(0, 0, 0, 0);
    writes_are_shared();
}

/* The weighted values go to who folds them, eight columns at a time. */
template <int BOXES>
__device__ static inline void one_values(const struct one &o, const struct slot<BOXES> *const v[2],
                                         const struct one_words *m, int block, int v_dim) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % WARPS, head = lane / 4;
    struct eight_heads p[BLOCK / 16];
#pragma unroll
    for (int s = 0; s < BLOCK / 16; s++) p[s] = eight_of(m->weight[0], BLOCK + 8, 16 * s);
    constexpr int OWN = 2 * BOXES;   /* eights of a warp, every fourth */
    float sum[OWN][4] = {};
#pragma unroll
    for (int s = 0; s < BLOCK / 16; s += 2)
#pragma unroll
        for (int k = 0; k < OWN; k++) {
            unsigned b[4];
            const int n = MIN(warp + WARPS * k, v_dim / 8 - 1);
            matrices_turned(b, unit_at(v[s / 4]->box[BOXES == 1 ? 0 : n / 8],
                                       16 * (s % 4) + lane, n % 8));
            mma_eight(sum[k], p[s], b[0], b[1]);
            mma_eight(sum[k], p[s + 1], b[2], b[3]);
        }
#pragma unroll
    for (int k = 0; k < OWN; k++) {
        const int n = warp + WARPS * k, piece = head * (v_dim / 8) + n;
        if (head >= o.group || n >= v_dim / 8) continue;
        numbers_to(o.values + ((block - o.first) * o.each + piece % o.each) * 8 + 2 * (lane % 4),
                   &o.m->received, (unsigned)(piece / o.each), sum[k][0], sum[k][1]);
    }
}

/* What a block's weights are the exponents of and their sum: to all. */
__device__ static inline void one_sums(const struct one &o, const struct one_words *m, int block,
                                       float factor) {
    const int i = threadIdx.x % TEAM / CLUSTER;
    if (i >= o.group) return;
    numbers_to(&o.sums[(block - o.first) * o.group + i].x, &o.m->received,
               threadIdx.x % CLUSTER, one_max(m, i) * factor, one_sum(m, i));
}

template <int BOXES>
__device__ static inline void one_blocks(const struct one &o, const struct attend &a, int team) {
    constexpr int STEPS = BOXES * 4;
    const int warp = threadIdx.x / 32 % WARPS, news = o.pos % BLOCK;
    const float factor = factor_of(a);
    struct one_words *m = &o.m->team[team];
    struct eight_heads q[STEPS];
#pragma unroll
    for (int s = 0; s < STEPS; s++) q[s] = eight_of(o.m->q[0], DIM_MAX + 8, 16 * s);
#pragma unroll 1
    for (int i = team; i < o.own; i += TEAMS) {
        const struct seen s = seen_of(o, i);
        const bool fresh = s.block == o.last && news / 32 == warp;
        float score[4][2];
        const int k_at = first_half(o, i, false), v_at = first_half(o, i, true);
        struct slot<BOXES> *keys = slot_of<BOXES>(o, k_at + warp / 2);
        if (fresh) put_fresh<BOXES>(keys, o.m->fresh[0], news, a.k_dim);
        __syncwarp();
        one_scores<BOXES>(score, keys, q, s, a);
        one_weights(m, score, team, factor);
        if (threadIdx.x % TEAM == 0) let_go(o, k_at);
        struct slot<BOXES> *v[2] = { slot_of<BOXES>(o, v_at), slot_of<BOXES>(o, v_at + 1) };
        clear_unseen<BOXES>(v, s);
        if (fresh) put_fresh<BOXES>(v[news / HALF], o.m->fresh[1], news, a.v_dim);
        named_sync(2 + team, TEAM);
        one_values<BOXES>(o, v, m, s.block, a.v_dim);
        one_sums(o, m, s.block, factor);
        if (i + 1 >= o.own) break;
        named_sync(2 + team, TEAM);
        if (threadIdx.x % TEAM == 0) let_go(o, v_at);
    }
}

/* A thread has a column of a head. */
__device__ static inline void one_fold(const struct one &o, const struct one_job &j) {
    const struct attend &a = j.h.a;
    const int own = threadIdx.x, piece = o.rank * o.each + own / 8, eights = a.v_dim / 8;
    if (own >= o.each * 8 || piece >= o.pieces) return;
    const int i = piece / eights, col = piece % eights * 8 + own % 8;
    const int head = head_of(a, o.kv_head, i);
    const float *value = o.values + own;
    const float2 *sums = o.sums + i;
    float max = -INFINITY, sum = 0, v = 0;
#pragma unroll 4
    for (int b = 0; b <= o.last - o.first; b++) {
        const float2 block = sums[b * o.group];
        const struct fold f = fold_of(max, block.x);
        max = f.max;
        sum = folded(f, sum, block.y);
        v = folded(f, v, value[b * o.each * 8]);
    }
    struct fold f = { max, 1, 0 };
    if (a.sinks) f = fold_sink(a, head, max, &sum);
    v = __fmul_rn(v, f.before) * (1.0f / sum);
    ((float *)j.y.at)[o.row * j.y.stride[0] + head * j.y.stride[1] + col] = v;
    if (j.few) few_put(j.few, o.row, head * a.v_dim + col, a.heads * a.v_dim, v);
}

/* The last warp fetches. Registers are as many as MOST_THREADS may have, so that a block finds room
 * beside sixteen warps of a product in each quarter of a processor, one of which has three warps of
 * this: else it begins only when the product has ended. */
template <int BOXES>
__global__ static void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(MOST_THREADS, 2)
attend_one(const __grid_constant__ struct one_job j) {
    extern __shared__ __align__(128) unsigned char memory[];
    const struct one o = one_of<BOXES>(memory, j);
    if (threadIdx.x == 0) {
        const int pieces = MAX(0, MIN(o.each, o.pieces - o.rank * o.each));
        for (int i = 0; i < SLOTS_MAX; i++) {
            barrier_init(&o.m->full[i], 1);
            barrier_init(&o.m->empty[i], 1);
        }
        barrier_init(&o.m->received, 1);
        barriers_are_set();
        barrier_expect(&o.m->received, (unsigned)((o.last + 1 - o.first) *
                                                  (pieces * 32 + o.group * (int)sizeof(float2))));
    }
    __syncthreads();
    cluster_arrive();
    let_next_begin();
    if (threadIdx.x >= WORKERS) {
        one_fetch<BOXES>(o, j);
        cluster_wait();
        return;
    }
    one_heads(o, j);
    cluster_wait();                  /* all have their barriers */
    one_blocks<BOXES>(o, j.h.a, threadIdx.x / TEAM);
    barrier_wait(&o.m->received, 0);
    one_fold(o, j);
}

/* ---- a launch ---- */

static int slot_bytes(const struct attend &a) {
    return (a.k_dim <= 64 && a.v_dim <= 64 ? 1 : 2) * HALF * ROW_BYTES;
}

/* As many bytes as lie beside a product's block, if a ring of four slots does. 0: too many. */
static int bytes_for(const struct attend &a) {
    const int blocks = (int)blocks_of((int64_t)a.kv.pages_max * a.kv.page_tokens, BLOCK);
    const int fixed = (int)WORDS + (int)ALIGN + blocks * one_received(a), each = slot_bytes(a);
    const int all = fixed + MIN(4 * (int)blocks_of(blocks, CLUSTER), (int)SLOTS_MAX) * each;
    if (blocks > BLOCKS_MOST) return 0;
    return all <= BESIDE ? all : fixed + 4 * each <= BESIDE ? (int)BESIDE : 0;
}

bool cuda_one_waits(const struct cuda *c, const struct heads &h) {
    const struct attend &a = h.a;
    const int tokens = a.kv.page_tokens, n = h.rows.n_rows;
    return c->hopper && c->rounded && n <= ROWS_MOST && n == h.rows.n_seqs && !a.v_in_k &&
           a.kv.dtype == BF16 && a.heads <= HEADS * a.kv_heads && a.k_dim <= DIM_MAX &&
           a.v_dim <= DIM_MAX && a.k_dim % 8 == 0 && a.v_dim % 8 == 0 && tokens % 8 == 0 &&
           HALF % tokens == 0 && h.q.shape[2] == a.k_dim && h.v.shape[2] == a.v_dim &&
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

template <int BOXES>
static void start(struct cuda *c, const struct one_job &j) {
    cudaFuncSetAttribute(attend_one<BOXES>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         BESIDE);
    cuda_start(c, attend_one<BOXES>,
               dim3(CLUSTER, (unsigned)j.h.a.kv_heads, (unsigned)j.h.rows.n_rows), WORKERS + 32,
               (size_t)j.bytes, j);
}

bool cuda_attention_one(struct cuda *c, const struct attention_job &a) {
    struct one_job j = { *c->heads, a.maps, a.y, a.few };
    j.h.a = a.a;
    j.bytes = bytes_for(a.a);
    c->heads_wait = false;
    if (slot_bytes(a.a) == HALF * ROW_BYTES) start<1>(c, j);
    else start<2>(c, j);
    return j.few != NULL;
}
