/* attention_rows.cu - attention of many rows that stand alone: a step of decoding many sequences. A
 * block of threads has a row, up to eight heads and their kv head, takes its blocks of positions in
 * turn and folds them as it goes; a warp beside the team fetches. It makes its heads ready before,
 * where they wait for it. Bits are those of heads.cu and of attention_few.cu.
 *
 * The memory is what such a step waits for, and a team waits for it, or for its own instructions,
 * most of the time: so rings are short, and four blocks are on a processor at a time. Where there
 * are fewer of them than that, rings are longer. */
#include "device/cuda/attention_eight.h"
#include "device/cuda/heads.h"
#include <limits.h>

enum { THREADS = TEAM + 32, BLOCKS = 4, SLOTS_MAX = 24, PAGES = BLOCK / 8, POSITIONS_MAX = 16384,
       PROCESSOR = 228 << 10,        /* bytes that blocks share */
       RESERVED = 1 << 10 };         /* what each takes beside its own */

/* Behind the ring. */
struct rows_words {
    __nv_bfloat16 q[HEADS][DIM_MAX + 8];
    struct fresh fresh[2];           /* the new key, the new value */
    union {
        struct eight_words team;
        float own[WARPS][HEADS_COLS];            /* before the team begins */
    };
    float cosine[HEADS_COLS / 2], sine[HEADS_COLS / 2], inverse[HEADS];
    int pages[PAGES];
    uint64_t full[SLOTS_MAX], empty[SLOTS_MAX];
};

struct rows_job {
    struct tensor y, q;
    __nv_bfloat16 *next;             /* the rows rounded, too; NULL */
    struct attend a;
    struct rows rows;
    int each;                        /* rows of a sequence, at most: few_row */
    int slots;
    struct heads h;
    struct eight_maps maps;
    struct kv_maps eights;           /* of eight rows, where maps are whole */
};

/* What a block works on: a row, and heads first_head to first_head + heads - 1 of those that read
 * the kv head. */
struct rows_part {
    int64_t row;
    int seq, pos, visible, kv_head, first_head, heads;
};

__host__ __device__ static inline int chunks_of(const struct attend &a) {
    return (a.heads / a.kv_heads + HEADS - 1) / HEADS;
}

__device__ static inline struct rows_part part_of(const struct rows_job &j, int64_t row) {
    const int chunks = chunks_of(j.a), group = j.a.heads / j.a.kv_heads;
    struct rows_part p = { row, j.rows.seq[row], j.rows.pos[row] };
    p.visible = first_visible(j.a, p.pos);
    p.kv_head = blockIdx.x / chunks;
    p.first_head = blockIdx.x % chunks * HEADS;
    p.heads = MIN((int)HEADS, group - p.first_head);
    return p;
}

/* ---- the warp that fetches ---- */

/* fresh: the first position of the sequence that this batch wrote, and that is not put in place by
 * the block itself. What is older is asked for while the kernels before still run. */
template <class F>
__device__ static inline void rows_fetch(const struct ring<F> &ring, struct rows_words *m,
                                         const struct rows_job &j, const struct rows_part &r,
                                         int fresh) {
    const int per = BLOCK / j.a.kv.page_tokens, lane = threadIdx.x % 32, last = r.pos / BLOCK;
    const int *table = j.a.kv.table + (int64_t)r.seq * j.a.kv.pages_max;
    const uint64_t policy = read_once();
    bool waits = true;
    struct place p = { 0, 1 };
    int first = r.visible / BLOCK, at = first * per + lane;
    int page = lane < per && at < j.a.kv.pages_max ? table[at] : -1;
    writes_are_global();
    for (int b = first; b <= last; b++) {
        const struct seen s = seen_of(b, r.visible, r.pos);
        if (lane < per) m->pages[lane] = page;
        at += per;
        if (lane < per && at < j.a.kv.pages_max) page = table[at];
        if (waits && s.end > fresh) {
            after_previous();
            writes_are_global();
            waits = false;
        }
        __syncwarp();
#pragma unroll 1
        for (int values = 0; values < 2; values++)
            fetch_half<F>(ring, p, j.maps, &j.eights, values, m->pages, r.kv_head, s, j.a, policy);
    }
}

/* ---- the team ---- */

static __device__ inline void meet(void) { named_sync(2, TEAM); }

/* What a warp has of a head before it makes it ready: all from memory. */
struct part_head { struct one_head o; struct kept gain; float v[KEPT]; };

__device__ static inline void part_gain(struct part_head &p, const struct rows_job &j,
                                        const struct rows_part &r, int i) {
    if (i >= r.heads + 2) return;
    p.o = head_of_block(j.h, j.a, r.row, r.kv_head, r.first_head, r.heads, i);
    p.gain = warp_gain(p.o.gain, p.o.n, j.h.kind);
}

/* They are made ready as heads.cu does it. The memory answers late while others read it, and code
 * that is run once is waited for as well: a warp asks for its next head before it makes one ready,
 * and all of them by the same few instructions. */
template <class F>
__device__ static inline void rows_heads(struct rows_words *m, const struct rows_job &j,
                                         const struct rows_part &r) {
    const struct heads &h = j.h;
    const int warp = threadIdx.x / 32, half = (int)h.dims / 2, turn = threadIdx.x;
    const int page = page_of(j.a.kv, r.seq, r.pos / j.a.kv.page_tokens);
    struct part_head own, next;
    float freq = 0;
    if (turn < half) freq = freq_of(h.rope, h.rows, half, r.row)[turn];
    part_gain(own, j, r, warp);
    if (turn < half) turn_of(&m->cosine[turn], &m->sine[turn], h.rope, &freq, r.pos, 0);
    after_previous();
    let_next_begin();
    if (warp < r.heads + 2) warp_read(own.v, own.o);
    meet();
#pragma unroll 1
    for (int i = warp; i < r.heads + 2; i += WARPS, own = next) {
        const int which = i - r.heads;
        struct place_of_head cached = {};
        part_gain(next, j, r, i + WARPS);
        if (i + WARPS < r.heads + 2) warp_read(next.v, next.o);
        if (which >= 0 && r.first_head == 0)
            cached = head_in_page(h.a, page, r.pos, r.kv_head, which == 0);
        warp_head(m->own[warp], own.v, own.o, own.gain, h, m->cosine, m->sine);
        keep_news<F>(m->q, i, m->fresh, which, cached, m->own[warp], own.o.n);
    }
    meet();
}

/* Heads that are ready: rounded. */
__device__ static inline void rows_query(struct rows_words *m, const struct rows_job &j,
                                         const struct rows_part &r) {
    after_previous();
    let_next_begin();
    for (int i = threadIdx.x; i < r.heads * DIM_MAX; i += TEAM) {
        const int head = head_of(j.a, r.kv_head, r.first_head + i / DIM_MAX), c = i % DIM_MAX;
        const float *from = (const float *)j.q.at + r.row * j.q.stride[0] + head * j.q.stride[1];
        m->q[i / DIM_MAX][c] = __float2bfloat16_rn(c < j.a.k_dim ? from[c] : 0);
    }
    meet();
}

/* A lane's columns of two heads, as eight_block has them, and the largest exponents of those; a
 * thread's own head's largest one, and sum. */
template <int PARTS> struct rows_sums {
    float value[PARTS][4], max[2], own_max, own_sum;
};

template <int PARTS>
__device__ static inline void rows_fold(struct rows_sums<PARTS> &sums,
                                        const float (&now)[PARTS][4], const struct eight_words *m,
                                        const float (*max)[HEADS], int heads, float factor) {
    const int lane = threadIdx.x % 32, own = threadIdx.x;
    struct fold f[2];
#pragma unroll
    for (int k = 0; k < 2; k++) {
        f[k] = fold_of(sums.max[k], eight_max(max, 2 * (lane % 4) + k) * factor);
        sums.max[k] = f[k].max;
    }
#pragma unroll
    for (int b = 0; b < PARTS; b++)
#pragma unroll
        for (int c = 0; c < 4; c++)
            sums.value[b][c] = folded(f[c % 2], sums.value[b][c], now[b][c]);
    if (own >= heads) return;
    const struct fold g = fold_of(sums.own_max, eight_max(max, own) * factor);
    sums.own_max = g.max;
    sums.own_sum = folded(g, sums.own_sum, eight_sum(m, own));
}

/* The rows, as numbers and rounded. */
template <class F>
__device__ static inline void rows_put(const struct rows_job &j, const struct rows_part &r,
                                       const struct rows_sums<F::PARTS> &sums,
                                       const float *inverse) {
    const struct attend &a = j.a;
    struct fold f;
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const struct lanes_two two = lanes_two_of<F>(k);
        const int i = two.head, head = head_of(a, r.kv_head, r.first_head + i);
        if (k == 0 || F::BYTES) {       /* else of the same head */
            f = { i % 2 ? sums.max[1] : sums.max[0], 1, 0 };
            float total = 0;
            if (a.sinks && i < r.heads) f = fold_sink(a, head, f.max, &total);
        }
#pragma unroll
        for (int b = 0; b < F::PARTS; b++) {
            const float2 both = two_of<F>(sums.value[b], k);
            const int c = 64 * b + two.col;
            if (i >= r.heads || c >= a.v_dim) continue;
            const float2 y = make_float2(__fmul_rn(both.x, f.before) * inverse[i],
                                         __fmul_rn(both.y, f.before) * inverse[i]);
            *(float2 *)((float *)j.y.at + r.row * j.y.stride[0] + head * j.y.stride[1] + c) = y;
            if (j.next)
                *(__nv_bfloat162 *)(j.next + (r.row * a.heads + head) * a.v_dim + c) =
                    __floats2bfloat162_rn(y.x, y.y);
        }
    }
}

/* NEWS: heads are not ready yet. Then nothing waits for the kernels before but they: a step's first
 * kernel waited for all of the step before, and nobody reads what another row of it writes. */
template <class F, bool NEWS>
__device__ static inline void rows_attend(const struct ring<F> &ring, struct rows_words *m,
                                          const struct rows_job &j, const struct rows_part &r) {
    struct eight<F> e = { &m->team, ring, m->fresh, 0, NEWS ? r.pos : INT_MAX, factor_of(j.a) };
    struct rows_sums<F::PARTS> sums = { {}, { -INFINITY, -INFINITY }, -INFINITY, 0 };
    if constexpr (NEWS) rows_heads<F>(m, j, r);
    else rows_query(m, j, r);
    eight_query(e, m->q);
    int turn = 0;
#pragma unroll 1
    for (int b = r.visible / BLOCK; b <= r.pos / BLOCK; b++, turn ^= 1) {
        float now[F::PARTS][4] = {};
        eight_block<F>(now, e, seen_of(b, r.visible, r.pos), m->team.max[turn], j.a);
        rows_fold(sums, now, &m->team, m->team.max[turn], r.heads, e.factor);
    }
    if (threadIdx.x < r.heads) {
        const int head = head_of(j.a, r.kv_head, r.first_head + threadIdx.x);
        if (j.a.sinks) fold_sink(j.a, head, sums.own_max, &sums.own_sum);
        m->inverse[threadIdx.x] = 1.0f / sums.own_sum;
    }
    meet();
    rows_put<F>(j, r, sums, m->inverse);
}

/* Blocks of a row are neighbours, for their kv heads share pages. The last warp fetches. */
template <class F, bool NEWS>
__global__ static void __launch_bounds__(THREADS, BLOCKS)
attend_rows(const __grid_constant__ struct rows_job j) {
    extern __shared__ __align__(1024) unsigned char memory[];
    struct rows_words *m = (struct rows_words *)(memory + j.slots * slot_bytes<F>());
    const struct ring<F> ring = { (struct slot<F> *)memory,
                                  (struct scales *)(memory + j.slots * sizeof(struct slot<F>)),
                                  m->full, m->empty, j.slots };
    if (threadIdx.x == TEAM) {
        maps_soon(j.maps);
        for (int i = 0; i < j.slots; i++) {
            barrier_init(&m->full[i], 1);
            barrier_init(&m->empty[i], WARPS);
        }
        barriers_are_set();
    }
    __syncthreads();
    const int64_t row = few_row(j.rows, j.each, (int)blockIdx.y);
    if (row < 0) return;
    const struct rows_part r = part_of(j, row);
    if (threadIdx.x < TEAM) rows_attend<F, NEWS>(ring, m, j, r);
    else rows_fetch<F>(ring, m, j, r, NEWS ? r.pos + 1 : j.rows.pos[j.rows.first[r.seq]]);
}

/* ---- a launch ---- */

/* Bytes of a block's memory, of which no more blocks fit than a processor should have: where one
 * has more, another has none. */
static size_t room_for(const struct cuda *c, int blocks) {
    const int at_once = MIN(MAX(blocks / c->processors, 2), (int)BLOCKS);
    return (size_t)(PROCESSOR / at_once - RESERVED);
}

template <class F, bool NEWS>
static void start(struct cuda *c, struct rows_job &j, dim3 grid) {
    const size_t bytes = room_for(c, (int)(grid.x * grid.y));
    j.slots = MIN((int)((bytes - sizeof(struct rows_words)) / slot_bytes<F>()), (int)SLOTS_MAX);
    cudaFuncSetAttribute(attend_rows<F, NEWS>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         (int)bytes);
    cuda_start(c, attend_rows<F, NEWS>, grid, THREADS, bytes, j);
}

/* One long row among short ones would be alone at the end: not where contexts may be that long. */
static bool takes(const struct cuda *c, const struct attend &a, int64_t rows) {
    return eight_can(a) && 2 * rows * a.kv_heads >= 3 * c->processors &&
           (int64_t)a.kv.pages_max * a.kv.page_tokens <= POSITIONS_MAX;
}

bool cuda_rows_waits(const struct cuda *c, const struct heads &h) {
    return c->hopper && c->rounded && h.rows.n_rows > 1 && h.rows.n_rows == h.rows.n_seqs &&
           takes(c, h.a, h.rows.n_rows) && heads_as_attended(h);
}

bool cuda_attention_rows(struct cuda *c, const struct attention_job &attention) {
    const struct attend &a = attention.a;
    const int64_t rows = (int64_t)a.rows->n_seqs * attention.each;
    if (!takes(c, a, rows)) return false;
    struct rows_job j = { attention.y, attention.q, attention.next, a, *a.rows, attention.each, 0,
                          *c->heads, eight_maps_of(a, attention.maps), {} };
    if (j.maps.whole && !kv_maps_of(&j.eights, a, 8, cached_bytes(a.kv.dtype)))
        j.maps = { attention.maps, false };
    const dim3 grid((unsigned)(a.kv_heads * chunks_of(a)), (unsigned)rows);
    const bool news = c->heads_wait;
    c->heads_wait = false;
    eight_form(a, [&](auto form) {
        if (news) start<decltype(form), true>(c, j, grid);
        else start<decltype(form), false>(c, j, grid);
    });
    return true;
}
