/* attention_avx512.c - the inner loops of attention for AVX-512: four keys at a time, so that
 * their sums are transposed together, and up to 64 columns of the output in registers. */
#if defined __x86_64__
#include "device/cpu/attention_kernels.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16, KEYS = 4, COLS = 4 };     /* COLS registers of output */

INLINE __mmask16 first(int n) {
    if (n >= LANES) return 0xffff;
    return (__mmask16)((1u << MAX(n, 0)) - 1);
}

INLINE __m512 load(enum dtype dtype, const char *row, int i, __mmask16 mask) {
    if (dtype == F32) return _mm512_maskz_loadu_ps(mask, row + 4 * (size_t)i);
    __m256i half = _mm256_maskz_loadu_epi16(mask, row + 2 * (size_t)i);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

INLINE __m128 fold(__m512 a) {
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* A key past the last is the last once more. */
INLINE void scores_of(enum dtype dtype, float *score, const float *q, const struct cpu_kv *k,
                      int n, int dim) {
    for (int i = 0; i < n; i += KEYS) {
        __m512 a[KEYS];
        const char *row[KEYS];
#pragma GCC unroll 4
        for (int j = 0; j < KEYS; j++) {
            a[j] = _mm512_setzero_ps();
            row[j] = k->at + (size_t)MIN(i + j, n - 1) * k->row_bytes;
        }
        for (int c = 0; c < dim; c += LANES) {
            const __mmask16 mask = first(dim - c);
            __m512 qv = _mm512_maskz_loadu_ps(mask, q + c);
#pragma GCC unroll 4
            for (int j = 0; j < KEYS; j++)
                a[j] = _mm512_fmadd_ps(load(dtype, row[j], c, mask), qv, a[j]);
        }
        __m128 t0 = fold(a[0]), t1 = fold(a[1]), t2 = fold(a[2]), t3 = fold(a[3]);
        _MM_TRANSPOSE4_PS(t0, t1, t2, t3);
        _mm_mask_storeu_ps(score + i, (__mmask8)(first(n - i) & 15),
                           _mm_add_ps(_mm_add_ps(t0, t2), _mm_add_ps(t1, t3)));
    }
}

static void scores(float *score, const float *q, const struct cpu_kv *k, int n, int dim) {
    if (k->dtype == F32)
        scores_of(F32, score, q, k, n, dim);
    else
        scores_of(BF16, score, q, k, n, dim);
}

INLINE void weigh_cols(enum dtype dtype, float *y, const float *p, const struct cpu_kv *v, int n,
                       int begin, int dim) {
    __mmask16 mask[COLS];
    __m512 a[COLS];
#pragma GCC unroll 4
    for (int j = 0; j < COLS; j++) {
        mask[j] = first(dim - begin - j * LANES);
        a[j] = _mm512_maskz_loadu_ps(mask[j], y + begin + j * LANES);
    }
    for (int i = 0; i < n; i++) {
        const char *row = v->at + (size_t)i * v->row_bytes;
        __m512 pv = _mm512_set1_ps(p[i]);
#pragma GCC unroll 4
        for (int j = 0; j < COLS; j++)
            a[j] = _mm512_fmadd_ps(pv, load(dtype, row, begin + j * LANES, mask[j]), a[j]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < COLS; j++)
        _mm512_mask_storeu_ps(y + begin + j * LANES, mask[j], a[j]);
}

static void weigh(float *y, const float *p, const struct cpu_kv *v, int n, int dim) {
    for (int begin = 0; begin < dim; begin += COLS * LANES)
        if (v->dtype == F32)
            weigh_cols(F32, y, p, v, n, begin, dim);
        else
            weigh_cols(BF16, y, p, v, n, begin, dim);
}

const struct cpu_attention_kernels cpu_attention_avx512 = { scores, weigh };
#endif
