/* linear_wgmma.cu - bf16 weights times many rows on Hopper: tiles that the copy engine brings into
 * shared memory, multiplied by warpgroups.
 *
 * Sums run in the order that linear.h gives: which kernel and which tile a row meets does not
 * change its bits. `wide` has 128 rows and 256 outputs a tile (128 where slices need sums of their
 * own), and pairs of blocks that share their weights; `tall` has 64 or 128 outputs and 32 to 128
 * rows, so that a few rows still read weights on every multiprocessor. */
#include "device/cuda/hopper.h"
#include "device/cuda/linear.h"

enum { STEP = 64, PARTS = 3, RING = 192 << 10, ADD_ROWS = 256, PACKED_ROWS = 48 };

struct out {                         /* where a part's results go */
    const float *bias;               /* NULL: none */
    float *y;                        /* NULL: nowhere, `next` has them */
    int64_t y_row;
    int outs, tiles, slice;
};

struct job {
    CUtensorMap w[PARTS], x;
    struct out part[PARTS];
    struct gate_args gate;
    __nv_bfloat16 *next;             /* of gated rows, for the next product; NULL: not wanted */
    int64_t next_row;
    float scale;                     /* of PRODUCTS_ADD */
    int cols, n_rows, row_tiles, out_tiles;
    bool fresh;                      /* the kernel before wrote the weights */
};

/* ---- tiles ---- */

struct tile { int part, out, row; };

enum { ROW_TILES = 16 };             /* whose rows stay in the second cache while weights pass */

/* Tile i: rows change fastest, within bands of rows. */
__device__ static inline struct tile tile_at(const struct job &j, int i, int outs, int rows) {
    const int band = ROW_TILES * j.out_tiles, first = i / band * ROW_TILES;
    const int high = MIN((int)ROW_TILES, j.row_tiles - first), in = i % band;
    struct tile t = { 0, in / high, (first + in % high) * rows };
    while (t.part + 1 < PARTS && t.out >= j.part[t.part].tiles) t.out -= j.part[t.part++].tiles;
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

__device__ static inline float finished(const struct out &o, int i, float v) {
    return o.bias ? v + o.bias[i] : v;
}

template <enum products_end E>
__device__ static inline void put(const struct job &j, const struct out &o, int row, int i,
                                  float v) {
    if (row >= j.n_rows || i >= o.outs) return;
    float *y = o.y + row * o.y_row + i;
    v = finished(o, i, v);
    *y = E == PRODUCTS_ADD ? fmaf(j.scale, v, *y) : v;
}

/* Two neighbours of a row, eight times, 8 columns further each time. */
template <int N>
__device__ static inline void put_pairs(const struct out &o, int row, int i, const float (&sum)[N],
                                        int first) {
    float2 *y = (float2 *)(o.y + row * o.y_row + i);
#pragma unroll
    for (int n = 0; n < 8; n++)
        y[4 * n] = make_float2(finished(o, i + 8 * n, sum[first + 4 * n]),
                               finished(o, i + 8 * n + 1, sum[first + 4 * n + 1]));
}

__device__ static inline float gate_of(const struct job &j, int i, float g, float u) {
    return gated(finished(j.part[0], i, g), finished(j.part[1], i, u), j.gate);
}

/* The usual one by itself: a kernel that has all of them in every place is slow to fetch. */
__device__ static inline float silu_of(const struct job &j, int i, float g, float u) {
    g = finished(j.part[0], i, g);
    return g * sigmoid(g) * finished(j.part[1], i, u);
}

__device__ static __noinline__ float any_gate_of(const struct job *j, int i, float g, float u) {
    return gate_of(*j, i, g, u);
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
__device__ static inline struct tile wide_tile(const struct job &j, int i) {
    return tile_at(j, i, E == PRODUCTS_GATE ? OUTS / 2 : OUTS, W_ROWS);
}

/* Each block of a pair copies one half of the weights, to both. */
template <int OUTS, enum products_end E>
__device__ static inline void wide_fetch(struct wide_stage<OUTS> *ring, uint64_t *full,
                                         uint64_t *empty, const struct job &j) {
    const int tiles = j.row_tiles * j.out_tiles, half = (int)cluster_rank();
    struct place p = { 0, 1 };
    for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
        const struct tile t = wide_tile<OUTS, E>(j, i);
        const CUtensorMap *w = &j.w[E == PRODUCTS_GATE ? half : t.part];
        const int out = E == PRODUCTS_GATE ? t.out : t.out + half * (OUTS / 2);
        for (int c = 0; c < j.cols; c += STEP, next<wide_stages<OUTS>()>(p)) {
            struct wide_stage<OUTS> *s = &ring[p.at];
            barrier_wait(&empty[p.at], p.phase);
            barrier_expect(&full[p.at], sizeof *s);
            box_in(s->x, &j.x, c, t.row, &full[p.at]);
            box_in_all(s->w[half], w, c, out, &full[p.at], 3);
        }
    }
}

template <int OUTS, enum products_end E>
__device__ static inline void wide_put(const struct job &j, const struct tile &t, int group,
                                       const float (&sum)[OUTS / 2]) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const int row = t.row + group * 64 + warp * 16 + lane / 4;
    const struct out &o = j.part[t.part];
    if constexpr (E == PRODUCTS_GATE) {
        const bool silu = j.gate.act == ACT_SILU;
#pragma unroll
        for (int n = 0; n < OUTS / 16; n++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int i = t.out + 8 * n + 2 * (lane % 4), r = row + 8 * h;
                if (r >= j.n_rows || i >= o.outs) continue;
                const int k = 4 * n + 2 * h, up = OUTS / 4;
                const float u = silu ? silu_of(j, i, sum[k], sum[up + k])
                                     : any_gate_of(&j, i, sum[k], sum[up + k]);
                const float v = silu ? silu_of(j, i + 1, sum[k + 1], sum[up + k + 1])
                                     : any_gate_of(&j, i + 1, sum[k + 1], sum[up + k + 1]);
                if (j.next) {            /* as many outputs as fill pairs */
                    const __nv_bfloat162 both = __floats2bfloat162_rn(u, v);
                    *(__nv_bfloat162 *)(j.next + r * j.next_row + i) = both;
                }
                if (!o.y) continue;
                float *y = o.y + r * o.y_row + i;
                y[0] = u;
                if (i + 1 < o.outs) y[1] = v;
            }
    } else {
        const bool pairs = ((uintptr_t)o.y | (uintptr_t)o.y_row * 4) % 8 == 0;
#pragma unroll
        for (int n = 0; n < OUTS / 8; n += 8) {
            const int i = t.out + 8 * n + 2 * (lane % 4);
            if (pairs && t.out + 8 * n + 64 <= o.outs) {
                if (row < j.n_rows) put_pairs(o, row, i, sum, 4 * n);
                if (row + 8 < j.n_rows) put_pairs(o, row + 8, i, sum, 4 * n + 2);
                continue;
            }
#pragma unroll
            for (int k = 0; k < 32; k++)
                put<E>(j, o, row + k % 4 / 2 * 8, i + k / 4 * 8 + k % 2, sum[4 * n + k]);
        }
    }
}

/* The ring's place that no product reads any more, in both blocks. */
__device__ static inline void wide_free(uint64_t *empty) {
    if (threadIdx.x % 128 < 2) barrier_arrive_at(empty, threadIdx.x % 128);
}

template <int OUTS, bool SLICED, enum products_end E>
__device__ static inline void wide_sum(struct wide_stage<OUTS> *ring, uint64_t *full,
                                       uint64_t *empty, const struct job &j) {
    const int tiles = j.row_tiles * j.out_tiles, group = threadIdx.x / 128 - 1;
    struct place p = { 0, 0 };
    for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
        const struct tile t = wide_tile<OUTS, E>(j, i);
        const int slice = SLICED ? j.part[t.part].slice : j.cols;
        float sum[OUTS / 2], total[SLICED ? OUTS / 2 : 1] = {};
        for (int begin = 0; begin < j.cols; begin += slice) {
            int before = -1;
            for (int c = begin; c < MIN(begin + slice, j.cols); c += STEP) {
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
__global__ static void __launch_bounds__(W_THREADS, 1) wide(const __grid_constant__ struct job j) {
    constexpr int STAGES = wide_stages<OUTS>();
    extern __shared__ unsigned char memory[];
    __shared__ uint64_t full[STAGES], empty[STAGES];
    struct wide_stage<OUTS> *ring =
        (struct wide_stage<OUTS> *)(memory + (1024 - shared_at(memory) % 1024) % 1024);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&full[i], 1);
            barrier_init(&empty[i], 4);
        }
        barriers_are_set();
    }
    __syncthreads();
    cluster_sync();
    if (threadIdx.x / 128 == PRODUCER) {
        registers_less<40>();
        if (threadIdx.x == 0) wide_fetch<OUTS, E>(ring, full, empty, j);
    } else {
        registers_more<232>();
        wide_sum<OUTS, SLICED, E>(ring, full, empty, j);
    }
    cluster_sync();                  /* a block's memory stays until its neighbour is done */
}

/* ---- tall: weights are the 64 rows of a product, rows its columns ---- */

template <int GROUPS, int N> struct tall_stage {
    unsigned char w[GROUPS][64 * 128], x[N * 128];
};

template <int GROUPS, int N>
__device__ __host__ static inline constexpr int tall_stages(void) {
    return RING / (int)sizeof(struct tall_stage<GROUPS, N>);
}

template <int GROUPS, enum products_end E>
__device__ static inline int tall_outs(void) { return E == PRODUCTS_GATE ? 64 : 64 * GROUPS; }

template <int GROUPS, int N, enum products_end E>
__device__ static inline void tall_weights(struct tall_stage<GROUPS, N> *s, uint64_t *full,
                                           const struct job &j, const struct tile &t, int c) {
    barrier_expect(full, sizeof *s);
    for (int g = 0; g < GROUPS; g++)
        box_in(s->w[g], &j.w[E == PRODUCTS_GATE ? g : t.part], c,
               E == PRODUCTS_GATE ? t.out : t.out + 64 * g, full);
}

/* Weights of the first steps are asked for before the rows are there, if nobody writes them. */
template <int GROUPS, int N, enum products_end E>
__device__ static inline void tall_fetch(struct tall_stage<GROUPS, N> *ring, uint64_t *full,
                                         uint64_t *empty, const struct job &j) {
    constexpr int STAGES = tall_stages<GROUPS, N>();
    const int tiles = j.row_tiles * j.out_tiles;
    const struct tile own = tile_at(j, blockIdx.x, tall_outs<GROUPS, E>(), N);
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
        const struct tile t = tile_at(j, i, tall_outs<GROUPS, E>(), N);
        for (int c = i == blockIdx.x ? early * STEP : 0; c < j.cols; c += STEP, next<STAGES>(p)) {
            barrier_wait(&empty[p.at], p.phase);
            tall_weights<GROUPS, N, E>(&ring[p.at], &full[p.at], j, t, c);
            box_in(ring[p.at].x, &j.x, c, t.row, &full[p.at]);
        }
    }
}

/* The sums of up are handed to the threads that have those of gate. */
template <int N>
__device__ static inline void tall_put_gated(const struct job &j, const struct tile &t, int group,
                                             const float (&sum)[N / 2], float *up) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, own = threadIdx.x % 128;
    const struct out &o = j.part[0];
    named_sync(1, 256);
    for (int i = 0; group == 1 && i < N / 2; i++) up[i * 128 + own] = sum[i];
    named_sync(1, 256);
    if (group == 1) return;
#pragma unroll
    for (int k = 0; k < N / 2; k++) {
        const int i = t.out + warp * 16 + lane / 4 + k % 4 / 2 * 8;
        const int row = t.row + k / 4 * 8 + 2 * (lane % 4) + k % 2;
        if (row >= j.n_rows || i >= o.outs) continue;
        const float h = j.gate.act == ACT_SILU ? silu_of(j, i, sum[k], up[k * 128 + own])
                                               : any_gate_of(&j, i, sum[k], up[k * 128 + own]);
        if (j.next) j.next[row * j.next_row + i] = __float2bfloat16_rn(h);
        if (o.y) o.y[row * o.y_row + i] = h;
    }
}

template <int GROUPS, int N, enum products_end E>
__device__ static inline void tall_sum(struct tall_stage<GROUPS, N> *ring, uint64_t *full,
                                       uint64_t *empty, float *up, const struct job &j) {
    constexpr int STAGES = tall_stages<GROUPS, N>();
    const int tiles = j.row_tiles * j.out_tiles, group = threadIdx.x / 128;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    struct place p = { 0, 0 };
    for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
        const struct tile t = tile_at(j, i, tall_outs<GROUPS, E>(), N);
        const int slice = j.part[t.part].slice;
        float sum[N / 2], total[N / 2] = {};
        for (int begin = 0; begin < j.cols; begin += slice) {
            int before = -1;
            for (int c = begin; c < MIN(begin + slice, j.cols); c += STEP) {
                barrier_wait(&full[p.at], p.phase);
                const uint64_t w = rows_of_64(ring[p.at].w[group]), x = rows_of_64(ring[p.at].x);
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
            for (int k = 0; k < N / 2; k++) total[k] += sum[k];
        }
        if constexpr (E == PRODUCTS_GATE) {
            tall_put_gated<N>(j, t, group, total, up);
        } else {
#pragma unroll
            for (int k = 0; k < N / 2; k++)
                put<E>(j, j.part[t.part], t.row + k / 4 * 8 + 2 * (lane % 4) + k % 2,
                       t.out + group * 64 + warp * 16 + lane / 4 + k % 4 / 2 * 8, total[k]);
        }
    }
}

template <int GROUPS, int N, enum products_end E>
__global__ static void __launch_bounds__(GROUPS * 128 + 32, 1)
tall(const __grid_constant__ struct job j) {
    constexpr int STAGES = tall_stages<GROUPS, N>();
    extern __shared__ unsigned char memory[];
    __shared__ uint64_t full[STAGES], empty[STAGES];
    struct tall_stage<GROUPS, N> *ring =
        (struct tall_stage<GROUPS, N> *)(memory + (1024 - shared_at(memory) % 1024) % 1024);
    let_next_begin();
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&full[i], 1);
            barrier_init(&empty[i], GROUPS);
        }
        barriers_are_set();
    }
    __syncthreads();
    if (threadIdx.x < GROUPS * 128)
        tall_sum<GROUPS, N, E>(ring, full, empty, (float *)(ring + STAGES), j);
    else if (threadIdx.x == GROUPS * 128)
        tall_fetch<GROUPS, N, E>(ring, full, empty, j);
}

/* ---- which of them ---- */

template <int OUTS, bool SLICED, enum products_end E>
static void start_wide(struct cuda *c, struct job &j) {
    const size_t bytes = sizeof(struct wide_stage<OUTS>) * wide_stages<OUTS>() + 1024;
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = 2;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    config.attrs = &cluster;
    config.numAttrs = 1;
    config.gridDim = dim3((unsigned)MIN(j.row_tiles * j.out_tiles, c->processors / 2 * 2));
    config.blockDim = dim3(W_THREADS);
    config.dynamicSmemBytes = bytes;
    config.stream = c->stream;
    cudaFuncSetAttribute(wide<OUTS, SLICED, E>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         (int)bytes);
    cudaLaunchKernelEx(&config, wide<OUTS, SLICED, E>, j);
}

template <int GROUPS, int N, enum products_end E>
static void start_tall(struct cuda *c, struct job &j) {
    const size_t bytes = sizeof(struct tall_stage<GROUPS, N>) * tall_stages<GROUPS, N>() + 1024 +
                         (E == PRODUCTS_GATE ? N / 2 * 128 * sizeof(float) : 0);
    cudaFuncSetAttribute(tall<GROUPS, N, E>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         (int)bytes);
    cuda_start(c, tall<GROUPS, N, E>, dim3((unsigned)MIN(j.row_tiles * j.out_tiles, c->processors)),
               GROUPS * 128 + 32, bytes, j);
}

template <int GROUPS, enum products_end E>
static void start_tall_of(struct cuda *c, struct job &j, int n) {
    if (n == 32) start_tall<GROUPS, 32, E>(c, j);
    else if (n == 64) start_tall<GROUPS, 64, E>(c, j);
    else start_tall<GROUPS, 128, E>(c, j);
}

/* What is to be multiplied: plain weights, rounded rows. */
struct plain {
    struct tensor w[PARTS];
    const __nv_bfloat16 *x;
    int n;
};

static void count_tiles(struct job &j, const struct plain &p, bool gates, int rows, int outs) {
    j.row_tiles = (int)blocks_of(j.n_rows, rows);
    j.out_tiles = 0;
    for (int i = 0; i < (gates ? 1 : p.n); i++)
        j.out_tiles += j.part[i].tiles = (int)blocks_of(j.part[i].outs, outs);
}

static bool map_all(struct job &j, const struct plain &p, int w_rows, int x_rows) {
    bool fits = cuda_tensor_map(&j.x, p.x, j.n_rows, j.cols, 2 * (int64_t)j.cols, x_rows);
    for (int i = 0; fits && i < p.n; i++)
        fits = cuda_tensor_map(&j.w[i], p.w[i].at, p.w[i].shape[0], j.cols, 2 * p.w[i].stride[0],
                               w_rows);
    return fits;
}

template <int OUTS, bool SLICED, enum products_end E>
static bool run_wide(struct cuda *c, struct job &j, const struct plain &p) {
    const bool gates = E == PRODUCTS_GATE;
    count_tiles(j, p, gates, W_ROWS, gates ? OUTS / 2 : OUTS);
    if (!map_all(j, p, OUTS / 2, W_ROWS)) return false;
    j.row_tiles = (j.row_tiles + 1) / 2 * 2;
    start_wide<OUTS, SLICED, E>(c, j);
    return true;
}

/* Tiles of 64 outputs where those of 128 would leave multiprocessors idle. */
template <enum products_end E>
static bool run_tall(struct cuda *c, struct job &j, const struct plain &p) {
    const bool gates = E == PRODUCTS_GATE;
    const int n = j.n_rows <= 32 ? 32 : j.n_rows <= 64 ? 64 : 128;
    if (!map_all(j, p, 64, n)) return false;
    count_tiles(j, p, gates, n, gates ? 64 : 128);
    if (gates || j.row_tiles * j.out_tiles >= 2 * c->processors) {
        start_tall_of<2, E>(c, j, n);
        return true;
    }
    count_tiles(j, p, gates, n, 64);
    start_tall_of<1, gates ? PRODUCTS_STORE : E>(c, j, n);
    return true;
}

/* Rows enough that tiles of many rows fill the device are taken wide. */
static bool is_wide(const struct cuda *c, const struct job &j, const struct plain &p) {
    struct job count = j;
    bool sliced = false;
    for (int i = 0; i < p.n; i++) sliced = sliced || j.part[i].slice < j.cols;
    count_tiles(count, p, false, W_ROWS, sliced ? 128 : 256);
    return j.n_rows > W_ROWS && count.row_tiles * count.out_tiles >= c->processors * 3 / 4;
}

template <enum products_end E>
static bool run(struct cuda *c, struct job &j, const struct plain &p) {
    bool sliced = false;
    for (int i = 0; i < p.n; i++) sliced = sliced || j.part[i].slice < j.cols;
    if (!is_wide(c, j, p)) return run_tall<E>(c, j, p);
    return sliced ? run_wide<128, true, E>(c, j, p) : run_wide<256, false, E>(c, j, p);
}

static bool multiply(struct cuda *c, struct job &j, const struct plain &p, enum products_end end) {
    const bool done = end == PRODUCTS_GATE  ? run<PRODUCTS_GATE>(c, j, p)
                      : end == PRODUCTS_ADD ? run_tall<PRODUCTS_ADD>(c, j, p)
                                            : run<PRODUCTS_STORE>(c, j, p);
    if (!done && c->error == cudaSuccess) c->error = cudaErrorUnknown;
    return done;
}

/* ---- rows ---- */

__global__ static void round_rows(__nv_bfloat16 *to, const float *x, int64_t x_row, int64_t cols) {
    let_next_begin();
    after_previous();
    const int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i >= cols) return;
    const float4 *from = (const float4 *)(x + blockIdx.y * x_row + i);
    const float4 u = from[0], v = from[1];
    __nv_bfloat162 w[4] = { __floats2bfloat162_rn(u.x, u.y), __floats2bfloat162_rn(u.z, u.w),
                            __floats2bfloat162_rn(v.x, v.y), __floats2bfloat162_rn(v.z, v.w) };
    *(uint4 *)(to + blockIdx.y * cols + i) = *(const uint4 *)w;
}

__nv_bfloat16 *cuda_many_next(struct cuda *c, int64_t rows, int64_t cols) {
    const bool fits = c->many[0] && rows > FEW_ROWS && cols % 8 == 0 && rows * cols <= CUDA_ROUNDED;
    return fits ? c->many[c->many_turn ^ 1] : NULL;
}

void cuda_many_done(struct cuda *c, struct cuda_few is) {
    c->many_turn ^= 1;
    c->many_is = is;
}

/* Those of before, where the same rows were rounded last. */
static const __nv_bfloat16 *rows_of(struct cuda *c, const struct cuda_products &a, int cols) {
    const struct cuda_few *is = &c->many_is;
    if (is->x == a.x && is->x_row == a.x_row && is->n_rows >= a.n_rows && is->cols == cols)
        return c->many[c->many_turn];
    __nv_bfloat16 *to = c->many[c->many_turn ^ 1];
    cuda_start(c, round_rows, dim3(blocks_of(cols, 8 * 128), (unsigned)a.n_rows), 128, 0, to, a.x,
               a.x_row, cols);
    cuda_many_done(c, { a.x, a.x_row, a.n_rows, cols });
    return to;
}

/* ---- packed weights: unpacked as many outputs at a time as there is room ---- */

static int64_t outs_of(const struct cuda_products &a) {
    int64_t outs = 0;
    for (int i = 0; i < a.n; i++) outs += a.w[i].shape[0];
    return outs;
}

/* Outputs from `first` on and n more of every part. */
static bool multiply_unpacked(struct cuda *c, const struct job &whole, const struct plain &p,
                              const struct cuda_products &a, int64_t first, int64_t most) {
    struct job j = whole;
    struct plain own = p;
    __nv_bfloat16 *to = c->unpacked;
    for (int i = 0; i < a.n; i++) {
        const int64_t n = MIN(most, a.w[i].shape[0] - first);
        if (!cuda_plain_weights(c, a.w[i], first, n, to)) return false;
        own.w[i].at = to;
        own.w[i].shape[0] = n;
        own.w[i].stride[0] = j.cols;
        to += n * j.cols;
        j.part[i].outs = (int)n;
        if (j.part[i].bias) j.part[i].bias += first;
        if (j.part[i].y) j.part[i].y += first;
    }
    if (j.next) j.next += first;
    return multiply(c, j, own, a.end);
}

/* Matrices of other sizes than each other go all at once or one by one. */
static bool multiply_packed(struct cuda *c, struct job &j, const struct plain &p,
                            const struct cuda_products &a) {
    const int64_t room = CUDA_UNPACKED / j.cols, unit = 256;
    j.fresh = true;
    if (outs_of(a) <= room) return multiply_unpacked(c, j, p, a, 0, outs_of(a));
    if (a.end != PRODUCTS_GATE && a.n > 1) {
        bool done = true;
        for (int i = 0; i < a.n && done; i++) {
            struct cuda_products one = a;
            struct plain own = p;
            struct job of = j;
            one.n = own.n = 1;
            one.w[0] = a.w[i];
            own.w[0] = p.w[i];
            of.part[0] = j.part[i];
            done = multiply_packed(c, of, own, one);
        }
        return done;
    }
    const int64_t outs = a.w[0].shape[0], most = room / a.n / unit * unit;
    for (int64_t first = 0; first < outs; first += most)
        if (!multiply_unpacked(c, j, p, a, first, most)) return false;
    return true;
}

/* ---- */

bool cuda_goes_many(const struct tensor &w, int64_t rows) {
    return rows > FEW_ROWS && (w.dtype == BF16 || rows > PACKED_ROWS);
}

static bool takes(const struct cuda *c, const struct cuda_products &a) {
    const int64_t cols = a.w[0].shape[1];
    if (!c->many[0] || cols % 8 || 256 * 3 * cols > CUDA_UNPACKED || (uintptr_t)a.x % 16 ||
        a.x_row % 4 || (a.end == PRODUCTS_ADD && a.n_rows > ADD_ROWS))
        return false;
    for (int i = 0; i < a.n; i++) {
        const struct tensor &w = a.w[i];
        if (w.dtype == BF16 && ((uintptr_t)w.at % 16 || w.stride[0] % 8)) return false;
    }
    return true;
}

/* Rows that fit where they are rounded. */
static bool multiply_rows(struct cuda *c, const struct cuda_products &a) {
    struct job j = {};
    struct plain p = {};
    const bool packed = a.w[0].dtype != BF16;
    j.cols = (int)a.w[0].shape[1];
    j.n_rows = a.n_rows;
    j.gate = a.act;
    j.scale = a.scale;
    p.n = a.n;
    for (int i = 0; i < a.n; i++) {
        p.w[i] = a.w[i];
        j.part[i] = (struct out){ a.bias[i], a.y[i], a.y_row[i], (int)a.w[i].shape[0], 0,
                                  (int)cuda_slice(a.w[i]) };
    }
    p.x = rows_of(c, a, j.cols);
    if (a.end == PRODUCTS_GATE) {
        j.next_row = a.w[0].shape[0];
        j.next = cuda_many_next(c, a.n_rows, j.next_row);
        if (a.passes && j.next) j.part[0].y = NULL;
    }
    const bool done = packed ? multiply_packed(c, j, p, a) : multiply(c, j, p, a.end);
    if (j.next) cuda_many_done(c, { a.y[0], a.y_row[0], a.n_rows, (int)j.next_row });
    return done;
}

bool cuda_products_many(struct cuda *c, const struct cuda_products &a) {
    if (!takes(c, a)) return false;
    const int room = (int)(CUDA_ROUNDED / a.w[0].shape[1]);
    if (a.n_rows <= room) return multiply_rows(c, a);
    struct cuda_products part = a;
    part.passes = false;
    bool done = true;
    for (int row = 0; row < a.n_rows && done; row += room) {
        part.n_rows = MIN(room, a.n_rows - row);
        part.x = a.x + row * a.x_row;
        for (int i = 0; i < a.n; i++) part.y[i] = a.y[i] ? a.y[i] + row * a.y_row[i] : NULL;
        done = multiply_rows(c, part);
    }
    return done;
}
