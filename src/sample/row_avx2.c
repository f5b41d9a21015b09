/* row_avx2.c - the passes over a row with the vectors of eight of AVX2. */
#if defined __x86_64__
#include <immintrin.h>

enum { LANES = 8 };
#include "sample/row_vec.h"

static inline floats most(floats a, floats b) {
    return (floats)_mm256_max_ps((__m256)a, (__m256)b);
}

static inline floats least(floats a, floats b) {
    return (floats)_mm256_min_ps((__m256)a, (__m256)b);
}

static inline void widen(doubles *d, floats a, int half) {
    const __m128 four = half ? _mm256_extractf128_ps((__m256)a, 1)
                             : _mm256_castps256_ps128((__m256)a);
    *d = (doubles)_mm256_cvtps_pd(four);
}

static inline bool any(ints mask) {
    return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
}

static inline int note(const ints *mask, int first, int *id) {
    return any(*mask) ? note_each(mask, first, id) : 0;
}

#include "sample/row_simd.h"

const struct row_ops row_ops_avx2 = { tops, weigh, add, sums, weighed, temper, spread,
                                      find, list, keep_near, keep_above };
#endif
