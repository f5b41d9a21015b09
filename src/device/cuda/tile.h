/* tile.h - 16 outputs of a matrix of any format times eights of rows, on the tensor cores, weights
 * as they lie in the checkpoint: what experts_mma.cu and linear_tiles.cu are made of.
 *
 * A weight is one bf16 number, and so is a row's. Four warps share the columns; the steps of a warp
 * are one chain of sums, and the four are added in order: so a row's bits depend on the row and on
 * the matrix, never on what else is in the tile.
 *
 * A lane takes 32 columns of every 128 of two outputs. Which of them meet in which place of a step
 * of 16 is free, as long as weights and rows agree: pairs are those that unpack fastest. */
#pragma once
#include "device/cuda/dot.h"

enum { SLICES = 4, TILE = 16, SPAN = 128, LANE_COLS = 32,
       MANY = 4 };                   /* eights of rows that share unpacked weights */

/* Four pairs of bf16, eight columns of a row. */
struct eight { unsigned p[4]; };

__device__ static inline unsigned pair_of(float low, float high) {
    const __nv_bfloat162 p = __floats2bfloat162_rn(low, high);
    return *(const unsigned *)&p;
}

__device__ static inline __nv_bfloat162 as_pair(unsigned bits) {
    return *(const __nv_bfloat162 *)&bits;
}

__device__ static inline unsigned bits_of(__nv_bfloat162 p) {
    return *(const unsigned *)&p;
}

/* (x & mask) | bits by one instruction: with two numbers that the compiler knows it takes two. */
__device__ static inline unsigned and_or(unsigned x, unsigned mask, unsigned bits) {
    unsigned y;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(y) : "r"(x), "r"(mask), "r"(bits));
    return y;
}

/* Formats of 4 bits pair value k with k + 4, the others neighbours. */
template <enum reading HOW>
__device__ static constexpr bool far_pairs(void) {
    return HOW == AFFINE_4_BF16 || HOW == AFFINE_4_F16 || HOW == E2M1_E8M0;
}

template <enum reading HOW>
__device__ static constexpr int raw_bytes(void) {        /* of eight columns */
    return far_pairs<HOW>() ? 4 : HOW == BF16_8 ? 16 : 8;
}

/* 32 columns as they lie in memory, and what their scale is. */
template <enum reading HOW>
struct raw { unsigned word[raw_bytes<HOW>()]; float scale, bias; };      /* 4 eights of bytes / 4 */

template <enum reading HOW>
__device__ static inline void load_raw(struct raw<HOW> &r, const struct tensor &w, int64_t row,
                                       int64_t c, const struct fp8_row &f) {
    constexpr int bytes = 4 * raw_bytes<HOW>();
    const int64_t i = row + c;
    const char *at = (const char *)w.at + i / 8 * raw_bytes<HOW>();
#pragma unroll
    for (int k = 0; k < bytes / 16; k++) *(uint4 *)&r.word[4 * k] = ((const uint4 *)at)[k];
    if (HOW == E4M3_BLOCKS)
        r.scale = number_at(f.scales, w.quant.scale_dtype, (f.col + (unsigned)c) >> f.shift);
    else if (HOW == E2M1_E8M0)
        r.scale = float_of_e8m0(((const unsigned char *)w.quant.scales)[i / 32]);
    else if (HOW != BF16_8) {
        const bool bf = HOW == AFFINE_4_BF16 || HOW == AFFINE_8_BF16;
        const int64_t group = i >> (31 - __clz(w.quant.group));
        r.scale = half_of<bf>(((const unsigned short *)w.quant.scales)[group]);
        r.bias = half_of<bf>(((const unsigned short *)w.quant.biases)[group]);
    }
}

template <enum reading HOW>
__device__ static inline struct eight unpack(const struct raw<HOW> &r, int k) {
    struct eight e;
    if (HOW == BF16_8) {
        for (int i = 0; i < 4; i++) e.p[i] = r.word[4 * k + i];
    } else if (HOW == AFFINE_4_BF16) {
        /* 128 + q is a bf16 number, and so is q. */
        const __nv_bfloat162 s = __float2bfloat162_rn(r.scale), b = __float2bfloat162_rn(r.bias);
        const __nv_bfloat162 top = __float2bfloat162_rn(128);
        for (int i = 0; i < 4; i++) {
            const unsigned q = and_or(r.word[k] >> 4 * i, 0x000f000f, 0x43004300);
            e.p[i] = bits_of(__hfma2(__hsub2(as_pair(q), top), s, b));
        }
    } else if (HOW == AFFINE_4_F16) {
        for (int i = 0; i < 4; i++) {
            const unsigned q = r.word[k] >> 4 * i;
            e.p[i] = pair_of(fmaf((float)(q & 15), r.scale, r.bias),
                             fmaf((float)(q >> 16 & 15), r.scale, r.bias));
        }
    } else if (HOW == E2M1_E8M0) {
        /* As bf16 the codes are their numbers over 2^126. Both factors are powers of two. */
        const __nv_bfloat162 up = __float2bfloat162_rn(0x1p126f);
        const __nv_bfloat162 s = __float2bfloat162_rn(r.scale);
        for (int i = 0; i < 4; i++) {
            const unsigned q = r.word[k] >> 4 * i;
            const unsigned bits = (q & 0x00080008) << 12 | (q & 0x00070007) << 6;
            e.p[i] = bits_of(__hmul2(__hmul2(as_pair(bits), up), s));
        }
    } else if (HOW == E4M3_BLOCKS) {
        for (int i = 0; i < 4; i++) {
            const float2 v = e4m3_pair(r.word[2 * k + i / 2] >> (i % 2 * 16));
            e.p[i] = pair_of(v.x * r.scale, v.y * r.scale);
        }
    } else {
        for (int i = 0; i < 4; i++) {
            const unsigned q = r.word[2 * k + i / 2] >> (i % 2 * 16);
            e.p[i] = pair_of(fmaf((float)(q & 255), r.scale, r.bias),
                             fmaf((float)(q >> 8 & 255), r.scale, r.bias));
        }
    }
    return e;
}

/* Where column c of a rounded row is kept: the four lanes that share a row read side by side. Rows
 * take whole spans. */
__device__ static inline int64_t place_of(int64_t c, bool far) {
    const int i = (int)c % 8, pair = far ? i % 4 * 2 + i / 4 : i;
    return c / SPAN * SPAN + c % LANE_COLS / 8 * 32 + c % SPAN / LANE_COLS * 8 + pair;
}

__device__ static inline void mma(float c[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3,
                                  unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* acc[n] of 16 outputs from `out` and 8 rows each, over a slice of the columns. x[n]: the lane's
 * row, NULL: there is none. */
template <enum reading HOW, int N>
__device__ static inline void slice_of_tile(float acc[N][4], const struct tensor &w, int64_t out,
                                            const __nv_bfloat16 *const *x, int slice) {
    const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int64_t cols = w.shape[1], spans = (cols + SPAN - 1) / SPAN;
    const int64_t row0 = MIN(out + g, w.shape[0] - 1) * w.stride[0];
    const int64_t row1 = MIN(out + g + 8, w.shape[0] - 1) * w.stride[0];
    struct fp8_row f0, f1;
    if (HOW == E4M3_BLOCKS) f0 = fp8_row_of(w, row0), f1 = fp8_row_of(w, row1);
#pragma unroll 2
    for (int64_t s = spans * slice / SLICES; s < spans * (slice + 1) / SLICES; s++) {
        const int64_t c = s * SPAN + t * LANE_COLS;
        const bool in = c < cols;
        struct raw<HOW> r0 = {}, r1 = {};
        if (in) load_raw<HOW>(r0, w, row0, c, f0);
        if (in) load_raw<HOW>(r1, w, row1, c, f1);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const struct eight a = unpack<HOW>(r0, k), b = unpack<HOW>(r1, k);
#pragma unroll
            for (int n = 0; n < N; n++) {
                uint4 q = { 0, 0, 0, 0 };
                if (in && x[n]) q = *(const uint4 *)(x[n] + s * SPAN + k * 32 + t * 8);
                const struct eight v = { { q.x, q.y, q.z, q.w } };
                mma(acc[n], a.p[0], b.p[0], a.p[1], b.p[1], v.p[0], v.p[1]);
                mma(acc[n], a.p[2], b.p[2], a.p[3], b.p[3], v.p[2], v.p[3]);
            }
        }
    }
}

/* Slices in order. */
__device__ static inline float sum_of(const float (*part)[TILE][8], int o, int r) {
    return ((part[0][o][r] + part[1][o][r]) + part[2][o][r]) + part[3][o][r];
}

__device__ static inline void keep(float part[TILE][8], const float acc[4]) {
    const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    part[g][2 * t] = acc[0];
    part[g][2 * t + 1] = acc[1];
    part[g + 8][2 * t] = acc[2];
    part[g + 8][2 * t + 1] = acc[3];
}

/* Whole vectors for every lane: what load_raw and round_x read. */
static inline bool tile_fits(const struct tensor &w, int how) {
    const int64_t unit = how == BF16_8 ? 8 : how == AFFINE_8_BF16 || how == E4M3_BLOCKS ? 16 : 32;
    if (how == ANY || how == F16_8 || how == AFFINE_8_F16) return false;
    return w.shape[1] % LANE_COLS == 0 && (uintptr_t)w.at % 16 == 0 && w.stride[0] % unit == 0 &&
           (how != E4M3_BLOCKS || w.quant.block_cols >= w.quant.cols ||
            (w.quant.block_cols % LANE_COLS == 0 && w.quant.first % w.quant.cols % LANE_COLS == 0));
}

#define WITH_FORMAT(how, launch, ...)                                                              \
    switch (how) {                                                                                 \
    case BF16_8:        launch<BF16_8>(__VA_ARGS__); break;                                        \
    case AFFINE_4_BF16: launch<AFFINE_4_BF16>(__VA_ARGS__); break;                                 \
    case AFFINE_4_F16:  launch<AFFINE_4_F16>(__VA_ARGS__); break;                                  \
    case AFFINE_8_BF16: launch<AFFINE_8_BF16>(__VA_ARGS__); break;                                 \
    case E2M1_E8M0:     launch<E2M1_E8M0>(__VA_ARGS__); break;                                     \
    default:            launch<E4M3_BLOCKS>(__VA_ARGS__); break;                                   \
    }

static inline bool pairs_far(int how) {
    return how == AFFINE_4_BF16 || how == AFFINE_4_F16 || how == E2M1_E8M0;
}
