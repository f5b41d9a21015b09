/* dense.cu - the ops that work on each number by itself: embed, gate, add, copy, scale,
 * temperature. */
#include "device/cuda/linear.h"

enum { THREADS = 128 };

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
    if (fits && rows <= CUDA_SUM_ROWS) cuda_settle(c);
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
