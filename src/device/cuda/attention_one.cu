/* attention_one.cu - attention of a row that is decoded alone, from what the products of q, k and v
 * left to the row that the next product reads, in one kernel: what the kernels of heads, of
 * attention and of the fold do one after the other costs more than the work itself. Bits are those
 * of heads.cu and of attention_few.cu.
 *
 * A cluster has a kv head: its blocks of threads take blocks of positions in turn, send what they
 * have of each to the one that folds those columns, and that one folds them in order. In a block of
 * threads teams take blocks of positions in turn. A team has a ring of its own, for a wait names
 * only the parity of a phase: who does not see every phase of a slot takes one for another.
 *
 * Keys and values of before are asked for while the products still run: a step's first kernel waits
 * for all of the step before, so whoever comes after it may read what that one wrote. The new key
 * and value are put in place of what their page held. */
#include "device/cuda/attention_eight.h"
#include "device/cuda/heads.h"

enum { FOLDERS = 64, CLUSTER = 8, SLOTS_MAX = 24, ROWS_MOST = 1, AT_ONCE = 8, ALIGN = 1024,
       BESIDE = 111 << 10,           /* bytes: beside a block of the products before and after */
       ALONE = 225 << 10 };

/* Behind it: what is received, [blocks][own columns] of values and [blocks][group] of maximum and
 * sum, a barrier for each block, the pages of the own blocks; then a ring for each team that has
 * blocks, whose slots hold the keys that a warp multiplies, or as many values. */
template <int TEAMS> struct one_memory {
    __nv_bfloat16 q[HEADS][DIM_MAX + 8];
    struct fresh fresh[2];           /* the new key, the new value */
    union {
        struct eight_words team[TEAMS];
        float own[TEAMS * WARPS][HEADS_COLS];                    /* before any team begins */
    };
    float cosine[HEADS_COLS / 2], sine[HEADS_COLS / 2];
    uint64_t full[TEAMS][SLOTS_MAX], empty[TEAMS][SLOTS_MAX];
};

struct one_job {
    struct heads h;
    struct eight_maps maps;
    struct tensor y;
    char *few;                       /* the rows as fragments too; NULL */
    int bytes;                       /* of shared memory */
    int rings;                       /* teams that have blocks */
};

/* What a block of threads has: every CLUSTER-th block of positions, from first + rank on. visible:
 * the first position that the row sees. */
template <int TEAMS> struct one {
    struct one_memory<TEAMS> *m;
    float2 *sums;
    float *values;
    uint64_t *received;
    int *pages;
    unsigned char *ring;
    int kv_head, group, rank, pos, visible, first, last, own, slots;
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

template <class F, int TEAMS>
__device__ static inline struct one<TEAMS> one_of(unsigned char *memory, const struct one_job &j,
                                                  int pos) {
    const struct attend &a = j.h.a;
    struct one<TEAMS> o = {};
    o.m = (struct one_memory<TEAMS> *)memory;
    o.kv_head = blockIdx.y;
    o.rank = blockIdx.x;
    o.group = a.heads / a.kv_heads;
    o.pos = pos;
    o.visible = first_visible(a, pos);
    o.first = o.visible / BLOCK;
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
    const int room = (int)(memory + j.bytes - o.ring) / slot_bytes<F>();
    o.slots = MIN(room / j.rings, (int)SLOTS_MAX);
    return o;
}

/* Scales lie behind all slots. */
template <class F, int TEAMS>
__device__ static inline struct ring<F> ring_of(const struct one<TEAMS> &o, int rings, int team) {
    struct slot<F> *slots = (struct slot<F> *)o.ring;
    struct scales *scales = (struct scales *)(slots + rings * o.slots);
    return { slots + team * o.slots, scales + team * o.slots, o.m->full[team], o.m->empty[team],
             o.slots };
}

/* The i-th of the own blocks. */
template <int TEAMS>
__device__ static inline struct seen own_block(const struct one<TEAMS> &o, int i) {
    return seen_of(o.first + o.rank + CLUSTER * i, o.visible, o.pos);
}

/* ---- warps that fetch, one for each team ---- */

/* Page number x of the team's, block after block, of the one sequence that there is. */
template <int TEAMS>
__device__ static inline int team_page(const struct attend &a, int first, int team, int x) {
    const int per = BLOCK / a.kv.page_tokens, i = team + TEAMS * (x / per);
    const int at = (first + (int)blockIdx.x + CLUSTER * i) * per + x % per;
    return at < a.kv.pages_max ? page_of(a.kv, 0, at) : -1;
}

/* It waits for the cluster before the first place that a team must give back. Only racecheck asks
 * for that so early: it lets nobody through before all of a cluster are there. */
template <class F, int TEAMS>
__device__ static inline void one_fetch(const struct one<TEAMS> &o, const struct one_job &j,
                                        int team, int early) {
    const struct attend &a = j.h.a;
    const int per = BLOCK / a.kv.page_tokens, lane = threadIdx.x % 32;
    const int items = (o.own - team + TEAMS - 1) / TEAMS;
    if (items <= 0) return cluster_wait();
    for (int x = lane; x < items * per; x += 32)
        o.pages[(team + x / per * TEAMS) * per + x % per] =
            x < 32 && early >= 0 ? early : team_page<TEAMS>(a, o.first, team, x);
    __syncwarp();
    struct place p = { 0, 1 };
    const struct ring<F> ring = ring_of<F>(o, j.rings, team);
    const uint64_t policy = read_once();
    int left = ring.slots;
    bool waited = false;
    writes_are_global();
    for (int i = team; i < o.own; i += TEAMS)
#pragma unroll 1
        for (int values = 0; values < 2; values++) {
            left -= WARPS;
            if (left < 0 && !waited) cluster_wait(), waited = true;
            fetch_half<F>(ring, p, j.maps, NULL, values, o.pages + i * per, o.kv_head,
                          own_block(o, i), a, policy);
        }
    if (!waited) cluster_wait();
}

/* ---- warps that compute ---- */

/* A warp makes a head of the row ready: those of q that read the kv head; in the block of threads
 * that has the new position, its key and its value too. */
template <class F, int TEAMS>
__device__ static inline void one_heads(const struct one<TEAMS> &o, const struct one_job &j,
                                        float freq) {
    constexpr int ALL = TEAMS * WARPS;
    const struct attend &a = j.h.a;
    const int warp = threadIdx.x / 32, half = (int)j.h.dims / 2;
    const bool news = (o.last - o.first) % CLUSTER == o.rank;
    const int all = o.group + (news ? 2 : 0), turn = threadIdx.x;
    if (turn < half) turn_of(&o.m->cosine[turn], &o.m->sine[turn], j.h.rope, &freq, o.pos, 0);
    named_sync(1, 32 * ALL);
    for (int i = warp; i < all; i += ALL) {
        const int which = i - o.group;           /* below 0: of q; 0: the key; 1: the value */
        const struct one_head h = head_of_block(j.h, a, 0, o.kv_head, 0, o.group, i);
        const struct kept g = warp_gain(h.gain, h.n, j.h.kind);
        struct place_of_head to = {};
        if (which >= 0) to = cached_at(a, j.h.rows, 0, o.kv_head, which == 0);
        float *own = o.m->own[warp], v[KEPT];
        after_previous();            /* all that products did not write was read before */
        warp_read(v, h);
        warp_head(own, v, h, g, j.h, o.m->cosine, o.m->sine);
        keep_news<F>(o.m->q, i, o.m->fresh, which, to, own, h.n);
    }
    after_previous();
    named_sync(1, 32 * ALL);
}

/* Where two columns of a head go: their place in the memory of who folds them, and the barrier
 * there, of the first block. to 0: nowhere. */
struct there { unsigned to, at; };

template <int TEAMS>
__device__ static inline struct there there_of(const struct one<TEAMS> &o, int v_dim, int head,
                                               int col) {
    const int piece = head * (v_dim / 8) + col / 8;
    if (head >= o.group || col >= v_dim) return {};
    const unsigned rank = (unsigned)(piece / o.each);
    return { at_rank(o.values + piece % o.each * 8 + col % 8, rank), at_rank(o.received, rank) };
}

/* What a block's weights are the exponents of and their sum: to all. */
template <int TEAMS>
__device__ static inline void one_sums(const struct one<TEAMS> &o, const struct eight_words *m,
                                       const float (*max)[HEADS], int block, float factor) {
    const int i = threadIdx.x % TEAM / CLUSTER;
    if (i >= o.group) return;
    const unsigned rank = threadIdx.x % CLUSTER;
    numbers_to(at_rank(&o.sums[block * o.group + i], rank), at_rank(&o.received[block], rank),
               make_float2(eight_max(max, i) * factor, eight_sum(m, i)));
}

template <class F, int TEAMS>
__device__ static inline void one_blocks(const struct one<TEAMS> &o, const struct one_job &j,
                                         const struct there (&to)[F::PARTS][2], int team) {
    const struct attend &a = j.h.a;
    struct eight_words *m = &o.m->team[team];
    struct eight<F> e = { m, ring_of<F>(o, j.rings, team), o.m->fresh, team, o.pos, factor_of(a) };
    eight_query(e, o.m->q);
#pragma unroll 1
    for (int i = team, turn = 0; i < o.own; i += TEAMS, turn ^= 1) {
        const struct seen s = own_block(o, i);
        float sum[F::PARTS][4] = {};
        eight_block<F>(sum, e, s, m->max[turn], a);
#pragma unroll
        for (int k = 0; k < 2 * F::PARTS; k++) {
            const struct there &t = to[k / 2][k % 2];
            const unsigned block = s.block - o.first;
            const float2 pair = two_of<F>(sum[k / 2], k % 2);
            if (t.to)
                numbers_to(t.to + block * o.each * 32, t.at + block * (int)sizeof(uint64_t), pair);
        }
        one_sums(o, m, m->max[turn], s.block - o.first, e.factor);
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

/* Barriers of blocks, by a thread of each of the warps that wait for them. */
template <int TEAMS>
__device__ static inline void fold_begins(const struct one<TEAMS> &o, int own) {
    const int pieces = MAX(0, MIN(o.each, o.pieces - o.rank * o.each));
    const int n = o.last + 1 - o.first;
    const unsigned bytes = (unsigned)(pieces * 32 + o.group * (int)sizeof(float2));
    if (elected())
#pragma unroll 1
        for (int b = own / 32; b < n; b += FOLDERS / 32) {
            barrier_init(&o.received[b], 1);
            barrier_expect(&o.received[b], bytes);
        }
    barriers_are_set();
    __syncwarp();
}

/* First the teams, then a warp for each of them that fetches, then those that fold. What does not
 * depend on the position is asked for before that is there. */
template <int TEAMS> __host__ __device__ static constexpr int one_threads(void) {
    return (TEAM + 32) * TEAMS + FOLDERS;
}

template <class F, int TEAMS>
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
        const struct one<TEAMS> o = one_of<F, TEAMS>(memory, j, pos);
        fold_begins(o, own);
        cluster_arrive_relaxed();
        after_previous();
        cluster_wait();
        one_fold(o, j, own);
    } else if (team >= 0) {
        int early = -1;
        maps_soon(j.maps);
        if (!a.window && !a.chunk) early = team_page<TEAMS>(a, 0, team, lane);
        if (lane < SLOTS_MAX) {
            barrier_init(&m->full[team][lane], 1);
            barrier_init(&m->empty[team][lane], WARPS);
        }
        barriers_are_set();
        __syncwarp();
        cluster_arrive_relaxed();
        one_fetch<F>(one_of<F, TEAMS>(memory, j, pos), j, team, early);
    } else {
        const int half = (int)j.h.dims / 2;
        struct there to[F::PARTS][2];
        float freq = 0;
        if ((int)threadIdx.x < half)
            freq = freq_of(j.h.rope, j.h.rows, half, 0)[threadIdx.x];
        let_next_begin();
        cluster_arrive_relaxed();
        const struct one<TEAMS> o = one_of<F, TEAMS>(memory, j, pos);
#pragma unroll
        for (int i = 0; i < 2 * F::PARTS; i++) {
            const struct lanes_two two = lanes_two_of<F>(i % 2);
            to[i / 2][i % 2] = there_of(o, a.v_dim, two.head, i / 2 * 64 + two.col);
        }
        one_heads<F>(o, j, freq);
        cluster_wait();              /* all have their barriers */
        one_blocks<F>(o, j, to, warp / WARPS);
    }
}

/* ---- a launch ---- */

static int table_blocks(const struct attend &a) {
    return (int)blocks_of((int64_t)a.kv.pages_max * a.kv.page_tokens, BLOCK);
}

/* How a table is attended: by two teams in so much memory that products have room, which then begin
 * beside them, or, where that is too little, by three which have a processor's. bytes 0: there is
 * no way. */
struct plan { int teams, rings, bytes; };

/* As many bytes whatever the dtype, so that as few blocks fit on a processor. */
static struct plan plan_of(const struct attend &a, int teams, int most) {
    const int blocks = table_blocks(a), own = (int)blocks_of(blocks, CLUSTER);
    const int rings = MIN(teams, own);
    const int scales = in_bytes(a.kv.dtype) ? (int)sizeof(struct scales) : 0;
    const int each = (eight_one_part(a) ? 1 : 2) * SLOT * ROW_BYTES + scales;
    const int slots = MIN(2 * WARPS * (int)blocks_of(own, rings), (int)SLOTS_MAX);
    const int fixed = (teams == 2 ? words<2>() : words<3>()) + (int)ALIGN +
                      blocks * one_received(a) +
                      own * (BLOCK / a.kv.page_tokens) * (int)sizeof(int);
    int least = 0;
    eight_form(a, [&](auto form) { least = rings * WARPS * slot_bytes<decltype(form)>(); });
    if (fixed + least > most) return { teams, rings, 0 };
    return { teams, rings, MIN(most, fixed + MAX(least, rings * slots * each)) };
}

static struct plan plan_for(const struct attend &a) {
    const struct plan beside = plan_of(a, 2, BESIDE);
    return beside.bytes ? beside : plan_of(a, 3, ALONE);
}

bool cuda_one_waits(const struct cuda *c, const struct heads &h) {
    const struct attend &a = h.a;
    const int n = h.rows.n_rows;
    return c->hopper && c->rounded && n <= ROWS_MOST && n == h.rows.n_seqs && eight_can(a) &&
           a.heads <= HEADS * a.kv_heads && heads_as_attended(h) && plan_for(a).bytes > 0;
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

template <class F, int TEAMS>
static void start(struct cuda *c, const struct one_job &j) {
    cudaFuncSetAttribute(attend_one<F, TEAMS>, cudaFuncAttributeMaxDynamicSharedMemorySize, ALONE);
    cuda_start(c, attend_one<F, TEAMS>, dim3(CLUSTER, (unsigned)j.h.a.kv_heads),
               one_threads<TEAMS>(), (size_t)j.bytes, j);
}

bool cuda_attention_one(struct cuda *c, const struct attention_job &attention) {
    const struct attend &a = attention.a;
    struct one_job j = { *c->heads, eight_maps_of(a, attention.maps), attention.y, attention.few };
    const struct plan plan = plan_for(a);
    j.h.a = a;
    j.bytes = plan.bytes;
    j.rings = plan.rings;
    c->heads_wait = false;
    eight_form(a, [&](auto form) {
        if (plan.teams == 2) start<decltype(form), 2>(c, j);
        else start<decltype(form), 3>(c, j);
    });
    return j.few != NULL;
}
