/* vec_avx512.h - 16 lanes as one register of AVX-512: what vec.h is made of there. */
#pragma once
#include "device/small_float.h"
#include "device/tensor.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

struct vec { __m512 v; };

INLINE __mmask16 first(int n) {
    return n >= 16 ? 0xffff : (__mmask16)((1u << MAX(n, 0)) - 1);
}

INLINE struct vec vec_set(float f) {
    return (struct vec){ _mm512_set1_ps(f) };
}

INLINE struct vec vec_load(const float *p) {
    return (struct vec){ _mm512_loadu_ps(p) };
}

/* The first n of 16, as floats; the others are 0 and not read. */
INLINE struct vec vec_kv(enum dtype dtype, const char *at, int n) {
    const __mmask16 m = first(n);
    if (dtype == F32) return (struct vec){ _mm512_maskz_loadu_ps(m, at) };
    if (dtype == I8)
        return (struct vec){ _mm512_cvtepi32_ps(
            _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(m, at))) };
    if (dtype == FP8) {              /* of the sign's two copies the second goes */
        const __m256i wide = _mm256_slli_epi16(
            _mm256_cvtepi8_epi16(_mm_maskz_loadu_epi8(m, at)), 7);
        const __m256i bits = _mm256_and_si256(wide, _mm256_set1_epi16((short)0xbf80));
        return (struct vec){ _mm512_mul_ps(_mm512_cvtph_ps(bits), _mm512_set1_ps(E4M3_OF_HALF)) };
    }
    __m512i half = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, at));
    return (struct vec){ _mm512_castsi512_ps(_mm512_slli_epi32(half, 16)) };
}

INLINE void vec_store(float *p, struct vec a, int n) {
    _mm512_mask_storeu_ps(p, first(n), a.v);
}

INLINE struct vec vec_fma(struct vec a, struct vec b, struct vec c) {
    return (struct vec){ _mm512_fmadd_ps(a.v, b.v, c.v) };
}

INLINE struct vec vec_mul(struct vec a, struct vec b) {
    return (struct vec){ _mm512_mul_ps(a.v, b.v) };
}

INLINE struct vec vec_add(struct vec a, struct vec b) {
    return (struct vec){ _mm512_add_ps(a.v, b.v) };
}

INLINE struct vec vec_sub(struct vec a, struct vec b) {
    return (struct vec){ _mm512_sub_ps(a.v, b.v) };
}

INLINE struct vec vec_div(struct vec a, struct vec b) {
    return (struct vec){ _mm512_div_ps(a.v, b.v) };
}

INLINE struct vec vec_max(struct vec a, struct vec b) {
    return (struct vec){ _mm512_max_ps(a.v, b.v) };
}

INLINE struct vec vec_round(struct vec a) {
    return (struct vec){ _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC) };
}

/* a * 2^n for whole n; normal numbers. */
INLINE struct vec vec_scale2(struct vec a, struct vec n) {
    __m512i e = _mm512_slli_epi32(_mm512_cvtps_epi32(n.v), 23);
    return (struct vec){ _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), e)) };
}

INLINE struct vec vec_zero_below(struct vec a, struct vec x, float low) {
    return (struct vec){ _mm512_maskz_mov_ps(
        _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(low), _CMP_NLT_UQ), a.v) };
}

INLINE struct vec vec_abs(struct vec a) {
    return (struct vec){ _mm512_abs_ps(a.v) };
}

/* a >= 0 with the sign of x */
INLINE struct vec vec_sign(struct vec a, struct vec x) {
    __m512 sign = _mm512_and_ps(x.v, _mm512_set1_ps(-0.0f));
    return (struct vec){ _mm512_or_ps(a.v, sign) };
}

/* Lanes [begin, end) of a, else those of b. */
INLINE struct vec vec_keep(struct vec a, int begin, int end, struct vec b) {
    return (struct vec){ _mm512_mask_mov_ps(b.v, (__mmask16)(first(end) & ~first(begin)), a.v) };
}

INLINE float vec_first(struct vec a) {
    return _mm512_cvtss_f32(a.v);
}

INLINE float vec_sum(struct vec a) {
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

INLINE float vec_largest(struct vec a) {
    return _mm512_reduce_max_ps(a.v);
}
