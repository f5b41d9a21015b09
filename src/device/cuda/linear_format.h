/* linear_format.h - packed weights as linear_packed.cu streams them: how the 16 rows of a tile
 * arrive in shared memory, and how a warp makes bf16 fragments of them.
 *
 * A format is a struct with CHUNK, the columns of a stage; BYTES, what it takes; ALONE, see
 * linear_packed.cu; `from`, where a lane reads next, which `seek` sets; `fetch`, by which a warp
 * asks for n columns, each lane for what it will read itself, but for scales; `piece`, what a lane
 * has of 64 columns in registers, which `load` reads; and `steps`, the A operands of four mmas for
 * these. EVEN: see format_fp8_even. Lane l = 4 g + t of an operand has rows g and g + 8: a[0]
 * columns 2t and the next of row g, a[1] of row g + 8, a[2] and a[3] those 8 columns later.
 *
 * They are rearranged in place (linear_pack.cu), 16 rows at a time, so a view that begins at such
 * a tile stays one:
 *   weights   for each 64 columns, what lane 0 reads (16 bytes), then lane 1...
 *   scales    for each group, those of 16 rows, row r at place r % 8 * 2 + r / 8: lane 4 g finds
 *             both of its rows side by side. Those of FP8 stay in their order.
 * 4 bits: 512 bytes for 64 columns, a word for each step: bits 0-3 a[0], 4-7 a[1], 8-11 a[2],
 * 12-15 a[3] of the even column, 16-31 the same of the odd one.
 * 8 bits: 1,024 bytes, the first half for two steps: a word for a[0] and a[1], one for a[2] and
 * a[3], then the same of the next step.
 * FP8: 1,024 bytes, the first half for rows 0 to 7, a word for each step: a[0] and a[2] of the even
 * column in its lower half, of the odd one in its upper half; then a[1] and a[3]. */
#pragma once
#include "device/cuda/linear_few.h"

enum { BLOCK_4 = TILE * 64 / 2, BLOCK_8 = TILE * 64,     /* bytes of 64 columns */
       CHUNK_4 = 256, CHUNK_8 = 128 };

/* What most formats are. */
struct format_usual { enum { ALONE = false, EVEN = false }; };

/* ---- copies that a lane waits for itself ---- */

template <int BYTES>
__device__ static inline void async_in(void *to, const void *from) {
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_at(to)), "l"(from)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared_at(to)), "l"(from),
                     "n"(BYTES) : "memory");
}

__device__ static inline void async_commit(void) {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int LEFT> __device__ static inline void async_wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

/* ---- numbers ---- */

__device__ static inline __nv_bfloat162 pair_of(unsigned bits) {
    return *(const __nv_bfloat162 *)&bits;
}

__device__ static inline unsigned bits_of(__nv_bfloat162 pair) {
    return *(const unsigned *)&pair;
}

__device__ static inline unsigned rounded_pair(float low, float high) {
    return bits_of(__floats2bfloat162_rn(low, high));
}

__device__ static inline int lane_of(void) { return threadIdx.x % 32; }

/* What a lane asked for itself. */
__device__ static inline uint4 own_16(const char *at) {
    return *(const uint4 *)(at + lane_of() * 16);
}

/* ---- affine ---- */

/* Scales by half a warp and biases by the other, of groups of at least 32 (G32) or 64 columns: the
 * same place of a stage for both, one after the other. */
template <bool G32, int CHUNK> struct affine_factors {
    enum { BYTES = 2 * TILE * CHUNK / (G32 ? 32 : 64), EACH = BYTES / 16 };

    __device__ static inline const char *seek(const struct few_part &p, const struct few_job &j,
                                              int tile, int col) {
        const int64_t group = (int64_t)tile * (j.cols >> j.group_shift) + (col >> j.group_shift);
        return (lane_of() < 16 ? p.scales : p.biases) + group * 2 * TILE + lane_of() % 16 * EACH;
    }

    __device__ static inline void fetch(char *to, const char *&from, int n, int group_shift) {
        const int groups = (n + (1 << group_shift) - 1) >> group_shift;
        if (lane_of() % 16 * EACH < groups * 2 * TILE)
            async_in<EACH>(to + lane_of() * EACH, from);
        from += (CHUNK >> group_shift) * 2 * TILE;
    }

    /* Of both rows of a lane and 64 columns, of one group or of two. */
    struct piece { unsigned scales[G32 ? 2 : 1], biases[G32 ? 2 : 1]; };

    __device__ static inline void load(struct piece &p, const char *stage, int block,
                                       int group_shift) {
#pragma unroll
        for (int i = 0; i < (G32 ? 2 : 1); i++) {
            const int group = G32 ? 2 * block + i : block * 64 >> group_shift;
            const char *at = stage + group * 2 * TILE + lane_of() / 4 * 4;
            p.scales[i] = *(const unsigned *)at;
            p.biases[i] = *(const unsigned *)(at + BYTES);
        }
    }
};

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

/* The same in F32, of factors in f16 or bf16. */
template <bool BF> struct float_rows {
    float s[2], b[2];
    __device__ static inline float half_of(unsigned bits) {
        return BF ? __uint_as_float(bits << 16)
                  : __half2float(__ushort_as_half((unsigned short)bits));
    }
    __device__ inline float_rows(unsigned scales, unsigned biases) {
        s[0] = half_of(scales & 0xffff);
        s[1] = half_of(scales >> 16);
        b[0] = half_of(biases & 0xffff);
        b[1] = half_of(biases >> 16);
    }
    __device__ inline unsigned of(float low, float high, int row) const {
        return rounded_pair(fmaf(low, s[row], b[row]), fmaf(high, s[row], b[row]));
    }
    __device__ inline unsigned weights(unsigned word, int k) const {
        return of((float)(word >> 4 * k & 15), (float)(word >> (16 + 4 * k) & 15), k % 2);
    }
};

template <> struct affine_rows<F16_FACTORS> : float_rows<false> {
    __device__ inline affine_rows(unsigned scales, unsigned biases)
        : float_rows<false>(scales, biases) {}
};

/* Weights of 4 bits, a piece of 16 bytes for 64 columns. */
struct nibbles_from {
    const char *w;
    __device__ inline void seek(const struct few_part &p, const struct few_job &j, int tile,
                                int col) {
        w = p.w + ((int64_t)tile * (j.cols / 64) + col / 64) * BLOCK_4 + lane_of() * 16;
    }
    __device__ inline void fetch(char *to, int n) {
#pragma unroll
        for (int i = 0; i < CHUNK_4 / 64; i++)
            if (i == 0 || n > 64 * i) async_in<16>(to + i * BLOCK_4 + lane_of() * 16,
                                                   w + i * BLOCK_4);
        w += CHUNK_4 / 64 * BLOCK_4;
    }
};

template <enum factors HOW, bool G32> struct format_affine4 : format_usual {
    typedef affine_factors<G32, CHUNK_4> factors_of;
    enum { CHUNK = CHUNK_4, WEIGHTS = CHUNK / 64 * BLOCK_4,
           BYTES = WEIGHTS + 2 * factors_of::BYTES };
    struct from { nibbles_from w; const char *factors; };
    struct piece { uint4 w; typename factors_of::piece factors; };

    __device__ static inline void seek(struct from &f, const struct few_part &p,
                                       const struct few_job &j, int tile, int col) {
        f.w.seek(p, j, tile, col);
        f.factors = factors_of::seek(p, j, tile, col);
    }

    __device__ static inline void fetch(char *to, struct from &f, int n, const struct few_job &j) {
        f.w.fetch(to, n);
        factors_of::fetch(to + WEIGHTS, f.factors, n, j.group_shift);
    }

    __device__ static inline void load(struct piece &p, const char *stage, int block,
                                       const struct few_job &j) {
        p.w = own_16(stage + block * BLOCK_4);
        factors_of::load(p.factors, stage + WEIGHTS, block, j.group_shift);
    }

    __device__ static inline void steps(unsigned a[STEPS][4], const struct piece &p) {
        const unsigned word[STEPS] = { p.w.x, p.w.y, p.w.z, p.w.w };
#pragma unroll
        for (int half = 0; half < (G32 ? 2 : 1); half++) {
            const affine_rows<HOW> rows(p.factors.scales[half], p.factors.biases[half]);
#pragma unroll
            for (int i = half * 2; i < (G32 ? half * 2 + 2 : STEPS); i++)
#pragma unroll
                for (int k = 0; k < 4; k++) a[i][k] = rows.weights(word[i], k);
        }
    }
};

/* ---- bytes ---- */

/* Weights of a byte: what a lane reads of 64 columns are two 16-byte pieces. */
struct bytes_from {
    const char *w;
    __device__ inline void seek(const struct few_part &p, const struct few_job &j, int tile,
                                int col) {
        w = p.w + ((int64_t)tile * (j.cols / 64) + col / 64) * BLOCK_8 + lane_of() * 16;
    }
    __device__ inline void fetch(char *to, int n) {
#pragma unroll
        for (int i = 0; i < CHUNK_8 / 32; i++)
            if (i < 2 || n > 32 * i) async_in<16>(to + i * 512 + lane_of() * 16, w + i * 512);
        w += CHUNK_8 / 64 * BLOCK_8;
    }
};

/* pair(two bytes, their row: 0 or 1) of each operand. */
template <class P>
__device__ static inline void bytes_steps(unsigned a[2][4], const uint4 &v, const P &pair) {
    const unsigned word[4] = { v.x, v.y, v.z, v.w };
#pragma unroll
    for (int i = 0; i < 4; i++) {
        a[i / 2][i % 2 * 2] = pair(word[i] & 0xffff, 0);
        a[i / 2][i % 2 * 2 + 1] = pair(word[i] >> 16, 1);
    }
}

template <bool BF, bool G32> struct format_affine8 : format_usual {
    typedef affine_factors<G32, CHUNK_8> factors_of;
    enum { ALONE = true, CHUNK = CHUNK_8, WEIGHTS = CHUNK / 64 * BLOCK_8,
           BYTES = WEIGHTS + 2 * factors_of::BYTES };
    struct from { bytes_from w; const char *factors; };
    struct piece { uint4 w[2]; typename factors_of::piece factors; };

    __device__ static inline void seek(struct from &f, const struct few_part &p,
                                       const struct few_job &j, int tile, int col) {
        f.w.seek(p, j, tile, col);
        f.factors = factors_of::seek(p, j, tile, col);
    }

    __device__ static inline void fetch(char *to, struct from &f, int n, const struct few_job &j) {
        f.w.fetch(to, n);
        factors_of::fetch(to + WEIGHTS, f.factors, n, j.group_shift);
    }

    __device__ static inline void load(struct piece &p, const char *stage, int block,
                                       const struct few_job &j) {
        p.w[0] = own_16(stage + block * BLOCK_8);
        p.w[1] = own_16(stage + block * BLOCK_8 + BLOCK_8 / 2);
        factors_of::load(p.factors, stage + WEIGHTS, block, j.group_shift);
    }

    __device__ static inline void steps(unsigned a[STEPS][4], const struct piece &p) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int group = G32 ? half : 0;
            const float_rows<BF> rows(p.factors.scales[group], p.factors.biases[group]);
            /* A byte in the mantissa of 2^23 is that much more. */
            bytes_steps(a + 2 * half, p.w[half], [&](unsigned two, int row) {
                return rows.of(__uint_as_float(__byte_perm(two, 0x4b000000, 0x7650)) - 0x1p23f,
                               __uint_as_float(__byte_perm(two, 0x4b000000, 0x7651)) - 0x1p23f,
                               row);
            });
        }
    }
};

/* ---- FP8 ---- */

/* Two e4m3 as bf16 are their numbers over 2^120, where their bits lie behind zeros. In a word half
 * of its bits are so for one pair; the other's are what is left over (linear_pack.cu). */
__device__ static inline unsigned e4m3_first(unsigned word) { return word & 0x87f087f0; }

__device__ static inline unsigned e4m3_second(unsigned word) {
    return (word << 4 & 0x80f080f0) | (word >> 4 & 0x07000700);
}

/* A scale times 2^120 as the sum of two bf16, so that w = fma(q, high, q low): once rounded, but
 * for 2^-17 of it. */
struct fp8_quick {
    __nv_bfloat162 high, low;
    __device__ inline fp8_quick(unsigned scale) {
        high = __low2bfloat162(pair_of(scale));
        low = __high2bfloat162(pair_of(scale));
    }
    __device__ inline unsigned weights(unsigned pair) const {
        const __nv_bfloat162 q = pair_of(pair);
        return bits_of(__hfma2(q, high, __hmul2(q, low)));
    }
};

/* A scale times 2^120 that is a bf16, as scales often are published: one product. */
struct fp8_whole {
    __nv_bfloat162 scale;
    __device__ inline fp8_whole(unsigned bits) { scale = __low2bfloat162(pair_of(bits)); }
    __device__ inline unsigned weights(unsigned pair) const {
        return bits_of(__hmul2(pair_of(pair), scale));
    }
};

/* A scale in F32, whatever it is, and whatever is no number. */
struct fp8_any {
    float scale;
    __device__ inline fp8_any(unsigned bits) { scale = __uint_as_float(bits); }
    __device__ inline float one(unsigned bf16) const {
        return float_of_e4m3((bf16 >> 8 & 0x80) | (bf16 >> 4 & 0x7f)) * scale;
    }
    __device__ inline unsigned weights(unsigned pair) const {
        return rounded_pair(one(pair & 0xffff), one(pair >> 16));
    }
};

/* 64 columns of eight rows of a tile: the first or the second half of it. */
template <class S>
__device__ static inline void fp8_steps(unsigned a[STEPS][4], const uint4 &v, int half,
                                        const S &scale) {
    const unsigned word[STEPS] = { v.x, v.y, v.z, v.w };
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        a[i][half] = scale.weights(e4m3_first(word[i]));
        a[i][2 + half] = scale.weights(e4m3_second(word[i]));
    }
}

/* A scale for each row of a tile and 128 columns, whatever blocks the matrix has. */
template <class S> struct format_fp8 : format_usual {
    enum { CHUNK = CHUNK_8, WEIGHTS = CHUNK / 64 * BLOCK_8, BYTES = WEIGHTS + 4 * TILE,
           ALONE = true };
    struct from { bytes_from w; const unsigned *scales; int col, shift; };
    struct piece { uint4 w[2]; unsigned scales[2]; };

    __device__ static inline void seek(struct from &f, const struct few_part &p,
                                       const struct few_job &j, int tile, int col) {
        f.w.seek(p, j, tile, col);
        const int row = p.blocks.first + tile * TILE + lane_of() % TILE;
        f.scales = (const unsigned *)p.scales + (int64_t)(row / p.blocks.down) * p.blocks.across;
        f.col = col;
        f.shift = p.blocks.shift;
    }

    __device__ static inline void fetch(char *to, struct from &f, int n, const struct few_job &) {
        f.w.fetch(to, n);
        if (lane_of() < TILE)
            async_in<4>(to + WEIGHTS + lane_of() * 4, f.scales + (f.col >> f.shift));
        f.col += CHUNK;
    }

    __device__ static inline void load(struct piece &p, const char *stage, int block,
                                       const struct few_job &) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            p.w[half] = own_16(stage + block * BLOCK_8 + half * BLOCK_8 / 2);
            p.scales[half] = ((const unsigned *)(stage + WEIGHTS))[half * 8 + lane_of() / 4];
        }
    }

    __device__ static inline void steps(unsigned a[STEPS][4], const struct piece &p) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const S s(p.scales[half]);
            fp8_steps(a, p.w[half], half, s);
        }
    }
};

/* Where a tile's rows have one scale for a stage, and slices are whole stages, at most 32, as in
 * what is published in blocks of 128 by 128: a lane keeps the scale of the strip's stage of its
 * number, and all that it reads of a stage it has asked for itself. */
template <class S> struct format_fp8_even : format_usual {
    enum { CHUNK = CHUNK_8, BYTES = CHUNK / 64 * BLOCK_8, ALONE = true, EVEN = true };
    struct from { bytes_from w; };
    struct piece { uint4 w[2]; unsigned scale; };

    __device__ static inline void seek(struct from &f, const struct few_part &p,
                                       const struct few_job &j, int tile, int col) {
        f.w.seek(p, j, tile, col);
    }

    __device__ static inline void fetch(char *to, struct from &f, int, const struct few_job &) {
        f.w.fetch(to, CHUNK);
    }

    __device__ static inline unsigned scales(const struct few_part &p, int tile,
                                             const struct own &own) {
        const int row = (p.blocks.first + tile * TILE) >> p.blocks.down_shift;
        const int col = own.begin + lane_of() * CHUNK;
        return col < own.end ? ((const unsigned *)p.scales)[(int64_t)row * p.blocks.across +
                                                            (col >> p.blocks.shift)] : 0;
    }

    __device__ static inline void load(struct piece &p, const char *stage, int block,
                                       unsigned scale) {
        p.w[0] = own_16(stage + block * BLOCK_8);
        p.w[1] = own_16(stage + block * BLOCK_8 + BLOCK_8 / 2);
        p.scale = scale;
    }

    __device__ static inline void steps(unsigned a[STEPS][4], const struct piece &p) {
        const S s(p.scale);
        fp8_steps(a, p.w[0], 0, s);
        fp8_steps(a, p.w[1], 1, s);
    }
};

/* ---- MXFP4: groups of 32 columns have a power of two ---- */

struct format_mxfp4 : format_usual {
    enum { CHUNK = CHUNK_4, WEIGHTS = CHUNK / 64 * BLOCK_4, BYTES = WEIGHTS + TILE * CHUNK / 32 };
    struct from { nibbles_from w; const char *scales; };
    struct piece { uint4 w; unsigned scales[2]; };       /* of both rows */

    __device__ static inline void seek(struct from &f, const struct few_part &p,
                                       const struct few_job &j, int tile, int col) {
        f.w.seek(p, j, tile, col);
        f.scales = p.scales + ((int64_t)tile * (j.cols / 32) + col / 32) * TILE + lane_of() * 4;
    }

    __device__ static inline void fetch(char *to, struct from &f, int n, const struct few_job &) {
        f.w.fetch(to, n);
        if (lane_of() * 4 < n / 32 * TILE) async_in<4>(to + WEIGHTS + lane_of() * 4, f.scales);
        f.scales += CHUNK / 32 * TILE;
    }

    /* Every power of two that e8m0 has is a bf16. */
    __device__ static inline __nv_bfloat162 power(unsigned e) {
        const unsigned bits = e == 255 ? 0x7fc0 : e ? e << 7 : 0x40;
        return pair_of(bits | bits << 16);
    }

    __device__ static inline void load(struct piece &p, const char *stage, int block,
                                       const struct few_job &) {
        p.w = own_16(stage + block * BLOCK_4);
#pragma unroll
        for (int half = 0; half < 2; half++)
            p.scales[half] = ((const unsigned short *)(stage + WEIGHTS + (2 * block + half) * TILE))
                [lane_of() / 4];
    }

    /* As bf16 the codes are their numbers over 2^126. */
    __device__ static inline void steps(unsigned a[STEPS][4], const struct piece &p) {
        const unsigned word[STEPS] = { p.w.x, p.w.y, p.w.z, p.w.w };
        const __nv_bfloat162 up = __float2bfloat162_rn(0x1p126f);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const unsigned two = p.scales[half];
            const __nv_bfloat162 scale[2] = { power(two & 255), power(two >> 8) };
#pragma unroll
            for (int i = half * 2; i < half * 2 + 2; i++)
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    const unsigned q = word[i] >> 4 * k;
                    const unsigned bits = (q & 0x00080008) << 12 | (q & 0x00070007) << 6;
                    a[i][k] = bits_of(__hmul2(__hmul2(pair_of(bits), up), scale[k % 2]));
                }
        }
    }
};
