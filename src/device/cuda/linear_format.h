/* linear_format.h - the formats of weights that linear_ring.cu streams: how the 16 rows of a tile
 * arrive in shared memory, and how a warp makes bf16 fragments of them.
 *
 * A format is a struct with CHUNK, the columns of a stage (a multiple of 128); BYTES, what a stage
 * takes; WARPS, how many compute in a block, and FETCHERS, how many fetch (asking for a copy takes
 * a warp about 100 cycles); `fetch`, by which one lane asks for up to CHUNK columns of a tile;
 * `gather`, by which a warp reads 64 into the same places; and `steps`, the A operands of four mmas
 * for 64 columns. Lane l = 4 g + t of an operand has rows g and g + 8: a[0] columns 2t and the next
 * of row g, a[1] of row g + 8, a[2] and a[3] those 8 columns later.
 *
 * Packed formats are rearranged in place, 16 rows at a time, so a view that begins at such a tile
 * stays one:
 *   weights   for each 64 columns, what lane 0 reads, then lane 1...
 *   scales    for each group, those of 16 rows, row r at place r % 8 * 2 + r / 8: a word a lane.
 * Affine 4 bits: 512 bytes for 64 columns, a word for each step: bits 0-3 a[0], 4-7 a[1], 8-11
 * a[2], 12-15 a[3] of the even column, 16-31 the same of the odd one. */
#pragma once
#include "device/cuda/hopper.h"
#include "device/cuda/linear.h"

enum { TILE = 16, STEPS = 4 };       /* rows of a tile; mmas of 64 columns */

struct ring_part {                   /* a matrix of a launch */
    const char *w, *scales, *biases; /* of packed ones */
    const float *bias;
    float *y;
    int64_t y_row;
    int outs, slice;
    int tiles;                       /* of this one and of those before it */
};

/* What fetch needs beside the part. */
struct ring_shape { int cols, group_shift; };

struct format_bf16 {
    enum { CHUNK = 256, BYTES = 2 * TILE * CHUNK, BOX = 2 * TILE * 64, WARPS = 4, FETCHERS = 1 };

    __device__ static inline void fetch(char *to, uint64_t *barrier, const struct ring_part &,
                                        const CUtensorMap *map, const struct ring_shape &,
                                        int tile, int col, int) {
        barrier_expect(barrier, BYTES);
        blocks_in(to, map, col / 64, tile * TILE, barrier);
    }

    __device__ static inline void gather(char *, const struct ring_part &,
                                         const struct ring_shape &, int, int) {}

    /* A row is 128 bytes; its 16-byte pieces lie at places xor the row's last three bits. */
    __device__ static inline void steps(unsigned a[STEPS][4], const char *stage, int block,
                                        const struct ring_shape &) {
        const int lane = threadIdx.x % 32, row = lane % 16;
        const unsigned box = shared_at(stage + block * BOX + row * 128);
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            const unsigned at = box + (unsigned)((2 * i + lane / 16) ^ (row & 7)) * 16;
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                         : "=r"(a[i][0]), "=r"(a[i][1]), "=r"(a[i][2]), "=r"(a[i][3]) : "r"(at));
        }
    }
};

__device__ static inline __nv_bfloat162 pair_of(unsigned bits) {
    return *(const __nv_bfloat162 *)&bits;
}

__device__ static inline unsigned bits_of(__nv_bfloat162 pair) {
    return *(const unsigned *)&pair;
}

/* How w = fma(q, scale, bias) is come by, rounded once: scales in bf16, multiplied by 2^129 so that
 * no subtraction is needed (linear.h); in bf16 as they are; in f16. */
enum factors { SCALED, BF16_FACTORS, F16_FACTORS };

/* Scales and biases of both rows of a lane. */
template <enum factors HOW> struct affine_rows {
    __nv_bfloat162 s[2], b[2];
    __device__ inline affine_rows(unsigned scales, unsigned biases) {
        s[0] = __low2bfloat162(pair_of(scales));
        s[1] = __high2bfloat162(pair_of(scales));
        b[0] = __low2bfloat162(pair_of(biases));
        b[1] = __high2bfloat162(pair_of(biases));
    }
    /* Two weights of the numbers at bits 4k and 16 + 4k; in the mantissa of 128: 128 + q. */
    __device__ inline unsigned weights(unsigned word, int k) const {
        if (HOW == SCALED) {
            const unsigned at_4 = k == 0 ? word << 4 : word >> (4 * k - 4);
            return bits_of(__hfma2(pair_of(at_4 & 0x00f000f0), s[k % 2], b[k % 2]));
        }
        const unsigned q = (word >> 4 * k & 0x000f000f) | 0x43004300;
        return bits_of(__hfma2(__hsub2(pair_of(q), pair_of(0x43004300)), s[k % 2], b[k % 2]));
    }
};

template <> struct affine_rows<F16_FACTORS> {
    float s[2], b[2];
    __device__ static inline float half_of(unsigned bits) {
        return __half2float(__ushort_as_half((unsigned short)bits));
    }
    __device__ inline affine_rows(unsigned scales, unsigned biases) {
        s[0] = half_of(scales & 0xffff);
        s[1] = half_of(scales >> 16);
        b[0] = half_of(biases & 0xffff);
        b[1] = half_of(biases >> 16);
    }
    __device__ inline unsigned weights(unsigned word, int k) const {
        const float low = (float)(word >> 4 * k & 15), high = (float)(word >> (16 + 4 * k) & 15);
        return bits_of(__floats2bfloat162_rn(fmaf(low, s[k % 2], b[k % 2]),
                                             fmaf(high, s[k % 2], b[k % 2])));
    }
};

/* G32: groups of 32 columns, two in a block; else of 64 or 128. */
template <enum factors HOW, bool G32> struct format_affine4 {
    enum { CHUNK = 512, BLOCK = TILE * 64 / 2, WEIGHTS = CHUNK / 64 * BLOCK,
           FACTORS = 2 * TILE * CHUNK / (G32 ? 32 : 64), BYTES = WEIGHTS + 2 * FACTORS,
           WARPS = 8, FETCHERS = 3 };

    __device__ static inline void fetch(char *to, uint64_t *barrier, const struct ring_part &p,
                                        const CUtensorMap *, const struct ring_shape &s, int tile,
                                        int col, int n) {
        const int groups = s.cols >> s.group_shift;
        const int of_chunk = (n + (1 << s.group_shift) - 1) >> s.group_shift;
        const int64_t block = (int64_t)tile * (s.cols / 64) + col / 64;
        const int64_t group = (int64_t)tile * groups + (col >> s.group_shift);
        const unsigned weights = (unsigned)(n / 64 * BLOCK);
        const unsigned factors = (unsigned)of_chunk * 2 * TILE;
        barrier_expect(barrier, weights + 2 * factors);
        bytes_in(to, p.w + block * BLOCK, weights, barrier);
        bytes_in(to + WEIGHTS, p.scales + group * 2 * TILE, factors, barrier);
        bytes_in(to + WEIGHTS + FACTORS, p.biases + group * 2 * TILE, factors, barrier);
    }

    __device__ static inline void gather(char *to, const struct ring_part &p,
                                         const struct ring_shape &s, int tile, int col) {
        const int lane = threadIdx.x % 32, groups = s.cols >> s.group_shift;
        const int64_t block = (int64_t)tile * (s.cols / 64) + col / 64;
        const int64_t group = (int64_t)tile * groups + (col >> s.group_shift);
        ((uint4 *)to)[lane] = ((const uint4 *)(p.w + block * BLOCK))[lane];
        if (lane >= (G32 ? 16 : 8)) return;
        ((unsigned *)(to + WEIGHTS))[lane] =
            ((const unsigned *)(p.scales + group * 2 * TILE))[lane];
        ((unsigned *)(to + WEIGHTS + FACTORS))[lane] =
            ((const unsigned *)(p.biases + group * 2 * TILE))[lane];
    }

    __device__ static inline void steps(unsigned a[STEPS][4], const char *stage, int block,
                                        const struct ring_shape &s) {
        const int lane = threadIdx.x % 32;
        const uint4 v = *(const uint4 *)(stage + block * BLOCK + lane * 16);
        const unsigned word[STEPS] = { v.x, v.y, v.z, v.w };
#pragma unroll
        for (int half = 0; half < (G32 ? 2 : 1); half++) {
            const int group = G32 ? 2 * block + half : block * 64 >> s.group_shift;
            const char *at = stage + WEIGHTS + group * 2 * TILE + lane / 4 * 4;
            const unsigned scales = *(const unsigned *)at;
            const affine_rows<HOW> rows(scales, *(const unsigned *)(at + FACTORS));
#pragma unroll
            for (int i = half * 2; i < (G32 ? half * 2 + 2 : STEPS); i++)
#pragma unroll
                for (int k = 0; k < 4; k++) a[i][k] = rows.weights(word[i], k);
        }
    }
};
