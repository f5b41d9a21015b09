/* linear_few.h - what the two kernels of few rows share, linear_ring.cu and linear_packed.cu: what
 * a launch is, how its units are divided among warps, rows as fragments, what becomes of a sum.
 *
 * A unit is a tile of 16 outputs (of two matrices, where one gates the other) for up to 16 rows.
 * One warp has all of it, or, where tiles are few, one for each slice of the columns; their sums
 * meet in shared memory, in order. */
#pragma once
#include "device/cuda/hopper.h"
#include "device/cuda/linear.h"

enum { TILE = 16, STEPS = 4,         /* rows of a tile; mmas of 64 columns */
       PARTS = 3, PART = 128,
       SLICES = 4,                   /* of a matrix that has several: see cuda_slices */
       ROWS_BARRIER = 15,
       SHARED_MOST = 208 << 10,      /* of a block */
       SHARED_HALF = 111 << 10,      /* two blocks of so much are on a processor together */
       SHARED_ALL = 228 << 10,       /* of a processor */
       SHARED_KEPT = 1 << 10 };      /* of it, for each block, by the system */

/* Where the scale of an element of FP8 is: row r of the matrix is row `first` + r of what has one
 * for `down` rows and 1 << shift columns. */
struct few_blocks { int first, down, down_shift, across, shift; };

struct few_part {                    /* a matrix of a launch */
    const char *w, *scales, *biases; /* of packed ones */
    struct few_blocks blocks;        /* of FP8 */
    const float *bias;
    float *y;
    int64_t y_row;
    int outs, slice;
    int tiles;                       /* of this one and of those before it */
};

struct few_job {
    CUtensorMap map[PARTS];          /* of plain weights */
    struct few_part part[PARTS];
    int cols, group_shift;
    bool scaled, whole;              /* all parts: see struct cuda_packed */
    bool even;                       /* of FP8: see format_fp8_even */
    const char *x;                   /* the rows, see few_place */
    struct cuda_norm norm;           /* x NULL: none; else the rows are its outcome, which also */
    char *norm_few;                  /* goes to norm.y and there */
    char *next;                      /* the gated rows go there as well; NULL: nowhere */
    int n_rows;
    int units, strips;               /* a unit is a tile of `strips` matrices */
    int warps;                       /* that compute */
    int spread;                      /* warps that share a unit: 1, or SLICES */
    int stages;                      /* of a warp's ring */
    enum products_end end;
    struct gate_args act;
    float scale;
};

/* A launch without its rows. False: the device broke, or matrices that one kernel can not take. */
bool cuda_few_describe(struct cuda *, struct few_job *, const struct cuda_products &);
/* Plain matrices; packed ones, all of w's format. */
void cuda_ring(struct cuda *, struct few_job &);
bool cuda_ring_map(CUtensorMap *, const struct tensor &w);
void cuda_packed_few(struct cuda *, struct few_job &, const struct tensor &w);
/* Whether linear_packed.cu multiplies with such a matrix; rearranges it, once. */
bool cuda_packs(const struct tensor &w);
bool cuda_pack(struct cuda *, const struct tensor &w);

/* Bytes of shared memory that hold the warps' sums. */
static inline size_t few_kept(const struct few_job &j) {
    return sizeof(float) * TILE * (size_t)(j.strips * j.warps * j.n_rows);
}

/* Bytes to ask for so that no two blocks of a kernel are on a processor together. */
template <class K> static inline size_t few_alone(K kernel) {
    cudaFuncAttributes a = {};
    cudaFuncGetAttributes(&a, kernel);
    return SHARED_ALL / 2 - SHARED_KEPT - a.sharedSizeBytes + 128;
}

static inline bool aligned(const void *at, size_t bytes) {
    return (uintptr_t)at % bytes == 0;
}

/* ---- rows as fragments ---- */

/* 64 columns of N times 8 rows as a lane needs them: row lane / 4 of each 8. */
template <int N> struct x_part { uint4 at[N][2]; };

/* Where a lane's numbers begin: in shared memory or not. Those of a row that is not are zeros. */
template <int N> struct x_rows { const char *at[N]; int first, second; bool is[N]; };

/* Of up to eight rows the last one stands for those that there are not: their sums are not kept. */
template <int N>
__device__ static inline struct x_rows<N> rows_of(const char *x, const struct few_job &j) {
    struct x_rows<N> r;
    const int lane = threadIdx.x % 32;
    const int own = N == 1 ? MIN(lane / 4, j.n_rows - 1) : lane / 4, odd = own % 2;
    r.first = odd * 64;
    r.second = 64 - r.first;
#pragma unroll
    for (int n = 0; n < N; n++) {
        const int row = 8 * n + own;
        r.is[n] = N == 1 || row < j.n_rows;
        r.at[n] = x + 2 * (int64_t)row * j.cols + lane % 4 * 16;
    }
    return r;
}

/* 64 of the columns, from `at` on. What lies behind a row's end is read and not used. */
template <bool SHARED>
__device__ static inline void load_64(uint4 x[2], const char *at, int first, int second, bool is) {
    x[0] = x[1] = make_uint4(0, 0, 0, 0);
    if (!is) return;
    if (SHARED) {
        x[0] = *(const uint4 *)__cvta_shared_to_generic(shared_at(at + first));
        x[1] = *(const uint4 *)__cvta_shared_to_generic(shared_at(at + second));
    } else {
        x[0] = *(const uint4 *)(at + first);
        x[1] = *(const uint4 *)(at + second);
    }
}

template <bool SHARED, int N>
__device__ static inline void load_x(struct x_part<N> &x, const struct x_rows<N> &r, int col) {
#pragma unroll
    for (int n = 0; n < N; n++)
        load_64<SHARED>(x.at[n], r.at[n] + 2 * col, r.first, r.second, r.is[n]);
}

/* What norm.cu sums of a row, in its order: a thread has what four neighbours have there,
 * of `theirs` warps. The trees are loops: a block runs this code once, and waits for every line. */
enum { NORM_QUADS = 4 };             /* of a thread */

__device__ static inline float norm_sum(const float4 v[NORM_QUADS], float part[32], int theirs,
                                        int warps) {
    const int lane = threadIdx.x % 32;
    float sum[4] = {};
#pragma unroll
    for (int k = 0; k < NORM_QUADS; k++) {
        sum[0] = fmaf(v[k].x, v[k].x, sum[0]), sum[1] = fmaf(v[k].y, v[k].y, sum[1]);
        sum[2] = fmaf(v[k].z, v[k].z, sum[2]), sum[3] = fmaf(v[k].w, v[k].w, sum[3]);
    }
#pragma unroll 1
    for (int k = 4; k > 0; k /= 2)
#pragma unroll
        for (int i = 0; i < 4; i++) sum[i] += __shfl_xor_sync(~0u, sum[i], k);
    const int of = threadIdx.x / 8;
    if (lane % 8 == 0 && of < theirs) part[of] = (sum[0] + sum[2]) + (sum[1] + sum[3]);
    named_sync(ROWS_BARRIER, 32 * warps);
    float all = lane < theirs ? part[lane] : 0;
#pragma unroll 1
    for (int k = 16; k > 0; k /= 2) all += __shfl_xor_sync(~0u, all, k);
    return all;
}

__device__ static inline float4 normed(float4 v, float inverse, float4 g) {
    return make_float4(v.x * inverse * g.x, v.y * inverse * g.y, v.z * inverse * g.z,
                       v.w * inverse * g.w);
}

/* Four columns, from the one on whose place is `at`. */
__device__ static inline void put_quad(char *at, float4 y) {
    *(__nv_bfloat162 *)at = __floats2bfloat162_rn(y.x, y.y);
    *(__nv_bfloat162 *)(at + 16) = __floats2bfloat162_rn(y.z, y.w);
}

/* Every block norms all rows for itself; of what others read, in F32 and as fragments, each of the
 * last ones, which may have a unit less to do, writes a share. All that does not depend on the rows
 * is worked out before they are there. */
template <int WARPS>
__device__ static inline void norm_in(char *to, const struct few_job &j) {
    __shared__ float part[NORM_WAITS_ROWS][32];
    const struct cuda_norm &m = j.norm;
    const int own = threadIdx.x, theirs = (m.cols + 127) / 128, step = 8 * theirs;
    const int quads = m.cols / 4, last = own < step ? quads - own : 0;
    int at = few_place(0, 4 * own, m.cols);
    float4 v[NORM_QUADS], g[NORM_QUADS];
#pragma unroll
    for (int k = 0; k < NORM_QUADS; k++)
        if (k * step < last) g[k] = norm_gains(m.gain, 4 * (own + k * step), m.plus1);
    const float4 *x = (const float4 *)m.x + own;
    char *few = j.norm_few;
    asm volatile("" : "+r"(at));     /* or it is worked out again at each of its uses */
    after_previous();
#pragma unroll 1
    for (int row = 0; row < j.n_rows; row++) {
        const int odd = (row & 1) << 6;
#pragma unroll
        for (int k = 0; k < NORM_QUADS; k++)
            v[k] = k * step < last ? x[k * step] : make_float4(0, 0, 0, 0);
        const float inverse = norm_inverse(norm_sum(v, part[row], theirs, WARPS), m.share, m.eps);
#pragma unroll
        for (int k = 0; k < NORM_QUADS; k++)         /* 32 theirs columns are twice as many bytes */
            if (k * step < last)
                put_quad(to + ((at + 64 * theirs * k) ^ odd), normed(v[k], inverse, g[k]));
#pragma unroll 1
        for (unsigned k = gridDim.x - 1 - blockIdx.x; k < NORM_QUADS; k += gridDim.x) {
            const int i = own + k * step;
            if ((int)(k * step) >= last) continue;
            const float4 y = normed(x[k * step], inverse,
                                    norm_gains(m.gain, 4 * i, m.plus1));
            ((float4 *)(m.y + row * m.y_row))[i] = y;
            put_quad(few + ((at + 64 * theirs * k) ^ odd), y);
        }
        x += m.x_row / 4;
        to += 2 * m.cols;
        few += 2 * m.cols;
    }
    named_sync(ROWS_BARRIER, 32 * WARPS);
}

/* The first `warps` warps, WARPS where there is a norm to do: the rows into shared memory, when
 * they are there. */
template <int WARPS>
__device__ static inline void rows_in(char *to, const struct few_job &j, uint64_t *full,
                                      int warps) {
    if (j.norm.x) {
        norm_in<WARPS>(to, j);
        return;
    }
    if (threadIdx.x == 0) {
        const unsigned bytes = (unsigned)(2 * j.n_rows * j.cols);
        barrier_init(full, 1);
        barriers_are_set();
        writes_are_shared();
        after_previous();
        writes_are_global();
        barrier_expect(full, bytes);
        bytes_in(to, j.x, bytes, full);
    }
    named_sync(ROWS_BARRIER, 32 * warps);
    after_previous();
    barrier_wait(full, 0);
}

/* c[16 outs, 8 rows] += a[16, 16] b[16, 8]. A lane has outs lane/4 and 8 more, and rows
 * 2 (lane%4) and the next. */
__device__ static inline void mma(float c[4], const unsigned a[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},"
        "{%8,%9},{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* 64 columns of a tile. */
template <int N>
__device__ static inline void sum_64(float sum[N][4], const unsigned a[STEPS][4],
                                     const uint4 x[N][2]) {
#pragma unroll
    for (int n = 0; n < N; n++) {
        const uint4 u = x[n][0], v = x[n][1];
        mma(sum[n], a[0], u.x, u.y);
        mma(sum[n], a[1], u.z, u.w);
        mma(sum[n], a[2], v.x, v.y);
        mma(sum[n], a[3], v.z, v.w);
    }
}

/* A slice's sum goes to the total of those before it, and the next begins. */
template <int N>
__device__ static inline void end_slice(float total[N][4], float sum[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int k = 0; k < 4; k++) total[n][k] += sum[n][k], sum[n][k] = 0;
}

/* ---- who works on what ---- */

/* Which part a strip of a unit belongs to, and which tile of it. */
__device__ static inline int part_of(const struct few_job &j, int unit, int strip, int *tile) {
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

/* How many units those before a warp share, a unit each or SLICES of them one. */
__device__ static inline int units_before(const struct few_job &j, int warp) {
    return j.spread > 1 ? (int)((unsigned)warp / SLICES) : warp;
}

__device__ static inline struct own own_of(const struct few_job &j, int warp) {
    struct own own = { 0, j.cols, (int)(blockIdx.x + gridDim.x * units_before(j, warp)),
                       (int)gridDim.x * units_before(j, j.warps) };
    if (j.spread > 1) {
        own.begin = MIN((int)((unsigned)warp % SLICES) * j.part[0].slice, j.cols);
        own.end = MIN(own.begin + j.part[0].slice, j.cols);
    }
    return own;
}

/* ---- what becomes of a sum ---- */

__device__ static __noinline__ float any_gated(float g, float u, const struct gate_args *a) {
    return gated(g, u, *a);
}

/* first, second: of each strip; before: what the output was, where it is added to. */
__device__ static inline void finish(const struct few_job &j, int p, int out, int row, float first,
                                     float second, float before) {
    const struct few_part &part = j.part[p];
    if (out >= part.outs) return;
    float *y = &part.y[row * part.y_row + out];
    first += part.bias ? part.bias[out] : 0;
    if (j.end == PRODUCTS_STORE) *y = first;
    else if (j.end == PRODUCTS_ADD) *y = fmaf(j.scale, first, before);
    else {
        const float *bias = j.part[1].bias, up = second + (bias ? bias[out] : 0);
        const float h = j.act.act == ACT_SILU ? first * sigmoid(first) * up
                                              : any_gated(first, up, &j.act);
        *y = h;
        if (j.next) few_put(j.next, row, out, part.outs, h);
    }
}

/* What a warp has of a strip, in shared memory: [strip][warp][row][out]. */
__device__ static inline float *kept_at(float *kept, const struct few_job &j, int strip, int warp) {
    return kept + (strip * j.warps + warp) * j.n_rows * TILE;
}

template <int N>
__device__ static inline void keep(float *to, const struct few_job &j, const float v[N][4]) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = 8 * n + lane % 4 * 2 + i % 2;
            if (row < j.n_rows) to[row * TILE + lane / 4 + i / 2 * 8] = v[n][i];
        }
}

/* The warps of a unit wait for each other. */
__device__ static inline void join(const struct few_job &j, int warp) {
    if (j.spread > 1) named_sync(1 + units_before(j, warp), 32 * SLICES);
    else __syncwarp();
}

/* What output i of a unit was, where the product is added to it. Threads read the first one that
 * they will finish before they sum it up. */
__device__ static inline float output_before(const struct few_job &j, int p, int tile, int i) {
    if (j.end != PRODUCTS_ADD || i >= TILE * j.n_rows) return 0;
    const struct few_part &part = j.part[p];
    const int out = tile * TILE + i % TILE;
    return out < part.outs ? part.y[i / TILE * part.y_row + out] : 0;
}

/* A thread's number among those of the warps that share a unit. */
__device__ static inline int place_in_unit(const struct few_job &j, int warp) {
    return threadIdx.x - units_before(j, warp) * j.spread * 32;
}

/* The slices of the warps that share a unit are added in order. */
__device__ static inline void finish_unit(const struct few_job &j, float *kept, int p, int tile,
                                          int warp, float before) {
    const int first = units_before(j, warp) * j.spread, outs = TILE * j.n_rows;
#pragma unroll 1
    for (int i = place_in_unit(j, warp); i < outs; i += 32 * j.spread) {
        float v[2] = { 0, 0 };
#pragma unroll
        for (int s = 0; s < 2; s++) {
            if (s >= j.strips) break;
            v[s] = kept_at(kept, j, s, first)[i];
#pragma unroll 1
            for (int k = 1; k < j.spread; k++) v[s] += kept_at(kept, j, s, first + k)[i];
        }
        finish(j, p, tile * TILE + i % TILE, i / TILE, v[0], v[1], before);
        before = output_before(j, p, tile, i + 32 * j.spread);
    }
}
