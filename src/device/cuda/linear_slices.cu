/* linear_slices.cu - products of 17 to 128 rows with matrices whose columns are in four slices: the
 * blocks of a cluster take a slice each and add them up, in their order.
 *
 * A matrix of few outputs leaves a block few of them, and then its rows are as many bytes as its
 * weights, which the second cache does not deliver faster. With a quarter of the columns a block
 * has four times as many outputs for the same rows, and chains of sums a quarter as long. */
#include "device/cuda/linear_wgmma.h"

enum { STEP = 64, RING = 192 << 10, SLICES = 4, STAGES_MAX = 16, GROUPS_MAX = 4,
       OUT_PAD = 4, ROUNDS_MAX = 3, ROWS_MAX = 128 };

/* What a block does: a slice of a tile's columns, that of its number in the cluster. */
struct slice_tile { int part, out, slice, begin, end; };

__device__ static inline struct slice_tile own_tile(const struct many_job &j, int outs) {
    struct slice_tile t = { 0, (int)blockIdx.x / SLICES, (int)blockIdx.x % SLICES, 0, 0 };
    while (t.part + 1 < MANY_PARTS && t.out >= j.part[t.part].tiles)
        t.out -= j.part[t.part++].tiles;
    t.out *= outs;
    t.begin = MIN(t.slice * j.part[t.part].slice, j.cols);
    t.end = MIN(t.begin + j.part[t.part].slice, j.cols);
    return t;
}

/* A stage of the ring: weights of `outs` outputs, rows. */
struct slice_ring {
    unsigned char *at;
    uint64_t *full, *empty;
    int stages, outs;
};

template <int N>
__device__ static inline unsigned char *stage_at(const struct slice_ring &r, int i) {
    return r.at + i * (r.outs + N) * 128;
}

__device__ static inline void next_stage(const struct slice_ring &r, int &at, unsigned &phase) {
    if (++at < r.stages) return;
    at = 0;
    phase ^= 1;
}

template <int N>
__device__ static inline void weights_in(const struct slice_ring &r, const struct many_job &j,
                                         const struct slice_tile &t, int i, int col) {
    barrier_expect(&r.full[i], (unsigned)((r.outs + N) * 128));
    box_in(stage_at<N>(r, i), &j.w[t.part], col, t.out, &r.full[i]);
}

template <int N>
__device__ static inline void rows_in(const struct slice_ring &r, const struct many_job &j, int i,
                                      int col) {
    box_in(stage_at<N>(r, i) + r.outs * 128, &j.x, col, 0, &r.full[i]);
}

/* Weights of the first steps are asked for before the rows are there, if nobody writes them. */
template <int N>
__device__ static inline void slice_fetch(const struct slice_ring &r, const struct many_job &j,
                                          const struct slice_tile &t) {
    const int early = MIN(r.stages, (t.end - t.begin + STEP - 1) / STEP);
    int at = early % r.stages;
    unsigned phase = early == r.stages ? 0 : 1;
    if (j.fresh) after_previous();
    if (j.fresh) writes_are_global();
    for (int i = 0; i < early; i++) weights_in<N>(r, j, t, i, t.begin + i * STEP);
    after_previous();
    writes_are_global();
    for (int i = 0; i < early; i++) rows_in<N>(r, j, i, t.begin + i * STEP);
    for (int c = t.begin + early * STEP; c < t.end; c += STEP, next_stage(r, at, phase)) {
        barrier_wait(&r.empty[at], phase);
        weights_in<N>(r, j, t, at, c);
        rows_in<N>(r, j, at, c);
    }
}

template <int N>
__device__ static inline void slice_sum(float (&sum)[N / 2], const struct slice_ring &r,
                                        const struct many_job &j, const struct slice_tile &t) {
    const int group = threadIdx.x / 128;
    int at = 0, before = -1;
    unsigned phase = 0;
    for (int c = t.begin; c < t.end; c += STEP, next_stage(r, at, phase)) {
        barrier_wait(&r.full[at], phase);
        const unsigned char *stage = stage_at<N>(r, at);
        const uint64_t w = rows_of_64(stage + group * j.tall * 128);
        const uint64_t x = rows_of_64(stage + r.outs * 128);
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < STEP / 16; k++) wgmma(sum, w + 2 * k, x + 2 * k, c - t.begin + k > 0);
        wgmma_commit();
        wgmma_wait<1>();
        if (before >= 0 && threadIdx.x % 128 == 0) barrier_arrive(&r.empty[before]);
        before = at;
    }
    wgmma_wait<0>();
}

/* Sums lie in place of the ring, which nobody uses any more: [row][out]. */
__device__ static inline int kept_row(int outs) { return outs + OUT_PAD; }

template <int N>
__device__ static inline void slice_keep(float *kept, const float (&sum)[N / 2], int outs,
                                         int tall) {
    const int lane = threadIdx.x % 32, own = threadIdx.x / 32 % 4 * 16 + lane / 4;
    float *to = kept + threadIdx.x / 128 * tall + own;
#pragma unroll
    for (int k = 0; k < N / 2; k++) {
        const int row = k / 4 * 8 + 2 * (lane % 4) + k % 2, out = k % 4 / 2 * 8;
        if (own + out < tall) to[row * kept_row(outs) + out] = sum[k];
    }
}

/* Each block of the cluster adds up every fourth row of all slices. */
template <enum products_end E>
__device__ static inline void slice_finish(const float *kept, const struct many_job &j,
                                           const struct slice_tile &t, int outs) {
    const struct many_part &o = j.part[t.part];
    const int units = outs / 4, rows = (j.n_rows - t.slice + SLICES - 1) / SLICES;
    for (int i = threadIdx.x; i < rows * units; i += blockDim.x) {
        const int row = i / units * SLICES + t.slice, out = i % units * 4;
        const float *at = kept + row * kept_row(outs) + out;
        float4 part[SLICES];
#pragma unroll
        for (int s = 0; s < SLICES; s++) part[s] = numbers_of(at, (unsigned)s);
        float v[4] = { part[0].x, part[0].y, part[0].z, part[0].w };
#pragma unroll
        for (int s = 1; s < SLICES; s++) {
            if (s * o.slice >= j.cols) break;
            v[0] += part[s].x, v[1] += part[s].y, v[2] += part[s].z, v[3] += part[s].w;
        }
        put_four<E>(j, o, row, t.out + out, v);
    }
}

template <int N, enum products_end E>
__global__ static void __launch_bounds__(GROUPS_MAX * 128 + 32, 1)
slices(const __grid_constant__ struct many_job j) {
    extern __shared__ unsigned char memory[];
    __shared__ uint64_t full[STAGES_MAX], empty[STAGES_MAX];
    const int groups = blockDim.x / 128, outs = groups * j.tall;
    const struct slice_ring r = { memory + (1024 - shared_at(memory) % 1024) % 1024, full, empty,
                                  j.stages, outs };
    const struct slice_tile t = own_tile(j, outs);
    float *kept = (float *)r.at;
    let_next_begin();
    if (threadIdx.x == 0) {
        for (int i = 0; i < j.stages; i++) {
            barrier_init(&full[i], 1);
            barrier_init(&empty[i], groups);
        }
        barriers_are_set();
    }
    __syncthreads();
    if ((int)threadIdx.x < groups * 128) {
        float sum[N / 2];
        if (t.begin < t.end) slice_sum<N>(sum, r, j, t);
        named_sync(1, groups * 128);
        if (t.begin < t.end) slice_keep<N>(kept, sum, outs, j.tall);
    } else if ((int)threadIdx.x == groups * 128) {
        slice_fetch<N>(r, j, t);
    }
    cluster_sync();
    after_previous();
    slice_finish<E>(kept, j, t, outs);
    cluster_sync();                  /* a block's sums stay until all have read them */
}

/* ---- a launch ---- */

static void configure(cudaLaunchConfig_t *config, cudaLaunchAttribute attrs[2], int tiles,
                      int groups) {
    attrs[0].id = cudaLaunchAttributeClusterDimension;
    attrs[0].val.clusterDim.x = SLICES;
    attrs[0].val.clusterDim.y = attrs[0].val.clusterDim.z = 1;
    attrs[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attrs[1].val.programmaticStreamSerializationAllowed = 1;
    config->attrs = attrs;
    config->numAttrs = 2;
    config->gridDim = dim3((unsigned)(tiles * SLICES));
    config->blockDim = dim3((unsigned)groups * 128 + 32);
    config->dynamicSmemBytes = RING + 1024;
}

/* Clusters that the chip runs at a time: processors come in groups of about 16, and a cluster lies
 * in one of them. */
template <int N, enum products_end E>
static int clusters_at_once(struct cuda *c) {
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attrs[2] = {};
    if (c->clusters) return c->clusters;
    configure(&config, attrs, 1, 2);
    config.numAttrs = 1;
    if (cudaOccupancyMaxActiveClusters(&c->clusters, slices<N, E>, &config) != cudaSuccess ||
        !c->clusters) {
        cudaGetLastError();
        c->clusters = -1;
    }
    return c->clusters;
}

/* Outputs of a warpgroup and warpgroups of a block, such that the block that has most to do reads
 * least. Returns how often the chip is filled. */
static int choose(struct many_job &j, int parts, int at_once, int n, int *groups) {
    int64_t least = INT64_MAX;
    int rounds = 0;
    for (int g = 1; g <= GROUPS_MAX; g++)
        for (int o = 64; o >= 32; o -= 8) {
            int tiles = 0;
            for (int i = 0; i < parts; i++) tiles += (int)blocks_of(j.part[i].outs, g * o);
            const int fills = (int)blocks_of(tiles, at_once);
            const int64_t rows = (int64_t)fills * (g * o + n);
            if (rows >= least) continue;
            least = rows;
            rounds = fills;
            *groups = g;
            j.tall = o;
            j.out_tiles = tiles;
        }
    for (int i = 0; i < parts; i++)
        j.part[i].tiles = (int)blocks_of(j.part[i].outs, *groups * j.tall);
    return rounds;
}

template <int N, enum products_end E>
static bool run(struct cuda *c, struct many_job &j, const struct many_plain &p) {
    int groups = 1;
    cudaFuncSetAttribute(slices<N, E>, cudaFuncAttributeMaxDynamicSharedMemorySize, RING + 1024);
    cudaFuncSetAttribute(slices<N, E>, cudaFuncAttributePreferredSharedMemoryCarveout,
                         cudaSharedmemCarveoutMaxShared);
    const int at_once = clusters_at_once<N, E>(c);
    if (at_once < 1 || choose(j, p.n, at_once, N, &groups) > ROUNDS_MAX) return false;
    j.stages = MIN((int)STAGES_MAX, RING / ((groups * j.tall + N) * 128));
    bool fits = cuda_tensor_map(&j.x, p.x, j.n_rows, j.cols, 2 * (int64_t)j.cols, N);
    for (int i = 0; fits && i < p.n; i++)
        fits = cuda_tensor_map(&j.w[i], p.w[i].at, p.w[i].shape[0], j.cols, 2 * p.w[i].stride[0],
                               groups * j.tall);
    if (!fits) return false;
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attrs[2] = {};
    configure(&config, attrs, j.out_tiles, groups);
    config.stream = c->stream;
    cuda_settle(c);
    cudaLaunchKernelEx(&config, slices<N, E>, j);
    return true;
}

template <enum products_end E>
static bool by_rows(struct cuda *c, struct many_job &j, const struct many_plain &p) {
    if (j.n_rows <= 32) return run<32, E>(c, j, p);
    if (j.n_rows <= 64) return run<64, E>(c, j, p);
    return run<128, E>(c, j, p);
}

bool cuda_multiply_slices(struct cuda *c, const struct many_job &job, const struct many_plain &p,
                          enum products_end end) {
    struct many_job j = job;
    if (j.n_rows > ROWS_MAX || end == PRODUCTS_GATE) return false;
    for (int i = 0; i < p.n; i++)
        if (cuda_slices(p.w[i]) != SLICES) return false;
    return end == PRODUCTS_ADD ? by_rows<PRODUCTS_ADD>(c, j, p) : by_rows<PRODUCTS_STORE>(c, j, p);
}
