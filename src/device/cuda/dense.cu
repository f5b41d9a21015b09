/* dense.cu - the ops that work on each row by itself: embed, norm, rope, gate, add, copy,
 * scale, temperature. A block takes a head of a row. */
#include "device/cuda/cuda.h"

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

/* Columns that do not fill eight are read one by one: only plain tables have such. */
__global__ static void embed(struct tensor y, struct tensor table, const int *ids, float scale) {
    let_next_begin();
    after_previous();
    const int64_t row = (int64_t)ids[blockIdx.x] * table.stride[0];
    float *to = (float *)y.at + (int64_t)blockIdx.x * y.stride[0];
    for (int64_t i = threadIdx.x * 8; i < y.shape[1]; i += THREADS * 8) {
        const int n = (int)MIN((int64_t)8, y.shape[1] - i);
        float w[8];
        if (table.dtype == MLX_AFFINE) eight_at(w, table, row + i);
        else for (int k = 0; k < n; k++) w[k] = number_at(table.at, table.dtype, row + i + k);
        for (int k = 0; k < n; k++) to[i + k] = scale != 1.0f ? w[k] * scale : w[k];
    }
}

void cuda_embed(struct device *dev, struct tensor *y, const struct tensor *table,
                const struct tensor *ids, float scale) {
    cuda_start(cuda_of(dev), embed, (unsigned)y->shape[0], THREADS, 0,
               *y, cuda_view(dev, table), (const int *)ids->at, scale);
    cuda_check(dev);
}

enum { NORM_THREADS_MAX = 1024 };

/* Sums are in double, as on the CPU: a thread's columns, a warp's tree, then warps in order. */
__device__ static double block_sum(double x) {
    __shared__ double part[NORM_THREADS_MAX / 32];
    for (int k = 16; k > 0; k /= 2) x += __shfl_xor_sync(~0u, x, k);
    __syncthreads();
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    double sum = 0;
    for (int i = 0; i < blockDim.x / 32; i++) sum += part[i];
    return sum;
}

__global__ static void norm(struct tensor y, struct tensor x, struct tensor w, const float *b,
                            enum norm kind, float eps) {
    let_next_begin();
    after_previous();
    const float *from = head_at(x, blockIdx.x, blockIdx.y);
    float *to = head_at(y, blockIdx.x, blockIdx.y);
    const float *gain = (const float *)w.at;
    if (gain && w.rank == 2) gain += (int64_t)blockIdx.y * w.stride[0];
    const int n = (int)x.shape[2], step = (int)blockDim.x;
    double mean = 0, square = 0;
    if (kind == NORM_LAYER) {
#pragma unroll 4
        for (int i = threadIdx.x; i < n; i += step) mean += (double)from[i];
        mean = block_sum(mean) / (double)n;
    }
#pragma unroll 4
    for (int i = threadIdx.x; i < n; i += step)
        square += ((double)from[i] - mean) * ((double)from[i] - mean);
    square = block_sum(square);
    const float m = (float)mean, inverse = (float)(1.0 / sqrt(square / (double)n + (double)eps));
    for (int i = threadIdx.x; i < n; i += step) {
        float v = (from[i] - m) * inverse;
        if (gain) v *= kind == NORM_RMS_PLUS1 ? 1.0f + gain[i] : gain[i];
        to[i] = b ? v + b[i] : v;
    }
}

void cuda_norm(struct device *dev, struct tensor *y, const struct tensor *w, const struct tensor *b,
               const struct tensor *x, enum norm kind, float eps) {
    struct tensor none = {}, yt = cuda_heads(dev, y), xt = cuda_heads(dev, x);
    struct tensor gain = w ? cuda_view(dev, w) : none;
    const float *bias = b ? (const float *)cuda_there(dev, b->at) : NULL;
    /* Four columns a thread: their number alone says how many threads add. */
    const int64_t threads = MIN((xt.shape[2] + 127) / 128 * 32, (int64_t)NORM_THREADS_MAX);
    cuda_start(cuda_of(dev), norm, grid_of(xt), (unsigned)threads, 0, yt, xt, gain, bias, kind,
                                                                     eps);
    cuda_check(dev);
}

__global__ static void rope(struct tensor x, struct rope_args a, struct rows rows) {
    let_next_begin();
    after_previous();
    const int64_t half = x.shape[2] / 2, r = blockIdx.x;
    const bool pairs = a.pairing == ROPE_PAIRS;
    const float *freq = a.freq + (a.variant ? a.variant[rows.seq[r]] * half : 0);
    float *head = head_at(x, r, blockIdx.y);
    for (int64_t i = threadIdx.x; i < half; i += blockDim.x) {
        const double angle = (double)((float)rows.pos[r] * freq[i]);
        const float c = (float)cos(angle) * a.magnitude, s = (float)sin(angle) * a.magnitude;
        float *first = pairs ? head + 2 * i : head + i, *second = pairs ? first + 1 : first + half;
        const float u = *first, v = *second;
        *first = u * c - v * s;
        *second = v * c + u * s;
    }
}

void cuda_rope(struct device *dev, struct tensor *x, const struct rope_args *args) {
    struct rope_args a = *args;
    struct tensor t = cuda_heads(dev, x);
    a.freq = (const float *)cuda_there(dev, a.freq);
    cuda_start(cuda_of(dev), rope, grid_of(t), 64, 0, t, a, *args->rows);
    cuda_check(dev);
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
    for (int64_t i = column(); i < y.shape[2]; i += gridDim.z * THREADS) yr[i] += scale * xr[i];
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
