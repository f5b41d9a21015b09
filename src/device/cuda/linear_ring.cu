/* linear_ring.cu - products of a few rows on Hopper, which read every weight once: a step of
 * decoding is as fast as weights stream.
 *
 * A warp computes a tile of 16 outputs (of two matrices, where one gates the other) for up to 16
 * rows. The last warps of a block keep a ring of stages in shared memory filled for each of the
 * others by the bulk copy engine, from before the kernel's rows exist, since nobody writes weights.
 * Where tiles are few, the slices of a tile go to as many warps, which are added in order. Rows are
 * read as fragments (few_place), from shared memory where they fit, a part of 128 columns ahead of
 * their use. */
#include "device/cuda/linear_format.h"

/* A ring of this size leaves room for the block of the next kernel beside it. */
enum { PARTS = 3, STAGES_MAX = 16, RING = 96 << 10, PART = 128, SHARED_MOST = 208 << 10 };

struct job {
    CUtensorMap map[PARTS];          /* of plain weights */
    struct ring_part part[PARTS];
    struct ring_shape shape;
    const char *x;                   /* the rows, see few_place */
    char *next;                      /* the gated rows go there as well; NULL: nowhere */
    int n_rows;
    int units, strips;               /* a unit is a tile of `strips` matrices */
    int warps;                       /* that compute */
    int spread;                      /* warps that share a unit: 1, or one for each slice */
    int stages;                      /* of a warp's ring */
    enum products_end end;
    struct gate_args act;
    float scale;
};

/* ---- rows as fragments ---- */

__global__ static void round_few(char *few, const float *x, int64_t x_row, int cols) {
    let_next_begin();
    after_previous();
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c < cols) few_put(few, blockIdx.y, c, cols, x[blockIdx.y * x_row + c]);
}

/* 128 columns of N times 8 rows as a lane needs them: row lane / 4 of each 8. */
template <int N> struct x_part { uint4 at[N][2][2]; };

/* Where a lane's numbers begin: in shared memory or not. Those of rows that there are not are
 * zeros. */
template <int N> struct x_rows { const char *at[N]; int first, second; bool is[N]; };

template <int N>
__device__ static inline struct x_rows<N> rows_of(const char *x, const struct job &j) {
    struct x_rows<N> r;
    const int lane = threadIdx.x % 32, odd = lane / 4 % 2;
    r.first = odd * 64;
    r.second = 64 - r.first;
#pragma unroll
    for (int n = 0; n < N; n++) {
        const int row = 8 * n + lane / 4;
        r.is[n] = row < j.n_rows;
        r.at[n] = x + 2 * (int64_t)row * j.shape.cols + lane % 4 * 16;
    }
    return r;
}

/* What lies behind a row's end is read and not used. */
template <bool SHARED, int N>
__device__ static inline void load_x(struct x_part<N> &x, const struct x_rows<N> &r, int col) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int b = 0; b < 2; b++) {
            const char *at = r.at[n] + 2 * col + 128 * b;
            x.at[n][b][0] = x.at[n][b][1] = make_uint4(0, 0, 0, 0);
            if (!r.is[n]) continue;
            if (SHARED) {
                x.at[n][b][0] = *(const uint4 *)__cvta_shared_to_generic(shared_at(at + r.first));
                x.at[n][b][1] = *(const uint4 *)__cvta_shared_to_generic(shared_at(at + r.second));
            } else {
                x.at[n][b][0] = *(const uint4 *)(at + r.first);
                x.at[n][b][1] = *(const uint4 *)(at + r.second);
            }
        }
}

/* c[16 outs, 8 rows] += a[16, 16] b[16, 8]. A lane has outs lane/4 and 8 more, and rows
 * 2 (lane%4) and the next. */
__device__ static inline void mma(float c[4], const unsigned a[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},"
        "{%8,%9},{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <class F, int N>
__device__ static inline void block_of(float sum[N][4], const char *stage, int block,
                                       const struct x_part<N> &x, int b,
                                       const struct ring_shape &s) {
    unsigned a[STEPS][4];
    F::steps(a, stage, block, s);
#pragma unroll
    for (int n = 0; n < N; n++) {
        const uint4 u = x.at[n][b][0], v = x.at[n][b][1];
        mma(sum[n], a[0], u.x, u.y);
        mma(sum[n], a[1], u.z, u.w);
        mma(sum[n], a[2], v.x, v.y);
        mma(sum[n], a[3], v.z, v.w);
    }
}

/* ---- the ring of a warp ---- */

/* Which part a strip of a unit belongs to, and which tile of it. */
__device__ static inline int part_of(const struct job &j, int unit, int strip, int *tile) {
    *tile = unit;
    if (j.strips > 1) return strip;
    int p = 0;
    while (unit >= j.part[p].tiles) p++;
    if (p) *tile = unit - j.part[p - 1].tiles;
    return p;
}

struct own {                         /* what a warp works on */
    int begin, end;                  /* columns */
    int first, step;                 /* units */
};

__device__ static inline struct own own_of(const struct job &j, int warp) {
    struct own own = { 0, j.shape.cols, (int)(blockIdx.x + gridDim.x * (warp / j.spread)),
                       (int)gridDim.x * (j.warps / j.spread) };
    if (j.spread > 1) {
        own.begin = MIN(warp % j.spread * j.part[0].slice, j.shape.cols);
        own.end = MIN(own.begin + j.part[0].slice, j.shape.cols);
    }
    return own;
}

struct ring {                        /* of a warp */
    char *at;
    uint64_t *full, *empty;          /* [stages] */
    int stage;
    unsigned parity;
};

__device__ static inline void next_stage(struct ring &r, const struct job &j) {
    if (++r.stage < j.stages) return;
    r.stage = 0;
    r.parity ^= 1;
}

/* What a lane of the last warps has still to ask for, for the warp of its number. */
struct cursor { int unit, strip, col; };

template <class F>
__device__ static inline void fetch(struct cursor &at, struct ring &r, const struct own &own,
                                    const struct job &j) {
    int tile;
    const int p = part_of(j, at.unit, at.strip, &tile);
    F::fetch(r.at + r.stage * F::BYTES, &r.full[r.stage], j.part[p], &j.map[p], j.shape, tile,
             at.col, MIN((int)F::CHUNK, own.end - at.col));
    next_stage(r, j);
    at.col += F::CHUNK;
    if (at.col < own.end) return;
    at.col = own.begin;
    if (++at.strip < j.strips) return;
    at.strip = 0;
    at.unit += own.step;
}

/* For the ring of warp `of`; there may be none. x: where the rows go in shared memory; NULL: they
 * stay, or another lane asks for them. */
template <class F>
__device__ static inline void keep_filled(struct ring r, const struct job &j, int of, char *x,
                                          uint64_t *x_full) {
    const struct own own = own_of(j, of);
    struct cursor at = { own.first, 0, own.begin };
    if (of >= j.warps || own.begin >= own.end) at.unit = j.units;
    for (int i = 0; i < j.stages && at.unit < j.units; i++) fetch<F>(at, r, own, j);
    __syncwarp();
    after_previous();
    if (x) {
        const unsigned bytes = (unsigned)(2 * j.n_rows * j.shape.cols);
        writes_are_global();
        barrier_expect(x_full, bytes);
        bytes_in(x, j.x, bytes, x_full);
    }
    __syncwarp();
    while (at.unit < j.units) {      /* a stage is free again when the round before was used */
        barrier_wait(&r.empty[r.stage], r.parity ^ 1);
        fetch<F>(at, r, own, j);
    }
}

/* A strip's columns of the warp: total[n] = the sum of its slices. x: its first columns; those that
 * follow the last are the first again. */
template <class F, bool SHARED, int N>
__device__ static inline void strip_of(float total[N][4], struct ring &r, struct x_part<N> &x,
                                       const struct x_rows<N> &rows, const struct own &own,
                                       const struct job &j, int slice) {
    float sum[N][4] = {};
    int left = slice;
#pragma unroll
    for (int n = 0; n < N; n++)
        for (int i = 0; i < 4; i++) total[n][i] = 0;
    for (int col = own.begin; col < own.end; col += F::CHUNK) {
        const char *stage = r.at + r.stage * F::BYTES;
        barrier_wait(&r.full[r.stage], r.parity);
#pragma unroll
        for (int i = 0; i < F::CHUNK / PART; i++) {
            const int at = col + i * PART, then = at + PART < own.end ? at + PART : own.begin;
            if (at >= own.end) break;
            struct x_part<N> ahead;
            load_x<SHARED, N>(ahead, rows, then);
            block_of<F, N>(sum, stage, 2 * i, x, 0, j.shape);
            if (at + 64 < own.end) block_of<F, N>(sum, stage, 2 * i + 1, x, 1, j.shape);
            left -= PART;
            if (left == 0 || at + PART >= own.end) {
#pragma unroll
                for (int n = 0; n < N; n++)
                    for (int k = 0; k < 4; k++) total[n][k] += sum[n][k], sum[n][k] = 0;
                left = slice;
            }
            x = ahead;
        }
        __syncwarp();
        if (threadIdx.x % 32 == 0) barrier_arrive(&r.empty[r.stage]);
        next_stage(r, j);
    }
}

/* ---- what becomes of a sum ---- */

__device__ static __noinline__ float any_gated(float g, float u, const struct gate_args *a) {
    return gated(g, u, *a);
}

/* v: of each strip. */
__device__ static inline void finish(const struct job &j, int p, int out, int row, float first,
                                     float second) {
    const struct ring_part &part = j.part[p];
    if (out >= part.outs) return;
    float *y = &part.y[row * part.y_row + out];
    first += part.bias ? part.bias[out] : 0;
    if (j.end == PRODUCTS_STORE) *y = first;
    else if (j.end == PRODUCTS_ADD) *y = fmaf(j.scale, first, *y);
    else {
        const float *bias = j.part[1].bias, up = second + (bias ? bias[out] : 0);
        const float h = j.act.act == ACT_SILU ? first * sigmoid(first) * up
                                              : any_gated(first, up, &j.act);
        *y = h;
        if (j.next) few_put(j.next, row, out, part.outs, h);
    }
}

/* What a warp has of a strip: [row][out]. */
template <int N> struct strip { float at[8 * N][TILE]; };

template <int N>
__device__ static inline void keep(struct strip<N> *to, const float v[N][4]) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            to->at[8 * n + lane % 4 * 2 + i % 2][lane / 4 + i / 2 * 8] = v[n][i];
}

/* The warps of a unit wait for each other. */
__device__ static inline void join(const struct job &j, int warp) {
    if (j.spread > 1) named_sync(1 + warp / j.spread, 32 * j.spread);
    else __syncwarp();
}

/* The slices of the warps that share a unit are added in order. */
template <int WARPS, int N>
__device__ static inline void finish_unit(const struct job &j, const struct strip<N> kept[2][WARPS],
                                          int unit, int warp) {
    const int first = warp / j.spread * j.spread, outs = TILE * j.n_rows;
    int tile;
    const int p = part_of(j, unit, 0, &tile);
#pragma unroll 1
    for (int i = threadIdx.x - first * 32; i < outs; i += 32 * j.spread) {
        const int out = i % TILE, row = i / TILE;
        float v[2];
#pragma unroll
        for (int s = 0; s < 2; s++) {
            v[s] = s < j.strips ? kept[s][first].at[row][out] : 0;
            for (int k = 1; k < j.spread && s < j.strips; k++)
                v[s] += kept[s][first + k].at[row][out];
        }
        finish(j, p, tile * TILE + out, row, v[0], v[1]);
    }
}

/* Shared memory: the rings of the warps, one after the other, and the rows. */
template <class F, bool SHARED, int N>
__global__ static void __launch_bounds__((F::WARPS + F::FETCHERS) * 32, N == 1 ? 2 : 1)
    stream(const __grid_constant__ struct job j) {
    extern __shared__ __align__(1024) char memory[];
    __shared__ uint64_t full[F::WARPS][STAGES_MAX], empty[F::WARPS][STAGES_MAX], x_full;
    __shared__ struct strip<N> kept[2][F::WARPS];
    const int warp = threadIdx.x / 32, ring_bytes = j.stages * F::BYTES;
    char *x_at = memory + j.warps * ring_bytes;
    if (warp < j.warps && threadIdx.x % 32 == 0)
        for (int i = 0; i < j.stages; i++) {
            barrier_init(&full[warp][i], 1);
            barrier_init(&empty[warp][i], 1);
        }
    if (threadIdx.x == j.warps * 32) barrier_init(&x_full, 1);
    barriers_are_set();
    writes_are_shared();
    __syncthreads();
    let_next_begin();
    if (warp >= j.warps) {
        const int of = threadIdx.x % 32 * F::FETCHERS + warp - j.warps;
        const int is = MIN(of, j.warps - 1);
        const struct ring r = { memory + is * ring_bytes, full[is], empty[is], 0, 0 };
        keep_filled<F>(r, j, of, SHARED && of == 0 ? x_at : NULL, &x_full);
        return;
    }
    struct ring r = { memory + warp * ring_bytes, full[warp], empty[warp], 0, 0 };
    const struct own own = own_of(j, warp);
    after_previous();
    if (SHARED) barrier_wait(&x_full, 0);
    const struct x_rows<N> rows = rows_of<N>(SHARED ? x_at : j.x, j);
    struct x_part<N> x;
    load_x<SHARED, N>(x, rows, MIN(own.begin, j.shape.cols - 64));
    for (int unit = own.first; unit < j.units; unit += own.step) {
        int tile;
        const int slice = j.part[part_of(j, unit, 0, &tile)].slice;
#pragma unroll 1
        for (int s = 0; s < j.strips; s++) {
            float v[N][4];
            strip_of<F, SHARED, N>(v, r, x, rows, own, j, slice);
            keep<N>(&kept[s][warp], v);
        }
        join(j, warp);
        finish_unit<F::WARPS, N>(j, kept, unit, warp);
        join(j, warp);               /* before anybody keeps the next */
    }
}

/* ---- a matrix as it is streamed ---- */

static bool aligned(const void *at, size_t bytes) {
    return (uintptr_t)at % bytes == 0;
}

static bool packs(const struct tensor &w) {
    return w.dtype == MLX_AFFINE && w.quant.bits == 4 && w.quant.scale_dtype != F32 &&
           w.shape[0] % TILE == 0 && w.stride[0] == w.shape[1] &&
           w.shape[1] % w.quant.group == 0 &&
           (w.quant.group == 32 || w.quant.group == 64 || w.quant.group == 128) &&
           aligned(w.quant.scales, 16) && aligned(w.quant.biases, 16);
}

bool cuda_streams(const struct cuda *c, const struct tensor &w) {
    const int64_t cols = w.shape[1];
    if (!c->rounded || !c->hopper || w.rank != 2 || cols % 64 || cols > CUDA_FEW_COLS ||
        w.shape[0] > 1 << 24 || !aligned(w.at, 16))
        return false;
    return w.dtype == BF16 ? w.stride[0] % 8 == 0 : packs(w);
}

/* Which nibbles a word of the packed matrix has: thread i makes word i. */
__global__ static void pack4(unsigned *to, const unsigned char *from, int cols, int64_t words) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= words) return;
    const int64_t block = i / 128, blocks = cols / 64;
    const int lane = (int)(i / 4 % 32), step = (int)(i % 4);
    const int64_t row = block / blocks * TILE + lane / 4;
    const int64_t col = block % blocks * 64 + 16 * step + 2 * (lane % 4);
    unsigned word = 0;
    for (int k = 0; k < 4; k++) {    /* two neighbours share a byte */
        const unsigned both = from[((row + k % 2 * 8) * cols + col + k / 2 * 8) / 2];
        word |= (both & 15) << 4 * k | (both >> 4) << (16 + 4 * k);
    }
    to[i] = word;
}

__global__ static void pack_factors(unsigned short *to, const unsigned short *from, int groups,
                                    int64_t n, bool scaled) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const int64_t tile = i / TILE / groups, group = i / TILE % groups;
    const int place = (int)(i % TILE);
    const unsigned short bits = from[(tile * TILE + place % 2 * 8 + place / 2) * groups + group];
    const float up = __uint_as_float((unsigned)bits << 16) / SCALED_BACK / SCALED_BACK_2;
    to[i] = scaled ? (unsigned short)(__float_as_uint(up) >> 16) : bits;
}

/* Whether one of the scales is too large to be multiplied. */
__global__ static void find_large(int *found, const __nv_bfloat16 *scales, int64_t n) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n && !(fabsf(__bfloat162float(scales[i])) < 0.49f)) *found = 1;
}

/* In place, as many tiles at a time as there is room to copy them aside. */
enum what { NIBBLES, SCALES, SCALES_TIMES, BIASES };

static void pack_rows(struct cuda *c, const void *where, int64_t tile_bytes, int64_t tiles,
                      int cols, enum what what) {
    const int64_t room = CUDA_ROUNDED * sizeof *c->rounded / tile_bytes;
    for (int64_t i = 0; i < tiles; i += room) {
        const int64_t bytes = MIN(room, tiles - i) * tile_bytes;
        char *to = (char *)(uintptr_t)where + i * tile_bytes;
        cudaMemcpyAsync(c->rounded, to, (size_t)bytes, cudaMemcpyDeviceToDevice, c->stream);
        if (what == NIBBLES)
            pack4<<<blocks_of(bytes / 4, 256), 256, 0, c->stream>>>(
                (unsigned *)to, (const unsigned char *)c->rounded, cols, bytes / 4);
        else
            pack_factors<<<blocks_of(bytes / 2, 256), 256, 0, c->stream>>>(
                (unsigned short *)to, (const unsigned short *)c->rounded, cols, bytes / 2,
                what == SCALES_TIMES);
    }
}

static bool can_scale(struct cuda *c, const struct tensor &w) {
    const int64_t n = w.shape[0] * w.shape[1] / w.quant.group;
    int found = 0, *there = (int *)c->rounded;
    if (w.quant.scale_dtype != BF16) return false;
    cudaMemsetAsync(there, 0, sizeof found, c->stream);
    find_large<<<blocks_of(n, 256), 256, 0, c->stream>>>(
        there, (const __nv_bfloat16 *)w.quant.scales, n);
    cudaMemcpyAsync(&found, there, sizeof found, cudaMemcpyDeviceToHost, c->stream);
    return cudaStreamSynchronize(c->stream) == cudaSuccess && !found;
}

/* The next kernels ask for weights before they wait for anybody, so packing is over before they
 * start. A list that is recorded was run once before, so it meets no matrix for the first time. */
static bool pack(struct cuda *c, const struct tensor &w) {
    const int cols = (int)w.shape[1], groups = cols / w.quant.group;
    const int64_t tiles = w.shape[0] / TILE, factors = (int64_t)groups * TILE * 2;
    if (cuda_is_packed(c, w.at)) return true;
    if (c->recording) {
        if (c->error == cudaSuccess) c->error = cudaErrorStreamCaptureUnsupported;
        return false;
    }
    cudaStreamSynchronize(c->stream);
    const bool scaled = can_scale(c, w);
    pack_rows(c, w.at, (int64_t)cols * TILE / 2, tiles, cols, NIBBLES);
    pack_rows(c, w.quant.scales, factors, tiles, groups, scaled ? SCALES_TIMES : SCALES);
    pack_rows(c, w.quant.biases, factors, tiles, groups, BIASES);
    const cudaError_t e = cudaStreamSynchronize(c->stream);
    if (c->error == cudaSuccess) c->error = e;
    (*c->packed)[(const char *)w.at] = { (size_t)(w.shape[0] * cols / 2), scaled };
    return true;
}

/* ---- a launch ---- */

template <class F, bool SHARED, int N>
static void start(struct cuda *c, struct job &j, size_t x_bytes) {
    const int units_each = (int)blocks_of(j.units, c->processors);
    j.warps = MAX(1, MIN(units_each, F::WARPS / j.spread)) * j.spread;
    j.stages = MIN((int)STAGES_MAX, RING / (j.warps * F::BYTES));
    const size_t bytes = (size_t)(j.stages * j.warps * F::BYTES) + (SHARED ? x_bytes + 128 : 0);
    cudaFuncSetAttribute(stream<F, SHARED, N>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         SHARED_MOST);
    cuda_start(c, stream<F, SHARED, N>, dim3((unsigned)MIN(j.units, c->processors)),
               dim3(32u * (j.warps + F::FETCHERS)), bytes, j);
}

template <class F>
static void by_rows(struct cuda *c, struct job &j) {
    const size_t x_bytes = 2 * (size_t)j.n_rows * (size_t)j.shape.cols;
    const bool fits = x_bytes + 128 + RING <= SHARED_MOST;
    if (j.n_rows <= 8 && fits) start<F, true, 1>(c, j, x_bytes);
    else if (j.n_rows <= 8) start<F, false, 1>(c, j, x_bytes);
    else if (fits) start<F, true, 2>(c, j, x_bytes);
    else start<F, false, 2>(c, j, x_bytes);
}

/* Which format; F the function that is a template of it. */
#define BY_FORMAT(w, scaled, ...) \
    do { \
        const bool g32 = (w).quant.group == 32; \
        if ((w).dtype == BF16) { typedef format_bf16 F; __VA_ARGS__; } \
        else if ((w).quant.scale_dtype == F16 && g32) \
            { typedef format_affine4<F16_FACTORS, true> F; __VA_ARGS__; } \
        else if ((w).quant.scale_dtype == F16) \
            { typedef format_affine4<F16_FACTORS, false> F; __VA_ARGS__; } \
        else if (scaled && g32) { typedef format_affine4<SCALED, true> F; __VA_ARGS__; } \
        else if (scaled) { typedef format_affine4<SCALED, false> F; __VA_ARGS__; } \
        else if (g32) { typedef format_affine4<BF16_FACTORS, true> F; __VA_ARGS__; } \
        else { typedef format_affine4<BF16_FACTORS, false> F; __VA_ARGS__; } \
    } while (0)

/* All slices of a tile in one warp where there are tiles enough; where the parts of a launch have
 * other numbers of slices, that is the only way. */
static int spread_of(const struct cuda *c, const struct job &j, const struct cuda_products &a) {
    const int slices = cuda_slices(a.w[0]);
    for (int i = 1; i < a.n; i++)
        if (cuda_slices(a.w[i]) != slices) return 1;
    return j.units < 5 * c->processors ? slices : 1;
}

static bool is_scaled(const struct cuda *c, const struct tensor &w) {
    const struct cuda_packed *p = cuda_is_packed(c, w.at);
    return p && p->scaled;
}

static bool describe(struct cuda *c, struct job *j, const struct cuda_products &a) {
    int tiles = 0;
    for (int i = 0; i < a.n; i++) {
        const struct tensor &w = a.w[i];
        struct ring_part &p = j->part[i];
        if (w.dtype != BF16 ? !pack(c, w)
                            : !cuda_tensor_map_blocks(&j->map[i], w.at, w.shape[0], w.shape[1],
                                                      2 * w.stride[0], TILE,
                                                      format_bf16::CHUNK / 64))
            return false;
        if (is_scaled(c, w) != is_scaled(c, a.w[0])) return false;
        p.slice = (int)cuda_slice(w);
        p.w = (const char *)w.at;
        p.scales = (const char *)w.quant.scales;
        p.biases = (const char *)w.quant.biases;
        p.bias = a.bias[i];
        p.y = a.y[i];
        p.y_row = a.y_row[i];
        p.outs = (int)w.shape[0];
        p.tiles = tiles += (int)blocks_of(w.shape[0], TILE);
    }
    const int group = a.w[0].dtype == BF16 ? 64 : a.w[0].quant.group;
    j->shape.cols = (int)a.w[0].shape[1];
    j->shape.group_shift = group == 32 ? 5 : group == 64 ? 6 : 7;
    j->strips = a.end == PRODUCTS_GATE ? 2 : 1;
    j->units = tiles / j->strips;
    j->spread = spread_of(c, *j, a);
    j->n_rows = a.n_rows;
    j->end = a.end;
    j->act = a.act;
    j->scale = a.scale;
    return true;
}

char *cuda_few_next(struct cuda *c) {
    return c->few[c->few_turn ^ 1];
}

void cuda_few_done(struct cuda *c, struct cuda_few is) {
    c->few_turn ^= 1;
    c->few_is = is;
}

/* The rows as fragments: those of before, where the same rows were rounded last. */
static const char *few_of(struct cuda *c, const struct cuda_products &a, int cols) {
    const struct cuda_few *is = &c->few_is;
    if (is->x == a.x && is->x_row == a.x_row && is->n_rows >= a.n_rows && is->cols == cols)
        return c->few[c->few_turn];
    char *to = cuda_few_next(c);
    cuda_start(c, round_few, dim3(blocks_of(cols, 256), (unsigned)a.n_rows), 256, 0, to, a.x,
               a.x_row, cols);
    cuda_few_done(c, { a.x, a.x_row, a.n_rows, cols });
    return to;
}

bool cuda_linear_few(struct cuda *c, const struct cuda_products &a) {
    struct job j = {};
    const struct tensor &w = a.w[0];
    const int cols = (int)w.shape[1];
    const bool gates = a.end == PRODUCTS_GATE && w.shape[0] % 64 == 0 &&
                       w.shape[0] <= CUDA_FEW_COLS;
    if (!describe(c, &j, a)) return false;
    j.x = few_of(c, a, cols);
    if (gates) j.next = cuda_few_next(c);
    BY_FORMAT(w, is_scaled(c, w), by_rows<F>(c, j));
    if (gates) cuda_few_done(c, { a.y[0], a.y_row[0], a.n_rows, j.part[0].outs });
    return true;
}

/* ---- plain weights, for products of many rows ---- */

enum { PLAIN_WARPS = 4, PLAIN_ROW = 64 + 8 };    /* numbers of a row, beside which banks differ */

/* A warp for 64 columns of a tile at a time. Rows leave by way of shared memory, so that whole
 * lines are written. */
template <class F>
__global__ static void __launch_bounds__(PLAIN_WARPS * 32)
plain(__nv_bfloat16 *to, struct ring_part p, struct ring_shape s, int first, int tiles) {
    __shared__ __align__(16) char stage[PLAIN_WARPS][F::BYTES];
    __shared__ __align__(16) __nv_bfloat16 rows[PLAIN_WARPS][TILE][PLAIN_ROW];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, blocks = s.cols / 64;
    let_next_begin();
    after_previous();
    for (int64_t i = (int64_t)blockIdx.x * PLAIN_WARPS + warp; i < (int64_t)tiles * blocks;
         i += (int64_t)gridDim.x * PLAIN_WARPS) {
        const int tile = (int)(i / blocks), col = (int)(i % blocks) * 64;
        unsigned a[STEPS][4];
        __syncwarp();
        F::gather(stage[warp], p, s, first + tile, col);
        __syncwarp();
        F::steps(a, stage[warp], 0, s);
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
            *(uint4 *)(to + (int64_t)(tile * TILE + row) * s.cols + col + at) =
                *(const uint4 *)&rows[warp][row][at];
        }
    }
}

bool cuda_plain_weights(struct cuda *c, const struct tensor &w, int64_t first, int64_t n,
                        __nv_bfloat16 *to) {
    struct job j = {};
    struct cuda_products a = {};
    a.n = 1;
    a.w[0] = w;
    if (w.dtype == BF16 || !describe(c, &j, a)) return false;
    const int tiles = (int)(n / TILE);
    const int64_t warps = tiles * (w.shape[1] / 64);
    const unsigned grid = MIN(blocks_of(warps, PLAIN_WARPS), 16u * (unsigned)c->processors);
    BY_FORMAT(w, is_scaled(c, w),
              cuda_start(c, plain<F>, grid, PLAIN_WARPS * 32, 0, to, j.part[0], j.shape,
                         (int)(first / TILE), tiles));
    return true;
}
