/* dense.cu - the ops that work on each row by itself: embed, norm, rope, gate, add, copy,
 * scale, temperature. A block takes a head of a row. */
#include "device/cuda/attention.h"
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

/* Number c of a row of a table in linear_format.h's order, 4 bits. */
__device__ static inline float packed_at(const struct tensor &t, int64_t row, int c,
                                         bool scaled) {
    const int64_t cols = t.shape[1], tile = row / 16, groups = cols / t.quant.group;
    const int r = (int)(row % 16), lane = r % 8 * 4 + c % 8 / 2, step = c % 64 / 16;
    const int64_t word = (tile * (cols / 64) + c / 64) * 128 + lane * 4 + step;
    const int bit = c % 2 * 16 + c % 16 / 8 * 8 + r / 8 * 4;
    const int64_t factor = (tile * groups + c / t.quant.group) * 16 + r % 8 * 2 + r / 8;
    float scale = number_at(t.quant.scales, t.quant.scale_dtype, factor);
    if (scaled) scale = scale * SCALED_BACK * SCALED_BACK_2;
    return (float)(((const unsigned *)t.at)[word] >> bit & 15) * scale +
           number_at(t.quant.biases, t.quant.scale_dtype, factor);
}

/* Columns that do not fill eight are read one by one: only plain tables have such. */
__global__ static void embed(struct tensor y, struct tensor table, const int *ids, float scale,
                             bool packed, bool scaled) {
    let_next_begin();
    after_previous();
    const int64_t row = (int64_t)ids[blockIdx.x] * table.stride[0];
    float *to = (float *)y.at + (int64_t)blockIdx.x * y.stride[0];
    for (int64_t i = threadIdx.x * 8; i < y.shape[1]; i += THREADS * 8) {
        const int n = (int)MIN((int64_t)8, y.shape[1] - i);
        float w[8];
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
    cuda_start(c, embed, (unsigned)y->shape[0], THREADS, 0, *y, t, (const int *)ids->at, scale,
               packed != NULL, packed && packed->scaled);
    cuda_check(dev);
}

enum { NORM_THREADS_MAX = 1024 };

/* Sums are in double, as on the CPU: a thread's columns, a warp's tree, then the tree of warps. */
__device__ static double block_sum(double x) {
    __shared__ double part[NORM_THREADS_MAX / 32];
    for (int k = 16; k > 0; k /= 2) x += __shfl_xor_sync(~0u, x, k);
    __syncthreads();
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
    x = lane < warps ? part[lane] : 0;
    for (int k = 16; k > 0; k /= 2) x += __shfl_xor_sync(~0u, x, k);
    return x;
}

/* Columns of a row that a thread keeps in registers: i of them, blockDim.x apart. */
enum { KEPT = 4 };
struct kept { float v[KEPT]; };

/* What nobody writes is read before the wait for the kernels before. */
__device__ static inline struct kept gain_of(const float *gain, int n, enum norm kind) {
    struct kept g;
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const int i = threadIdx.x + k * blockDim.x;
        const float w = gain && i < n ? gain[i] : 1.0f;
        g.v[k] = gain && kind == NORM_RMS_PLUS1 ? 1.0f + w : w;
    }
    return g;
}

/* One row of n columns, by a block. g: of its first columns. few: the row as a product's fragments
 * as well, `row` of those; NULL: not wanted. */
__device__ static inline void norm_row(float *to, const float *from, const float *gain,
                                       const struct kept &g, const float *b, int n,
                                       enum norm kind, float eps, char *few, int64_t row) {
    const int step = (int)blockDim.x;
    struct kept x;
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const int i = threadIdx.x + k * step;
        x.v[k] = i < n ? from[i] : 0;
    }
    double mean = 0, square = 0;
    if (kind == NORM_LAYER) {
#pragma unroll
        for (int k = 0; k < KEPT; k++) mean += (double)x.v[k];
        for (int i = threadIdx.x + KEPT * step; i < n; i += step) mean += (double)from[i];
        mean = block_sum(mean) / (double)n;
    }
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const double d = (int)threadIdx.x + k * step < n ? (double)x.v[k] - mean : 0;
        square += d * d;
    }
    for (int i = threadIdx.x + KEPT * step; i < n; i += step)
        square += ((double)from[i] - mean) * ((double)from[i] - mean);
    square = block_sum(square);
    const float m = (float)mean, inverse = (float)rsqrt(square / (double)n + (double)eps);
    const auto put = [&](int i, float v) {
        if (b) v += b[i];
        to[i] = v;
        if (few) few_put(few, row, i, n, v);
    };
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const int i = threadIdx.x + k * step;
        if (i < n) put(i, (x.v[k] - m) * inverse * g.v[k]);
    }
    for (int i = threadIdx.x + KEPT * step; i < n; i += step) {
        const float w = !gain ? 1.0f : kind == NORM_RMS_PLUS1 ? 1.0f + gain[i] : gain[i];
        put(i, (from[i] - m) * inverse * w);
    }
}

__global__ static void norm(struct tensor y, struct tensor x, struct tensor w, const float *b,
                            enum norm kind, float eps, char *few) {
    let_next_begin();
    const int n = (int)x.shape[2];
    const float *gain = (const float *)w.at;
    if (gain && w.rank == 2) gain += (int64_t)blockIdx.y * w.stride[0];
    const struct kept g = gain_of(gain, n, kind);
    after_previous();
    norm_row(head_at(y, blockIdx.x, blockIdx.y), head_at(x, blockIdx.x, blockIdx.y), gain, g, b,
             n, kind, eps, few, blockIdx.x);
}

/* Four columns a thread: their number alone says how many threads add. */
static unsigned norm_threads(int64_t cols) {
    return (unsigned)MIN((cols + 127) / 128 * 32, (int64_t)NORM_THREADS_MAX);
}

void cuda_norm(struct device *dev, struct tensor *y, const struct tensor *w, const struct tensor *b,
               const struct tensor *x, enum norm kind, float eps) {
    struct tensor none = {}, yt = cuda_heads(dev, y), xt = cuda_heads(dev, x);
    struct tensor gain = w ? cuda_view(dev, w) : none;
    const float *bias = b ? (const float *)cuda_there(dev, b->at) : NULL;
    struct cuda *c = cuda_of(dev);
    const int n = (int)y->shape[0], cols = (int)xt.shape[2];
    const bool to_few = c->hopper && c->rounded && y->rank == 2 && n <= FEW_ROWS &&
                        cols % 64 == 0 && cols <= CUDA_FEW_COLS;
    cuda_start(c, norm, grid_of(xt), norm_threads(cols), 0, yt, xt, gain, bias, kind, eps,
               to_few ? cuda_few_next(c) : NULL);
    cuda_check(dev);
    if (to_few) cuda_few_done(c, { (const float *)yt.at, yt.stride[0], n, cols });
}

/* The turns of a thread's pairs, i of them, blockDim.x apart; positions are there before any kernel
 * of the batch begins. */
enum { TURNS = 4 };
struct turns { float c[TURNS], s[TURNS]; };

__device__ static inline void turn_of(float *c, float *s, const struct rope_args &a,
                                      const float *freq, int pos, int64_t i) {
    double sine, cosine;
    sincos((double)((float)pos * freq[i]), &sine, &cosine);
    *c = (float)cosine * a.magnitude;
    *s = (float)sine * a.magnitude;
}

__device__ static inline const float *freq_of(const struct rope_args &a, const struct rows &rows,
                                              int64_t half, int64_t r) {
    return a.freq + (a.variant ? a.variant[rows.seq[r]] * half : 0);
}

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

__device__ static inline void turn_pair(float *head, int64_t i, int64_t half, bool pairs, float c,
                                        float s) {
    float *first = pairs ? head + 2 * i : head + i, *second = pairs ? first + 1 : first + half;
    const float u = *first, v = *second;
    *first = u * c - v * s;
    *second = v * c + u * s;
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

struct heads {
    struct tensor q, k, v, q_gain, k_gain;       /* gains at NULL: none */
    bool normed;
    enum norm kind;
    float eps;
    struct rope_args rope;
    int64_t dims;                                /* that turn */
    struct rows rows;
    struct attend a;
};

/* The place of a head in the cache; k: a key, else a value. */
__device__ static inline char *cached_at(const struct heads &h, int64_t r, int head, bool k) {
    const struct kv_view &kv = h.a.kv;
    const int pos = h.rows.pos[r], page = page_of(kv, h.rows.seq[r], pos / kv.page_tokens);
    const size_t bytes = kv.dtype == BF16 ? 2 : 4;
    const size_t t = (size_t)head * kv.page_tokens + pos % kv.page_tokens;
    char *at = (char *)kv.pages + (size_t)page * kv.page_bytes;
    return k ? at + t * h.a.k_dim * bytes : at + values_at(h.a, bytes) + t * h.a.v_dim * bytes;
}

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
        norm_row(from, from, gain, g, NULL, (int)x.shape[2], h.kind, h.eps, NULL, 0);
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

bool cuda_heads_ready(struct device *dev, const struct heads_args *a) {
    struct cuda *c = cuda_of(dev);
    struct tensor none = {};
    if (a->attend->kv.dtype != BF16 && a->attend->kv.dtype != F32) return false;
    struct heads h = { *a->q, *a->k, *a->v, a->q_norm ? cuda_view(dev, a->q_norm) : none,
                       a->k_norm ? cuda_view(dev, a->k_norm) : none, a->normed, a->kind, a->eps,
                       a->rope, a->dims, *a->attend->rows, *a->attend };
    h.rope.freq = (const float *)cuda_there(dev, a->rope.freq);
    const dim3 grid((unsigned)a->q->shape[0],
                    (unsigned)(a->q->shape[1] + 2 * a->attend->kv_heads));
    cuda_start(c, heads, grid, norm_threads(a->q->shape[2]), 0, h);
    cuda_check(dev);
    return true;
}

__global__ static void gate(struct tensor y, struct tensor g, struct tensor u,
                            struct gate_args a) {
    let_next_begin();
    after_previous();
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
    let_next_begin();
    after_previous();
    float *yr = head_at(y, blockIdx.x, blockIdx.y);
    const float *xr = head_at(x, blockIdx.x, blockIdx.y);
    for (int64_t i = column(); i < y.shape[2]; i += gridDim.z * THREADS)
        yr[i] = fmaf(scale, xr[i], yr[i]);
}

void cuda_add(struct device *dev, struct tensor *y, const struct tensor *x, float scale) {
    struct tensor t = cuda_heads(dev, y);
    cuda_start(cuda_of(dev), add, grid_of_columns(t), THREADS, 0, t, cuda_heads(dev, x), scale);
    cuda_check(dev);
}

__global__ static void copy(struct tensor y, struct tensor x) {
    let_next_begin();
    after_previous();
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
    let_next_begin();
    after_previous();
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
