/* row_avx512.c - the passes over a row with the vectors of sixteen of AVX-512. */
#if defined __x86_64__
#include <immintrin.h>
#include <string.h>

enum { LANES = 16 };
#include "sample/row_vec.h"

static inline floats most(floats a, floats b) {
    return (floats)_mm512_max_ps((__m512)a, (__m512)b);
}

static inline floats least(floats a, floats b) {
    return (floats)_mm512_min_ps((__m512)a, (__m512)b);
}

static inline void widen(doubles *d, floats a, int half) {
    float lane[LANES];
    memcpy(lane, &a, sizeof lane);
    *d = (doubles)_mm256_cvtps_pd(_mm_loadu_ps(lane + half * ROW_COLUMNS));
}

static inline bool any(ints mask) {
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
}

static inline int note(const ints *mask, int first, int *id) {
    const __mmask16 lanes = _mm512_movepi32_mask((__m512i)*mask);
    const __m512i all = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i ids = _mm512_add_epi32(all, _mm512_set1_epi32(first));
    _mm512_storeu_si512(id, _mm512_maskz_compress_epi32(lanes, ids));
    return __builtin_popcount(lanes);
}

#include "sample/row_simd.h"

const struct row_ops row_ops_avx512 = { tops, weigh, add, sums, weighed, temper, spread,
                                      find, list, keep_near, keep_above };
#endif
