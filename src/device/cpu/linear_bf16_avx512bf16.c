/* linear_bf16_avx512bf16.c - bf16 weights times rows of bf16 for AVX-512 with BF16. Weights and
 * rows are read as they lie, and as in linear_avx512.c the lanes of a register are columns.
 *
 * x is [rows][padded columns]. Functions marked INLINE are templates. */
#if defined __x86_64__
#include "device/cpu/linear.h"
#include "device/cpu/sum_avx512.h"

#include <string.h>

#define UNROLL _Pragma("GCC unroll 16")

enum { OUTS = 4, ROWS = 6 };         /* of a micro tile, whose lanes stay in registers */

INLINE __mmask32 first(int64_t n) {
    return n >= 32 ? 0xffffffff : (__mmask32)((1u << n) - 1);
}

static void round_rows(uint16_t *chunk, int rows, int r, int n, const float *const *x,
                       int64_t cols) {
    (void)rows;
    const int64_t padded = (cols + BF16_STEP - 1) / BF16_STEP * BF16_STEP;
    for (int i = 0; i < n; i++) {
        for (int64_t c = 0; c < padded; c += 16) {
            const __mmask16 here = (__mmask16)first(MIN(16, MAX(0, cols - c)));
            const __m256bh v = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(here, x[i] + c));
            _mm256_store_si256((__m256i *)(void *)(chunk + (r + i) * padded + c), (__m256i)v);
        }
    }
}

/* OUTS rows of w at `w`, times `rows` rows of x. The memory is asked for what lies `ahead` bytes
 * further on; 0: for nothing. */
INLINE void micro_tile(int rows, float *const *y, const unsigned char *const *w,
                       const struct cpu_bf16_block *b, const uint16_t *x, int64_t ahead,
                       __mmask8 mask) {
    const int64_t padded = (b->cols + BF16_STEP - 1) / BF16_STEP * BF16_STEP;
    __m512 a[ROWS][OUTS];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int o = 0; o < OUTS; o++)
            a[r][o] = _mm512_setzero_ps();
    for (int64_t c = 0; c < b->cols; c += BF16_STEP) {
        const __mmask32 here = first(b->cols - c);
        __m512bh v[OUTS];
        UNROLL for (int o = 0; o < OUTS; o++) {
            v[o] = (__m512bh)_mm512_maskz_loadu_epi16(here, w[o] + c * 2);
            if (ahead)
                _mm_prefetch((const char *)((uintptr_t)(w[o] + c * 2) + (uintptr_t)ahead),
                             _MM_HINT_T1);
        }
        UNROLL for (int r = 0; r < rows; r++) {
            const __m512bh xv = (__m512bh)_mm512_load_si512(x + r * padded + c);
            UNROLL for (int o = 0; o < OUTS; o++)
                a[r][o] = _mm512_dpbf16_ps(a[r][o], v[o], xv);
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        _mm_mask_storeu_ps(y[r], mask, sum_4(a[r][0], a[r][1], a[r][2], a[r][3]));
}

static void rows_times(int rows, float *const *y, const unsigned char *const *w,
                       const struct cpu_bf16_block *b, const uint16_t *x, __mmask8 mask) {
    const int64_t ahead = b->rows <= ROWS ? OUTS * b->row_bytes : 0;
    switch (rows) {
    case 1: micro_tile(1, y, w, b, x, ahead, mask); break;
    case 2: micro_tile(2, y, w, b, x, ahead, mask); break;
    case 3: micro_tile(3, y, w, b, x, ahead, mask); break;
    case 4: micro_tile(4, y, w, b, x, ahead, mask); break;
    case 5: micro_tile(5, y, w, b, x, ahead, mask); break;
    default: micro_tile(6, y, w, b, x, ahead, mask); break;
    }
}

/* Past the last row of w that row is taken once more. */
static void multiply(float *const *y, const struct cpu_bf16_block *b) {
    const int64_t padded = (b->cols + BF16_STEP - 1) / BF16_STEP * BF16_STEP;
    for (int o = 0; o < b->outs; o += OUTS) {
        const unsigned char *w[OUTS];
        for (int i = 0; i < OUTS; i++)
            w[i] = b->w + MIN(o + i, b->outs - 1) * b->row_bytes;
        for (int r = 0; r < b->rows; r += ROWS) {
            const int rows = MIN(ROWS, b->rows - r);
            float *to[ROWS];
            for (int i = 0; i < rows; i++)
                to[i] = y[r + i] + o;
            rows_times(rows, to, w, b, b->x + r * padded,
                       (__mmask8)first(MIN(OUTS, b->outs - o)));
        }
    }
}

const struct cpu_bf16_kernels cpu_bf16_avx512 = {
    .rows = 8 * ROWS, .outs = 16, .outs_many = 16, .round = round_rows, .multiply = multiply,
    .chains = &cpu_chains_avx512_bf16,
};
#endif
