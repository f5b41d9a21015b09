/* linear_mma.cu - a matrix times rows on the tensor cores, rows rounded to bf16, sums in F32.
 *
 * One arithmetic for any number of rows, so that a row's bits do not depend on its company:
 * columns are cut in 8 slices; a slice is summed 16 columns at a time in ascending order by
 * m16n8k16; slices are added in ascending order. `few` gives each slice a warp and reads weights
 * straight into fragments; `many` walks the slices one after the other with tiles in shared memory.
 *
 * An mma may take its 16 columns in any order if both sides agree, so a lane reads neighbours:
 * 8 columns in every 32 of bf16, 16 in every 64 of packed 4 bits. Packed numbers become 128 + q by
 * putting their bits into a mantissa; a product with ones gives the sum of x that takes the 128
 * away again and carries the bias:  sum((128 + q) x) s + sum(x) (b - 128 s)  for each group. */
#include "device/cuda/linear.h"

enum { SLICES = 8, STEP = 64, THREADS = 32 * SLICES };

/* What w is: plain, or packed with a scale for 64 columns and more, or for 32. */
enum format { PLAIN, PACKED, PACKED_32 };

struct product {
    const char *w;
    const unsigned short *scales, *biases;
    int64_t w_row, scale_row;        /* bytes; groups */
    const float *x, *bias;
    const __nv_bfloat16 *rounded;    /* [n_rows, cols] in the order of `place`; NULL: from x */
    float *y;
    int64_t x_row, y_row;
    int n_rows, outs, cols, slice, group_shift;
    bool half;                       /* scales are f16, not bf16 */
};

__device__ static inline float scale_of(const struct product &p, unsigned bits) {
    return p.half ? __half2float(__ushort_as_half((unsigned short)bits))
                  : __uint_as_float(bits << 16);
}

__device__ static inline unsigned two(float low, float high) {
    const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *(const unsigned *)&v;
}

/* Weights pass by once: they leave the first cache to x. */
__device__ static inline uint4 stream16(const void *at) {
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(at));
    return v;
}

__device__ static inline uint2 stream8(const void *at) {
    uint2 v;
    asm("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(at));
    return v;
}

/* c[16 outs, 8 rows] += a[16, 16] b[16, 8]. A lane has outs lane/4 and 8 more, and rows
 * 2 (lane%4) and the next. */
__device__ static inline void mma(float c[4], const unsigned a[4], const unsigned b[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},"
        "{%8,%9},{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* The part of 64 columns that a lane has of one row of x: of 16 columns, two registers for each of
 * four mmas. */
struct x_part { unsigned at[4][2]; };

/* Where the 16 columns of lane t begin in its STEP: two runs of 8. */
template <enum format F>
__device__ static inline int run_at(int t, int run) {
    return F == PACKED ? 16 * t + 8 * run : 32 * run + 8 * t;
}

template <enum format F>
__device__ static inline void part_of(struct x_part &x, const float *from, int t) {
#pragma unroll
    for (int run = 0; run < 2; run++) {
        float v[8];
        *(float4 *)v = *(const float4 *)(from + run_at<F>(t, run));
        *(float4 *)(v + 4) = *(const float4 *)(from + run_at<F>(t, run) + 4);
#pragma unroll
        for (int i = 0; i < 4; i++)
            x.at[2 * run + i / 2][i % 2] = F == PLAIN ? two(v[2 * i], v[2 * i + 1])
                                                      : two(v[i], v[i + 4]);
    }
}

/* The same from rounded columns, 16 bytes a run; at: the STEP's first. */
template <enum format F>
__device__ static inline void part_of_rounded(struct x_part &x, const uint4 *at, int t, int swap) {
#pragma unroll
    for (int run = 0; run < 2; run++) {
        const uint4 v = at[run_at<F>(t, run) / 8 ^ swap];
        x.at[2 * run][0] = v.x;
        x.at[2 * run][1] = v.y;
        x.at[2 * run + 1][0] = v.z;
        x.at[2 * run + 1][1] = v.w;
    }
}

/* x in bf16; in 8 packed columns the order is that of nibbles as they leave a word. */
__global__ static void round_rows(__nv_bfloat16 *to, const float *x, int64_t x_row, int cols,
                                  bool packed) {
    let_next_begin();
    after_previous();
    const int i = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i >= cols) return;
    const float *from = x + (int64_t)blockIdx.y * x_row + i;
    unsigned v[4];
    for (int k = 0; k < 4; k++)
        v[k] = packed ? two(from[k], from[k + 4]) : two(from[2 * k], from[2 * k + 1]);
    *(uint4 *)(to + (int64_t)blockIdx.y * cols + i) = make_uint4(v[0], v[1], v[2], v[3]);
}

/* 64 columns of two rows of w, lane/4 and 8 below it, as a lane reads them. */
template <enum format F> struct w_part;
template <> struct w_part<PLAIN> { uint4 at[2][2]; };            /* [row][run] */
template <> struct w_part<PACKED> { unsigned at[2][2]; };
template <> struct w_part<PACKED_32> { unsigned at[2][2]; };

__device__ static inline void fragment(unsigned a[4], const w_part<PLAIN> &w, int i) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint4 v = w.at[r][i / 2];
        a[r] = i % 2 ? v.z : v.x;
        a[r + 2] = i % 2 ? v.w : v.y;
    }
}

template <class W>
__device__ static inline void fragment(unsigned a[4], const W &w, int i) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const unsigned v = w.at[r][i / 2] >> (i % 2 * 8);
        a[r] = (v & 0x000f000f) | 0x43004300;
        a[r + 2] = (v >> 4 & 0x000f000f) | 0x43004300;
    }
}

/* sum[4] += the group whose products with q are c and with ones are one; s, b: of rows lane/4 and
 * 8 below it. */
__device__ static inline void add_group(float sum[4], const float c[4], const float one[4],
                                        const float s[2], const float b[2]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        sum[i] = fmaf(c[i], s[i / 2], sum[i]);
        sum[i] = fmaf(one[i % 2], fmaf(-128.0f, s[i / 2], b[i / 2]), sum[i]);
    }
}

/* 64 columns: sum[m][n] += w[m] x[n]. s, b [group of the step][m][row]. */
template <enum format F, int M, int N>
__device__ static inline void step(float sum[M][N][4], const w_part<F> w[M],
                                   const struct x_part x[N], const float s[2][M][2],
                                   const float b[2][M][2]) {
    if constexpr (F == PLAIN) {
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int m = 0; m < M; m++) {
                unsigned a[4];
                fragment(a, w[m], i);
#pragma unroll
                for (int n = 0; n < N; n++) mma(sum[m][n], a, x[n].at[i]);
            }
    } else {
        const unsigned ones[4] = { 0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80 };
        const int groups = F == PACKED_32 ? 2 : 1, each = 4 / groups;
#pragma unroll
        for (int g = 0; g < groups; g++) {
            float one[N][4] = {};
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < each; i++) mma(one[n], ones, x[n].at[g * each + i]);
#pragma unroll
            for (int m = 0; m < M; m++) {
                float c[N][4] = {};
#pragma unroll
                for (int i = 0; i < each; i++) {
                    unsigned a[4];
                    fragment(a, w[m], g * each + i);
#pragma unroll
                    for (int n = 0; n < N; n++) mma(c[n], a, x[n].at[g * each + i]);
                }
#pragma unroll
                for (int n = 0; n < N; n++) add_group(sum[m][n], c[n], one[n], s[g][m], b[g][m]);
            }
        }
    }
}

/* ---- few rows: a block has 16 outputs, a warp a slice of their columns ---- */

enum { AT_ONCE = 4 };                /* steps whose loads are under way together */

template <enum format F>
__device__ static inline void load(w_part<F> &w, const struct product &p, const int64_t row[2],
                                   int col, int t) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if constexpr (F == PLAIN) {
            const char *at = p.w + row[r] * p.w_row + 2 * col;
            w.at[r][0] = stream16(at + 2 * run_at<F>(t, 0));
            w.at[r][1] = stream16(at + 2 * run_at<F>(t, 1));
        } else if constexpr (F == PACKED) {
            const uint2 v = stream8(p.w + row[r] * p.w_row + col / 2 + 8 * t);
            w.at[r][0] = v.x;
            w.at[r][1] = v.y;
        } else {
            const unsigned *at = (const unsigned *)(p.w + row[r] * p.w_row + col / 2);
            w.at[r][0] = at[t];
            w.at[r][1] = at[4 + t];
        }
    }
}

/* Scales and biases of AT_ONCE steps: lane t of four reads those of step t, [row][group]. */
struct factors { unsigned s[2][2], b[2][2]; };

template <enum format F>
__device__ static inline void load(struct factors &f, const struct product &p,
                                   const int64_t row[2], int col, int end, int t) {
    const int own = MIN(col + STEP * t, end - STEP);
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int g = 0; g < (F == PACKED_32 ? 2 : 1); g++) {
            const int64_t at = row[r] * p.scale_row + (own >> p.group_shift) + g;
            f.s[r][g] = p.scales[at];
            f.b[r][g] = p.biases[at];
        }
}

template <enum format F>
__device__ static inline void load_some(w_part<F> w[AT_ONCE][1], struct factors &f,
                                        const struct product &p, const int64_t row[2], int col,
                                        int end, int t) {
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++)
        if (col + i * STEP < end) load(w[i][0], p, row, col + i * STEP, t);
    if (F != PLAIN && col < end) load<F>(f, p, row, col, end, t);
}

__device__ static inline void spread(float s[2][1][2], float b[2][1][2], const struct factors &f,
                                     const struct product &p, int i) {
    const int from = (threadIdx.x % 32 & ~3u) + i;
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int g = 0; g < 2; g++) {
            s[g][0][r] = scale_of(p, __shfl_sync(~0u, f.s[r][g], from));
            b[g][0][r] = scale_of(p, __shfl_sync(~0u, f.b[r][g], from));
        }
}

/* Rows past the end are zeros, outputs past the end the last one again; neither is written. */
template <enum format F, int N>
__global__ static void __launch_bounds__(THREADS, 2) few(struct product p) {
    __shared__ float part[SLICES][16][8 * N + 1];
    const int lane = threadIdx.x % 32, t = lane % 4, q = threadIdx.x / 32;
    const int begin = q * p.slice, end = MIN(p.cols, begin + p.slice), first = blockIdx.x * 16;
    const int top = blockIdx.y * 8 * N;
    const int64_t row[2] = { MIN(first + lane / 4, p.outs - 1),
                             MIN(first + lane / 4 + 8, p.outs - 1) };
    float sum[1][N][4] = {};
    w_part<F> w[AT_ONCE][1];
    struct factors f = {};
    let_next_begin();
    load_some(w, f, p, row, begin, end, t);          /* nobody writes weights */
    after_previous();
    for (int c = begin; c < end; c += AT_ONCE * STEP) {
        if (c != begin) load_some(w, f, p, row, c, end, t);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            if (c + i * STEP >= end) break;
            struct x_part x[N] = {};
            float s[2][1][2], b[2][1][2];
#pragma unroll
            for (int n = 0; n < N; n++) {
                const int r = top + 8 * n + lane / 4;
                if (r >= p.n_rows) continue;
                if (N == 1) part_of<F>(x[n], p.x + r * p.x_row + c + i * STEP, t);
                else part_of_rounded<F>(
                    x[n], (const uint4 *)(p.rounded + (int64_t)r * p.cols + c + i * STEP), t, 0);
            }
            if (F != PLAIN) spread(s, b, f, p, i);
            step<F, 1, N>(sum, w[i], x, s, b);
        }
    }
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            part[q][lane / 4 + i / 2 * 8][8 * n + 2 * t + i % 2] = sum[0][n][i];
    __syncthreads();
    for (int i = threadIdx.x; i < 16 * 8 * N; i += THREADS) {
        const int o = i % 16, r = i / 16;
        if (first + o >= p.outs || top + r >= p.n_rows) continue;
        float total = 0;
        for (int k = 0; k < SLICES; k++) total += part[k][o][r];
        p.y[(top + r) * p.y_row + first + o] = total + (p.bias ? p.bias[first + o] : 0);
    }
}

/* ---- many rows: a block has 128 outputs and 64 rows, a warp 32 and 32 ---- */

enum { OUTS = 128, ROWS = 64, STAGES = 4, M = 2, N = 4 };

/* Copies that arrive later: those of one commit when all but `left` later ones have. */
template <int BYTES>
__device__ static inline void copy_later(void *to, const void *from) {
    const unsigned at = (unsigned)__cvta_generic_to_shared(to);
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(at), "l"(from), "n"(BYTES)
                 : "memory");
}

__device__ static inline void commit(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int LEFT>
__device__ static inline void wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

/* A stage of the ring. Where their row is odd, 16 bytes lie at another place of it, so that four
 * lanes of one row and four of the next meet no bank twice. */
template <enum format F>
__device__ static inline int swap_of(int row) { return row % 2 * (F == PACKED ? 1 : 4); }

template <enum format F> struct stage {
    uint4 x[ROWS][8];
    uint4 w[OUTS][F == PLAIN ? 8 : 2];
    unsigned s[F == PLAIN ? 1 : OUTS], b[F == PLAIN ? 1 : OUTS];
};

/* The aligned word that holds a group's scale, or two of 32 columns. */
__device__ static inline const unsigned *word_of(const unsigned short *at, int64_t i) {
    return (const unsigned *)((uintptr_t)(at + i) & ~(uintptr_t)3);
}

template <enum format F>
__device__ static inline void fetch(struct stage<F> *s, const struct product &p, int col) {
    const int out = blockIdx.x * OUTS, row = blockIdx.y * ROWS, i = threadIdx.x;
    for (int k = i; k < ROWS * 8; k += THREADS) {
        const int64_t r = MIN(row + k / 8, p.n_rows - 1);
        copy_later<16>(&s->x[k / 8][k % 8 ^ swap_of<F>(k / 8)],
                       p.rounded + r * p.cols + col + k % 8 * 8);
    }
    const int units = F == PLAIN ? 8 : 2, step_bytes = F == PLAIN ? 2 * col : col / 2;
    for (int k = i; k < OUTS * units; k += THREADS) {
        const int o = k / units, u = k % units;
        copy_later<16>(&s->w[o][F == PLAIN ? u ^ swap_of<F>(o) : u],
                       p.w + MIN(out + o, p.outs - 1) * p.w_row + step_bytes + u * 16);
    }
    if (F != PLAIN) {
        const int64_t at = MIN(out + i % OUTS, p.outs - 1) * p.scale_row + (col >> p.group_shift);
        if (i < OUTS) copy_later<4>(&s->s[i], word_of(p.scales, at));
        else copy_later<4>(&s->b[i - OUTS], word_of(p.biases, at));
    }
    commit();
}

/* A warp's 32 outputs of a stage; first: its first in the block. */
template <enum format F>
__device__ static inline void take(w_part<F> w[M], float s[2][M][2], float b[2][M][2],
                                   const struct stage<F> &from, const struct product &p,
                                   int first, int col) {
    const int lane = threadIdx.x % 32, t = lane % 4;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int o = first + 16 * m + 8 * r + lane / 4;
            if constexpr (F == PLAIN) {
                for (int run = 0; run < 2; run++)
                    w[m].at[r][run] = from.w[o][run_at<F>(t, run) / 8 ^ swap_of<F>(o)];
            } else {
                const unsigned *at = (const unsigned *)from.w[o];
                w[m].at[r][0] = at[F == PACKED ? 2 * t : t];
                w[m].at[r][1] = at[F == PACKED ? 2 * t + 1 : 4 + t];
                const int64_t i = MIN((int)blockIdx.x * OUTS + o, p.outs - 1) * p.scale_row +
                                  (col >> p.group_shift);
                const int s_shift = (uintptr_t)(p.scales + i) & 2 ? 16 : 0;
                const int b_shift = (uintptr_t)(p.biases + i) & 2 ? 16 : 0;
                s[0][m][r] = scale_of(p, from.s[o] >> s_shift & 0xffff);
                b[0][m][r] = scale_of(p, from.b[o] >> b_shift & 0xffff);
                if (F == PACKED_32) {
                    s[1][m][r] = scale_of(p, from.s[o] >> 16);
                    b[1][m][r] = scale_of(p, from.b[o] >> 16);
                }
            }
        }
}

template <enum format F>
__global__ static void __launch_bounds__(THREADS, 2) many(struct product p) {
    extern __shared__ uint4 memory[];
    struct stage<F> *ring = (struct stage<F> *)memory;
    const int lane = threadIdx.x % 32, t = lane % 4, warp = threadIdx.x / 32;
    const int out = warp % 4 * 32, row = warp / 4 * 32, steps = p.cols / STEP;
    float total[M][N][4] = {}, sum[M][N][4] = {};
    for (int i = 0; i < STAGES - 1; i++) {
        if (i < steps) fetch<F>(&ring[i], p, i * STEP);
        else commit();
    }
    for (int i = 0; i < steps; i++) {
        wait<STAGES - 2>();
        __syncthreads();
        if (i + STAGES - 1 < steps)
            fetch<F>(&ring[(i + STAGES - 1) % STAGES], p, (i + STAGES - 1) * STEP);
        else commit();
        const struct stage<F> &from = ring[i % STAGES];
        w_part<F> w[M];
        struct x_part x[N];
        float s[2][M][2], b[2][M][2];
        take<F>(w, s, b, from, p, out, i * STEP);
#pragma unroll
        for (int n = 0; n < N; n++) {
            const int r = row + 8 * n + lane / 4;
            part_of_rounded<F>(x[n], from.x[r], t, swap_of<F>(r));
        }
        step<F, M, N>(sum, w, x, s, b);
        if ((i + 1) * STEP % p.slice == 0 || i + 1 == steps) {
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int n = 0; n < N; n++)
#pragma unroll
                    for (int k = 0; k < 4; k++) {
                        total[m][n][k] += sum[m][n][k];
                        sum[m][n][k] = 0;
                    }
        }
    }
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const int o = blockIdx.x * OUTS + out + 16 * m + lane / 4 + k / 2 * 8;
                const int r = blockIdx.y * ROWS + row + 8 * n + 2 * t + k % 2;
                if (o < p.outs && r < p.n_rows)
                    p.y[r * p.y_row + o] = total[m][n][k] + (p.bias ? p.bias[o] : 0);
            }
}

/* ---- which of them ---- */

enum { FEW = 8, SOME = 32 };         /* rows that `few` takes in one pass, in four */

template <enum format F>
static void run(struct cuda *c, struct product &p) {
    const dim3 few_blocks(blocks_of(p.outs, 16), 1);
    if (p.n_rows <= FEW) {
        cuda_start(c, few<F, 1>, few_blocks, THREADS, 0, p);
        return;
    }
    cuda_start(c, round_rows, dim3(blocks_of(p.cols, 8 * 128), (unsigned)p.n_rows), 128, 0,
               c->rounded, p.x, p.x_row, p.cols, F != PLAIN);
    p.rounded = c->rounded;
    if (p.n_rows <= 2 * FEW) cuda_start(c, few<F, 2>, few_blocks, THREADS, 0, p);
    else if (p.n_rows <= SOME) cuda_start(c, few<F, 4>, few_blocks, THREADS, 0, p);
    else {
        const size_t bytes = STAGES * sizeof(struct stage<F>);
        cudaFuncSetAttribute(many<F>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
        /* No early start: its blocks would take the room of those that still work. */
        many<F><<<dim3(blocks_of(p.outs, OUTS), blocks_of(p.n_rows, ROWS)), THREADS, bytes,
                  c->stream>>>(p);
    }
}

static bool aligned(const void *at, size_t bytes) {
    return (uintptr_t)at % bytes == 0;
}

/* False where w is of another kind, or lies such that vectors do not fit. */
static bool describe(struct product *p, const struct tensor &w) {
    const int64_t cols = w.shape[1];
    p->w = (const char *)w.at;
    p->outs = (int)w.shape[0];
    p->cols = (int)cols;
    p->slice = (int)((cols + SLICES * STEP - 1) / (SLICES * STEP)) * STEP;
    if (cols % STEP || cols > 1 << 24 || w.shape[0] > 1 << 24 || !aligned(w.at, 16)) return false;
    if (w.dtype == BF16) {
        p->w_row = 2 * w.stride[0];
        return p->w_row % 16 == 0;
    }
    if (w.dtype != MLX_AFFINE || w.quant.bits != 4 || w.quant.scale_dtype == F32) return false;
    if (w.stride[0] % 32 || !aligned(w.quant.scales, 4) || !aligned(w.quant.biases, 4))
        return false;
    p->w_row = w.stride[0] / 2;
    p->scales = (const unsigned short *)w.quant.scales;
    p->biases = (const unsigned short *)w.quant.biases;
    p->scale_row = w.stride[0] / w.quant.group;
    p->half = w.quant.scale_dtype == F16;
    p->group_shift = w.quant.group == 32 ? 5 : w.quant.group == 64 ? 6 : 7;
    return w.stride[0] % w.quant.group == 0 && (w.quant.group == 32 || w.quant.group == 64 ||
                                                w.quant.group == 128);
}

bool cuda_linear_mma(struct cuda *c, const struct tensor &w, const struct cuda_rows &r) {
    struct product p = {};
    if (!describe(&p, w) || !aligned(r.x, 16) || r.x_row % 4) return false;
    p.bias = r.bias;
    const int64_t room = CUDA_ROUNDED / p.cols / ROWS * ROWS;
    if (room < ROWS) return false;
    for (int64_t row = 0; row < r.n; row += room) {
        p.x = r.x + row * r.x_row;
        p.y = r.y + row * r.y_row;
        p.x_row = r.x_row;
        p.y_row = r.y_row;
        p.n_rows = (int)MIN(room, r.n - row);
        if (w.dtype == BF16) run<PLAIN>(c, p);
        else if (w.quant.group == 32) run<PACKED_32>(c, p);
        else run<PACKED>(c, p);
    }
    return true;
}
