/* sum_avx512.h - the tree in which the 16 lanes of a product are added (linear.h). For .c files of
 * AVX-512 alone. */
#pragma once
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

/* Lanes 16 to 4, as the first two steps of the tree. */
INLINE __m128 fold(__m512 a) {
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* Four sums at once: transposed, the last two steps are two additions. */
INLINE __m128 sum_4(__m512 a0, __m512 a1, __m512 a2, __m512 a3) {
    __m128 t0 = fold(a0), t1 = fold(a1), t2 = fold(a2), t3 = fold(a3);
    _MM_TRANSPOSE4_PS(t0, t1, t2, t3);
    return _mm_add_ps(_mm_add_ps(t0, t2), _mm_add_ps(t1, t3));
}
