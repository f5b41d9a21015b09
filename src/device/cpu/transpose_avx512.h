/* transpose_avx512.h - a matrix of 16 x 16 words on its other side. For .c files of AVX-512
 * alone. */
#pragma once
#include <immintrin.h>

static inline __attribute__((always_inline)) void transpose_16(__m512 a[16]) {
    __m512 t[16], u[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
#pragma GCC unroll 2
        for (int k = 0; k < 2; k++) {
            const __m512d low = _mm512_castps_pd(t[i + k]), high = _mm512_castps_pd(t[i + k + 2]);
            u[i + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            u[i + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    }
    /* A quarter of u[i + k] has four rows of one column: quarters 0, 2 and 1, 3 of all. */
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        const __m512 even[] = { _mm512_shuffle_f32x4(u[k], u[4 + k], 0x88),
                                _mm512_shuffle_f32x4(u[8 + k], u[12 + k], 0x88) };
        const __m512 odd[] = { _mm512_shuffle_f32x4(u[k], u[4 + k], 0xdd),
                               _mm512_shuffle_f32x4(u[8 + k], u[12 + k], 0xdd) };
        a[k] = _mm512_shuffle_f32x4(even[0], even[1], 0x88);
        a[4 + k] = _mm512_shuffle_f32x4(odd[0], odd[1], 0x88);
        a[8 + k] = _mm512_shuffle_f32x4(even[0], even[1], 0xdd);
        a[12 + k] = _mm512_shuffle_f32x4(odd[0], odd[1], 0xdd);
    }
}
