/* linear_wgmma.cu - bf16 weights times many rows on Hopper: tiles that the copy engine brings into
 * shared memory, multiplied by warpgroups.
 *
 * Sums run in the order that linear.h gives: which kernel and which tile a row meets does not
 * change its bits. `wide` has 128 rows and 256 outputs a tile (128 where slices need sums of their
 * own), and pairs of blocks that share their weights; `tall` has 64 or 128 outputs and 32 to 128
 * rows, so that a few rows still read weights on every multiprocessor. */
#include "device/cuda/hopper.h"
#include "device/cuda/linear.h"

enum { STEP = 64, PARTS = CUDA_PARTS, RING = 192 << 10 };

struct out {                         /* where a part's results go */
    const float *bias;               /* NULL: none */
    float *y;
    int64_t y_row;
    int outs, tiles, slice;
};

struct job {
    CUtensorMap w[PARTS], x;
    struct out part[PARTS];
    struct gate_args gate;
    int cols, n_rows, row_tiles, out_tiles;
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

__device__ static inline void put(const struct job &j, const struct out &o, int row, int i,
                                  float v) {
    if (row >= j.n_rows || i >= o.outs) return;
    float *y = o.y + row * o.y_row + i;
    *y = finished(o, i, v);
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
template <int OUTS, enum cuda_ending E>
__device__ static inline struct tile wide_tile(const struct job &j, int i) {
    return tile_at(j, i, E == CUDA_GATED ? OUTS / 2 : OUTS, W_ROWS);
}

/* Each block of a pair copies one half of the weights, to both. */
template <int OUTS, enum cuda_ending E>
__device__ static inline void wide_fetch(struct wide_stage<OUTS> *ring, uint64_t *full,
                                         uint64_t *empty, const struct job &j) {
    const int tiles = j.row_tiles * j.out_tiles, half = (int)cluster_rank();
    struct place p = { 0, 1 };
    for (int i = blockIdx.x; i < tiles; i += gridDim.x) {
        const struct tile t = wide_tile<OUTS, E>(j, i);
        const CUtensorMap *w = &j.w[E == CUDA_GATED ? half : t.part];
        const int out = E == CUDA_GATED ? t.out : t.out + half * (OUTS / 2);
        for (int c = 0; c < j.cols; c += STEP, next<wide_stages<OUTS>()>(p)) {
            struct wide_stage<OUTS> *s = &ring[p.at];
            barrier_wait(&empty[p.at], p.phase);
            barrier_expect(&full[p.at], sizeof *s);
            box_in(s->x, &j.x, c, t.row, &full[p.at]);
            box_in_all(s->w[half], w, c, out, &full[p.at], 3);
        }
    }
}

template <int OUTS, enum cuda_ending E>
__device__ static inline void wide_put(const struct job &j, const struct tile &t, int group,
                                       const float (&sum)[OUTS / 2]) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const int row = t.row + group * 64 + warp * 16 + lane / 4;
    const struct out &o = j.part[t.part];
    if constexpr (E == CUDA_GATED) {
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
                put(j, o, row + k % 4 / 2 * 8, i + k / 4 * 8 + k % 2, sum[4 * n + k]);
        }
    }
}

/* The ring's place that no product reads any more, in both blocks. */
__device__ static inline void wide_free(uint64_t *empty) {
    if (threadIdx.x % 128 < 2) barrier_arrive_at(empty, threadIdx.x % 128);
}

template <int OUTS, bool SLICED, enum cuda_ending E>
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
template <int OUTS, bool SLICED, enum cuda_ending E>
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

template <int GROUPS, enum cuda_ending E>
__device__ static inline int tall_outs(void) { return E == CUDA_GATED ? 64 : 64 * GROUPS; }

template <int GROUPS, int N, enum cuda_ending E>
__device__ static inline void tall_weights(struct tall_stage<GROUPS, N> *s, uint64_t *full,
                                           const struct job &j, const struct tile &t, int c) {
    barrier_expect(full, sizeof *s);
    for (int g = 0; g < GROUPS; g++)
        box_in(s->w[g], &j.w[E == CUDA_GATED ? g : t.part], c,
               E == CUDA_GATED ? t.out : t.out + 64 * g, full);
}

/* Weights of the first steps are asked for before the rows are there. */
template <int GROUPS, int N, enum cuda_ending E>
__device__ static inline void tall_fetch(struct tall_stage<GROUPS, N> *ring, uint64_t *full,
                                         uint64_t *empty, const struct job &j) {
    constexpr int STAGES = tall_stages<GROUPS, N>();
    const int tiles = j.row_tiles * j.out_tiles;
    const struct tile own = tile_at(j, blockIdx.x, tall_outs<GROUPS, E>(), N);
    const int early = MIN((int)STAGES, (j.cols + STEP - 1) / STEP);
    for (int i = 0; i < early; i++)
        tall_weights<GROUPS, N, E>(&ring[i], &full[i], j, own, i * STEP);
    after_previous();
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
        o.y[row * o.y_row + i] = j.gate.act == ACT_SILU
                                     ? silu_of(j, i, sum[k], up[k * 128 + own])
                                     : any_gate_of(&j, i, sum[k], up[k * 128 + own]);
    }
}

template <int GROUPS, int N, enum cuda_ending E>
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
        if constexpr (E == CUDA_GATED) {
            tall_put_gated<N>(j, t, group, total, up);
        } else {
#pragma unroll
            for (int k = 0; k < N / 2; k++)
                put(j, j.part[t.part], t.row + k / 4 * 8 + 2 * (lane % 4) + k % 2,
                       t.out + group * 64 + warp * 16 + lane / 4 + k % 4 / 2 * 8, total[k]);
        }
    }
}

template <int GROUPS, int N, enum cuda_ending E>
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

template <int OUTS, bool SLICED, enum cuda_ending E>
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

template <int GROUPS, int N, enum cuda_ending E>
static void start_tall(struct cuda *c, struct job &j) {
    const size_t bytes = sizeof(struct tall_stage<GROUPS, N>) * tall_stages<GROUPS, N>() + 1024 +
                         (E == CUDA_GATED ? N / 2 * 128 * sizeof(float) : 0);
    cudaFuncSetAttribute(tall<GROUPS, N, E>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         (int)bytes);
    cuda_start(c, tall<GROUPS, N, E>, dim3((unsigned)MIN(j.row_tiles * j.out_tiles, c->processors)),
               GROUPS * 128 + 32, bytes, j);
}

template <int GROUPS, enum cuda_ending E>
static void start_tall_of(struct cuda *c, struct job &j, int n) {
    if (n == 32) start_tall<GROUPS, 32, E>(c, j);
    else if (n == 64) start_tall<GROUPS, 64, E>(c, j);
    else start_tall<GROUPS, 128, E>(c, j);
}

static void count_tiles(struct job &j, const struct cuda_product &p, int rows, int outs) {
    j.row_tiles = (int)blocks_of(p.n_rows, rows);
    j.out_tiles = 0;
    for (int i = 0; i < (p.ending == CUDA_GATED ? 1 : p.n_parts); i++)
        j.out_tiles += j.part[i].tiles = (int)blocks_of(j.part[i].outs, outs);
}

static bool map_all(struct job &j, const struct cuda_product &p, int w_rows, int x_rows) {
    bool fits = cuda_tensor_map(&j.x, p.x, p.n_rows, j.cols, 2 * p.x_row, x_rows);
    for (int i = 0; fits && i < p.n_parts; i++)
        fits = cuda_tensor_map(&j.w[i], p.w[i].at, p.w[i].shape[0], j.cols, 2 * p.w[i].stride[0],
                               w_rows);
    return fits;
}

template <int OUTS, bool SLICED, enum cuda_ending E>
static bool run_wide(struct cuda *c, struct job &j, const struct cuda_product &p) {
    count_tiles(j, p, W_ROWS, E == CUDA_GATED ? OUTS / 2 : OUTS);
    if (!map_all(j, p, OUTS / 2, W_ROWS)) return false;
    j.row_tiles = (j.row_tiles + 1) / 2 * 2;
    start_wide<OUTS, SLICED, E>(c, j);
    return true;
}

/* Tiles of 64 outputs where those of 128 would leave multiprocessors idle. */
template <enum cuda_ending E>
static bool run_tall(struct cuda *c, struct job &j, const struct cuda_product &p) {
    const int n = p.n_rows <= 32 ? 32 : p.n_rows <= 64 ? 64 : 128;
    if (!map_all(j, p, 64, n)) return false;
    count_tiles(j, p, n, E == CUDA_GATED ? 64 : 128);
    if (E == CUDA_GATED || j.row_tiles * j.out_tiles >= 2 * c->processors) {
        start_tall_of<2, E>(c, j, n);
        return true;
    }
    count_tiles(j, p, n, 64);
    start_tall_of<1, E == CUDA_GATED ? CUDA_STORE : E>(c, j, n);
    return true;
}

/* Rows enough that tiles of many rows fill the device are taken wide. */
template <enum cuda_ending E>
static bool run(struct cuda *c, struct job &j, const struct cuda_product &p) {
    bool sliced = false;
    for (int i = 0; i < p.n_parts; i++) sliced = sliced || j.part[i].slice < j.cols;
    count_tiles(j, p, W_ROWS, sliced ? 128 : 256);
    if (p.n_rows <= W_ROWS || j.row_tiles * j.out_tiles < c->processors * 3 / 4)
        return run_tall<E>(c, j, p);
    return sliced ? run_wide<128, true, E>(c, j, p) : run_wide<256, false, E>(c, j, p);
}

static bool multiply(struct cuda *c, const struct cuda_product &p) {
    struct job j = {};
    j.cols = (int)p.w[0].shape[1];
    j.n_rows = (int)p.n_rows;
    j.gate = p.gate;
    for (int i = 0; i < p.n_parts; i++)
        j.part[i] = (struct out){ p.bias[i], p.y[i], p.y_row[i], (int)p.w[i].shape[0], 0,
                                  (int)cuda_slice(p.w[i]) };
    return p.ending == CUDA_GATED ? run<CUDA_GATED>(c, j, p) : run<CUDA_STORE>(c, j, p);
}

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

bool cuda_products_many(struct cuda *c, const struct cuda_product &p) {
    const int64_t cols = p.w[0].shape[1], room = c->rounded ? CUDA_ROUNDED / cols : 0;
    if (!c->hopper || cols % 8 || room < 1 || (uintptr_t)p.from % 16 || p.from_row % 4)
        return false;
    for (int i = 0; i < p.n_parts; i++) {
        const struct tensor &w = p.w[i];
        if (w.dtype != BF16 || w.rank != 2 || w.shape[1] != cols || (uintptr_t)w.at % 16 ||
            w.stride[0] % 8)
            return false;
    }
    for (int64_t row = 0; row < p.n_rows; row += room) {
        struct cuda_product part = p;
        part.n_rows = MIN(room, p.n_rows - row);
        part.x = c->rounded;
        part.x_row = cols;
        for (int i = 0; i < p.n_parts && p.y[i]; i++) part.y[i] = p.y[i] + row * p.y_row[i];
        cuda_start(c, round_rows, dim3(blocks_of(cols, 8 * 128), (unsigned)part.n_rows), 128, 0,
                   c->rounded, p.from + row * p.from_row, p.from_row, cols);
        if (!multiply(c, part) && c->error == cudaSuccess) c->error = cudaErrorUnknown;
    }
    return true;
}

bool cuda_linear_many(struct cuda *c, const struct tensor &w, const struct cuda_rows &r) {
    struct cuda_product p = {};
    p.w[0] = w;
    p.bias[0] = r.bias;
    p.y[0] = r.y;
    p.y_row[0] = r.y_row;
    p.n_parts = 1;
    p.from = r.x;
    p.from_row = r.x_row;
    p.n_rows = r.n;
    return cuda_products_many(c, p);
}
