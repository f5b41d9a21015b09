/* norm.cu - norms, and what they do on their way: sums that wait for them, and rows as the next
 * product wants them. */
#include "device/cuda/norm.h"

enum { THREADS = 128 };

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

/* ---- norm of many rows: a thread does what four neighbours do in norm_row, so that it moves
 * vectors. Sums are added in the same order. What was to be added to the rows before is added on
 * the way. ---- */

enum { QUADS = 8 };                  /* fours of columns that a thread keeps */

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

/* Slices that were added need not be written to memory, which would be a quarter of what a step of
 * many sequences writes there. One slice may be anybody's. By the first thread of each 128 bytes,
 * after all have read. */
__device__ static inline void parts_done(const struct cuda_sum &s, int64_t row, int i) {
    if (threadIdx.x % 8 || 4 * i >= s.cols || s.slices < 2) return;
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
    const auto gains = [&](int i) { return norm_gains(gain, 4 * i, plus1); };
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
    if constexpr (SLICES > 1)
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
        const float4 a = norm_gains(b, 4 * i, false), u = g[N < QUADS ? k : 0];
        const float4 w = make_float4(put(v[k].x, u.x, a.x), put(v[k].y, u.y, a.y),
                                     put(v[k].z, u.z, a.z), put(v[k].w, u.w, a.w));
        to[i] = w;
        if (many) rounded_quad(many + ((int64_t)blockIdx.x * n + i) * 4, w);
    }
}

/* Whole warps that stand for whole warps of norm_row, and all columns in registers. */
static bool takes_quads(const struct tensor &y, const struct tensor &x, const float *gain,
                        const float *b) {
    const int64_t cols = x.shape[2];
    return x.shape[0] > CUDA_SUM_ROWS && x.shape[1] == 1 && cols % 512 == 0 &&
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
