/* vec_avx2.h - 16 lanes as two registers of AVX2: what vec.h is made of there. */
#pragma once
#include "device/small_float.h"
#include "device/tensor.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum { HALF = 8 };

struct vec { __m256 a, b; };

INLINE struct vec vec_set(float f) {
    return (struct vec){ _mm256_set1_ps(f), _mm256_set1_ps(f) };
}

INLINE struct vec vec_load(const float *p) {
    return (struct vec){ _mm256_loadu_ps(p), _mm256_loadu_ps(p + HALF) };
}

INLINE __m256 load_half(enum dtype dtype, const char *at) {
    const __m128i *p = (const __m128i *)(const void *)at;
    if (dtype == F32) return _mm256_castsi256_ps(_mm256_loadu_si256((const __m256i *)p));
    if (dtype == I8) return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p)));
    if (dtype == FP8) {              /* of the sign's two copies the second goes */
        const __m128i wide = _mm_slli_epi16(_mm_cvtepi8_epi16(_mm_loadl_epi64(p)), 7);
        const __m128i bits = _mm_and_si128(wide, _mm_set1_epi16((short)0xbf80));
        return _mm256_mul_ps(_mm256_cvtph_ps(bits), _mm256_set1_ps(E4M3_OF_HALF));
    }
    __m256i half = _mm256_cvtepu16_epi32(_mm_loadu_si128(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(half, 16));
}

/* The first n of 16, as floats; the others are 0 and not read. */
INLINE struct vec vec_kv(enum dtype dtype, const char *at, int n) {
    const size_t size = dtype == F32 ? 4 : dtype == BF16 ? 2 : 1;
    char copy[2 * HALF * 4];
    if (n < 2 * HALF) {
        memset(copy, 0, sizeof copy);
        if (n > 0) memcpy(copy, at, (size_t)n * size);
        at = copy;
    }
    return (struct vec){ load_half(dtype, at), load_half(dtype, at + HALF * size) };
}

INLINE void vec_store(float *p, struct vec v, int n) {
    float copy[2 * HALF];
    float *to = n < 2 * HALF ? copy : p;
    _mm256_storeu_ps(to, v.a);
    _mm256_storeu_ps(to + HALF, v.b);
    if (n < 2 * HALF && n > 0) memcpy(p, copy, (size_t)n * sizeof *p);
}

INLINE struct vec vec_fma(struct vec x, struct vec y, struct vec z) {
    return (struct vec){ _mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b) };
}

INLINE struct vec vec_mul(struct vec x, struct vec y) {
    return (struct vec){ _mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b) };
}

INLINE struct vec vec_add(struct vec x, struct vec y) {
    return (struct vec){ _mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b) };
}

INLINE struct vec vec_sub(struct vec x, struct vec y) {
    return (struct vec){ _mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b) };
}

INLINE struct vec vec_div(struct vec x, struct vec y) {
    return (struct vec){ _mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b) };
}

INLINE struct vec vec_max(struct vec x, struct vec y) {
    return (struct vec){ _mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b) };
}

INLINE struct vec vec_round(struct vec x) {
    enum { HOW = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
    return (struct vec){ _mm256_round_ps(x.a, HOW), _mm256_round_ps(x.b, HOW) };
}

INLINE __m256 scale2_half(__m256 x, __m256 n) {
    __m256i e = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), e));
}

/* x * 2^n for whole n; normal numbers. */
INLINE struct vec vec_scale2(struct vec x, struct vec n) {
    return (struct vec){ scale2_half(x.a, n.a), scale2_half(x.b, n.b) };
}

INLINE struct vec vec_zero_below(struct vec v, struct vec x, float low) {
    const __m256 l = _mm256_set1_ps(low);
    return (struct vec){ _mm256_and_ps(_mm256_cmp_ps(x.a, l, _CMP_NLT_UQ), v.a),
                         _mm256_and_ps(_mm256_cmp_ps(x.b, l, _CMP_NLT_UQ), v.b) };
}

INLINE struct vec vec_abs(struct vec x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return (struct vec){ _mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b) };
}

/* v >= 0 with the sign of x */
INLINE struct vec vec_sign(struct vec v, struct vec x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return (struct vec){ _mm256_or_ps(v.a, _mm256_and_ps(sign, x.a)),
                         _mm256_or_ps(v.b, _mm256_and_ps(sign, x.b)) };
}

INLINE __m256 keep_half(__m256 x, __m256i lane, int begin, int end, __m256 y) {
    __m256i low = _mm256_cmpgt_epi32(_mm256_set1_epi32(begin), lane);
    __m256i high = _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane);
    return _mm256_blendv_ps(y, x, _mm256_castsi256_ps(_mm256_andnot_si256(low, high)));
}

/* Lanes [begin, end) of x, else those of y. */
INLINE struct vec vec_keep(struct vec x, int begin, int end, struct vec y) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return (struct vec){ keep_half(x.a, lane, begin, end, y.a),
                         keep_half(x.b, lane, begin - HALF, end - HALF, y.b) };
}

INLINE float vec_first(struct vec x) {
    return _mm256_cvtss_f32(x.a);
}

INLINE float vec_sum(struct vec x) {
    __m256 h = _mm256_add_ps(x.a, x.b);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

INLINE float vec_largest(struct vec x) {
    __m256 h = _mm256_max_ps(x.a, x.b);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
