/* int8_avx512.h - what the int8 kernels of AVX-512 and of AMX share: how they round rows, and how
 * they read panels, quads and scales of 16 rows, a register each. For their .c files alone. */
#pragma once
#include "device/cpu/linear.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef unsigned char byte;
typedef uint16_t words __attribute__((vector_size(64)));

/* 16 values as 4 quads of bytes. */
INLINE __m128i quads_of(__m512i q) {
    return _mm_shuffle_epi8(_mm512_cvtepi32_epi8(q), _mm_set_epi8(15, 13, 11, 9, 14, 12, 10, 8, 7,
                                                                  5, 3, 1, 6, 4, 2, 0));
}

/* `quantize` of linear_int8.h. Where 16 values from column i belong is for `store` to know: `part`
 * of them, 0 the high one, when wide. Magnitudes are compared as whole numbers, where a NaN is
 * larger than all. */
INLINE void quantize_16(bool wide, void (*store)(const struct cpu_int8_tile *, int r, int64_t i,
                                                 int part, __m128i quads),
                        const struct cpu_int8_tile *t, int r, const float *x, int64_t cols,
                        int group) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    const float most = wide ? INT8_TOP_WIDE : INT8_TOP;
    for (int64_t begin = 0; begin < cols; begin += group) {
        __m512i largest = _mm512_setzero_si512(), sum = largest;
        for (int i = 0; i < group; i += 16)
            largest = _mm512_max_epu32(
                largest, _mm512_and_si512(_mm512_loadu_si512(x + begin + i), magnitude));
        const uint32_t bits = _mm512_reduce_max_epu32(largest);
        float top;
        memcpy(&top, &bits, sizeof top);
        const bool finite = bits < 0x7f800000, usable = finite && top >= 1e-30f;
        const float scale = usable ? top / most : finite ? 0.0f : __builtin_nanf("");
        const __m512 inverse = _mm512_set1_ps(usable ? most / top : 0.0f);
        for (int i = 0; i < group; i += 16) {
            const __m512 v = _mm512_maskz_loadu_ps(usable ? 0xffff : 0, x + begin + i);
            const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(v, inverse));
            sum = _mm512_add_epi32(sum, q);
            if (!wide) {
                store(t, r, begin + i, 0, quads_of(q));
                continue;
            }
            const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8);
            store(t, r, begin + i, 0, quads_of(high));
            store(t, r, begin + i, 1, quads_of(_mm512_sub_epi32(q, _mm512_slli_epi32(high, 8))));
        }
        t->scale[begin / group * t->rows + r] = scale;
        t->sum[begin / group * t->rows + r] = scale * (float)_mm512_reduce_add_epi32(sum);
    }
}

/* Some bits of every byte, moved from bit `from` to bit `to`. */
INLINE __m512i field(__m512i v, int from, int to, int width) {
    if (from > to)
        v = (__m512i)((words)v >> (from - to));
    else if (from < to)
        v = (__m512i)((words)v << (to - from));
    return _mm512_and_si512(v, _mm512_set1_epi8((char)(((1 << width) - 1) << to)));
}

/* Quad k of the lines of 32 columns: pack.h says where its planes lie. */
INLINE __m512i quad(int bits, const byte *lines, int k) {
    if (bits == 8)
        return _mm512_loadu_si512(lines + k * CPU_PACK_ALIGN);
    const __m512i low =
        bits & 4 ? field(_mm512_loadu_si512(lines + k / 2 * CPU_PACK_ALIGN), k % 2 * 4, 0, 4)
                 : field(_mm512_loadu_si512(lines + k / 4 * CPU_PACK_ALIGN), k % 4 * 2, 0, 2);
    switch (bits) {
    case 3:
        return _mm512_or_si512(low, field(_mm512_loadu_si512(lines + 2 * CPU_PACK_ALIGN), k, 2, 1));
    case 5:
        return _mm512_or_si512(low, field(_mm512_loadu_si512(lines + 4 * CPU_PACK_ALIGN), k, 4, 1));
    case 6:
        return _mm512_or_si512(low, field(_mm512_loadu_si512(lines + (4 + k / 4) * CPU_PACK_ALIGN),
                                          k % 4 * 2, 4, 2));
    default:
        return low;
    }
}

/* 16 scales. */
INLINE __m512 scales_16(enum dtype dtype, const byte *at) {
    if (dtype == F32)
        return _mm512_loadu_ps(at);
    const __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)at);
    if (dtype == F16)
        return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
