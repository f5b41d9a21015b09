/* linear_wgmma.cu - bf16 weights times many rows on Hopper: tiles that the copy engine brings into
 * shared memory, multiplied by warpgroups.
 *
 * Sums run in the order that linear.h gives: which kernel and which tile a row meets does not
 * change its bits. `wide` has 128 rows and 256 outputs a tile (224 where that fits better, 128
 * where slices need sums of their own, 64 or 96 where there are few), and pairs of blocks that
 * share their weights; `tall` has 32 to 128 outputs and 32 to 128 rows, so that a few rows still
 * read weights on every multiprocessor. Slices of up to 256 rows may be tiles of their own
 * (`apart`), which another kernel adds up. */
#include "device/cuda/linear_wgmma.h"
#include "device/cuda/once.h"

enum { STEP = 64, RING = 192 << 10 };

/* ---- tiles ---- */

struct tile { int part, out, row, slice; };

enum { ROW_TILES = 16 };             /* whose rows stay in the second cache while weights pass */

/* Tile i: rows change fastest, within bands of rows. */
__device__ static inline struct tile tile_at(const struct many_job &j, int i, int outs, int rows) {
    const int band = ROW_TILES * j.out_tiles, first = i / band * ROW_TILES;
    const int high = MIN((int)ROW_TILES, j.row_tiles - first), in = i % band;
    struct tile t = { 0, in / high, (first + in % high) * rows, 0 };
    while (t.part + 1 < MANY_PARTS && t.out >= j.part[t.part].tiles)
        t.out -= j.part[t.part++].tiles;
    t.out *= outs;
    return t;
}

/* A place of the ring: goes round, and its barriers' phases with it. */
struct place { int at; unsigned phase; };

template <int STAGES>
__device__ static inline void next(struct place &p) {
    if (++p.at < STAGES) return;
    p.at = 0;
    p.phase ^= 1;
}

/* ---- results ---- */

__device__ static inline float finished(const struct many_part &o, int i, float v) {
    return o.bias ? v + o.bias[i] : v;
}

/* old: of PRODUCTS_ADD. All of a thread's are asked for before it writes any: it would wait for
 * each of them. */
template <enum products_end E>
__device__ static inline void put(const struct many_job &j, const struct many_part &o, int row,
                                  int i, float v, float old = 0) {
    if (row >= j.n_rows || i >= o.outs) return;
    v = finished(o, i, v);
    o.y[row * o.y_row + i] = E == PRODUCTS_ADD ? fmaf(j.scale, v, old) : v;
}

__device__ static inline float old_of(const struct many_job &j, const struct many_part &o, int row,
                                      int i) {
    return row < j.n_rows && i < o.outs ? o.y[row * o.y_row + i] : 0;
}

__device__ static inline float gate_of(const struct many_job &j, int i, float g, float u) {
    return gated(finished(j.part[0], i, g), finished(j.part[1], i, u), j.gate);
}

/* The usual gate by itself, and the others as a call: code that a block runs once or twice is
 * waited for line by line, so it is to be short. */
__device__ static inline bool gate_is_usual(const struct many_job &j) {
    return j.gate.act == ACT_SILU && !j.part[0].bias && !j.part[1].bias;
}

__device__ static __noinline__ float any_gate_of(const struct many_job *j, int i, float g,
                                                 float u) {
    return gate_of(*j, i, g, u);
}

template <bool USUAL>
__device__ static inline float gate_by(const struct many_job &j, int i, float g, float u) {
    return USUAL ? g * sigmoid(g) * u : any_gate_of(&j, i, g, u);
}

/* ---- wide ---- */

enum { W_ROWS = 128, W_THREADS = 384, PRODUCER = 0 };

template <int OUTS> struct wide_stage {
    unsigned char x[W_ROWS * 128], w[2][OUTS / 2 * 128];
};

template <int OUTS>
__device__ __host__ static inline constexpr int wide_stages(void) {
    return RING / (int)sizeof(struct wide_stage<OUTS>);
}

/* Of a gated pair a tile has half as many outputs, of both. */
template <int OUTS, enum products_end E>
__device__ static inline struct tile wide_tile(const struct many_job &j, int i) {
    const int tiles = j.row_tiles * j.out_tiles, outs = E == PRODUCTS_GATE ? OUTS / 2 : OUTS;
    struct tile t = tile_at(j, j.apart ? i % tiles : i, outs, W_ROWS);
    if (j.apart) t.slice = i / tiles;
    return t;
}

__device__ static inline int wide_tiles(const struct many_job &j) {
    return j.row_tiles * j.out_tiles * MAX(j.apart, 1);
}

/* The columns of a tile: all, or a slice. */
struct columns { int begin, end; };

__device__ static inline struct columns columns_of(const struct many_job &j,
                                                   const struct tile &t) {
    const int slice = j.part[t.part].slice;
    if (!j.apart) return { 0, j.cols };
    return { t.slice * slice, MIN(t.slice * slice + slice, j.cols) };
}

/* Each block of a pair copies one half of the weights, to both. */
template <int OUTS, enum products_end E>
__device__ static inline void wide_weights(struct wide_stage<OUTS> *s, uint64_t *full,
                                           const struct many_job &j, const struct tile &t, int c) {
    const int half = (int)cluster_rank();
    const CUtensorMap *w = &j.w[E == PRODUCTS_GATE ? half : t.part];
    const int out = E == PRODUCTS_GATE ? t.out : t.out + half * (OUTS / 2);
    barrier_expect(full, sizeof *s);
    if (j.once) box_in_all_once(s->w[half], w, c, out, full, 3, read_once());
    else box_in_all(s->w[half], w, c, out, full, 3);
}

/* Weights of the first steps are asked for before the rows are there, if nobody writes them. */
template <int OUTS, enum products_end E>
__device__ static inline void wide_fetch(struct wide_stage<OUTS> *ring, uint64_t *full,
                                         uint64_t *empty, const struct many_job &j) {
    constexpr int STAGES = wide_stages<OUTS>();
    const int tiles = wide_tiles(j);
    const struct tile own = wide_tile<OUTS, E>(j, blockIdx.x);
    const struct columns first = columns_of(j, own);
    const int early = MIN(STAGES, (first.end - first.begin + STEP - 1) / STEP);
    if (j.fresh) after_previous();
    if (j.fresh) writes_are_global();
    for (int i = 0; i < early; i++)
        wide_weights<OUTS, E>(&ring[i], &full[i], j, own, first.begin + i * STEP);
    after_previous();
    writes_are_global();
    for (int i = 0; i < early; i++)
        box_in(ring[i].x, &j.x, first.begin + i * STEP, own.row, &full[i]);
    struct place p = { early % STAGES, early == STAGES ? 0u : 1u };
    for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
        const struct tile t = wide_tile<OUTS, E>(j, i);
        const struct columns cols = columns_of(j, t);
        const int begin = cols.begin + (i == blockIdx.x ? early * STEP : 0);
        for (int c = begin; c < cols.end; c += STEP, next<STAGES>(p)) {
            barrier_wait(&empty[p.at], p.phase);
            wide_weights<OUTS, E>(&ring[p.at], &full[p.at], j, t, c);
            box_in(ring[p.at].x, &j.x, c, t.row, &full[p.at]);
        }
    }
}

/* What a thread has of a tile: columns 8 n of two rows, two neighbours each. */
struct own_place { int row, out; };

/* Gated pairs: rows for the next product, rounded, and numbers for others. */
template <int OUTS, bool USUAL>
__device__ static inline void wide_put_gated(const struct many_job &j, const struct own_place &own,
                                             const float (&sum)[OUTS / 2]) {
    const struct many_part &o = j.part[0];
    __nv_bfloat16 *next = j.next + own.row * j.next_row + own.out;
    float *y = o.y + own.row * o.y_row + own.out;
    const bool in[2] = { own.row < j.n_rows, own.row + 8 < j.n_rows };
    const int left = o.outs - own.out;
#pragma unroll
    for (int n = 0; n < OUTS / 16; n++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int k = 4 * n + 2 * h, up = OUTS / 4, i = own.out + 8 * n;
            const bool there = in[h] && 8 * n < left;
            if (!USUAL && !there) continue;      /* it has no bias */
            const float u = gate_by<USUAL>(j, i, sum[k], sum[up + k]);
            const float v = gate_by<USUAL>(j, i + 1, sum[k + 1], sum[up + k + 1]);
            const __nv_bfloat162 both = __floats2bfloat162_rn(u, v);
            if (!there) continue;
            if (j.next)                  /* as many outputs as fill pairs */
                *(__nv_bfloat162 *)(next + 8 * h * j.next_row + 8 * n) = both;
            if (!o.y) continue;
            y[8 * h * o.y_row + 8 * n] = u;
            if (8 * n + 1 < left) y[8 * h * o.y_row + 8 * n + 1] = v;
        }
}

/* Pairs that lie as vectors. */
template <int OUTS, bool BIAS>
__device__ static inline void wide_put_pairs(const struct many_job &j, const struct many_part &o,
                                             const struct own_place &own,
                                             const float (&sum)[OUTS / 2]) {
    float *to = o.y + own.row * o.y_row + own.out;
    const float *bias = o.bias + own.out;
    const bool in[2] = { own.row < j.n_rows, own.row + 8 < j.n_rows };
    const int left = o.outs - own.out;
#pragma unroll
    for (int n = 0; n < OUTS / 8; n++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            if (!in[h] || 8 * n >= left) continue;
            float2 v = make_float2(sum[4 * n + 2 * h], sum[4 * n + 2 * h + 1]);
            if (BIAS) v = make_float2(v.x + bias[8 * n], v.y + bias[8 * n + 1]);
            *(float2 *)(to + 8 * h * o.y_row + 8 * n) = v;
        }
}

template <int OUTS, enum products_end E>
__device__ static inline void wide_put(const struct many_job &j, const struct tile &t, int group,
                                       const float (&sum)[OUTS / 2]) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const struct own_place own = { t.row + group * 64 + warp * 16 + lane / 4,
                                   t.out + 2 * (lane % 4) };
    if constexpr (E == PRODUCTS_GATE) {
        if (gate_is_usual(j)) wide_put_gated<OUTS, true>(j, own, sum);
        else wide_put_gated<OUTS, false>(j, own, sum);
    } else {
        struct many_part o = j.part[t.part];
        o.y += t.slice * j.apart_y;
        const bool pairs = ((uintptr_t)o.y | (uintptr_t)o.y_row * 4) % 8 == 0 && o.outs % 2 == 0;
        if (pairs && o.bias) wide_put_pairs<OUTS, true>(j, o, own, sum);
        else if (pairs) wide_put_pairs<OUTS, false>(j, o, own, sum);
#pragma unroll
        for (int k = 0; !pairs && k < OUTS / 2; k++)
            put<E>(j, o, own.row + k % 4 / 2 * 8, own.out + k / 4 * 8 + k % 2, sum[k]);
    }
}

/* The ring's place that no product reads any more, in both blocks. */
__device__ static inline void wide_free(uint64_t *empty) {
    if (threadIdx.x % 128 < 2) barrier_arrive_at(empty, threadIdx.x % 128);
}

template <int OUTS, bool SLICED, enum products_end E>
__device__ static inline void wide_sum(struct wide_stage<OUTS> *ring, uint64_t *full,
                                       uint64_t *empty, const struct many_job &j) {
    const int tiles = wide_tiles(j), group = threadIdx.x / 128 - 1;
    struct place p = { 0, 0 };
    for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
        const struct tile t = wide_tile<OUTS, E>(j, i);
        const struct columns cols = columns_of(j, t);
        const int slice = SLICED ? j.part[t.part].slice : j.cols;
        float sum[OUTS / 2], total[SLICED ? OUTS / 2 : 1] = {};
        for (int begin = cols.begin; begin < cols.end; begin += slice) {
            int before = -1;
            for (int c = begin; c < MIN(begin + slice, cols.end); c += STEP) {
                barrier_wait(&full[p.at], p.phase);
                const uint64_t x = rows_of_64(ring[p.at].x + group * 64 * 128);
                const uint64_t w = rows_of_64(ring[p.at].w);
                wgmma_begin();
#pragma unroll
                for (int k = 0; k < STEP / 16; k++)
                    wgmma(sum, x + 2 * k, w + 2 * k, c - begin + k > 0);
                wgmma_commit();
                wgmma_wait<1>();
                if (before >= 0) wide_free(&empty[before]);
                before = p.at;
                next<wide_stages<OUTS>()>(p);
            }
            wgmma_wait<0>();
            wide_free(&empty[before]);
#pragma unroll
            for (int k = 0; SLICED && k < OUTS / 2; k++) total[SLICED ? k : 0] += sum[k];
        }
        if constexpr (SLICED) wide_put<OUTS, E>(j, t, group, total);
        else wide_put<OUTS, E>(j, t, group, sum);
    }
}

/* To be started in clusters of two. */
template <int OUTS, bool SLICED, enum products_end E>
__global__ static void __launch_bounds__(W_THREADS, 1)
wide(const __grid_constant__ struct many_job j) {
    constexpr int STAGES = wide_stages<OUTS>();
    extern __shared__ unsigned char memory[];
    __shared__ uint64_t full[STAGES], empty[STAGES];
    struct wide_stage<OUTS> *ring =
        (struct wide_stage<OUTS> *)(memory + (1024 - shared_at(memory) % 1024) % 1024);
    let_next_begin();
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&full[i], 1);
            barrier_init(&empty[i], 4);
        }
        barriers_are_set();
    }
    __syncthreads();
    cluster_sync();
    /* With few sums the next kernel finds registers beside these. */
    constexpr bool MANY = (SLICED ? 2 : 1) * OUTS / 2 > 96;
    if (threadIdx.x / 128 == PRODUCER) {
        if constexpr (MANY) registers_less<40>();
        if (threadIdx.x == 0) wide_fetch<OUTS, E>(ring, full, empty, j);
    } else {
        if constexpr (MANY) registers_more<232>();
        wide_sum<OUTS, SLICED, E>(ring, full, empty, j);
    }
    cluster_sync();                  /* a block's memory stays until its neighbour is done */
}

/* ---- tall: weights are the 64 rows of a product, rows its columns. A tile may have fewer outputs
 * than 64, so that all multiprocessors have as many: the others are whatever lies in memory, and go
 * nowhere. ---- */

template <int GROUPS, int N> struct tall_stage {
    unsigned char w[GROUPS][64 * 128], x[N * 128];
};

template <int GROUPS, int N>
__device__ __host__ static inline constexpr int tall_stages(void) {
    return RING / (int)sizeof(struct tall_stage<GROUPS, N>);
}

template <int GROUPS, enum products_end E>
__device__ static inline int tall_outs(const struct many_job &j) {
    return E == PRODUCTS_GATE ? j.tall : j.tall * GROUPS;
}

template <int GROUPS, int N, enum products_end E>
__device__ static inline void tall_weights(struct tall_stage<GROUPS, N> *s, uint64_t *full,
                                           const struct many_job &j, const struct tile &t, int c) {
    barrier_expect(full, (unsigned)(GROUPS * j.tall * 128 + N * 128));
    for (int g = 0; g < GROUPS; g++)
        box_in(s->w[g], &j.w[E == PRODUCTS_GATE ? g : t.part], c,
               E == PRODUCTS_GATE ? t.out : t.out + j.tall * g, full);
}

/* Weights of the first steps are asked for before the rows are there, if nobody writes them. */
template <int GROUPS, int N, enum products_end E>
__device__ static inline void tall_fetch(struct tall_stage<GROUPS, N> *ring, uint64_t *full,
                                         uint64_t *empty, const struct many_job &j) {
    constexpr int STAGES = tall_stages<GROUPS, N>();
    const int tiles = j.row_tiles * j.out_tiles;
    const struct tile own = tile_at(j, blockIdx.x, tall_outs<GROUPS, E>(j), N);
    const int early = MIN((int)STAGES, (j.cols + STEP - 1) / STEP);
    if (j.fresh) after_previous();
    if (j.fresh) writes_are_global();
    for (int i = 0; i < early; i++)
        tall_weights<GROUPS, N, E>(&ring[i], &full[i], j, own, i * STEP);
    after_previous();
    writes_are_global();
    for (int i = 0; i < early; i++) box_in(ring[i].x, &j.x, i * STEP, own.row, &full[i]);
    struct place p = { early % STAGES, early == STAGES ? 0u : 1u };
    for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
        const struct tile t = tile_at(j, i, tall_outs<GROUPS, E>(j), N);
        for (int c = i == blockIdx.x ? early * STEP : 0; c < j.cols; c += STEP, next<STAGES>(p)) {
            barrier_wait(&empty[p.at], p.phase);
            tall_weights<GROUPS, N, E>(&ring[p.at], &full[p.at], j, t, c);
            box_in(ring[p.at].x, &j.x, c, t.row, &full[p.at]);
        }
    }
}

/* Where a thread's sums of a tile of gated pairs lie: number k is output k%4/2*8 further, row
 * k/4*8 + k%2. own: the output in its tile. */
struct tall_place { int row, out, own; };

template <int N, bool USUAL>
__device__ static inline void tall_put_by(const struct many_job &j, const struct tall_place &t,
                                          const float (&sum)[N / 2], const float *up) {
    const struct many_part &o = j.part[0];
    __nv_bfloat16 *next = j.next + t.row * j.next_row + t.out;
    float *y = o.y + t.row * o.y_row + t.out;
#pragma unroll
    for (int k = 0; k < N / 2; k++) {
        const int h = k % 4 / 2 * 8, r = k / 4 * 8 + k % 2;
        const bool there = t.row + r < j.n_rows && t.out + h < o.outs && t.own + h < j.tall;
        if (!USUAL && !there) continue;
        const float v = gate_by<USUAL>(j, t.out + h, sum[k], up[k * 128]);
        if (!there) continue;
        if (j.next) next[r * j.next_row + h] = __float2bfloat16_rn(v);
        if (o.y) y[r * o.y_row + h] = v;
    }
}

/* The sums of up are handed to the threads that have those of gate. */
template <int N>
__device__ static inline void tall_put_gated(const struct many_job &j, const struct tile &t,
                                             int group, const float (&sum)[N / 2], float *up) {
    const int lane = threadIdx.x % 32, own = threadIdx.x / 32 % 4 * 16 + lane / 4;
    const struct tall_place at = { t.row + 2 * (lane % 4), t.out + own, own };
    up += threadIdx.x % 128;
    named_sync(1, 256);
#pragma unroll
    for (int i = 0; group == 1 && i < N / 2; i++) up[i * 128] = sum[i];
    named_sync(1, 256);
    if (group == 1) return;
    if (gate_is_usual(j)) tall_put_by<N, true>(j, at, sum, up);
    else tall_put_by<N, false>(j, at, sum, up);
}

template <int GROUPS, int HALVES, int N, enum products_end E>
__device__ static inline void tall_sum(struct tall_stage<GROUPS, N> *ring, uint64_t *full,
                                       uint64_t *empty, float *up, const struct many_job &j) {
    constexpr int STAGES = tall_stages<GROUPS, N>();
    constexpr int OWN = N / HALVES;  /* rows of a warpgroup */
    const int tiles = j.row_tiles * j.out_tiles, group = threadIdx.x / 128 / HALVES;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const int first = threadIdx.x / 128 % HALVES * OWN;
    struct place p = { 0, 0 };
    for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
        const struct tile t = tile_at(j, i, tall_outs<GROUPS, E>(j), N);
        const int slice = j.part[t.part].slice;
        float sum[OWN / 2], total[OWN / 2] = {};
        for (int begin = 0; begin < j.cols; begin += slice) {
            int before = -1;
            for (int c = begin; c < MIN(begin + slice, j.cols); c += STEP) {
                barrier_wait(&full[p.at], p.phase);
                const uint64_t w = rows_of_64(ring[p.at].w[group]);
                const uint64_t x = rows_of_64(ring[p.at].x + first * 128);
                wgmma_begin();
#pragma unroll
                for (int k = 0; k < STEP / 16; k++)
                    wgmma(sum, w + 2 * k, x + 2 * k, c - begin + k > 0);
                wgmma_commit();
                wgmma_wait<1>();
                if (before >= 0 && threadIdx.x % 128 == 0) barrier_arrive(&empty[before]);
                before = p.at;
                next<STAGES>(p);
            }
            wgmma_wait<0>();
            if (threadIdx.x % 128 == 0) barrier_arrive(&empty[before]);
#pragma unroll
            for (int k = 0; k < OWN / 2; k++) total[k] += sum[k];
        }
        if constexpr (E == PRODUCTS_GATE) {
            tall_put_gated<N>(j, t, group, total, up);
        } else {
            const struct many_part &o = j.part[t.part];
            const int own = warp * 16 + lane / 4, row = t.row + first + 2 * (lane % 4);
            const int out = t.out + group * j.tall + own;
            float old[E == PRODUCTS_ADD ? OWN / 2 : 1];
#pragma unroll
            for (int k = 0; E == PRODUCTS_ADD && k < OWN / 2; k++)
                old[k] = old_of(j, o, row + k / 4 * 8 + k % 2, out + k % 4 / 2 * 8);
#pragma unroll
            for (int k = 0; k < OWN / 2; k++)
                if (own + k % 4 / 2 * 8 < j.tall)
                    put<E>(j, o, row + k / 4 * 8 + k % 2, out + k % 4 / 2 * 8, total[k],
                           E == PRODUCTS_ADD ? old[E == PRODUCTS_ADD ? k : 0] : 0);
        }
    }
}

/* HALVES: warpgroups that share outputs and have some of the rows each. A product that adds to the
 * one before waits for it about 80 cycles: others are to be under way. */
template <int GROUPS, int HALVES, int N, enum products_end E>
__global__ static void __launch_bounds__(GROUPS * HALVES * 128 + 32, 1)
tall(const __grid_constant__ struct many_job j) {
    constexpr int STAGES = tall_stages<GROUPS, N>(), THREADS = GROUPS * HALVES * 128;
    extern __shared__ unsigned char memory[];
    __shared__ uint64_t full[STAGES], empty[STAGES];
    struct tall_stage<GROUPS, N> *ring =
        (struct tall_stage<GROUPS, N> *)(memory + (1024 - shared_at(memory) % 1024) % 1024);
    let_next_begin();
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&full[i], 1);
            barrier_init(&empty[i], GROUPS * HALVES);
        }
        barriers_are_set();
    }
    __syncthreads();
    if (threadIdx.x < THREADS)
        tall_sum<GROUPS, HALVES, N, E>(ring, full, empty, (float *)(ring + STAGES), j);
    else if (threadIdx.x == THREADS)
        tall_fetch<GROUPS, N, E>(ring, full, empty, j);
}

/* ---- slices apart: few tiles of `wide` would leave multiprocessors idle, four times as many do
 * not. Sums of slices are written one beside the other, and added in their order. ---- */

enum { APART_ROWS = 256, APART_THREADS = 128 };

struct apart_sum { const float *from[MANY_PARTS]; };     /* the first slice of each part */

/* A thread has four neighbours of a row. */
__global__ static void add_slices(const __grid_constant__ struct many_job j,
                                  const struct apart_sum s) {
    const struct many_part &o = j.part[blockIdx.z];
    const int i = (int)(blockIdx.x * APART_THREADS + threadIdx.x) * 4, row = (int)blockIdx.y;
    after_previous();
    let_next_begin();
    if (i >= o.outs) return;
    const float *from = s.from[blockIdx.z] + (int64_t)row * o.outs + i;
    float4 sum = *(const float4 *)from;
    for (int n = 1; n < j.apart; n++) {
        const float4 one = *(const float4 *)(from + n * j.apart_y);
        sum = make_float4(sum.x + one.x, sum.y + one.y, sum.z + one.z, sum.w + one.w);
    }
    float v[4] = { sum.x, sum.y, sum.z, sum.w };
    put_four<PRODUCTS_STORE>(j, o, row, i, v);
}

/* ---- which of them ---- */


template <int OUTS, bool SLICED, enum products_end E>
static void start_wide(struct cuda *c, struct many_job &j) {
    const size_t bytes = sizeof(struct wide_stage<OUTS>) * wide_stages<OUTS>() + 1024;
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attrs[2] = {};
    attrs[0].id = cudaLaunchAttributeClusterDimension;
    attrs[0].val.clusterDim.x = 2;
    attrs[0].val.clusterDim.y = attrs[0].val.clusterDim.z = 1;
    attrs[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attrs[1].val.programmaticStreamSerializationAllowed = 1;
    config.attrs = attrs;
    config.numAttrs = 2;
    config.gridDim = dim3((unsigned)MIN(j.row_tiles * j.out_tiles * MAX(j.apart, 1),
                                        c->processors / 2 * 2));
    config.blockDim = dim3(W_THREADS);
    config.dynamicSmemBytes = bytes;
    config.stream = c->stream;
    cuda_settle(c);
    j.once = j.row_tiles <= 2;
    cudaFuncSetAttribute(wide<OUTS, SLICED, E>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         (int)bytes);
    cudaLaunchKernelEx(&config, wide<OUTS, SLICED, E>, j);
}

template <int GROUPS, int HALVES, int N, enum products_end E>
static void start_tall(struct cuda *c, struct many_job &j) {
    const size_t bytes = sizeof(struct tall_stage<GROUPS, N>) * tall_stages<GROUPS, N>() + 1024 +
                         (E == PRODUCTS_GATE ? N / 2 * 128 * sizeof(float) : 0);
    cudaFuncSetAttribute(tall<GROUPS, HALVES, N, E>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         (int)bytes);
    cuda_start(c, tall<GROUPS, HALVES, N, E>,
               dim3((unsigned)MIN(j.row_tiles * j.out_tiles, c->processors)),
               GROUPS * HALVES * 128 + 32, bytes, j);
}

template <int GROUPS, enum products_end E>
static void start_tall_of(struct cuda *c, struct many_job &j, int n) {
    constexpr int HALVES = GROUPS == 1 ? 2 : 1;
    if (n == 32) start_tall<GROUPS, 1, 32, E>(c, j);
    else if (n == 64) start_tall<GROUPS, HALVES, 64, E>(c, j);
    else start_tall<GROUPS, HALVES, 128, E>(c, j);
}

static void count_tiles(struct many_job &j, const struct many_plain &p, bool gates, int rows,
                        int outs) {
    j.row_tiles = (int)blocks_of(j.n_rows, rows);
    j.out_tiles = 0;
    for (int i = 0; i < (gates ? 1 : p.n); i++)
        j.out_tiles += j.part[i].tiles = (int)blocks_of(j.part[i].outs, outs);
}

static bool map_all(struct many_job &j, const struct many_plain &p, int w_rows, int x_rows) {
    bool fits = cuda_tensor_map(&j.x, p.x, j.n_rows, j.cols, 2 * (int64_t)j.cols, x_rows);
    for (int i = 0; fits && i < p.n; i++)
        fits = cuda_tensor_map(&j.w[i], p.w[i].at, p.w[i].shape[0], j.cols, 2 * p.w[i].stride[0],
                               w_rows);
    return fits;
}

template <int OUTS, bool SLICED, enum products_end E>
static bool run_wide(struct cuda *c, struct many_job &j, const struct many_plain &p) {
    const bool gates = E == PRODUCTS_GATE;
    count_tiles(j, p, gates, W_ROWS, gates ? OUTS / 2 : OUTS);
    if (!map_all(j, p, OUTS / 2, W_ROWS)) return false;
    j.row_tiles = (j.row_tiles + 1) / 2 * 2;
    start_wide<OUTS, SLICED, E>(c, j);
    return true;
}

/* Outputs of a warpgroup and warpgroups of a block: those with which the multiprocessor that has
 * most to do reads least. Returns the warpgroups. */
static int choose_tall(const struct cuda *c, struct many_job &j, const struct many_plain &p,
                       bool gates, int n) {
    int64_t least = INT64_MAX;
    int groups = 2, outs = 64;
    for (int g = gates ? 2 : 1; g <= 2; g++)
        for (int o = 64; o >= 32; o -= 8) {
            count_tiles(j, p, gates, n, gates ? o : g * o);
            const int64_t rounds = blocks_of((int64_t)j.row_tiles * j.out_tiles, c->processors);
            const int64_t rows = rounds * (g * o + n);
            if (rows >= least) continue;
            least = rows;
            groups = g;
            outs = o;
        }
    j.tall = outs;
    count_tiles(j, p, gates, n, gates ? outs : groups * outs);
    return groups;
}

template <enum products_end E>
static bool run_tall(struct cuda *c, struct many_job &j, const struct many_plain &p) {
    const bool gates = E == PRODUCTS_GATE;
    const int n = j.n_rows <= 32 ? 32 : j.n_rows <= 64 ? 64 : 128;
    const int groups = choose_tall(c, j, p, gates, n);
    if (!map_all(j, p, j.tall, n)) return false;
    if (groups == 2) start_tall_of<2, E>(c, j, n);
    else start_tall_of<1, gates ? PRODUCTS_STORE : E>(c, j, n);
    return true;
}

static bool is_sliced(const struct many_job &j, const struct many_plain &p) {
    for (int i = 0; i < p.n; i++)
        if (j.part[i].slice < j.cols) return true;
    return false;
}

/* Rows enough that tiles of many rows fill the device are taken wide. */
static bool is_wide(const struct cuda *c, const struct many_job &j, const struct many_plain &p) {
    struct many_job count = j;
    count_tiles(count, p, false, W_ROWS, is_sliced(j, p) ? 128 : 256);
    return j.n_rows > W_ROWS && count.row_tiles * count.out_tiles >= c->processors * 3 / 4;
}

/* Where the results go until they are added up. */
static void put_aside(struct cuda *c, struct many_job &j, const struct many_plain &p,
                      struct apart_sum &from) {
    float *to = c->partial;
    for (int i = 0; i < p.n; i++) {
        struct many_part &o = j.part[i];
        from.from[i] = to;
        o.bias = NULL;
        o.y = to;
        o.y_row = o.outs;
        to += (int64_t)o.outs * j.n_rows;
    }
    j.apart_y = to - c->partial;
}

/* What is left of PRODUCTS_ADD: the sum of as many slices. */
static struct cuda_sum sum_of(const struct cuda *c, const struct many_job &j, int slices) {
    const struct many_part &o = j.part[0];
    return { o.y, c->partial, o.bias, o.y_row, o.outs, (int64_t)o.outs * j.n_rows, slices,
             j.n_rows, o.outs, j.scale };
}

static bool run_apart(struct cuda *c, const struct many_job &whole, const struct many_plain &p,
                      enum products_end end) {
    struct many_job j = whole;
    struct apart_sum from = {};
    int64_t rounds[2];
    int most = 0;
    j.apart = (int)blocks_of(j.cols, j.part[0].slice);
    put_aside(c, j, p, from);
    const struct cuda_sum sum = sum_of(c, whole, j.apart);
    if (j.apart * j.apart_y > PARTIAL_FLOATS || (end == PRODUCTS_ADD && !cuda_sum_fits(sum)))
        return false;
    for (int n = 0; n < 2; n++) {
        count_tiles(j, p, false, W_ROWS, n ? 128 : 256);
        rounds[n] = (int64_t)blocks_of(j.row_tiles * j.out_tiles * j.apart, c->processors);
    }
    if (!(rounds[1] < 2 * rounds[0] ? run_wide<128, false, PRODUCTS_STORE>(c, j, p)
                                    : run_wide<256, false, PRODUCTS_STORE>(c, j, p)))
        return false;
    if (end == PRODUCTS_ADD) {
        cuda_sum_later(c, sum);
        return true;
    }
    for (int i = 0; i < p.n; i++) {
        j.part[i] = whole.part[i];
        most = MAX(most, whole.part[i].outs);
    }
    cuda_start(c, add_slices, dim3(blocks_of(most, 4 * APART_THREADS), (unsigned)j.n_rows,
                                   (unsigned)p.n), APART_THREADS, 0, j, from);
    return true;
}

/* Tiles of many rows whose slices fill the chip, where all columns would not. */
static bool is_apart(const struct cuda *c, const struct many_job &j, const struct many_plain &p) {
    if (j.n_rows <= W_ROWS || j.n_rows > APART_ROWS || is_wide(c, j, p)) return false;
    for (int i = 0; i < p.n; i++)
        if (j.part[i].slice >= j.cols || j.part[i].slice != j.part[0].slice ||
            j.part[i].outs % 4)
            return false;
    return true;
}

/* Whether tiles of 224 outputs leave the multiprocessor that has most less to do than 256. */
static bool narrow_is_less(const struct cuda *c, const struct many_job &j,
                           const struct many_plain &p) {
    struct many_job count = j;
    int64_t work[2];
    for (int i = 0; i < 2; i++) {
        const int outs = i ? 224 : 256;
        count_tiles(count, p, true, W_ROWS, outs / 2);
        work[i] = (int64_t)blocks_of((int64_t)count.row_tiles * count.out_tiles, c->processors) *
                  outs;
    }
    return work[1] < work[0];
}

/* Pairs of blocks that tiles of so many outputs give. */
static int64_t pairs_of(const struct many_job &j, const struct many_plain &p, int outs) {
    struct many_job count = j;
    count_tiles(count, p, false, W_ROWS, outs);
    return (int64_t)(count.row_tiles + 1) / 2 * count.out_tiles;
}

/* Whether the pair of multiprocessors that has most to do reads less with tiles of `one` outputs
 * than of `two`. */
static bool reads_less(const struct cuda *c, const struct many_job &j, const struct many_plain &p,
                       int one, int two) {
    const int64_t n = c->processors / 2;
    return blocks_of(pairs_of(j, p, one), n) * (int64_t)(one / 2 + W_ROWS) <=
           blocks_of(pairs_of(j, p, two), n) * (int64_t)(two / 2 + W_ROWS);
}

/* Tiles of fewer outputs, for matrices that do not fill the chip with larger ones. */
static bool fills_with_few(const struct cuda *c, const struct many_job &j,
                           const struct many_plain &p) {
    return j.n_rows > W_ROWS && pairs_of(j, p, is_sliced(j, p) ? 96 : 64) >= c->processors * 3 / 8;
}

static bool run_few_outs(struct cuda *c, struct many_job &j, const struct many_plain &p) {
    if (is_sliced(j, p))
        return reads_less(c, j, p, 96, 128) ? run_wide<96, true, PRODUCTS_STORE>(c, j, p)
                                            : run_wide<128, true, PRODUCTS_STORE>(c, j, p);
    return reads_less(c, j, p, 64, 128) ? run_wide<64, false, PRODUCTS_STORE>(c, j, p)
                                        : run_wide<128, false, PRODUCTS_STORE>(c, j, p);
}

template <enum products_end E>
static bool run(struct cuda *c, struct many_job &j, const struct many_plain &p) {
    if constexpr (E == PRODUCTS_STORE)
        if (!is_wide(c, j, p) && fills_with_few(c, j, p)) return run_few_outs(c, j, p);
    if (!is_wide(c, j, p)) return run_tall<E>(c, j, p);
    if (is_sliced(j, p)) return run_wide<128, true, E>(c, j, p);
    if constexpr (E == PRODUCTS_GATE)
        if (narrow_is_less(c, j, p)) return run_wide<224, false, E>(c, j, p);
    return run_wide<256, false, E>(c, j, p);
}

/* More than a few rows are added by the norm that follows. */
static bool run_add(struct cuda *c, struct many_job &j, const struct many_plain &p) {
    const struct cuda_sum sum = sum_of(c, j, 1);
    struct many_job aside = j;
    struct apart_sum from = {};
    put_aside(c, aside, p, from);
    if (j.n_rows <= CUDA_SUM_ROWS || !cuda_sum_fits(sum) || aside.apart_y > PARTIAL_FLOATS)
        return run_tall<PRODUCTS_ADD>(c, j, p);
    const bool done = run<PRODUCTS_STORE>(c, aside, p);
    if (done) cuda_sum_later(c, sum);
    return done;
}

bool cuda_multiply(struct cuda *c, struct many_job &j, const struct many_plain &p,
                   enum products_end end) {
    if (cuda_multiply_slices(c, j, p, end)) return true;
    if (end != PRODUCTS_GATE && is_apart(c, j, p) && run_apart(c, j, p, end)) return true;
    const bool done = end == PRODUCTS_GATE  ? run<PRODUCTS_GATE>(c, j, p)
                      : end == PRODUCTS_ADD ? run_add(c, j, p)
                                            : run<PRODUCTS_STORE>(c, j, p);
    if (!done && c->error == cudaSuccess) c->error = cudaErrorUnknown;
    return done;
}
