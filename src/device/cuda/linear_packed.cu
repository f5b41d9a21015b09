/* linear_packed.cu - products of a few rows with packed weights on Hopper. Their bytes are few, so
 * what counts beside the stream is that enough warps unpack them, with few instructions. Four share
 * a unit, a slice of the columns each. A warp fills a ring of its own in shared memory, from before
 * the kernel's rows exist, since nobody writes weights; it waits for others only to add slices. */
#include "device/cuda/linear_format.h"

enum { WARPS = 16 };

/* What a warp has still to ask for. */
template <class F> struct feed { int unit, strip, col; typename F::from from; };

/* Nothing, where there is no more: stages are counted. */
template <class F>
__device__ static inline void fetch_next(struct feed<F> &f, char *stage, const struct own &own,
                                         const struct few_job &j) {
    if (f.unit < j.units) {
        if (f.col == own.begin) {
            int tile;
            const int p = part_of(j, f.unit, f.strip, &tile);
            F::seek(f.from, j.part[p], j, tile, own.begin);
        }
        F::fetch(stage, f.from, own.end - f.col, j);
        f.col += F::CHUNK;
        if (f.col >= own.end) {
            f.col = own.begin;
            if (++f.strip == j.strips) f.strip = 0, f.unit += own.step;
        }
    }
    async_commit();
}

/* Until all but the last `left` of what was asked for is there: a number that is named. A test and
 * its jump cost a warp twenty cycles at every stage, so the most usual come first. */
template <int N, int... OTHERS> __device__ static inline void wait_for_all_but(int left) {
    if constexpr (sizeof...(OTHERS) == 0) async_wait<N>();
    else if (left == N) async_wait<N>();
    else wait_for_all_but<OTHERS...>(left);
}

/* One or two less than stages_for knows, in the order of the largest products of an 8B. */
__device__ static inline void even_wait(int stages) {
    wait_for_all_but<2, 4, 5, 3, 1, 7, 11>(stages - 1);
}

__device__ static inline void usual_wait(int stages) {
    wait_for_all_but<0, 2, 1, 3, 4, 6, 10>(stages - 2);
}

template <class F> struct ring {
    char *at;                        /* of the warp: j.stages times F::BYTES */
    int use, fill;                   /* where the next stages are, in bytes */
    struct feed<F> feed;
};

template <class F>
__device__ static inline void turn(int &at, const struct few_job &j) {
    at += F::BYTES;
    if (at == j.stages * (int)F::BYTES) at = 0;
}

/* 64 columns of the rows. x: these, where rows are not in shared memory, and then those that
 * follow; after the last the first ones again. */
template <bool SHARED, int N>
__device__ static inline void x_of(struct x_part<N> &now, struct x_part<N> &x,
                                   const struct x_rows<N> &rows, int col, const struct own &own) {
    if (SHARED) load_x<SHARED, N>(now, rows, col);
    else {
        now = x;
        load_x<SHARED, N>(x, rows, col + 64 < own.end ? col + 64 : own.begin);
    }
}

/* 64 columns are multiplied. */
template <class F, bool SHARED, int N>
__device__ static inline void block_of(float sum[N][4], struct x_part<N> &x,
                                       const struct x_rows<N> &rows,
                                       const typename F::piece &w, int col,
                                       const struct own &own) {
    struct x_part<N> now;
    unsigned a[STEPS][4];
    x_of<SHARED, N>(now, x, rows, col, own);
    F::steps(a, w);
    sum_64<N>(sum, a, now.at);
}

/* sum[n]: a slice of a strip. */
template <class F, bool SHARED, int N>
__device__ static inline void strip_of(float sum[N][4], struct ring<F> &r,
                                       struct x_part<N> &x, const struct x_rows<N> &rows,
                                       const struct own &own, const struct few_job &j) {
    const auto block = [&](int b, int col) {
        typename F::piece w;
        F::load(w, r.at + r.use, b, j);
        block_of<F, SHARED, N>(sum, x, rows, w, col + 64 * b, own);
    };
#pragma unroll 1
    for (int col = own.begin; col < own.end; col += F::CHUNK) {
        usual_wait(j.stages);
        __syncwarp();                /* scales were asked for by other lanes, and the stage that
                                        is filled now was used by all of them */
        fetch_next<F>(r.feed, r.at + r.fill, own, j);
        turn<F>(r.fill, j);
        if (col + F::CHUNK <= own.end) {             /* a test for each block costs 7 % */
#pragma unroll
            for (int b = 0; b < F::CHUNK / 64; b++) block(b, col);
        } else {
#pragma unroll 1
            for (int b = 0; col + 64 * b < own.end; b++) block(b, col);
        }
        turn<F>(r.use, j);
    }
}

/* The same of an EVEN format. A stage goes into registers, and is asked for again before it is
 * multiplied, so that the whole ring is always under way. */
template <class F, bool SHARED, int N>
__device__ static inline void even_strip_of(float sum[N][4], struct ring<F> &r,
                                            struct x_part<N> &x, const struct x_rows<N> &rows,
                                            const struct own &own, const struct few_job &j,
                                            unsigned scales) {
    constexpr int BLOCKS = F::CHUNK / 64;
    int stage = 0;
#pragma unroll 1
    for (int col = own.begin; col < own.end; col += F::CHUNK, stage++) {
        typename F::piece w[BLOCKS];
        even_wait(j.stages);
        const unsigned scale = __shfl_sync(~0u, scales, stage);
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) F::load(w[b], r.at + r.use, b, scale);
        fetch_next<F>(r.feed, r.at + r.use, own, j);
        turn<F>(r.use, j);
#pragma unroll
        for (int b = 0; b < BLOCKS; b++)
            block_of<F, SHARED, N>(sum, x, rows, w[b], col + 64 * b, own);
    }
}

/* Of a strip that is multiplied later, or of none. */
template <class F>
__device__ static inline unsigned strip_scales(int unit, int strip, const struct own &own,
                                               const struct few_job &j) {
    if constexpr (F::EVEN) {
        int tile;
        if (unit >= j.units) return 0;
        const int p = part_of(j, unit, strip, &tile);
        return F::scales(j.part[p], tile, own);
    } else return 0;
}

/* Shared memory: the rings of the warps, one after the other, the rows, the warps' sums. */
template <class F, bool SHARED, int N>
__global__ static void __launch_bounds__(WARPS * 32, N == 1 ? 2 : 1)
    stream(const __grid_constant__ struct few_job j) {
    extern __shared__ __align__(128) char memory[];
    __shared__ uint64_t x_full;
    const int warp = threadIdx.x / 32, ring_bytes = j.stages * F::BYTES;
    char *x_at = memory + (j.warps * ring_bytes + 127) / 128 * 128;
    float *kept = (float *)(x_at + (SHARED ? 2 * j.n_rows * j.cols + 128 : 0));
    const struct own own = own_of(j, warp);
    struct ring<F> r = { memory + warp * ring_bytes, 0, 0, { own.first, 0, own.begin } };
    if (own.begin >= own.end || warp >= j.warps) r.feed.unit = j.units;
    let_next_begin();
    for (int i = F::EVEN ? 0 : 1; i < j.stages; i++, turn<F>(r.fill, j))
        fetch_next<F>(r.feed, r.at + r.fill, own, j);
    if (SHARED) rows_in<WARPS>(x_at, j, &x_full, blockDim.x / 32);
    else after_previous();
    if (warp >= j.warps) return;     /* those are there for a norm */
    const struct x_rows<N> rows = rows_of<N>(SHARED ? x_at : j.x, j);
    struct x_part<N> x;
    if (!SHARED) load_x<SHARED, N>(x, rows, MIN(own.begin, j.cols - 64));
    int odd = 0;
    [[maybe_unused]] unsigned next = strip_scales<F>(own.first, 0, own, j);
    for (int unit = own.first; unit < j.units; unit += own.step, odd ^= 1) {
        int tile;
        const int p = part_of(j, unit, 0, &tile);
        const float before = output_before(j, p, tile, place_in_unit(j, warp));
        float *to = kept + odd * j.strips * j.warps * j.n_rows * TILE;
#pragma unroll 1
        for (int s = 0; s < j.strips; s++) {
            float v[N][4] = {};
            if constexpr (F::EVEN) {
                const unsigned scales = next;
                const bool last = s + 1 == j.strips;
                next = strip_scales<F>(last ? unit + own.step : unit, last ? 0 : s + 1, own, j);
                even_strip_of<F, SHARED, N>(v, r, x, rows, own, j, scales);
            } else strip_of<F, SHARED, N>(v, r, x, rows, own, j);
            keep<N>(kept_at(to, j, s, warp), j, v);
        }
        join(j, warp);               /* the next unit's sums are kept elsewhere */
        finish_unit(j, to, p, tile, warp, before);
    }
}

/* ---- a launch ---- */

/* Stages that usual_wait and even_wait know. */
static int stages_for(size_t room, size_t each) {
    static const int known[] = { 12, 8, 6, 5, 4, 3 };
    for (int n : known)
        if (n * each <= room) return n;
    return 2;
}

/* Blocks of a product and of the next are on a processor together. Two blocks of one product must
 * not be, for then another processor has none, and neither has it of the products that follow,
 * which go where there is room. A product that adds begins while blocks of attention are here and
 * there, which take a place of two from a processor: it asks for so much that two never fit, of
 * formats whose blocks are large (ALONE) whatever the rows, of others beside attention_one.cu; and
 * what follows finds a block everywhere. ROOM is what fits beside it, and it is three stages of
 * gate and up. */
static constexpr size_t ROOM = (111 << 10) + 256;

template <class F, bool SHARED, int N>
static void start(struct cuda *c, struct few_job &j, size_t x_bytes) {
    const auto kernel = stream<F, SHARED, N>;
    static const size_t alone_bytes = few_alone(kernel);
    const int units_each = (int)blocks_of(j.units, c->processors);
    j.spread = SLICES;
    j.warps = MIN(units_each, WARPS / SLICES) * SLICES;
    const size_t beside = (SHARED ? x_bytes + 128 : 0) + 2 * few_kept(j) + 128;
    const bool halves = N == 1 && beside < ROOM / 2;
    const bool alone = halves && (F::ALONE || j.n_rows == 1) && j.end == PRODUCTS_ADD;
    const size_t most = alone ? alone_bytes : halves ? ROOM : SHARED_MOST;
    j.stages = stages_for(most - beside, (size_t)(j.warps * (int)F::BYTES));
    const size_t needed = (size_t)(j.stages * j.warps * (int)F::BYTES) + beside;
    if (SHARED && needed > SHARED_MOST) return start<F, false, N>(c, j, 0);
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_MOST);
    cuda_start(c, kernel, dim3((unsigned)MIN(j.units, c->processors)),
               dim3(32u * (j.norm.x ? (int)WARPS : j.warps)), alone ? alone_bytes : needed, j);
}

template <class F>
static void by_rows(struct cuda *c, struct few_job &j) {
    const size_t x_bytes = 2 * (size_t)j.n_rows * (size_t)j.cols;
    const bool fits = x_bytes <= SHARED_HALF;
    if (j.n_rows <= 8 && fits) start<F, true, 1>(c, j, x_bytes);
    else if (j.n_rows <= 8) start<F, false, 1>(c, j, x_bytes);
    else if (fits) start<F, true, 2>(c, j, x_bytes);
    else start<F, false, 2>(c, j, x_bytes);
}

/* Which format; F the function that is a template of it. */
#define BY_FORMAT(w, scaled, ...) \
    do { \
        const bool g32 = (w).quant.group == 32, f16 = (w).quant.scale_dtype == F16; \
        if ((w).dtype == FP8 && scaled) { typedef format_fp8<fp8_quick> F; __VA_ARGS__; } \
        else if ((w).dtype == FP8) { typedef format_fp8<fp8_any> F; __VA_ARGS__; } \
        else if ((w).dtype == MXFP4) { typedef format_mxfp4 F; __VA_ARGS__; } \
        else if ((w).quant.bits == 8 && f16 && g32) \
            { typedef format_affine8<false, true> F; __VA_ARGS__; } \
        else if ((w).quant.bits == 8 && f16) \
            { typedef format_affine8<false, false> F; __VA_ARGS__; } \
        else if ((w).quant.bits == 8 && g32) \
            { typedef format_affine8<true, true> F; __VA_ARGS__; } \
        else if ((w).quant.bits == 8) { typedef format_affine8<true, false> F; __VA_ARGS__; } \
        else if (f16 && g32) { typedef format_affine4<F16_FACTORS, true> F; __VA_ARGS__; } \
        else if (f16) { typedef format_affine4<F16_FACTORS, false> F; __VA_ARGS__; } \
        else if (scaled && g32) { typedef format_affine4<SCALED, true> F; __VA_ARGS__; } \
        else if (scaled) { typedef format_affine4<SCALED, false> F; __VA_ARGS__; } \
        else if (g32) { typedef format_affine4<BF16_FACTORS, true> F; __VA_ARGS__; } \
        else { typedef format_affine4<BF16_FACTORS, false> F; __VA_ARGS__; } \
    } while (0)

void cuda_packed_few(struct cuda *c, struct few_job &j, const struct tensor &w) {
    if (j.even && j.whole) by_rows<format_fp8_even<fp8_whole>>(c, j);
    else if (j.even) by_rows<format_fp8_even<fp8_quick>>(c, j);
    else BY_FORMAT(w, j.scaled, by_rows<F>(c, j));
}

/* ---- plain weights, for products of many rows ---- */

enum { PLAIN_WARPS = 4, PLAIN_ROW = 64 + 8 };    /* numbers of a row, beside which banks differ */

/* A warp for 64 columns of a tile at a time. Rows leave by way of shared memory, so that whole
 * lines are written. */
template <class F>
__global__ static void __launch_bounds__(PLAIN_WARPS * 32)
plain(__nv_bfloat16 *to, const __grid_constant__ struct few_job j, int first, int tiles) {
    __shared__ __align__(16) char stage[PLAIN_WARPS][F::BYTES];
    __shared__ __align__(16) __nv_bfloat16 rows[PLAIN_WARPS][TILE][PLAIN_ROW];
    const int lane = lane_of(), warp = threadIdx.x / 32, blocks = j.cols / 64;
    let_next_begin();
    after_previous();
    for (int64_t i = (int64_t)blockIdx.x * PLAIN_WARPS + warp; i < (int64_t)tiles * blocks;
         i += (int64_t)gridDim.x * PLAIN_WARPS) {
        const int tile = (int)(i / blocks), col = (int)(i % blocks) * 64;
        struct F::from from;
        typename F::piece w;
        unsigned a[STEPS][4];
        __syncwarp();
        F::seek(from, j.part[0], j, first + tile, col);
        F::fetch(stage[warp], from, 64, j);
        async_commit();
        async_wait<0>();
        __syncwarp();
        F::load(w, stage[warp], 0, j);
        F::steps(a, w);
#pragma unroll
        for (int n = 0; n < STEPS; n++)
#pragma unroll
            for (int k = 0; k < 4; k++)
                *(unsigned *)&rows[warp][lane / 4 + k % 2 * 8][16 * n + k / 2 * 8 +
                                                               lane % 4 * 2] = a[n][k];
        __syncwarp();
#pragma unroll
        for (int n = 0; n < 4; n++) {
            const int row = 4 * n + lane / 8, at = lane % 8 * 8;
            *(uint4 *)(to + (int64_t)(tile * TILE + row) * j.cols + col + at) =
                *(const uint4 *)&rows[warp][row][at];
        }
    }
}

bool cuda_plain_weights(struct cuda *c, const struct tensor &w, int64_t first, int64_t n,
                        __nv_bfloat16 *to) {
    struct few_job j = {};
    struct cuda_products a = {};
    a.n = 1;
    a.w[0] = w;
    if (w.dtype == BF16 || !cuda_few_describe(c, &j, a)) return false;
    const int tiles = (int)(n / TILE);
    const int64_t warps = tiles * (w.shape[1] / 64);
    const unsigned grid = MIN(blocks_of(warps, PLAIN_WARPS), 16u * (unsigned)c->processors);
    BY_FORMAT(w, j.scaled,
              cuda_start(c, plain<F>, grid, PLAIN_WARPS * 32, 0, to, j, (int)(first / TILE),
                         tiles));
    return true;
}
