/* linear_chains_avx512.c - products of many rows in floats for AVX-512. */
#if defined __x86_64__
#include <immintrin.h>
#include <stdint.h>

enum { WORD = 1 };

static inline __m512 product(__m512 w, __m512 x, __m512 sum) {
    return _mm512_fmadd_ps(w, x, sum);
}

static inline __m512 load_x(const float *at, uint32_t mask) {
    return _mm512_maskz_loadu_ps((__mmask16)mask, at);
}

#include "device/cpu/chains_avx512.h"

INLINE void put(float *panel, int64_t lane, __m512 v[LANES]) {
    UNROLL for (int l = 0; l < LANES; l++)
        _mm512_store_ps(panel + chains_place(l) * lane, v[l]);
}

INLINE void sort_step(float *panel, int64_t lane, const unsigned char *w, enum dtype dtype,
                      int64_t stride) {
    __m512 v[LANES];
    UNROLL for (int r = 0; r < LANES; r++) {
        if (dtype == F32)
            v[r] = _mm512_loadu_ps(w + r * stride);
        else if (dtype == F16)
            v[r] = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)
                                                      (w + r * stride)));
        else
            v[r] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(
                (const __m256i *)(const void *)(w + r * stride))), 16));
    }
    transpose_16(v);
    put(panel, lane, v);
}

/* Two steps of BF16: two columns change sides together, and become two floats then. */
INLINE void sort_pairs(float *panel, int64_t lane, const unsigned char *w, int64_t stride) {
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    __m512 v[LANES];
    UNROLL for (int r = 0; r < LANES; r++)
        v[r] = _mm512_loadu_ps(w + r * stride);
    transpose_16(v);
    UNROLL for (int i = 0; i < LANES; i++) {
        const __m512i pair = _mm512_castps_si512(v[i]);
        float *to = panel + i / 8 * OUTS;
        _mm512_store_ps(to + chains_place(2 * i % LANES) * lane,
                        _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16)));
        _mm512_store_ps(to + chains_place((2 * i + 1) % LANES) * lane,
                        _mm512_castsi512_ps(_mm512_and_si512(pair, upper)));
    }
}

static void sort(float *panel, const unsigned char *w, enum dtype dtype, int64_t stride,
                 int64_t step, int64_t steps, int64_t n) {
    const int64_t lane = chains_panel_lane(steps, OUTS);
    int64_t i = 0;
    panel += step * OUTS;
    if (dtype == F32) {
        for (; i < n; i += LANES, panel += OUTS)
            sort_step(panel, lane, w + i * 4, F32, stride);
    } else if (dtype == F16) {
        for (; i < n; i += LANES, panel += OUTS)
            sort_step(panel, lane, w + i * 2, F16, stride);
    } else {
        for (; i + 2 * LANES <= n; i += 2 * LANES, panel += 2 * OUTS)
            sort_pairs(panel, lane, w + i * 2, stride);
        if (i < n)
            sort_step(panel, lane, w + i * 2, BF16, stride);
    }
}

const struct cpu_chains_kernels cpu_chains_avx512 = { CHAINS_AVX512 };
#endif
