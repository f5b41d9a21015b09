/* norm.h - a norm of one row by a block of threads, for norm.cu and for heads that heads.cu makes
 * ready. */
#pragma once
#include "device/cuda/heads.h"
#include "device/cuda/linear.h"

enum { NORM_THREADS_MAX = 1024 };

/* A thread's columns, a warp's tree, then the tree of warps. */
__device__ static inline float block_sum(float x) {
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

__device__ static inline void rounded_quad(__nv_bfloat16 *to, float4 v) {
    const __nv_bfloat162 both[2] = { __floats2bfloat162_rn(v.x, v.y),
                                     __floats2bfloat162_rn(v.z, v.w) };
    *(uint2 *)to = *(const uint2 *)both;
}

/* Four columns a thread: their number alone says how many threads add. */
static inline unsigned norm_threads(int64_t cols) {
    return (unsigned)MIN((cols + 127) / 128 * 32, (int64_t)NORM_THREADS_MAX);
}

/* A block for a head of a row. */
static inline dim3 grid_of(const struct tensor &t) {
    return dim3((unsigned)t.shape[0], (unsigned)t.shape[1]);
}

static inline bool in_vectors(const struct tensor &t) {
    return (uintptr_t)t.at % 16 == 0 && t.stride[0] % 4 == 0 && t.stride[1] % 4 == 0 &&
           t.shape[2] % 4 == 0;
}
