/* chains_avx512.h - the products of many rows for AVX-512: 14 rows times two registers of outputs,
 * 28 sums for 16 loads. The kernels of a kind of words: whoever includes this has defined
 *     WORD                  columns in a word,
 *     product(w, x, sum)    sum + w x, for each lane,
 *     load_x(at, mask)      16 words from floats, of which `mask` are there.
 * For .c files of AVX-512 alone. */
#pragma once
#include "device/cpu/linear_chains.h"
#include "device/cpu/transpose_avx512.h"

#define INLINE static inline __attribute__((always_inline))
#define UNSET __attribute__((uninitialized))
#define UNROLL _Pragma("GCC unroll 16")

enum { LANES = 16, OUTS = 32, ROWS = 14, PARTS = OUTS / LANES,
       AHEAD = 8 * OUTS * sizeof(float) };

typedef __m512 sums_of[ROWS][PARTS];

/* What is stored past a step's rows is the next step's, or fills the lane up. */
static void sort_x(float *group, int64_t quarter, const float *const *x, int rows, int64_t cols) {
    const int64_t steps = (cols + LANES * WORD - 1) / (LANES * WORD);
    const int64_t lane = chains_group_lane(steps, ROWS);
    for (int64_t step = 0; step < steps; step++) {
        const int64_t at = step * LANES * WORD, n = MIN(cols - at, LANES * WORD);
        const uint32_t mask = (uint32_t)((1ull << n) - 1);
        float *to = group + step * ROWS;
        __m512 v[LANES];
        UNROLL for (int r = 0; r < LANES; r++)
            v[r] = load_x(x[MIN(r, rows - 1)] + at, mask);
        transpose_16(v);
        UNROLL for (int l = 0; l < LANES; l++)
            _mm512_storeu_ps(to + l % 4 * quarter + chains_place(l / 4 * 4) * lane, v[l]);
    }
}

/* Memory is asked for what a panel has some steps later, and for the same place in the group that
 * comes next: where there is none, for something else that is not read. */
INLINE void chain(int rows, sums_of a, const float *w, const float *x, int64_t steps) {
    const uintptr_t next = (uintptr_t)(CHAINS_LANES * chains_group_lane(steps, ROWS)) * sizeof *x;
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int p = 0; p < PARTS; p++)
            a[r][p] = _mm512_setzero_ps();
    for (int64_t i = 0; i < steps; i++, w += OUTS, x += ROWS) {
        __m512 v[PARTS];
        UNROLL for (int p = 0; p < PARTS; p++)
            v[p] = _mm512_load_ps(w + p * LANES);
        UNROLL for (int p = 0; p < PARTS; p++)
            _mm_prefetch((const char *)((uintptr_t)(w + p * LANES) + AHEAD), _MM_HINT_T0);
        _mm_prefetch((const char *)((uintptr_t)x + next), _MM_HINT_T1);
        UNROLL for (int r = 0; r < rows; r++) {
            const __m512 xv = _mm512_set1_ps(x[r]);
            UNROLL for (int p = 0; p < PARTS; p++)
                a[r][p] = product(v[p], xv, a[r][p]);
        }
    }
}

INLINE void add_to(int rows, sums_of a, const float *sums) {
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int p = 0; p < PARTS; p++)
            a[r][p] = _mm512_add_ps(_mm512_load_ps(sums + r * OUTS + p * LANES), a[r][p]);
}

INLINE void keep(int rows, float *sums, sums_of a) {
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int p = 0; p < PARTS; p++)
            _mm512_store_ps(sums + r * OUTS + p * LANES, a[r][p]);
}

#include "device/cpu/chains_tree.h"

#define MULTIPLY(rows)                                                                             \
    static void multiply_##rows(float *sums, const float *w, const float *x, int64_t steps,        \
                                bool add) {                                                        \
        multiply_rows(rows, sums, w, x, steps, add);                                               \
    }
MULTIPLY(1) MULTIPLY(2) MULTIPLY(3) MULTIPLY(4) MULTIPLY(5) MULTIPLY(6) MULTIPLY(7) MULTIPLY(8)
MULTIPLY(9) MULTIPLY(10) MULTIPLY(11) MULTIPLY(12) MULTIPLY(13) MULTIPLY(14)

static void multiply(float *sums, const float *w, const float *x, int rows, int64_t steps,
                     bool add) {
    static void (*const of[])(float *, const float *, const float *, int64_t, bool) = {
        multiply_1, multiply_2, multiply_3, multiply_4, multiply_5, multiply_6, multiply_7,
        multiply_8, multiply_9, multiply_10, multiply_11, multiply_12, multiply_13, multiply_14,
    };
    of[rows - 1](sums, w, x, steps, add);
}

static void add(float *y, const float *a, const float *b, int n) {
    for (int i = 0; i < n; i += LANES) {
        const __mmask16 here = (__mmask16)(0xffff >> (LANES - MIN(LANES, n - i)));
        _mm512_mask_storeu_ps(y + i, here, _mm512_add_ps(_mm512_load_ps(a + i),
                                                         _mm512_load_ps(b + i)));
    }
}

#define CHAINS_AVX512                                                                              \
    .outs = OUTS, .rows = ROWS, .word = WORD, .cols_row = 256, .sort = sort, .sort_x = sort_x,     \
    .multiply = multiply, .add = add
