/* dot.h - rows of weights times rows of x in F32, by a warp: what linear.cu and experts.cu are
 * made of. A lane sums eight columns in every 256 and the lanes are added in one tree, so the bits
 * of a product do not depend on how many others a warp computes beside it. */
#pragma once
#include "device/cuda/cuda.h"

/* How eight weights are read. All but ANY expect what reading_of checks; the dtype is in the name,
 * because a branch between two loads makes the second wait for the first. */
enum reading { ANY, BF16_8, F16_8, AFFINE_4_BF16, AFFINE_4_F16, AFFINE_8_BF16, AFFINE_8_F16,
               E2M1_E8M0, E4M3_BLOCKS };

template <bool BF>
__device__ static inline float half_of(unsigned bits) {
    return BF ? __uint_as_float(bits << 16)
              : __half2float(__ushort_as_half((unsigned short)bits));
}

/* A row of FP8: where its scales are, and in which column of the stored matrix it begins. */
struct fp8_row { const char *scales; unsigned col, shift, size; };

__device__ static inline struct fp8_row fp8_row_of(const struct tensor &w, int64_t row) {
    const struct quant &q = w.quant;
    const int64_t e = q.first + row, across = (q.cols + q.block_cols - 1) / q.block_cols;
    /* Divisions of 64 bits take longer than the row of a small matrix. */
    const bool small = e >> 32 == 0;
    const int64_t r = small ? (unsigned)e / (unsigned)q.cols : e / q.cols;
    const int64_t down = small ? (unsigned)r / (unsigned)MIN(q.block_rows, (int64_t)1 << 31)
                               : r / q.block_rows;
    struct fp8_row f;
    f.size = q.scale_dtype == F32 ? 4 : q.scale_dtype == U8 ? 1 : 2;
    f.scales = (const char *)q.scales + down * across * f.size;
    f.col = (unsigned)(e - r * q.cols);
    f.shift = q.block_cols >= q.cols ? 31 : 31 - __clz((int)q.block_cols);
    return f;
}

template <enum reading HOW>
__device__ static inline void read_eight(float v[8], const struct tensor &w, int64_t row, int64_t c,
                                         const struct fp8_row &f) {
    const bool bf = HOW == BF16_8 || HOW == AFFINE_4_BF16 || HOW == AFFINE_8_BF16;
    const int64_t i = row + c;
    if (HOW == ANY) {
        eight_at(v, w, i);
    } else if (HOW == BF16_8 || HOW == F16_8) {
        const uint4 q = *(const uint4 *)((const char *)w.at + 2 * i);
        const unsigned word[4] = { q.x, q.y, q.z, q.w };
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = half_of<bf>(word[k / 2] >> (k % 2 * 16) & 0xffff);
    } else if (HOW == E4M3_BLOCKS) {
        const uint2 q = *(const uint2 *)((const char *)w.at + i);
        const float s = number_at(f.scales, w.quant.scale_dtype, (f.col + (unsigned)c) >> f.shift);
#pragma unroll
        for (int k = 0; k < 8; k += 2) {
            const float2 two = e4m3_pair((k < 4 ? q.x : q.y) >> (k % 4 * 8));
            v[k] = two.x * s;
            v[k + 1] = two.y * s;
        }
    } else if (HOW == E2M1_E8M0) {
        const unsigned q = *(const unsigned *)((const char *)w.at + i / 2);
        const float s = float_of_e8m0(((const unsigned char *)w.quant.scales)[i / 32]);
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = float_of_e2m1(q >> 4 * k) * s;
    } else {
        const int64_t group = i >> (31 - __clz(w.quant.group));          /* a power of two */
        const unsigned s = ((const unsigned short *)w.quant.scales)[group];
        const unsigned b = ((const unsigned short *)w.quant.biases)[group];
        if (HOW == AFFINE_4_BF16 || HOW == AFFINE_4_F16) {
            const unsigned q = *(const unsigned *)((const char *)w.at + i / 2);
#pragma unroll
            for (int k = 0; k < 8; k++)
                v[k] = (float)(q >> 4 * k & 15) * half_of<bf>(s) + half_of<bf>(b);
        } else {
            const uint2 q = *(const uint2 *)((const char *)w.at + i);
#pragma unroll
            for (int k = 0; k < 8; k++)
                v[k] = (float)((k < 4 ? q.x : q.y) >> (k % 4 * 8) & 255) * half_of<bf>(s) +
                       half_of<bf>(b);
        }
    }
}

/* sum[o][r] += row o of w times x[r], in the lane's columns; lanes are added at the end. Columns
 * past a multiple of eight go to the lane whose turn it is. */
template <enum reading HOW, int R, int N>
__device__ static inline void dot(float sum[N][R], const struct tensor &w, const int64_t *row,
                                  const float *x, int64_t x_row, const int *own, int64_t cols) {
    const int64_t whole = cols / 8 * 8;
    struct fp8_row f[N];
#pragma unroll
    for (int o = 0; o < N; o++)
        if (HOW == E4M3_BLOCKS) f[o] = fp8_row_of(w, row[o]);
#pragma unroll (N * R == 1 ? 8 : 2)
    for (int64_t c = threadIdx.x % 32 * 8; c < whole; c += 256) {
        float v[N][8];
#pragma unroll
        for (int o = 0; o < N; o++) read_eight<HOW>(v[o], w, row[o], c, f[o]);
#pragma unroll
        for (int r = 0; r < R; r++) {
            const float *from = x + own[r] * x_row + c;
            float in[8];
            if (HOW == ANY) {
                for (int k = 0; k < 8; k++) in[k] = from[k];
            } else {
                *(float4 *)in = *(const float4 *)from;
                *(float4 *)(in + 4) = *(const float4 *)(from + 4);
            }
#pragma unroll
            for (int o = 0; o < N; o++)
#pragma unroll
                for (int k = 0; k < 8; k++) sum[o][r] = fmaf(v[o][k], in[k], sum[o][r]);
        }
    }
    if (HOW == ANY && threadIdx.x % 32 == whole / 8 % 32)
        for (int64_t c = whole; c < cols; c++)
            for (int o = 0; o < N; o++)
                for (int r = 0; r < R; r++)
                    sum[o][r] = fmaf(weight_at(w, row[o] + c), x[own[r] * x_row + c], sum[o][r]);
#pragma unroll
    for (int o = 0; o < N; o++)
#pragma unroll
        for (int r = 0; r < R; r++) sum[o][r] = warp_sum(sum[o][r]);
}

static inline bool aligned(const void *p, size_t bytes) {
    return (uintptr_t)p % bytes == 0;
}

/* Vectors of 16 bytes need such addresses, of rows too. */
static inline enum reading reading_of(const struct tensor &w, int64_t cols, bool x_fits) {
    const struct quant &q = w.quant;
    bool rows_fit = cols % 8 == 0 && x_fits;
    for (int i = 0; i + 1 < w.rank; i++) rows_fit = rows_fit && w.stride[i] % 8 == 0;
    if (!rows_fit) return ANY;
    if ((w.dtype == BF16 || w.dtype == F16) && aligned(w.at, 16))
        return w.dtype == BF16 ? BF16_8 : F16_8;
    if (w.dtype == FP8) {
        const bool even = q.block_cols >= q.cols ||
                          (q.block_cols % 8 == 0 && (q.block_cols & (q.block_cols - 1)) == 0);
        return even && q.cols % 8 == 0 && q.first % 8 == 0 && aligned(w.at, 8) ? E4M3_BLOCKS : ANY;
    }
    if (w.dtype == MXFP4) return aligned(w.at, 4) && q.scale_dtype == U8 ? E2M1_E8M0 : ANY;
    if (w.dtype != MLX_AFFINE || !aligned(w.at, 8) || q.scale_dtype == F32) return ANY;
    const bool bf = q.scale_dtype == BF16;
    if (q.bits == 4) return bf ? AFFINE_4_BF16 : AFFINE_4_F16;
    if (q.bits == 8) return bf ? AFFINE_8_BF16 : AFFINE_8_F16;
    return ANY;
}

static inline bool rows_fit(const float *x, int64_t row, int64_t head) {
    return aligned(x, 16) && row % 4 == 0 && head % 4 == 0;
}

/* Calls launch<HOW>(...) for the reading that was chosen. */
#define WITH_READING(how, launch, ...)                                                             \
    switch (how) {                                                                                 \
    case BF16_8:        launch<BF16_8>(__VA_ARGS__); break;                                        \
    case F16_8:         launch<F16_8>(__VA_ARGS__); break;                                         \
    case AFFINE_4_BF16: launch<AFFINE_4_BF16>(__VA_ARGS__); break;                                 \
    case AFFINE_4_F16:  launch<AFFINE_4_F16>(__VA_ARGS__); break;                                  \
    case AFFINE_8_BF16: launch<AFFINE_8_BF16>(__VA_ARGS__); break;                                 \
    case AFFINE_8_F16:  launch<AFFINE_8_F16>(__VA_ARGS__); break;                                  \
    case E2M1_E8M0:     launch<E2M1_E8M0>(__VA_ARGS__); break;                                     \
    case E4M3_BLOCKS:   launch<E4M3_BLOCKS>(__VA_ARGS__); break;                                   \
    case ANY:           launch<ANY>(__VA_ARGS__); break;                                           \
    }
