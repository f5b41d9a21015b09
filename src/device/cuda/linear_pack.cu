/* linear_pack.cu - the order of packed weights that linear_format.h describes: who can have it, and
 * the rearranging, in place, at a matrix's first product. */
#include "device/cuda/linear_few.h"

static bool packs_affine(const struct tensor &w) {
    const struct quant &q = w.quant;
    return (q.bits == 4 || q.bits == 8) && q.scale_dtype != F32 && w.shape[1] % q.group == 0 &&
           (q.group == 32 || q.group == 64 || q.group == 128) && aligned(q.scales, 16) &&
           aligned(q.biases, 16);
}

/* Scales of whole tiles' rows, or of each row; of 128 columns or more. */
static bool packs_fp8(const struct tensor &w) {
    const struct quant &q = w.quant;
    const bool cols = q.block_cols >= q.cols ||
                      (q.block_cols % PART == 0 && (q.block_cols & (q.block_cols - 1)) == 0);
    return cols && q.cols == w.shape[1] && q.first % q.cols == 0 && q.scale_dtype != U8 &&
           q.first / q.cols + w.shape[0] < 1 << 30;
}

bool cuda_packs(const struct tensor &w) {
    if (w.shape[0] % TILE || w.stride[0] != w.shape[1]) return false;
    if (w.dtype == MLX_AFFINE) return packs_affine(w);
    if (w.dtype == MXFP4) return w.quant.scale_dtype == U8 && w.quant.group == 32 &&
                                 aligned(w.quant.scales, 16);
    return w.dtype == FP8 && packs_fp8(w);
}

/* Which nibbles a word of the packed matrix has: thread i makes word i. */
__global__ static void pack4(unsigned *to, const unsigned char *from, int cols, int64_t words) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= words) return;
    const int64_t block = i / 128, blocks = cols / 64;
    const int lane = (int)(i / 4 % 32), step = (int)(i % 4);
    const int64_t row = block / blocks * TILE + lane / 4;
    const int64_t col = block % blocks * 64 + 16 * step + 2 * (lane % 4);
    unsigned word = 0;
    for (int k = 0; k < 4; k++) {    /* two neighbours share a byte */
        const unsigned both = from[((row + k % 2 * 8) * cols + col + k / 2 * 8) / 2];
        word |= (both & 15) << 4 * k | (both >> 4) << (16 + 4 * k);
    }
    to[i] = word;
}

__global__ static void pack8(unsigned *to, const unsigned char *from, int cols, int64_t words) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= words) return;
    const int64_t block = i / 256, blocks = cols / 64;
    const int lane = (int)(i / 4 % 32), half = (int)(i / 128 % 2), k = (int)(i % 4);
    const int64_t row = block / blocks * TILE + lane / 4;
    const int64_t col = block % blocks * 64 + 32 * half + k / 2 * 16 + k % 2 * 8 + 2 * (lane % 4);
    const unsigned char *at = from + row * cols + col, *below = at + 8 * (int64_t)cols;
    to[i] = at[0] | at[1] << 8 | below[0] << 16 | (unsigned)below[1] << 24;
}

/* Two e4m3 in 16 bits: the first one's where a bf16 has them, see linear_format.h. */
__device__ static inline unsigned both_e4m3(unsigned a, unsigned b) {
    return (a & 0x80) << 8 | (a & 0x7f) << 4 | (b & 0x80) << 4 | (b & 0x70) << 8 | (b & 15);
}

__global__ static void pack_e4m3(unsigned *to, const unsigned char *from, int cols,
                                 int64_t words) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= words) return;
    const int64_t block = i / 256, blocks = cols / 64;
    const int half = (int)(i / 128 % 2), lane = (int)(i / 4 % 32), step = (int)(i % 4);
    const int64_t row = block / blocks * TILE + half * 8 + lane / 4;
    const unsigned char *at = from + row * cols + block % blocks * 64 + 16 * step + 2 * (lane % 4);
    to[i] = both_e4m3(at[0], at[8]) | both_e4m3(at[1], at[9]) << 16;
}

/* Scales of a group side by side; `scaled`: see linear.h. */
template <class T>
__global__ static void pack_factors(T *to, const T *from, int groups, int64_t n, bool scaled) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const int64_t tile = i / TILE / groups, group = i / TILE % groups;
    const int place = (int)(i % TILE);
    const T bits = from[(tile * TILE + place % 2 * 8 + place / 2) * groups + group];
    const float up = __uint_as_float((unsigned)bits << 16) / SCALED_BACK / SCALED_BACK_2;
    to[i] = scaled ? (T)(__float_as_uint(up) >> 16) : bits;
}

/* Whether one of the scales is too large to be multiplied. */
__global__ static void find_large(int *found, const __nv_bfloat16 *scales, int64_t n) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n && !(fabsf(__bfloat162float(scales[i])) < 0.49f)) *found = 1;
}

/* Codes that are no number, and scales that are too large or too small for format_fp8's quick
 * way. */
__global__ static void find_nan(int *found, const unsigned *w, int64_t n) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n && __vcmpeq4(w[i] & 0x7f7f7f7f, 0x7f7f7f7f)) *found = 1;
}

__global__ static void find_extreme(int *found, const float *scales, int64_t n) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const float s = i < n ? fabsf(scales[i]) : 0;
    if (s != 0 && !(s >= 0x1p-60f && s < 0x1p7f)) *found = 1;
}

/* In place, as many tiles at a time as there is room to copy them aside. */
enum what { NIBBLES, BYTES, E4M3, FACTORS, FACTORS_TIMES, POWERS };

static void pack_rows(struct cuda *c, const void *where, int64_t tile_bytes, int64_t tiles,
                      int cols, enum what what) {
    const int64_t room = CUDA_ROUNDED * sizeof *c->rounded / tile_bytes;
    for (int64_t i = 0; i < tiles; i += room) {
        const int64_t bytes = MIN(room, tiles - i) * tile_bytes;
        char *to = (char *)(uintptr_t)where + i * tile_bytes;
        const unsigned char *from = (const unsigned char *)c->rounded;
        cudaMemcpyAsync(c->rounded, to, (size_t)bytes, cudaMemcpyDeviceToDevice, c->stream);
        if (what == NIBBLES)
            pack4<<<blocks_of(bytes / 4, 256), 256, 0, c->stream>>>((unsigned *)to, from, cols,
                                                                    bytes / 4);
        else if (what == BYTES)
            pack8<<<blocks_of(bytes / 4, 256), 256, 0, c->stream>>>((unsigned *)to, from, cols,
                                                                    bytes / 4);
        else if (what == E4M3)
            pack_e4m3<<<blocks_of(bytes / 4, 256), 256, 0, c->stream>>>((unsigned *)to, from, cols,
                                                                        bytes / 4);
        else if (what == POWERS)
            pack_factors<<<blocks_of(bytes, 256), 256, 0, c->stream>>>(
                (unsigned char *)to, from, cols, bytes, false);
        else
            pack_factors<<<blocks_of(bytes / 2, 256), 256, 0, c->stream>>>(
                (unsigned short *)to, (const unsigned short *)from, cols, bytes / 2,
                what == FACTORS_TIMES);
    }
}

/* Whether look(), which starts a kernel, leaves the flag that it gets as it is. */
template <class F> static bool finds_none(struct cuda *c, F look) {
    int found = 0, *there = (int *)c->rounded;
    cudaMemsetAsync(there, 0, sizeof found, c->stream);
    look(there);
    cudaMemcpyAsync(&found, there, sizeof found, cudaMemcpyDeviceToHost, c->stream);
    return cudaStreamSynchronize(c->stream) == cudaSuccess && !found;
}

static bool can_scale(struct cuda *c, const struct tensor &w) {
    const int64_t n = w.shape[0] * w.shape[1] / w.quant.group;
    if (w.quant.bits != 4 || w.quant.scale_dtype != BF16) return false;
    return finds_none(c, [=](int *found) {
        find_large<<<blocks_of(n, 256), 256, 0, c->stream>>>(
            found, (const __nv_bfloat16 *)w.quant.scales, n);
    });
}

/* FP8's scales in F32, n of them; what format_fp8 reads of them. */
__global__ static void scales_in_f32(float *to, const void *from, enum dtype dtype, int64_t n) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) to[i] = number_at(from, dtype, i);
}

/* found: whether something is left over of one of them. */
__global__ static void split_scales(int *found, float *scales, int64_t n) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float s = scales[i] * 0x1p120f;
    const __nv_bfloat16 high = __float2bfloat16_rn(s);
    const __nv_bfloat16 low = __float2bfloat16_rn(s - __bfloat162float(high));
    *(__nv_bfloat162 *)&scales[i] = { high, low };
    if (__bfloat16_as_ushort(low) & 0x7fff) *found = 1;
}

/* They are few, so they are copied. */
static void prepare_fp8(struct cuda *c, struct cuda_packed *is, const struct tensor &w) {
    const struct quant &q = w.quant;
    const int64_t across = (q.cols + q.block_cols - 1) / q.block_cols;
    const int64_t n = ((q.first / q.cols + w.shape[0] - 1) / q.block_rows + 1) * across;
    const unsigned grid = blocks_of(n, 256);
    const cudaError_t e = cudaMalloc((void **)&is->scales, (size_t)n * sizeof *is->scales);
    if (c->error == cudaSuccess) c->error = e;
    if (e != cudaSuccess) return;
    scales_in_f32<<<grid, 256, 0, c->stream>>>(is->scales, q.scales, q.scale_dtype, n);
    is->scaled = finds_none(c, [=](int *found) {
        const int64_t words = w.shape[0] * w.shape[1] / 4;
        find_extreme<<<grid, 256, 0, c->stream>>>(found, is->scales, n);
        find_nan<<<blocks_of(words, 256), 256, 0, c->stream>>>(found, (const unsigned *)w.at,
                                                              words);
    });
    if (!is->scaled) return;
    is->whole = finds_none(c, [=](int *found) {
        split_scales<<<grid, 256, 0, c->stream>>>(found, is->scales, n);
    });
}

/* The next kernels ask for weights before they wait for anybody, so packing is over before they
 * start. A list that is recorded was run once before, so it meets no matrix for the first time. */
bool cuda_pack(struct cuda *c, const struct tensor &w) {
    const struct quant &q = w.quant;
    const int cols = (int)w.shape[1], groups = w.dtype == FP8 ? 0 : cols / q.group;
    const int64_t tiles = w.shape[0] / TILE, factors = (int64_t)groups * TILE * 2;
    const bool four = w.dtype == MXFP4 || (w.dtype == MLX_AFFINE && q.bits == 4);
    const int64_t tile_bytes = (int64_t)cols * TILE / (four ? 2 : 1);
    struct cuda_packed is = { (size_t)(tiles * tile_bytes), false, NULL, false };
    if (cuda_is_packed(c, w.at)) return true;
    if (c->recording) {
        if (c->error == cudaSuccess) c->error = cudaErrorStreamCaptureUnsupported;
        return false;
    }
    cudaStreamSynchronize(c->stream);
    if (w.dtype == MLX_AFFINE) is.scaled = can_scale(c, w);
    if (w.dtype == FP8) prepare_fp8(c, &is, w);
    pack_rows(c, w.at, tile_bytes, tiles, cols,
              four ? NIBBLES : w.dtype == FP8 ? E4M3 : BYTES);
    if (w.dtype == MLX_AFFINE) {
        pack_rows(c, q.scales, factors, tiles, groups, is.scaled ? FACTORS_TIMES : FACTORS);
        pack_rows(c, q.biases, factors, tiles, groups, FACTORS);
    } else if (w.dtype == MXFP4) pack_rows(c, q.scales, factors / 2, tiles, groups, POWERS);
    const cudaError_t e = cudaStreamSynchronize(c->stream);
    if (c->error == cudaSuccess) c->error = e;
    (*c->packed)[(const char *)w.at] = is;
    return true;
}
