/* linear_chains_avx2.c - products of many rows for AVX2 and FMA: 6 rows times two registers of
 * outputs, 12 sums that hide the time a multiply-add takes, for 8 loads, of which a core has two
 * in the time of two multiply-adds. */
#if defined __x86_64__
#include "base/base.h"
#include "device/cpu/linear_chains.h"
#include "device/cpu/load_avx2.h"

#define INLINE static inline __attribute__((always_inline))
#define UNSET __attribute__((uninitialized))

enum { LANES = 16, HALF = 8, OUTS = 16, ROWS = 6 };

typedef __m256 sums_of[ROWS][2];

/* Eight rows of eight columns become eight columns of eight rows. */
INLINE void transpose(__m256 v[HALF]) {
    __m256 a[HALF], b[HALF];
#pragma GCC unroll 4
    for (int i = 0; i < HALF; i += 2) {
        a[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < HALF; i += 4) {
        b[i] = _mm256_shuffle_ps(a[i], a[i + 2], _MM_SHUFFLE(1, 0, 1, 0));
        b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], _MM_SHUFFLE(3, 2, 3, 2));
        b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], _MM_SHUFFLE(1, 0, 1, 0));
        b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], _MM_SHUFFLE(3, 2, 3, 2));
    }
#pragma GCC unroll 4
    for (int i = 0; i < HALF / 2; i++) {
        v[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
        v[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
}

INLINE void sort_plain(float *panel, const unsigned char *w, enum dtype dtype, int64_t stride,
                       int64_t step, int64_t steps, int64_t n) {
    const int64_t lane = chains_panel_lane(steps, OUTS), size = dtype == F32 ? 4 : 2;
    for (int64_t i = 0; i < n; i += LANES, step++) {
#pragma GCC unroll 4
        for (int part = 0; part < 4; part++) {
            const int h = part / 2 * HALF, o = part % 2 * HALF;
            float *to = panel + step * OUTS + o;
            __m256 v[HALF];
#pragma GCC unroll 8
            for (int r = 0; r < HALF; r++)
                v[r] = load_plain(dtype, w + (o + r) * stride + (i + h) * size);
            transpose(v);
#pragma GCC unroll 8
            for (int c = 0; c < HALF; c++)
                _mm256_store_ps(to + chains_place(h + c) * lane, v[c]);
        }
    }
}

static void sort(float *panel, const unsigned char *w, enum dtype dtype, int64_t stride,
                 int64_t step, int64_t steps, int64_t n) {
    if (dtype == F32)
        sort_plain(panel, w, F32, stride, step, steps, n);
    else if (dtype == F16)
        sort_plain(panel, w, F16, stride, step, steps, n);
    else
        sort_plain(panel, w, BF16, stride, step, steps, n);
}

/* What is stored past a step's rows is the next step's, or fills the lane up. */
static void sort_x(float *group, int64_t quarter, const float *const *x, int rows, int64_t cols) {
    const __m256i numbers = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    const int64_t steps = (cols + LANES - 1) / LANES, lane = chains_group_lane(steps, ROWS);
    for (int64_t step = 0; step < steps; step++) {
        for (int h = 0; h < LANES; h += HALF) {
            const int64_t at = MIN(step * LANES + h, cols), n = MIN(cols - at, HALF);
            float *to = group + step * ROWS;
            __m256i some = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), numbers);
            __m256 v[HALF];
#pragma GCC unroll 8
            for (int r = 0; r < HALF; r++) {
                const float *from = x[MIN(r, rows - 1)] + at;
                v[r] = n == HALF ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, some);
            }
            transpose(v);
#pragma GCC unroll 8
            for (int c = 0; c < HALF; c++)
                _mm256_storeu_ps(to + (h + c) % 4 * quarter +
                                     chains_place((h + c) / 4 * 4) * lane, v[c]);
        }
    }
}

INLINE void chain(int rows, sums_of a, const float *w, const float *x, int64_t steps) {
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
        a[r][0] = a[r][1] = _mm256_setzero_ps();
    for (int64_t i = 0; i < steps; i++, w += OUTS, x += ROWS) {
        const __m256 lower = _mm256_load_ps(w), upper = _mm256_load_ps(w + HALF);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            const __m256 v = _mm256_broadcast_ss(x + r);
            a[r][0] = _mm256_fmadd_ps(lower, v, a[r][0]);
            a[r][1] = _mm256_fmadd_ps(upper, v, a[r][1]);
        }
    }
}

INLINE void add_to(int rows, sums_of a, const float *sums) {
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        a[r][0] = _mm256_add_ps(_mm256_load_ps(sums + r * OUTS), a[r][0]);
        a[r][1] = _mm256_add_ps(_mm256_load_ps(sums + r * OUTS + HALF), a[r][1]);
    }
}

INLINE void keep(int rows, float *sums, sums_of a) {
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        _mm256_store_ps(sums + r * OUTS, a[r][0]);
        _mm256_store_ps(sums + r * OUTS + HALF, a[r][1]);
    }
}

#include "device/cpu/chains_tree.h"

static void multiply(float *sums, const float *w, const float *x, int rows, int64_t steps,
                     bool add) {
    switch (rows) {
    case 1: multiply_rows(1, sums, w, x, steps, add); break;
    case 2: multiply_rows(2, sums, w, x, steps, add); break;
    case 3: multiply_rows(3, sums, w, x, steps, add); break;
    case 4: multiply_rows(4, sums, w, x, steps, add); break;
    case 5: multiply_rows(5, sums, w, x, steps, add); break;
    default: multiply_rows(6, sums, w, x, steps, add); break;
    }
}

static void add(float *y, const float *a, const float *b, int n) {
    if (n == OUTS) {
        _mm256_storeu_ps(y, _mm256_add_ps(_mm256_load_ps(a), _mm256_load_ps(b)));
        _mm256_storeu_ps(y + HALF, _mm256_add_ps(_mm256_load_ps(a + HALF),
                                                 _mm256_load_ps(b + HALF)));
        return;
    }
    for (int i = 0; i < n; i++)
        y[i] = a[i] + b[i];
}

const struct cpu_chains_kernels cpu_chains_avx2 = {
    .outs = OUTS,
    .rows = ROWS,
    .word = 1,
    .sort = sort,
    .sort_x = sort_x,
    .multiply = multiply,
    .add = add,
};
#endif
