/* attention_avx2.c - the inner loops of attention for AVX2 and FMA: the 16 lanes are two
 * registers. */
#if defined __x86_64__
#include "device/cpu/attention_kernels.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum { HALF = 8, LANES = 16, KEYS = 4, COLS = 8 };   /* COLS registers of output */

INLINE __m256 load(enum dtype dtype, const char *row, int i) {
    if (dtype == F32)
        return _mm256_castsi256_ps(
            _mm256_loadu_si256((const __m256i *)(const void *)(row + 4 * (size_t)i)));
    __m128i half = _mm_loadu_si128((const __m128i *)(const void *)(row + 2 * (size_t)i));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/* Columns [i, i + 8), zeros from `dim`. */
INLINE __m256 load_to(enum dtype dtype, const char *row, int i, int dim) {
    if (i + HALF <= dim) return load(dtype, row, i);
    char copy[HALF * 4] = { 0 };
    size_t size = dtype == F32 ? 4 : 2;
    if (i < dim) memcpy(copy, row + (size_t)i * size, (size_t)(dim - i) * size);
    return load(dtype, copy, 0);
}

INLINE __m128 fold(__m256 lower, __m256 upper) {
    __m256 half = _mm256_add_ps(lower, upper);
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* A key past the last is the last once more. */
INLINE void scores_of(enum dtype dtype, float *score, const float *q, const struct cpu_kv *k,
                      int n, int dim) {
    for (int i = 0; i < n; i += KEYS) {
        __m256 a[KEYS], b[KEYS];
        const char *row[KEYS];
#pragma GCC unroll 4
        for (int j = 0; j < KEYS; j++) {
            a[j] = b[j] = _mm256_setzero_ps();
            row[j] = k->at + (size_t)MIN(i + j, n - 1) * k->row_bytes;
        }
        for (int c = 0; c < dim; c += LANES) {
            __m256 lower = load_to(F32, (const char *)q, c, dim);
            __m256 upper = load_to(F32, (const char *)q, c + HALF, dim);
#pragma GCC unroll 4
            for (int j = 0; j < KEYS; j++) {
                a[j] = _mm256_fmadd_ps(load_to(dtype, row[j], c, dim), lower, a[j]);
                b[j] = _mm256_fmadd_ps(load_to(dtype, row[j], c + HALF, dim), upper, b[j]);
            }
        }
        float sums[KEYS];
        __m128 t0 = fold(a[0], b[0]), t1 = fold(a[1], b[1]);
        __m128 t2 = fold(a[2], b[2]), t3 = fold(a[3], b[3]);
        _MM_TRANSPOSE4_PS(t0, t1, t2, t3);
        _mm_storeu_ps(sums, _mm_add_ps(_mm_add_ps(t0, t2), _mm_add_ps(t1, t3)));
        memcpy(score + i, sums, (size_t)MIN(KEYS, n - i) * sizeof *score);
    }
}

static void scores(float *score, const float *q, const struct cpu_kv *k, int n, int dim) {
    if (k->dtype == F32)
        scores_of(F32, score, q, k, n, dim);
    else
        scores_of(BF16, score, q, k, n, dim);
}

INLINE void weigh_cols(enum dtype dtype, float *y, const float *p, const struct cpu_kv *v, int n,
                       int begin) {
    __m256 a[COLS];
#pragma GCC unroll 8
    for (int j = 0; j < COLS; j++) a[j] = _mm256_loadu_ps(y + begin + j * HALF);
    for (int i = 0; i < n; i++) {
        const char *row = v->at + (size_t)i * v->row_bytes;
        __m256 pv = _mm256_set1_ps(p[i]);
#pragma GCC unroll 8
        for (int j = 0; j < COLS; j++)
            a[j] = _mm256_fmadd_ps(pv, load(dtype, row, begin + j * HALF), a[j]);
    }
#pragma GCC unroll 8
    for (int j = 0; j < COLS; j++) _mm256_storeu_ps(y + begin + j * HALF, a[j]);
}

/* The columns that do not fill the registers of weigh_cols, eight at a time. */
INLINE void weigh_rest(enum dtype dtype, float *y, const float *p, const struct cpu_kv *v, int n,
                       int begin, int dim) {
    for (; begin < dim; begin += HALF) {
        float sums[HALF] = { 0 };
        const size_t bytes = (size_t)MIN(HALF, dim - begin) * sizeof *y;
        memcpy(sums, y + begin, bytes);
        __m256 a = _mm256_loadu_ps(sums);
        for (int i = 0; i < n; i++)
            a = _mm256_fmadd_ps(_mm256_set1_ps(p[i]),
                                load_to(dtype, v->at + (size_t)i * v->row_bytes, begin, dim), a);
        _mm256_storeu_ps(sums, a);
        memcpy(y + begin, sums, bytes);
    }
}

static void weigh(float *y, const float *p, const struct cpu_kv *v, int n, int dim) {
    int begin = 0;
    for (; begin + COLS * HALF <= dim; begin += COLS * HALF)
        if (v->dtype == F32)
            weigh_cols(F32, y, p, v, n, begin);
        else
            weigh_cols(BF16, y, p, v, n, begin);
    if (v->dtype == F32)
        weigh_rest(F32, y, p, v, n, begin, dim);
    else
        weigh_rest(BF16, y, p, v, n, begin, dim);
}

const struct cpu_attention_kernels cpu_attention_avx2 = { scores, weigh };
#endif
