/* cuda.h - what the files of the CUDA device share: its state, views with device addresses,
 * and how a number is read.
 *
 * Activations are F32. A row's sums run in an order of their own, whatever else is in the
 * batch: lanes take fixed columns, and are added in a fixed tree. CUDA headers are included
 * under this folder alone; it is C++ only because nvcc is. */
#pragma once
extern "C" {
#include "device/device.h"
}
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <map>
#include <set>
#include <string>
#include <vector>

enum { FEW_ROWS = 16 };              /* products of so many rows have kernels of their own */

/* Which rows were rounded last, so that products which share them round once. */
struct cuda_few { const float *x; int64_t x_row; int n_rows, cols; };

/* A norm that was asked for and has not run: the next product of its rows does it by itself, if it
 * can; whatever else starts before starts it (cuda_settle). */
struct cuda_norm {
    const float *x, *gain;           /* x NULL: there is none; gain NULL: of ones */
    float *y;
    int64_t x_row, y_row;
    int n_rows, cols;
    bool plus1;                      /* of the gain */
    float eps;
    float share;                     /* 1 / cols */
};

/* A sum that was asked for and has not run: y += scale * (x + bias), x in slices that are added in
 * their order. The next norm of its rows does it by itself, if it can; whatever else starts before
 * starts it. Two slices and more are nothing any more afterwards. It never waits together with a
 * norm. */
struct cuda_sum {
    float *y;                        /* NULL: there is none */
    const float *x, *bias;           /* bias NULL: none */
    int64_t y_row, x_row, slice;     /* floats from row to row, and from slice to slice */
    int slices, n_rows, cols;
    float scale;
};
enum { CUDA_SUM_SLICES = 4, CUDA_SUM_ROWS = 64 };        /* at most; norms of more rows take sums */

struct cuda {
    cudaStream_t stream;
    int processors;
    bool hopper;                             /* sm_90a: see hopper.h */
    bool fast;                               /* as device_options says */
    bool overlaps;                           /* a kernel may begin before the last one ends */
    cudaError_t error;                       /* the first; sync reports it */
    char name[128];
    std::map<const char *, struct cuda_copy> *copies;        /* of host bytes, by their begin */
    std::map<const void *, struct cuda_table> *experts;      /* by the host's table */
    float *partial;                          /* [PARTIAL_FLOATS] splits of attention */
    __nv_bfloat16 *rounded;                  /* [CUDA_ROUNDED] rows for the tensor cores; NULL: not
                                                to be used, all is F32 */
    char *few[2];                            /* rounded rows as fragments, see few_place */
    int few_turn;                            /* the one that few_is speaks of */
    struct cuda_few few_is;                  /* x NULL: of nothing */
    struct cuda_norm *norm;                  /* that waits */
    __nv_bfloat16 *many[2];                  /* [CUDA_ROUNDED] the same of more rows, as rows;
                                                NULL: not on this chip */
    int many_turn;
    struct cuda_few many_is;
    __nv_bfloat16 *unpacked;                 /* [CUDA_UNPACKED] weights, for one product */
    std::map<const char *, struct cuda_packed> *packed;      /* in linear_format.h's order */
    std::set<const void *> *divided;         /* kernels that cuda_start has seen */
    std::vector<const char *> *adopted;      /* begins of copies that are not made yet */
    std::map<char *, size_t> *slabs;         /* what copies lie in */
    std::map<std::string, struct cuda_list> *lists;          /* of ops, by the caller's key */
    struct cuda_list *recording;             /* NULL: ops start at once */
    cudaEvent_t mark[2];                     /* see device.h */
    int clusters;                            /* of linear_slices.cu, that run at a time; 0: nobody
                                                has asked yet */
    struct cuda_sum *sum;                    /* that waits */
    bool heads_wait;                         /* as the norm does; see heads.h */
    struct heads *heads;
};

/* scaled: see linear.h. scales: of FP8, in F32, or, where scaled, as linear_format.h has them;
 * owned. whole: all of these are bf16. */
struct cuda_packed { size_t bytes; bool scaled; float *scales; bool whole; };
struct cuda_list { cudaGraphExec_t graph; };     /* NULL: the key was seen once */

struct cuda_copy { size_t bytes; char *there; };         /* NULL: not made yet */
struct cuda_table { struct linear *at; int reading; bool mma; };   /* see experts.cu */
enum { PARTIAL_FLOATS = 80 << 20, CUDA_ROUNDED = 32 << 20, CUDA_UNPACKED = 64 << 20,
       CUDA_FEW_COLS = 1 << 16 };

static inline struct cuda *cuda_of(const struct device *dev) {
    return (struct cuda *)dev->impl;
}

/* The device's address of host bytes that were adopted; an address of its own stays. */
const void *cuda_there(const struct device *, const void *);
struct tensor cuda_view(const struct device *, const struct tensor *);
/* The same, for those who know how packed matrices lie. */
struct tensor cuda_view_any(const struct device *, const struct tensor *);
/* How a matrix, or the one it is a part of, was packed; NULL: it was not. */
const struct cuda_packed *cuda_is_packed(const struct cuda *, const void *at);
/* [rows, cols] becomes [rows, 1, cols]: one loop serves both ranks. */
struct tensor cuda_heads(const struct device *, const struct tensor *);
/* Keeps the first launch error. Rows that were rounded are no longer known, unless they stay. */
void cuda_check(struct device *, bool rows_stay = false);
/* Keeps the first error. */
void cuda_note(struct device *, cudaError_t);
/* False, and a sentence in the err, for main programs to read. */
bool cuda_fail(struct err *, enum err_code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* load.cu */
bool cuda_adopt(struct device *, const void *at, size_t bytes);
bool cuda_adopted(struct device *, struct err *);

/* Starts the norm, the sum or the heads that wait. */
void cuda_settle(const struct cuda *);
/* Whether a sum's numbers lie in vectors; leaves such a sum to the next norm. */
bool cuda_sum_fits(const struct cuda_sum &);
void cuda_sum_later(struct cuda *, const struct cuda_sum &);

/* Starts a kernel that may begin while the one before it still runs: it calls after_previous
 * before it reads what ops write, and before it writes. */
template <class... P, class... A>
static void cuda_start(const struct cuda *c, void (*kernel)(P...), dim3 grid, dim3 block,
                       size_t shared, A... args) {
    if (c->norm->x || c->sum->y || c->heads_wait) cuda_settle(c);
    /* One division of the chip's memories for all: another one waits until the chip is empty. */
    if (c->overlaps && c->divided->insert((const void *)kernel).second)
        cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared);
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = c->stream;
    config.attrs = &early;
    config.numAttrs = c->overlaps ? 1 : 0;
    cudaLaunchKernelEx(&config, kernel, (P)args...);
}

/* Lets the next kernel begin, and waits until all that the ones before wrote can be read. A kernel
 * that may stand before a product waits first: a product has a block for each processor, and where
 * blocks of others leave room on some for two of them, others get none. */
__device__ static inline void let_next_begin(void) {
#if __CUDA_ARCH__ >= 900
    cudaTriggerProgrammaticLaunchCompletion();
#endif
}

__device__ static inline void after_previous(void) {
#if __CUDA_ARCH__ >= 900
    cudaGridDependencySynchronize();
#endif
}

static inline unsigned blocks_of(int64_t n, int64_t size) {
    return (unsigned)((n + size - 1) / size);
}

/* Exact: as a half, e4m3 is its number over 2^8 and e2m1 over 2^14, subnormal ones too. */
__device__ static inline float float_of_e4m3(unsigned b) {
    if ((b & 0x7f) == 0x7f) return __uint_as_float(0x7fc00000);
    const unsigned short h = (unsigned short)((b & 0x80) << 8 | (b & 0x7f) << 7);
    return __half2float(__ushort_as_half(h)) * 256;
}

__device__ static inline float float_of_e2m1(unsigned b) {
    const unsigned short h = (unsigned short)((b & 8) << 12 | (b & 7) << 9);
    return __half2float(__ushort_as_half(h)) * 16384;
}

/* The two low bytes, by the instruction where there is one. */
__device__ static inline float2 e4m3_pair(unsigned two) {
    const __half2_raw h = __nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)(two & 0xffff),
                                                     __NV_E4M3);
    return __half22float2(__half2(h));
}

__device__ static inline float float_of_e8m0(unsigned b) {
    if (b == 255) return __uint_as_float(0x7fc00000);
    return __uint_as_float(b ? b << 23 : 0x00400000);
}

/* FP8 is e4m3 and U8 is e8m0. */
__device__ static inline float number_at(const void *at, enum dtype dtype, int64_t i) {
    if (dtype == F32) return ((const float *)at)[i];
    if (dtype == BF16) return __bfloat162float(((const __nv_bfloat16 *)at)[i]);
    if (dtype == FP8) return float_of_e4m3(((const unsigned char *)at)[i]);
    if (dtype == U8) return float_of_e8m0(((const unsigned char *)at)[i]);
    return __half2float(((const __half *)at)[i]);
}

/* The scale of element i of FP8. */
__device__ static inline float fp8_scale_at(const struct tensor &t, int64_t i) {
    const struct quant &q = t.quant;
    const int64_t e = q.first + i, across = (q.cols + q.block_cols - 1) / q.block_cols;
    const int64_t s = e / q.cols / q.block_rows * across + e % q.cols / q.block_cols;
    return number_at(q.scales, q.scale_dtype, s);
}

/* Element i of any kind of weights. */
__device__ static inline float weight_at(const struct tensor &t, int64_t i) {
    const struct quant &q = t.quant;
    if (t.dtype == FP8) return number_at(t.at, FP8, i) * fp8_scale_at(t, i);
    if (t.dtype == MXFP4 || t.dtype == NVFP4) {
        const unsigned b = ((const unsigned char *)t.at)[i / 2] >> (i % 2 * 4);
        return float_of_e2m1(b) * number_at(q.scales, q.scale_dtype, i / q.group);
    }
    return number_at(t.at, t.dtype, i);
}

/* Eight values from element `i`, a multiple of 8, of any kind of weights. Eight affine ones are
 * `bits` bytes, a little-endian number. */
__device__ static inline void eight_at(float w[8], const struct tensor &t, int64_t i) {
    if (t.dtype != MLX_AFFINE) {
        for (int k = 0; k < 8; k++) w[k] = weight_at(t, i + k);
        return;
    }
    const int bits = t.quant.bits;
    const unsigned char *at = (const unsigned char *)t.at + i / 8 * bits;
    unsigned long long word = 0;
    if (bits == 4) word = *(const unsigned *)at;
    else for (int k = 0; k < bits; k++) word |= (unsigned long long)at[k] << (8 * k);
    float scale = number_at(t.quant.scales, t.quant.scale_dtype, i / t.quant.group);
    float bias = number_at(t.quant.biases, t.quant.scale_dtype, i / t.quant.group);
    for (int k = 0; k < 8; k++, word >>= bits)
        w[k] = (float)(unsigned)(word & ((1u << bits) - 1)) * scale + bias;
}

/* Where the number of column c lies in rows that were rounded as fragments, in bytes. 64 columns
 * are 128 bytes: two halves of two steps of 16 columns, in each what lane t of four needs: of one
 * step and the next, the columns 2t, the next, and those 8 later. Halves of odd rows are exchanged,
 * so that two rows meet no bank twice. By bits: divisions are long code, and what a processor runs
 * for a layer has to stay in its cache of instructions. */
__device__ static inline int few_place(int row, int c, int cols) {
    return 2 * (row * cols + (c & ~63) + ((c ^ row << 5) & 32) + (c & 6) * 4 + (c >> 2 & 4) +
                (c >> 2 & 2) + (c & 1));
}

__device__ static inline void few_put(char *few, int row, int c, int cols, float v) {
    *(__nv_bfloat16 *)(few + few_place(row, c, cols)) = __float2bfloat16_rn(v);
}

/* Head h of row r. */
__device__ static inline float *head_at(const struct tensor &t, int64_t r, int64_t h) {
    return (float *)t.at + r * t.stride[0] + h * t.stride[1];
}

/* What a norm multiplies a row with, within 2 units in the last place. share: 1 / columns. Sums of
 * squares are in F32: every block of a product norms its rows for itself, and the code of doubles
 * is twice as long, of which it would wait for every line. */
__device__ static inline float norm_inverse(float square, float share, float eps) {
    return rsqrtf(fmaf(square, share, eps));
}

/* And a column with: four of them from `column` on. gain NULL: 1. */
__device__ static inline float4 norm_gains(const float *gain, int64_t column, bool plus1) {
    if (!gain) return make_float4(1, 1, 1, 1);
    const float4 g = *(const float4 *)(gain + column);
    return plus1 ? make_float4(1.0f + g.x, 1.0f + g.y, 1.0f + g.z, 1.0f + g.w) : g;
}

/* By the quick division, 2 units in the last place: it is the end of most products. */
__device__ static inline float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-x)); }
__device__ static inline float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

__device__ static inline float act_of(enum act act, float x) {
    switch (act) {
    case ACT_SILU:       return x * sigmoid(x);
    case ACT_GELU:       return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case ACT_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case ACT_QUICK_GELU: return x * sigmoid(1.702f * x);
    case ACT_RELU:       return x > 0 ? x : 0;
    case ACT_RELU2:      return x > 0 ? x * x : 0;
    case ACT_SIGMOID:    return sigmoid(x);
    case ACT_SOFTPLUS:   return softplus(x);
    default:             return x;
    }
}

/* act(gate) * up; GPT-OSS clamps both and adds 1 to up. */
__device__ static inline float gated(float g, float u, const struct gate_args &a) {
    if (a.act != ACT_SWIGLU_CLAMP) return act_of(a.act, g) * u;
    g = fminf(g, a.limit);
    u = fmaxf(fminf(u, a.limit), -a.limit);
    return (u + 1.0f) * (g * sigmoid(a.alpha * g));
}

/* The sum over a warp, in every lane, in one tree. */
__device__ static inline float warp_sum(float x) {
    for (int k = 16; k > 0; k /= 2) x += __shfl_xor_sync(~0u, x, k);
    return x;
}

__device__ static inline float warp_max(float x) {
    for (int k = 16; k > 0; k /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, k));
    return x;
}

/* The ops, by file. */
void cuda_sample(struct device *, const struct tensor *, const struct draws *);
void cuda_feed(struct device *, int *, int, const int *);
void cuda_embed(struct device *, struct tensor *, const struct tensor *, const struct tensor *,
                float);
void cuda_linear(struct device *, struct tensor *, const struct linear *, const struct tensor *);
bool cuda_products(struct device *, const struct products *);
bool cuda_heads_ready(struct device *, const struct heads_args *);
void cuda_norm(struct device *, struct tensor *, const struct tensor *, const struct tensor *,
               const struct tensor *, enum norm, float);
void cuda_rope(struct device *, struct tensor *, const struct rope_args *);
void cuda_gate(struct device *, struct tensor *, const struct tensor *, const struct tensor *,
               const struct gate_args *);
void cuda_add(struct device *, struct tensor *, const struct tensor *, float);
void cuda_copy_view(struct device *, struct tensor *, const struct tensor *);
void cuda_scale(struct device *, struct tensor *, float, float, float);
void cuda_temperature(struct device *, struct tensor *, const struct rows *, float, float, int);
void cuda_kv_store(struct device *, const struct attend *, const struct tensor *,
                   const struct tensor *);
void cuda_attention(struct device *, struct tensor *, const struct tensor *,
                    const struct attend *);
void cuda_conv(struct device *, struct tensor *, const struct tensor *, const struct tensor *,
               const struct tensor *, const struct rows *, const struct state_view *, enum act);
void cuda_ssm(struct device *, struct tensor *, const struct ssm_args *);
void cuda_delta(struct device *, struct tensor *, const struct delta_args *);
void cuda_route(struct device *, struct tensor *, struct tensor *, const struct tensor *,
                const struct route_args *);
void cuda_experts(struct device *, struct tensor *, const struct tensor *,
                  const struct expert_args *);
