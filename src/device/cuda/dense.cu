/* dense.cu - the ops that work on each row by itself: embed, norm, rope, gate, add, copy,
 * scale, temperature. A block takes a head of a row. */
#include "device/cuda/heads.h"
#include "device/cuda/linear.h"

enum { THREADS = 128 };

__device__ static inline float *head_at(const struct tensor &t, int64_t r, int64_t h) {
    return (float *)t.at + r * t.stride[0] + h * t.stride[1];
}

static dim3 grid_of(const struct tensor &t) {
    return dim3((unsigned)t.shape[0], (unsigned)t.shape[1]);
}

/* Where columns do not meet, several blocks share a row. */
static dim3 grid_of_columns(const struct tensor &t) {
    return dim3((unsigned)t.shape[0], (unsigned)t.shape[1], blocks_of(t.shape[2], 4 * THREADS));
}

__device__ static inline int64_t column(void) {
    return (int64_t)blockIdx.z * THREADS + threadIdx.x;
}

/* The code of number c of a row of a table in linear_format.h's order. */
__device__ static inline unsigned packed_code(const struct tensor &t, int64_t row, int c,
                                              bool four) {
    const int r = (int)(row % 16), lane = r % 8 * 4 + c % 8 / 2;
    const int64_t block = row / 16 * (t.shape[1] / 64) + c / 64;
    if (four) {
        const unsigned word = ((const unsigned *)t.at)[block * 128 + lane * 4 + c % 64 / 16];
        return word >> (c % 2 * 16 + c % 16 / 8 * 8 + r / 8 * 4) & 15;
    }
    if (t.dtype == FP8) {
        const unsigned both = ((const unsigned short *)t.at)[block * 512 + r / 8 * 256 + lane * 8 +
                                                             c % 64 / 16 * 2 + c % 2];
        return c % 16 < 8 ? (both >> 8 & 0x80) | (both >> 4 & 0x7f)
                          : (both >> 4 & 0x80) | (both >> 8 & 0x70) | (both & 15);
    }
    return ((const unsigned char *)t.at)[block * 1024 + c % 64 / 32 * 512 + lane * 16 +
                                         c % 32 / 16 * 8 + c % 16 / 8 * 4 + r / 8 * 2 + c % 2];
}

__device__ static inline float packed_at(const struct tensor &t, int64_t row, int c,
                                         bool scaled) {
    const bool affine = t.dtype == MLX_AFFINE, four = t.dtype == MXFP4 || t.quant.bits == 4;
    const unsigned q = packed_code(t, row, c, t.dtype != FP8 && four);
    if (t.dtype == FP8) return float_of_e4m3(q) * fp8_scale_at(t, row * t.shape[1] + c);
    const int r = (int)(row % 16);
    const int64_t group = row / 16 * (t.shape[1] / t.quant.group) + c / t.quant.group;
    const int64_t factor = group * 16 + r % 8 * 2 + r / 8;
    float scale = number_at(t.quant.scales, t.quant.scale_dtype, factor);
    if (!affine) return float_of_e2m1(q) * scale;
    if (scaled) scale = scale * SCALED_BACK * SCALED_BACK_2;
    return (float)q * scale + number_at(t.quant.biases, t.quant.scale_dtype, factor);
}

/* Eight numbers of a plain table whose rows lie in vectors, as they are most often. */
__device__ static inline bool eight_plain(float (&w)[8], const struct tensor &t, int64_t at) {
    if (t.dtype == F32) {
        *(float4 *)w = *(const float4 *)((const float *)t.at + at);
        *(float4 *)(w + 4) = *(const float4 *)((const float *)t.at + at + 4);
    } else if (t.dtype == BF16) {
        const uint4 v = *(const uint4 *)((const __nv_bfloat16 *)t.at + at);
        const unsigned two[4] = { v.x, v.y, v.z, v.w };
        for (int k = 0; k < 8; k++) w[k] = __uint_as_float(k % 2 ? two[k / 2] & 0xffff0000u
                                                                 : two[k / 2] << 16);
    } else return false;
    return true;
}

/* Columns that do not fill eight are read one by one: only plain tables have such. */
__global__ static void embed(struct tensor y, struct tensor table, const int *ids, float scale,
                             bool packed, bool scaled, bool fours) {
    after_previous();
    let_next_begin();
    const int64_t row = (int64_t)ids[blockIdx.x] * table.stride[0];
    float *to = (float *)y.at + (int64_t)blockIdx.x * y.stride[0];
    for (int64_t i = (blockIdx.y * THREADS + threadIdx.x) * 8; i < y.shape[1];
         i += gridDim.y * THREADS * 8) {
        const int n = (int)MIN((int64_t)8, y.shape[1] - i);
        alignas(16) float w[8];
        if (fours && n == 8 && eight_plain(w, table, row + i)) {
            for (int k = 0; k < 8; k++) w[k] = scale != 1.0f ? w[k] * scale : w[k];
            *(float4 *)(to + i) = *(const float4 *)w;
            *(float4 *)(to + i + 4) = *(const float4 *)(w + 4);
            continue;
        }
        if (packed)
            for (int k = 0; k < n; k++)
                w[k] = packed_at(table, ids[blockIdx.x], (int)i + k, scaled);
        else if (table.dtype == MLX_AFFINE) eight_at(w, table, row + i);
        else for (int k = 0; k < n; k++) w[k] = weight_at(table, row + i + k);
        for (int k = 0; k < n; k++) to[i + k] = scale != 1.0f ? w[k] * scale : w[k];
    }
}

void cuda_embed(struct device *dev, struct tensor *y, const struct tensor *table,
                const struct tensor *ids, float scale) {
    struct cuda *c = cuda_of(dev);
    const struct tensor t = cuda_view_any(dev, table);
    const struct cuda_packed *packed = cuda_is_packed(c, t.at);
    const uintptr_t at = (uintptr_t)y->at | (uintptr_t)t.at;
    const bool fours = !packed && at % 16 == 0 && y->stride[0] % 4 == 0 && t.stride[0] % 8 == 0;
    const dim3 grid((unsigned)y->shape[0], blocks_of(y->shape[1], 8 * THREADS));
    cuda_start(c, embed, grid, THREADS, 0, *y, t, (const int *)ids->at, scale, packed != NULL,
               packed && packed->scaled, fours);
    cuda_check(dev);
}

enum { NORM_THREADS_MAX = 1024 };

/* A thread's columns, a warp's tree, then the tree of warps. */
__device__ static float block_sum(float x) {
    __shared__ float part[NORM_THREADS_MAX / 32];
    for (int k = 16; k > 0; k /= 2) x += __shfl_xor_sync(~0u, x, k);
    __syncthreads();
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
    x = lane < warps ? part[lane] : 0;
    for (int k = 16; k > 0; k /= 2) x += __shfl_xor_sync(~0u, x, k);
    return x;
}

/* Of a thread of a block, whose columns are blockDim.x apart. What nobody writes is read before the
 * wait for the kernels before. */
__device__ static inline struct kept gain_of(const float *gain, int n, enum norm kind) {
    struct kept g;
    g.share = 1.0f / (float)n;
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const int i = threadIdx.x + k * blockDim.x;
        const float w = gain && i < n ? gain[i] : 1.0f;
        g.v[k] = gain && kind == NORM_RMS_PLUS1 ? 1.0f + w : w;
    }
    return g;
}

/* Where a row goes as a product wants it as well: `row` of fragments, or of rounded rows. */
struct for_product { char *few; __nv_bfloat16 *many; };

/* One row of n columns, by a block. g: of its first columns. */
__device__ static inline void norm_row(float *to, const float *from, const float *gain,
                                       const struct kept &g, const float *b, int n,
                                       enum norm kind, float eps,
                                       const struct for_product &then, int64_t row) {
    const int step = (int)blockDim.x;
    struct kept x;
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const int i = threadIdx.x + k * step;
        x.v[k] = i < n ? from[i] : 0;
    }
    float mean = 0, square = 0;
    if (kind == NORM_LAYER) {
#pragma unroll
        for (int k = 0; k < KEPT; k++) mean += x.v[k];
        for (int i = threadIdx.x + KEPT * step; i < n; i += step) mean += from[i];
        mean = block_sum(mean) * g.share;
    }
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const float d = (int)threadIdx.x + k * step < n ? x.v[k] - mean : 0;
        square = fmaf(d, d, square);
    }
    for (int i = threadIdx.x + KEPT * step; i < n; i += step) {
        const float d = from[i] - mean;
        square = fmaf(d, d, square);
    }
    const float inverse = norm_inverse(block_sum(square), g.share, eps);
    const auto put = [&](int i, float v) {
        if (b) v = __fadd_rn(v, b[i]);
        to[i] = v;
        if (then.few) few_put(then.few, (int)row, i, n, v);
        if (then.many) then.many[row * n + i] = __float2bfloat16_rn(v);
    };
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const int i = threadIdx.x + k * step;
        if (i < n) put(i, (x.v[k] - mean) * inverse * g.v[k]);
    }
    for (int i = threadIdx.x + KEPT * step; i < n; i += step) {
        const float w = !gain ? 1.0f : kind == NORM_RMS_PLUS1 ? 1.0f + gain[i] : gain[i];
        put(i, (from[i] - mean) * inverse * w);
    }
}

__global__ static void norm(struct tensor y, struct tensor x, struct tensor w, const float *b,
                            enum norm kind, float eps, struct for_product then) {
    const int n = (int)x.shape[2];
    const float *gain = (const float *)w.at;
    if (gain && w.rank == 2) gain += (int64_t)blockIdx.y * w.stride[0];
    const struct kept g = gain_of(gain, n, kind);
    after_previous();
    let_next_begin();
    norm_row(head_at(y, blockIdx.x, blockIdx.y), head_at(x, blockIdx.x, blockIdx.y), gain, g, b,
             n, kind, eps, then, blockIdx.x);
}

/* Four columns a thread: their number alone says how many threads add. */
static unsigned norm_threads(int64_t cols) {
    return (unsigned)MIN((cols + 127) / 128 * 32, (int64_t)NORM_THREADS_MAX);
}

/* ---- norm of many rows: a thread does what four neighbours do in norm_row, so that it moves
 * vectors. Sums are added in the same order. What was to be added to the rows before is added on
 * the way. ---- */

enum { QUADS = 8, QUAD_ROWS = 64 };  /* fours of columns that a thread keeps; rows */

__device__ static inline float quad_sum(float (&s)[4]) {
    __shared__ float part[NORM_THREADS_MAX / 32];
    for (int k = 4; k > 0; k /= 2)
#pragma unroll
        for (int i = 0; i < 4; i++) s[i] += __shfl_xor_sync(~0u, s[i], k);
    const float own = (s[0] + s[2]) + (s[1] + s[3]);
    const int warps = blockDim.x / 8, lane = threadIdx.x % 32;
    __syncthreads();
    if (threadIdx.x % 8 == 0) part[threadIdx.x / 8] = own;
    __syncthreads();
    float x = lane < warps ? part[lane] : 0;
    for (int k = 16; k > 0; k /= 2) x += __shfl_xor_sync(~0u, x, k);
    return x;
}

__device__ static inline void rounded_quad(__nv_bfloat16 *to, float4 v) {
    const __nv_bfloat162 both[2] = { __floats2bfloat162_rn(v.x, v.y),
                                     __floats2bfloat162_rn(v.z, v.w) };
    *(uint2 *)to = *(const uint2 *)both;
}

__device__ static inline float4 plus(float4 u, float4 v) {
    return make_float4(u.x + v.x, u.y + v.y, u.z + v.z, u.w + v.w);
}

/* Four numbers of a row's slices, at column 4 i. SLICES: at least as many as there are. */
template <int SLICES> struct parts { float4 of[SLICES]; };

template <int SLICES>
__device__ static inline struct parts<SLICES> parts_of(const struct cuda_sum &s, int64_t row,
                                                       int i) {
    const float4 *from = (const float4 *)(s.x + row * s.x_row) + i;
    struct parts<SLICES> p;
#pragma unroll
    for (int k = 0; k < SLICES; k++)
        p.of[k] = k < s.slices ? from[k * (s.slice / 4)] : make_float4(0, 0, 0, 0);
    return p;
}

/* Four numbers of y, `old` before. */
template <int SLICES>
__device__ static inline float4 summed(const struct cuda_sum &s, const struct parts<SLICES> &p,
                                       int i, float4 old) {
    float4 sum = p.of[0];
#pragma unroll
    for (int k = 1; k < SLICES; k++)
        if (k < s.slices) sum = plus(sum, p.of[k]);
    if (s.bias) sum = plus(sum, ((const float4 *)s.bias)[i]);
    return make_float4(fmaf(s.scale, sum.x, old.x), fmaf(s.scale, sum.y, old.y),
                       fmaf(s.scale, sum.z, old.z), fmaf(s.scale, sum.w, old.w));
}

/* Slices that were added are nothing any more, and need not be written to memory: that would be as
 * much as a step of many sequences writes otherwise. By the first thread of each 128 bytes, after
 * all have read. */
__device__ static inline void parts_done(const struct cuda_sum &s, int64_t row, int i) {
    if (threadIdx.x % 8 || 4 * i >= s.cols) return;
    for (int k = 0; k < s.slices; k++) {
        const float *at = s.x + row * s.x_row + 4 * i + k * s.slice;
        if ((uintptr_t)at % 128 == 0 && 4 * i + 32 <= s.cols)
            asm volatile("discard.global.L2 [%0], 128;" ::"l"(at) : "memory");
    }
}

template <int SLICES>
__global__ static void add_sum(const __grid_constant__ struct cuda_sum s) {
    const int i = (int)(blockIdx.y * THREADS + threadIdx.x);
    after_previous();
    let_next_begin();
    if (4 * i >= s.cols) return;
    float4 *y = (float4 *)(s.y + blockIdx.x * s.y_row) + i;
    *y = summed<SLICES>(s, parts_of<SLICES>(s, blockIdx.x, i), i, *y);
}

/* N: fours of a thread, all of which there are if they are not the most. SLICES 0: no sum waits. */
template <bool LAYER, int N, int SLICES>
__global__ static void norm_quads(struct tensor y, struct tensor x, const float *gain,
                                  const float *b, bool plus1, float eps, __nv_bfloat16 *many,
                                  const __grid_constant__ struct cuda_sum waits) {
    const int n = (int)x.shape[2] / 4, step = (int)blockDim.x;
    float4 *from = (float4 *)head_at(x, blockIdx.x, 0);
    float4 *to = (float4 *)head_at(y, blockIdx.x, 0), v[N];
    const float share = 1.0f / (float)(4 * n);
    const auto gains = [&](int i) { return norm_gains(gain ? gain + 4 * i : NULL, plus1); };
    float4 g[N < QUADS ? N : 1];
    struct parts<MAX(SLICES, 1)> parts[SLICES > 0 ? N : 1];
    float mean = 0, sum[4] = {};
#pragma unroll
    for (int k = 0; N < QUADS && k < N; k++) g[k] = gains(threadIdx.x + k * step);
    after_previous();
    let_next_begin();
#pragma unroll
    for (int k = 0; k < N; k++) {
        const int i = threadIdx.x + k * step;
        const bool in = N < QUADS || i < n;
        v[k] = in ? from[i] : make_float4(0, 0, 0, 0);
        if constexpr (SLICES > 0)
            if (in) parts[k] = parts_of<SLICES>(waits, blockIdx.x, i);
    }
#pragma unroll
    for (int k = 0; SLICES > 0 && k < N; k++) {
        const int i = threadIdx.x + k * step;
        if (N == QUADS && i >= n) break;
        v[k] = summed<MAX(SLICES, 1)>(waits, parts[k], i, v[k]);
        from[i] = v[k];
    }
    if (LAYER) {
#pragma unroll
        for (int k = 0; k < N; k++) {
            sum[0] += v[k].x, sum[1] += v[k].y;
            sum[2] += v[k].z, sum[3] += v[k].w;
        }
        mean = quad_sum(sum) * share;
        for (int i = 0; i < 4; i++) sum[i] = 0;
    }
#pragma unroll
    for (int k = 0; k < N; k++) {
        const bool in = (int)threadIdx.x + k * step < n;
        const float of = in ? mean : 0;  /* what there is not is 0 */
        const float d[4] = { v[k].x - of, v[k].y - of, v[k].z - of, v[k].w - of };
#pragma unroll
        for (int i = 0; i < 4; i++) sum[i] = fmaf(d[i], d[i], sum[i]);
    }
    const float inverse = norm_inverse(quad_sum(sum), share, eps);
    if constexpr (SLICES > 0)
        for (int k = 0; k < N; k++) parts_done(waits, blockIdx.x, threadIdx.x + k * step);
    const auto put = [&](float u, float g, float add) {
        const float w = (u - mean) * inverse * g;
        return b ? __fadd_rn(w, add) : w;
    };
#pragma unroll
    for (int k = 0; k < N; k++) {
        const int i = threadIdx.x + k * step;
        if (i >= n) break;
        if (N == QUADS) g[0] = gains(i);
        const float4 a = norm_gains(b ? b + 4 * i : NULL, false), u = g[N < QUADS ? k : 0];
        const float4 w = make_float4(put(v[k].x, u.x, a.x), put(v[k].y, u.y, a.y),
                                     put(v[k].z, u.z, a.z), put(v[k].w, u.w, a.w));
        to[i] = w;
        if (many) rounded_quad(many + ((int64_t)blockIdx.x * n + i) * 4, w);
    }
}

static bool in_vectors(const struct tensor &t) {
    return (uintptr_t)t.at % 16 == 0 && t.stride[0] % 4 == 0 && t.stride[1] % 4 == 0 &&
           t.shape[2] % 4 == 0;
}

/* Whole warps that stand for whole warps of norm_row, and all columns in registers. */
static bool takes_quads(const struct tensor &y, const struct tensor &x, const float *gain,
                        const float *b) {
    const int64_t cols = x.shape[2];
    return x.shape[0] > QUAD_ROWS && x.shape[1] == 1 && cols % 512 == 0 &&
           cols <= (int64_t)QUADS * NORM_THREADS_MAX && in_vectors(x) && in_vectors(y) &&
           (uintptr_t)gain % 16 == 0 && (uintptr_t)b % 16 == 0;
}

struct quads_args {
    struct tensor y, x;
    const float *gain, *b;
    enum norm kind;
    float eps;
    __nv_bfloat16 *many;
};

template <bool LAYER, int N, int SLICES>
static void start_quads(struct cuda *c, const struct quads_args &a, const struct cuda_sum &waits) {
    cuda_start(c, norm_quads<LAYER, N, SLICES>, (unsigned)a.x.shape[0],
               norm_threads(a.x.shape[2]) / 4, 0, a.y, a.x, a.gain, a.b, a.kind == NORM_RMS_PLUS1,
               a.eps, a.many, waits);
}

template <bool LAYER>
static void start_quads_of(struct cuda *c, const struct quads_args &a,
                           const struct cuda_sum &waits) {
    const bool few = a.x.shape[2] <= 4 * (int64_t)NORM_THREADS_MAX;
    if (few && !waits.y) start_quads<LAYER, 4, 0>(c, a, waits);
    else if (few && waits.slices == 1) start_quads<LAYER, 4, 1>(c, a, waits);
    else if (few) start_quads<LAYER, 4, CUDA_SUM_SLICES>(c, a, waits);
    else if (!waits.y) start_quads<LAYER, QUADS, 0>(c, a, waits);
    else start_quads<LAYER, QUADS, CUDA_SUM_SLICES>(c, a, waits);
}

/* The sum that waits, if it is of the rows of this norm, and the norm's results go elsewhere. */
static struct cuda_sum take_sum(struct cuda *c, const struct tensor &y, const struct tensor &x) {
    const struct cuda_sum s = *c->sum;
    const int64_t rows = y.shape[0];
    const float *to = (const float *)y.at, *end = to + rows * y.stride[0];
    if (!s.y || s.y != x.at || s.y_row != x.stride[0] || s.n_rows != rows ||
        s.cols != x.shape[2] || (to < s.y + rows * s.y_row && s.y < end) ||
        (to < s.x + s.slices * s.slice + rows * s.x_row && s.x < end))
        return {};
    c->sum->y = NULL;
    return s;
}

/* Not in place: a block that is late would read what others wrote. */
static bool may_wait(const struct cuda_norm &m) {
    return m.n_rows <= NORM_WAITS_ROWS && m.cols <= NORM_WAITS_COLS &&
           (m.x >= m.y + m.n_rows * m.y_row || m.y >= m.x + m.n_rows * m.x_row);
}

void cuda_norm(struct device *dev, struct tensor *y, const struct tensor *w, const struct tensor *b,
               const struct tensor *x, enum norm kind, float eps) {
    struct tensor none = {}, yt = cuda_heads(dev, y), xt = cuda_heads(dev, x);
    struct tensor gain = w ? cuda_view(dev, w) : none;
    const float *bias = b ? (const float *)cuda_there(dev, b->at) : NULL;
    struct cuda *c = cuda_of(dev);
    const int n = (int)y->shape[0], cols = (int)xt.shape[2];
    const bool quads = takes_quads(yt, xt, (const float *)gain.at, bias);
    struct cuda_sum sum = {};
    if (quads) sum = take_sum(c, yt, xt);
    cuda_settle(c);
    const bool to_product = c->hopper && c->rounded && y->rank == 2 && cols % 64 == 0 &&
                            cols <= CUDA_FEW_COLS;
    const struct cuda_norm m = { (const float *)xt.at, (const float *)gain.at, (float *)yt.at,
                                 xt.stride[0], yt.stride[0], n, cols, kind == NORM_RMS_PLUS1, eps,
                                 1.0f / (float)cols };
    if (to_product && kind != NORM_LAYER && !bias && (!w || gain.rank == 1) && may_wait(m)) {
        *c->norm = m;
        cuda_check(dev);
        return;
    }
    struct for_product then = {};
    if (to_product && n <= FEW_ROWS) then.few = cuda_few_next(c);
    else if (to_product) then.many = cuda_many_next(c, n, cols);
    const struct quads_args args = { yt, xt, (const float *)gain.at, bias, kind, eps, then.many };
    if (quads && kind == NORM_LAYER) start_quads_of<true>(c, args, sum);
    else if (quads) start_quads_of<false>(c, args, sum);
    else
        cuda_start(c, norm, grid_of(xt), norm_threads(cols), 0, yt, xt, gain, bias, kind, eps,
                   then);
    cuda_check(dev);
    const struct cuda_few is = { (const float *)yt.at, yt.stride[0], n, cols };
    if (then.few) cuda_few_done(c, is);
    if (then.many) cuda_many_done(c, is);
}

static struct tensor row_tensor(const float *at, int64_t rows, int64_t cols, int64_t stride) {
    struct tensor t = {};
    t.at = (void *)(uintptr_t)at;
    t.rank = 3;
    t.shape[0] = rows, t.shape[1] = 1, t.shape[2] = cols;
    t.stride[0] = stride, t.stride[1] = cols, t.stride[2] = 1;
    return t;
}

static void settle_sum(struct cuda *c) {
    const struct cuda_sum s = *c->sum;
    const dim3 grid((unsigned)s.n_rows, blocks_of(s.cols, 4 * THREADS));
    if (!s.y) return;
    c->sum->y = NULL;
    if (s.slices == 1) cuda_start(c, add_sum<1>, grid, THREADS, 0, s);
    else cuda_start(c, add_sum<CUDA_SUM_SLICES>, grid, THREADS, 0, s);
}

bool cuda_sum_fits(const struct cuda_sum &s) {
    const uintptr_t at = (uintptr_t)s.y | (uintptr_t)s.x | (uintptr_t)s.bias;
    return at % 16 == 0 && s.cols % 4 == 0 && (s.y_row | s.x_row | s.slice) % 4 == 0 &&
           s.slices <= CUDA_SUM_SLICES;
}

void cuda_sum_later(struct cuda *c, const struct cuda_sum &s) {
    cuda_settle(c);
    *c->sum = s;
}

static void start_norm(struct cuda *c) {
    const struct cuda_norm m = *c->norm;
    c->norm->x = NULL;
    const struct for_product then = { cuda_few_next(c), NULL };
    struct tensor gain = {};
    gain.at = (void *)(uintptr_t)m.gain;
    gain.rank = 1;
    const struct tensor y = row_tensor(m.y, m.n_rows, m.cols, m.y_row);
    const struct tensor x = row_tensor(m.x, m.n_rows, m.cols, m.x_row);
    cuda_start(c, norm, grid_of(y), norm_threads(m.cols), 0, y, x, gain, (const float *)NULL,
               m.plus1 ? NORM_RMS_PLUS1 : NORM_RMS, m.eps, then);
    cuda_few_done(c, { m.y, m.y_row, m.n_rows, m.cols });
}

void cuda_settle(const struct cuda *device) {
    struct cuda *c = (struct cuda *)(uintptr_t)device;
    settle_sum(c);
    if (c->norm->x) start_norm(c);
    if (!c->heads_wait) return;
    c->heads_wait = false;
    cuda_start_heads(c, *c->heads);
}

/* The turns of a thread's pairs, i of them, blockDim.x apart; positions are there before any kernel
 * of the batch begins. */
enum { TURNS = 4 };
struct turns { float c[TURNS], s[TURNS]; };

__device__ static inline struct turns turns_of(int64_t dims, const struct rope_args &a,
                                               const struct rows &rows, int64_t r) {
    struct turns t = {};
    const float *freq = freq_of(a, rows, dims / 2, r);
#pragma unroll
    for (int k = 0; k < TURNS; k++) {
        const int64_t i = threadIdx.x + k * blockDim.x;
        if (i < dims / 2) turn_of(&t.c[k], &t.s[k], a, freq, rows.pos[r], i);
    }
    return t;
}

__device__ static inline void rope_row(float *head, int64_t dims, const struct turns &t,
                                       const struct rope_args &a, const struct rows &rows,
                                       int64_t r) {
    const int64_t half = dims / 2;
    const bool pairs = a.pairing == ROPE_PAIRS;
#pragma unroll
    for (int k = 0; k < TURNS; k++) {
        const int64_t i = threadIdx.x + k * blockDim.x;
        if (i < half) turn_pair(head, i, half, pairs, t.c[k], t.s[k]);
    }
    for (int64_t i = threadIdx.x + TURNS * blockDim.x; i < half; i += blockDim.x) {
        float c, s;
        turn_of(&c, &s, a, freq_of(a, rows, half, r), rows.pos[r], i);
        turn_pair(head, i, half, pairs, c, s);
    }
}

__global__ static void rope(struct tensor x, struct rope_args a, struct rows rows) {
    let_next_begin();
    const struct turns t = turns_of(x.shape[2], a, rows, blockIdx.x);
    after_previous();
    rope_row(head_at(x, blockIdx.x, blockIdx.y), x.shape[2], t, a, rows, blockIdx.x);
}

void cuda_rope(struct device *dev, struct tensor *x, const struct rope_args *args) {
    struct rope_args a = *args;
    struct tensor t = cuda_heads(dev, x);
    a.freq = (const float *)cuda_there(dev, a.freq);
    cuda_start(cuda_of(dev), rope, grid_of(t), 64, 0, t, a, *args->rows);
    cuda_check(dev);
}

/* ---- what stands between the products of q, k, v and attention ---- */

/* A block for a head of q, of k, or of v, in that order. */
__global__ static void heads(struct heads h) {
    let_next_begin();
    const int64_t r = blockIdx.x;
    const int nq = (int)h.q.shape[1], nk = h.a.kv_heads, y = blockIdx.y;
    const bool is_v = y >= nq + nk, is_q = y < nq;
    const int head = is_q ? y : is_v ? y - nq - nk : y - nq;
    const struct tensor &x = is_q ? h.q : is_v ? h.v : h.k;
    const struct tensor &w = is_q ? h.q_gain : h.k_gain;
    const float *gain = (const float *)w.at;
    if (gain && w.rank == 2) gain += head * w.stride[0];
    const struct kept g = gain_of(is_v ? NULL : gain, (int)x.shape[2], h.kind);
    struct turns t = {};
    if (!is_v) t = turns_of(h.dims, h.rope, h.rows, r);
    char *to = is_q ? NULL : cached_at(h, r, head, !is_v);
    float *from = head_at(x, r, head);
    after_previous();
    if (!is_v && h.normed) {
        norm_row(from, from, gain, g, NULL, (int)x.shape[2], h.kind, h.eps, {}, 0);
        __syncthreads();
    }
    if (!is_v) rope_row(from, h.dims, t, h.rope, h.rows, r);
    if (is_q) return;
    __syncthreads();
    for (int c = threadIdx.x; c < x.shape[2]; c += blockDim.x) {
        if (h.a.kv.dtype == BF16) ((__nv_bfloat16 *)to)[c] = __float2bfloat16_rn(from[c]);
        else ((float *)to)[c] = from[c];
    }
}

/* The same for many rows, and heads of at most as many columns as a warp keeps: a block for a row,
 * whose turns are found once; a warp for a head at a time. */
enum { HEADS_WARPS = 8, HEADS_ROWS = 64 };

__global__ static void __launch_bounds__(HEADS_WARPS * 32) heads_of_row(struct heads h) {
    __shared__ float cosine[HEADS_COLS / 2], sine[HEADS_COLS / 2], kept[HEADS_WARPS][HEADS_COLS];
    const int64_t r = blockIdx.x, half = h.dims / 2;
    const int nq = (int)h.q.shape[1], nk = h.a.kv_heads, all = nq + 2 * nk;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    let_next_begin();
    for (int64_t i = threadIdx.x; i < half; i += blockDim.x)
        turn_of(&cosine[i], &sine[i], h.rope, freq_of(h.rope, h.rows, half, r), h.rows.pos[r], i);
    after_previous();
    __syncthreads();
    for (int y = warp; y < all; y += HEADS_WARPS) {
        const struct one_head o = head_at_row(h, r, y);
        float *own = kept[warp], v[KEPT];
        warp_read(v, o);
        warp_head(own, v, o, warp_gain(o.gain, o.n, h.kind), h, cosine, sine);
        char *to = o.is_q ? NULL : cached_at(h, r, (y - nq) % nk, !o.is_v);
        for (int i = lane; i < o.n; i += 32) {
            if (o.is_q) ((float *)(uintptr_t)o.at)[i] = own[i];
            else if (h.a.kv.dtype == BF16) ((__nv_bfloat16 *)to)[i] = __float2bfloat16_rn(own[i]);
            else ((float *)to)[i] = own[i];
        }
    }
}

/* The same where everything lies in vectors: a lane has four neighbours of a head, and a warp asks
 * for all of its heads at once. */
enum { HEADS_AT_ONCE = 6 };

/* Sums of squares in the order of warp_norm: lane 8 k + i has columns 4 i + 32 k and three more. */
__device__ static inline float4 four_norm(float4 v, float4 gain, int n, float eps) {
    const int lane = threadIdx.x % 32;
    const float d[4] = { v.x, v.y, v.z, v.w };
    float sum[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        sum[i] = fmaf(d[i], d[i], 0.0f);
        for (int k = 1; k < KEPT; k++) {
            const float before = __shfl_up_sync(~0u, sum[i], 8);
            if (lane / 8 == k) sum[i] = fmaf(d[i], d[i], before);
        }
        sum[i] = __shfl_sync(~0u, sum[i], 24 + lane % 8);
        for (int k = 4; k > 0; k /= 2) sum[i] += __shfl_xor_sync(~0u, sum[i], k);
    }
    const float square = (sum[0] + sum[2]) + (sum[1] + sum[3]);
    const float inverse = norm_inverse(square, 1.0f / (float)n, eps);
    return make_float4(v.x * inverse * gain.x, v.y * inverse * gain.y, v.z * inverse * gain.z,
                       v.w * inverse * gain.w);
}

/* c, s: of the lane's numbers, or of its two pairs; partner: the lane that has the others. */
__device__ static inline float4 four_turned(float4 v, float4 c, float4 s, bool pairs, int partner) {
    if (pairs)
        return make_float4(turned(v.x, v.y, c.x, -s.x), turned(v.y, v.x, c.x, s.x),
                           turned(v.z, v.w, c.y, -s.y), turned(v.w, v.z, c.y, s.y));
    const float4 w = make_float4(__shfl_sync(~0u, v.x, partner), __shfl_sync(~0u, v.y, partner),
                                 __shfl_sync(~0u, v.z, partner), __shfl_sync(~0u, v.w, partner));
    return make_float4(turned(v.x, w.x, c.x, s.x), turned(v.y, w.y, c.y, s.y),
                       turned(v.z, w.z, c.z, s.z), turned(v.w, w.w, c.w, s.w));
}

__device__ static inline float4 four_gain(const struct tensor &w, int head, int column,
                                          enum norm kind) {
    const float *at = (const float *)w.at;
    if (at) at += (w.rank == 2 ? head * w.stride[0] : 0) + column;
    return norm_gains(at, kind == NORM_RMS_PLUS1);
}

__global__ static void __launch_bounds__(HEADS_WARPS * 32)
heads_in_fours(const __grid_constant__ struct heads h) {
    __shared__ alignas(16) float cosine[HEADS_COLS / 2], sine[HEADS_COLS / 2];
    const int64_t r = blockIdx.x;
    const int half = (int)h.dims / 2, nq = (int)h.q.shape[1], nk = h.a.kv_heads, all = nq + 2 * nk;
    const int warp = threadIdx.x / 32, column = threadIdx.x % 32 * 4;
    const bool pairs = h.rope.pairing == ROPE_PAIRS, second = !pairs && column >= half;
    const int partner = column < h.dims ? (second ? column - half : column + half) / 4 : 0;
    let_next_begin();
    for (int i = threadIdx.x; i < half; i += blockDim.x)
        turn_of(&cosine[i], &sine[i], h.rope, freq_of(h.rope, h.rows, half, r), h.rows.pos[r], i);
    after_previous();
    __syncthreads();
    float4 c = make_float4(1, 1, 1, 1), s = make_float4(0, 0, 0, 0);
    if (column < h.dims && pairs) {
        c.x = cosine[column / 2], c.y = cosine[column / 2 + 1];
        s.x = sine[column / 2], s.y = sine[column / 2 + 1];
    } else if (column < h.dims) {
        c = *(const float4 *)(cosine + column - (second ? half : 0));
        s = *(const float4 *)(sine + column - (second ? half : 0));
        if (!second) s = make_float4(-s.x, -s.y, -s.z, -s.w);
    }
    for (int first = warp; first < all; first += HEADS_WARPS * HEADS_AT_ONCE) {
        float4 v[HEADS_AT_ONCE];
#pragma unroll
        for (int k = 0; k < HEADS_AT_ONCE; k++) {
            const int y = first + k * HEADS_WARPS;
            const struct tensor &x = y < nq ? h.q : y < nq + nk ? h.k : h.v;
            const int head = y < nq ? y : y < nq + nk ? y - nq : y - nq - nk;
            v[k] = make_float4(0, 0, 0, 0);
            if (y < all && column < x.shape[2])
                v[k] = *(const float4 *)(head_at(x, r, head) + column);
        }
#pragma unroll
        for (int k = 0; k < HEADS_AT_ONCE; k++) {
            const int y = first + k * HEADS_WARPS;
            const bool is_q = y < nq, is_v = y >= nq + nk;
            const struct tensor &x = is_q ? h.q : is_v ? h.v : h.k;
            const int head = is_q ? y : is_v ? y - nq - nk : y - nq, n = (int)x.shape[2];
            if (y >= all) break;
            if (!is_v && h.normed) {
                float4 g = make_float4(1, 1, 1, 1);
                if (column < n) g = four_gain(is_q ? h.q_gain : h.k_gain, head, column, h.kind);
                v[k] = four_norm(v[k], g, n, h.eps);
            }
            if (!is_v) {
                const float4 w = four_turned(v[k], c, s, pairs, partner);
                if (column < h.dims) v[k] = w;
            }
            if (column >= n) continue;
            if (is_q) *(float4 *)(head_at(x, r, head) + column) = v[k];
            else if (h.a.kv.dtype == BF16)
                rounded_quad((__nv_bfloat16 *)cached_at(h, r, head, !is_v) + column, v[k]);
            else *(float4 *)((float *)cached_at(h, r, head, !is_v) + column) = v[k];
        }
    }
}

static bool takes_fours(const struct heads &h) {
    const uintptr_t at = (uintptr_t)h.q_gain.at | (uintptr_t)h.k_gain.at | h.a.kv.page_bytes;
    return in_vectors(h.q) && in_vectors(h.k) && in_vectors(h.v) && at % 16 == 0 &&
           h.dims % 8 == 0 && (!h.normed || h.kind != NORM_LAYER) &&
           (!h.q_gain.at || h.q_gain.rank == 1 || h.q_gain.stride[0] % 4 == 0) &&
           (!h.k_gain.at || h.k_gain.rank == 1 || h.k_gain.stride[0] % 4 == 0);
}

void cuda_start_heads(struct cuda *c, const struct heads &h) {
    const unsigned rows = (unsigned)h.rows.n_rows;
    const dim3 grid(rows, (unsigned)(h.q.shape[1] + 2 * h.a.kv_heads));
    const bool warps = rows > HEADS_ROWS && MAX(h.q.shape[2], h.v.shape[2]) <= HEADS_COLS;
    if (warps && takes_fours(h)) cuda_start(c, heads_in_fours, rows, HEADS_WARPS * 32, 0, h);
    else if (warps) cuda_start(c, heads_of_row, rows, HEADS_WARPS * 32, 0, h);
    else cuda_start(c, heads, grid, norm_threads(h.q.shape[2]), 0, h);
}

bool cuda_heads_ready(struct device *dev, const struct heads_args *a) {
    struct cuda *c = cuda_of(dev);
    struct tensor none = {};
    if (a->attend->kv.dtype != BF16 && a->attend->kv.dtype != F32) return false;
    struct heads h = { *a->q, *a->k, *a->v, a->q_norm ? cuda_view(dev, a->q_norm) : none,
                       a->k_norm ? cuda_view(dev, a->k_norm) : none, a->normed, a->kind, a->eps,
                       a->rope, a->dims, *a->attend->rows, *a->attend };
    h.rope.freq = (const float *)cuda_there(dev, a->rope.freq);
    cuda_settle(c);
    c->heads_wait = cuda_one_waits(c, h) || cuda_rows_waits(c, h);
    if (c->heads_wait) *c->heads = h;
    else cuda_start_heads(c, h);
    cuda_check(dev);
    return true;
}

__global__ static void gate(struct tensor y, struct tensor g, struct tensor u,
                            struct gate_args a) {
    after_previous();
    let_next_begin();
    float *yr = head_at(y, blockIdx.x, blockIdx.y);
    const float *gr = head_at(g, blockIdx.x, blockIdx.y);
    const float *ur = u.at ? head_at(u, blockIdx.x, blockIdx.y) : NULL;
    const bool one = g.shape[2] == 1 && y.shape[2] > 1;
    for (int64_t i = column(); i < y.shape[2]; i += gridDim.z * THREADS) {
        const float v = gr[one ? 0 : i];
        yr[i] = ur ? gated(v, ur[i], a) : act_of(a.act, v);
    }
}

void cuda_gate(struct device *dev, struct tensor *y, const struct tensor *g,
               const struct tensor *up, const struct gate_args *a) {
    struct tensor none = {}, t = cuda_heads(dev, y);
    cuda_start(cuda_of(dev), gate, grid_of_columns(t), THREADS, 0,
               t, cuda_heads(dev, g), up ? cuda_heads(dev, up) : none, *a);
    cuda_check(dev);
}

__global__ static void add(struct tensor y, struct tensor x, float scale) {
    after_previous();
    let_next_begin();
    float *yr = head_at(y, blockIdx.x, blockIdx.y);
    const float *xr = head_at(x, blockIdx.x, blockIdx.y);
    for (int64_t i = column(); i < y.shape[2]; i += gridDim.z * THREADS)
        yr[i] = fmaf(scale, xr[i], yr[i]);
}

void cuda_add(struct device *dev, struct tensor *y, const struct tensor *x, float scale) {
    struct cuda *c = cuda_of(dev);
    const struct tensor to = cuda_heads(dev, y), from = cuda_heads(dev, x);
    const int64_t rows = to.shape[0];
    const struct cuda_sum s = { (float *)to.at, (const float *)from.at, NULL, to.stride[0],
                                from.stride[0], 0, 1, (int)rows, (int)to.shape[2], scale };
    const bool fits = to.shape[1] == 1 && cuda_sum_fits(s);
    if (fits) cuda_sum_later(c, s);
    else cuda_start(c, add, grid_of_columns(to), THREADS, 0, to, from, scale);
    if (fits && rows <= QUAD_ROWS) cuda_settle(c);
    cuda_check(dev);
}

__global__ static void copy(struct tensor y, struct tensor x) {
    after_previous();
    let_next_begin();
    float *yr = head_at(y, blockIdx.x, blockIdx.y);
    const float *xr = head_at(x, blockIdx.x, blockIdx.y);
    for (int64_t i = column(); i < y.shape[2]; i += gridDim.z * THREADS) yr[i] = xr[i];
}

void cuda_copy_view(struct device *dev, struct tensor *y, const struct tensor *x) {
    struct tensor t = cuda_heads(dev, y);
    cuda_start(cuda_of(dev), copy, grid_of_columns(t), THREADS, 0, t, cuda_heads(dev, x));
    cuda_check(dev);
}

__global__ static void scale(struct tensor x, float factor, float clip, float cap) {
    after_previous();
    let_next_begin();
    float *p = head_at(x, blockIdx.x, blockIdx.y);
    for (int64_t i = column(); i < x.shape[2]; i += gridDim.z * THREADS) {
        float v = p[i] * factor;
        if (clip != 0) v = fmaxf(fminf(v, clip), -clip);
        p[i] = cap != 0 ? cap * tanhf(v / cap) : v;
    }
}

void cuda_scale(struct device *dev, struct tensor *x, float factor, float clip, float cap) {
    struct tensor t = cuda_heads(dev, x);
    cuda_start(cuda_of(dev), scale, grid_of_columns(t), THREADS, 0, t, factor, clip, cap);
    cuda_check(dev);
}

__global__ static void temperature(struct tensor x, struct rows rows, float beta, float original,
                                   int shift) {
    let_next_begin();
    after_previous();
    const float at = floorf((float)(rows.pos[blockIdx.x] + shift) / original);
    const float factor = 1.0f + beta * logf(1.0f + at);
    float *p = head_at(x, blockIdx.x, blockIdx.y);
    for (int64_t i = column(); i < x.shape[2]; i += gridDim.z * THREADS) p[i] *= factor;
}

void cuda_temperature(struct device *dev, struct tensor *x, const struct rows *rows, float beta,
                      float original, int shift) {
    struct tensor t = cuda_heads(dev, x);
    cuda_start(cuda_of(dev), temperature, grid_of_columns(t), THREADS, 0, t, *rows, beta, original,
                                                                          shift);
    cuda_check(dev);
}
