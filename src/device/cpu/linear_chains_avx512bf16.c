/* linear_chains_avx512bf16.c - products of many rows of bf16 for AVX-512 with BF16: a word is two
 * columns, as vdpbf16ps takes them. */
#if defined __x86_64__
#include <immintrin.h>
#include <stdint.h>

enum { WORD = 2 };

static inline __m512 product(__m512 w, __m512 x, __m512 sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
}

static inline __m512 load_x(const float *at, uint32_t mask) {
    return (__m512)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps((__mmask16)(mask >> 16), at + 16),
                                       _mm512_maskz_loadu_ps((__mmask16)mask, at));
}

#include "device/cpu/chains_avx512.h"

static void sort(float *panel, const unsigned char *w, enum dtype dtype, int64_t stride,
                 int64_t step, int64_t steps, int64_t n) {
    const int64_t lane = chains_panel_lane(steps, OUTS);
    (void)dtype;
    for (int64_t i = 0; i < n; i += 2 * LANES, step++) {
        __m512 v[LANES];
        UNROLL for (int r = 0; r < LANES; r++)
            v[r] = _mm512_loadu_ps(w + r * stride + i * 2);
        transpose_16(v);
        UNROLL for (int l = 0; l < LANES; l++)
            _mm512_store_ps(panel + chains_place(l) * lane + step * OUTS, v[l]);
    }
}

const struct cpu_chains_kernels cpu_chains_avx512_bf16 = { CHAINS_AVX512 };
#endif
