/* linear_ring.cu - products of a few rows with bf16 weights on Hopper, which read every weight
 * once: a step of decoding is as fast as weights stream.
 *
 * The last warp of a block keeps a ring of stages in shared memory filled for each of the others
 * by the tensor copy engine, from before the kernel's rows exist, since nobody writes weights. Rows
 * are read as fragments (few_place), from shared memory where they fit, else 128 columns ahead of
 * their use. */
#include "device/cuda/linear_few.h"

/* CHUNK: columns of a stage. */
enum { STAGES_MAX = 8, WARPS = 8, CHUNK = 256, BYTES = 2 * TILE * CHUNK,
       BOX = 2 * TILE * 64,
       BARRIERS = 3 << 10 };         /* bytes of shared memory */

/* A row is 128 bytes; its 16-byte pieces lie at places xor the row's last three bits. */
__device__ static inline void steps(unsigned a[STEPS][4], const char *stage, int block) {
    const int lane = threadIdx.x % 32, row = lane % 16;
    const unsigned box = shared_at(stage + block * BOX + row * 128);
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        const unsigned at = box + (unsigned)((2 * i + lane / 16) ^ (row & 7)) * 16;
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(a[i][0]), "=r"(a[i][1]), "=r"(a[i][2]), "=r"(a[i][3]) : "r"(at));
    }
}

struct ring {                        /* of a warp */
    char *at;
    uint64_t *full, *empty;          /* [stages] */
    int stage;
    unsigned parity;
};

__device__ static inline void next_stage(struct ring &r, const struct few_job &j) {
    if (++r.stage < j.stages) return;
    r.stage = 0;
    r.parity ^= 1;
}

/* What a lane of the last warp has still to ask for, for the warp of its number. */
struct cursor { int unit, strip, col; };

__device__ static inline void fetch(struct cursor &at, struct ring &r, const struct own &own,
                                    const struct few_job &j) {
    int tile;
    const int p = part_of(j, at.unit, at.strip, &tile);
    barrier_expect(&r.full[r.stage], BYTES);
    blocks_in(r.at + r.stage * BYTES, &j.map[p], at.col / 64, tile * TILE, &r.full[r.stage]);
    next_stage(r, j);
    at.col += CHUNK;
    if (at.col < own.end) return;
    at.col = own.begin;
    if (++at.strip < j.strips) return;
    at.strip = 0;
    at.unit += own.step;
}

/* Whether the phase of that parity is over. */
__device__ static inline bool barrier_is(uint64_t *b, unsigned parity) {
    unsigned is = 0;
    HOPPER_ONLY(asm volatile("{ .reg .pred p; "
                             "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;"
                             "selp.u32 %0, 1, 0, p; }" : "=r"(is) : "r"(shared_at(b)), "r"(parity)
                             : "memory"));
    return is;
}

/* For the ring of warp `of`, by its lane; there may be none. A stage is free again when the round
 * before was used. Lanes look again and again: if each waited for its own, all would wait for the
 * last. */
__device__ static inline void keep_filled(struct ring r, const struct few_job &j,
                                          const struct own &own, int of) {
    struct cursor at = { own.first, 0, own.begin };
    if (of >= j.warps || own.begin >= own.end) at.unit = j.units;
    for (int i = 0; i < j.stages && at.unit < j.units; i++) fetch(at, r, own, j);
    __syncwarp();
    while (__any_sync(~0u, at.unit < j.units)) {
        if (at.unit < j.units && barrier_is(&r.empty[r.stage], r.parity ^ 1)) fetch(at, r, own, j);
        __syncwarp();
    }
}

/* The columns 128 after these; after the last come the first again. */
__device__ static inline int following(int at, const struct own &own) {
    const int then = at + 128;
    return then < own.end ? then : own.begin + (at / 64 & 1) * 64;
}

/* A strip's columns of the warp: total[n] = the sum of its slices. x: its first 128, where rows are
 * not in shared memory. */
template <bool SHARED, int N>
__device__ static inline void strip_of(float total[N][4], struct ring &r, struct x_part<N> x[2],
                                       const struct x_rows<N> &rows, const struct own &own,
                                       const struct few_job &j, int slice) {
    float sum[N][4] = {};
    int left = slice;
#pragma unroll
    for (int n = 0; n < N; n++)
        for (int i = 0; i < 4; i++) total[n][i] = 0;
    for (int col = own.begin; col < own.end; col += CHUNK) {
        const char *stage = r.at + r.stage * BYTES;
        barrier_wait(&r.full[r.stage], r.parity);
#pragma unroll
        for (int i = 0; i < CHUNK / 64; i++) {
            const int at = col + i * 64;
            if (at >= own.end) break;
            unsigned a[STEPS][4];
            if (SHARED) load_x<SHARED, N>(x[i % 2], rows, at);
            steps(a, stage, i);
            sum_64<N>(sum, a, x[i % 2].at);
            if (!SHARED) load_x<SHARED, N>(x[i % 2], rows, following(at, own));
            left -= 64;
            if (left == 0 || at + 64 >= own.end) {
                end_slice<N>(total, sum);
                left = slice;
            }
        }
        __syncwarp();
        if (threadIdx.x % 32 == 0) barrier_arrive(&r.empty[r.stage]);
        next_stage(r, j);
    }
}

/* Shared memory: the rings of the warps, one after the other, the rows, the warps' sums. */
template <bool SHARED, int N>
__global__ static void __launch_bounds__((WARPS + 1) * 32, N == 1 ? 2 : 1)
    stream(const __grid_constant__ struct few_job j) {
    extern __shared__ __align__(1024) char memory[];
    __shared__ uint64_t full[WARPS][STAGES_MAX], empty[WARPS][STAGES_MAX], x_full;
    const int warp = threadIdx.x / 32, last = blockDim.x / 32 - 1, ring_bytes = j.stages * BYTES;
    char *x_at = memory + j.warps * ring_bytes;
    float *kept = (float *)(x_at + (SHARED ? 2 * j.n_rows * j.cols + 128 : 0));
    const int of = warp == last ? (int)threadIdx.x % 32 : warp;
    const struct own own = own_of(j, of);
    if (warp < j.warps && threadIdx.x % 32 == 0)
#pragma unroll 1
        for (int i = 0; i < j.stages; i++) {
            barrier_init(&full[warp][i], 1);
            barrier_init(&empty[warp][i], 1);
        }
    barriers_are_set();
    writes_are_shared();
    __syncthreads();
    let_next_begin();
    if (warp == last) {
        const int is = MIN(of, j.warps - 1);
        keep_filled({ memory + is * ring_bytes, full[is], empty[is], 0, 0 }, j, own, of);
        return;
    }
    if (SHARED) rows_in<WARPS>(x_at, j, &x_full, last);
    else after_previous();
    if (warp >= j.warps) return;     /* those are there for a norm */
    struct ring r = { memory + warp * ring_bytes, full[warp], empty[warp], 0, 0 };
    const struct x_rows<N> rows = rows_of<N>(SHARED ? x_at : j.x, j);
    struct x_part<N> x[2];
    for (int i = 0; i < 2 && !SHARED; i++)
        load_x<SHARED, N>(x[i], rows, MIN(own.begin + 64 * i, j.cols - 64));
    for (int unit = own.first; unit < j.units; unit += own.step) {
        int tile;
        const int p = part_of(j, unit, 0, &tile), slice = j.part[p].slice;
        const float before = output_before(j, p, tile, place_in_unit(j, warp));
#pragma unroll 1
        for (int s = 0; s < j.strips; s++) {
            float v[N][4];
            strip_of<SHARED, N>(v, r, x, rows, own, j, slice);
            keep<N>(kept_at(kept, j, s, warp), j, v);
        }
        join(j, warp);
        finish_unit(j, kept, p, tile, warp, before);
        join(j, warp);               /* before anybody keeps the next */
    }
}

template <bool SHARED, int N>
static void start(struct cuda *c, struct few_job &j, size_t x_bytes) {
    const auto kernel = stream<SHARED, N>;
    static const size_t alone_bytes = few_alone(kernel);
    const int units_each = (int)blocks_of(j.units, c->processors);
    j.warps = MAX(1, MIN(units_each, WARPS / j.spread)) * j.spread;
    const size_t beside = (SHARED ? x_bytes + 128 : 0) + few_kept(j);
    const size_t stage = (size_t)(j.warps * BYTES), half = SHARED_HALF - BARRIERS;
    const bool halves = N == 1 && beside < SHARED_HALF / 2 && beside + stage <= half;
    const size_t most = halves ? half : SHARED_MOST - BARRIERS;
    j.stages = (int)MIN((size_t)STAGES_MAX, (most - beside) / stage);
    const size_t needed = (size_t)(j.stages * j.warps * BYTES) + beside;
    /* It may begin beside attention, which is not on every processor: see linear_packed.cu. */
    const bool alone = j.n_rows == 1 && j.end == PRODUCTS_ADD;
    const size_t bytes = alone ? MAX(needed, alone_bytes) : needed;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_MOST);
    cuda_start(c, kernel, dim3((unsigned)MIN(j.units, c->processors)),
               dim3(32u * ((j.norm.x ? (int)WARPS : j.warps) + 1)), bytes, j);
}

bool cuda_ring_map(CUtensorMap *map, const struct tensor &w) {
    return cuda_tensor_map_blocks(map, w.at, w.shape[0], w.shape[1], 2 * w.stride[0], TILE,
                                  CHUNK / 64);
}

void cuda_ring(struct cuda *c, struct few_job &j) {
    const size_t x_bytes = 2 * (size_t)j.n_rows * (size_t)j.cols;
    const bool fits = x_bytes <= SHARED_HALF;
    if (j.n_rows <= 8 && fits) start<true, 1>(c, j, x_bytes);
    else if (j.n_rows <= 8) start<false, 1>(c, j, x_bytes);
    else if (fits) start<true, 2>(c, j, x_bytes);
    else start<false, 2>(c, j, x_bytes);
}
