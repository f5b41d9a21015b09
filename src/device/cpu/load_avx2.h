/* load_avx2.h - eight plain numbers of a weight as floats. */
#pragma once
#include "device/tensor.h"

#include <immintrin.h>

/* F32, F16 or BF16, a constant where it is called; nothing is aligned. */
static inline __attribute__((always_inline)) __m256 load_plain(enum dtype dtype,
                                                               const unsigned char *at) {
    if (dtype == F32)
        return _mm256_castsi256_ps(_mm256_loadu_si256((const __m256i *)(const void *)at));
    const __m128i h = _mm_loadu_si128((const __m128i *)(const void *)at);
    if (dtype == F16)
        return _mm256_cvtph_ps(h);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
