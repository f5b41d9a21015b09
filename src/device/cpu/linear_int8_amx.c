/* linear_int8_amx.c - the int8 kernels of `linear` for AMX: 16 rows of x times a panel of 16 rows
 * of w, 64 columns at a time. Sums of whole numbers are what they are, and what becomes of them
 * is done in the order of linear_int8.h, so the bits are those of all other sets.
 *
 * Tiles want a byte for each value, which `widen` writes. x is [64 columns][rows][64]; wide,
 * [64 columns][2][rows][64], the high parts before the low ones. Few rows are left to AVX-512, and
 * more come in tiles of no fewer than 8. */
#if defined __x86_64__
#include "device/cpu/amx.h"
#include "device/cpu/int8_avx512.h"

#include <assert.h>

enum {
    ROWS = 16, COLS = 64, LINE = 64, QUADS = 8, UNIT = CPU_PACK_COLS, LAG = 3,
    FEW_ROWS = 24                    /* AVX-512 multiplies them as fast */
};

static void store_16(const struct cpu_int8_tile *t, int r, int64_t i, int part, __m128i quads) {
    const int64_t line = (i / COLS * (t->wide ? 2 : 1) + part) * t->rows + r;
    _mm_storeu_si128((__m128i *)(void *)(t->q + line * COLS + i % COLS), quads);
}

static void quantize(const struct cpu_int8_tile *t, int r, const float *x, int64_t cols,
                     int group) {
    if (t->wide)
        quantize_16(true, store_16, t, r, x, cols, group);
    else
        quantize_16(false, store_16, t, r, x, cols, group);
}

INLINE void widen_bits(int bits, byte *to, const struct cpu_panels *p) {
    const int64_t scale_bytes = p->scales == F32 ? 8 * QUANT_PANEL : 4 * QUANT_PANEL;
    const byte *from = p->at;
    for (int g = 0; g < p->groups; g++, to += scale_bytes, from += scale_bytes) {
        memcpy(to, from, (size_t)scale_bytes);
        for (int u = 0; u < p->group / UNIT; u++, to += QUADS * LINE, from += bits * LINE) {
            UNROLL for (int k = 0; k < QUADS; k++)
                _mm512_storeu_si512(to + scale_bytes + k * LINE,
                                    quad(bits, from + scale_bytes, k));
            UNROLL for (int k = 0; k < bits; k++)
                _mm_prefetch((const char *)(p->ahead + (uintptr_t)(from - p->at + k * LINE)),
                             _MM_HINT_T1);
        }
    }
}

static void widen(byte *to, const struct cpu_panels *from) {
    switch (from->bits) {
    case 2: widen_bits(2, to, from); break;
    case 3: widen_bits(3, to, from); break;
    case 4: widen_bits(4, to, from); break;
    case 5: widen_bits(5, to, from); break;
    case 6: widen_bits(6, to, from); break;
    default: widen_bits(8, to, from); break;
    }
}

/* The sums of a group into `to`, by tiles that the group before does not use: C of x in A and w in
 * B, `steps` products. */
#define GROUP_SUMS(C, A, B, to, x, w)                                                              \
    do {                                                                                           \
        AMX_ZERO(C);                                                                               \
        for (int i = 0; i < steps; i++) {                                                          \
            AMX_LOAD(A, (x) + i * x_step, COLS);                                                   \
            AMX_LOAD(B, (w) + i * COLS * QUANT_PANEL, LINE);                                       \
            AMX_INT8(C, A, B);                                                                     \
        }                                                                                          \
        AMX_STORE(C, to, LINE);                                                                    \
    } while (0)

/* The same for both parts of wide rows: C and D. */
#define GROUP_SUMS_WIDE(C, D, A, B, to, x, w)                                                      \
    do {                                                                                           \
        AMX_ZERO(C);                                                                               \
        AMX_ZERO(D);                                                                               \
        for (int i = 0; i < steps; i++) {                                                          \
            AMX_LOAD(B, (w) + i * COLS * QUANT_PANEL, LINE);                                       \
            AMX_LOAD(A, (x) + i * x_step, COLS);                                                   \
            AMX_INT8(C, A, B);                                                                     \
            AMX_LOAD(A, (x) + i * x_step + x_step / 2, COLS);                                      \
            AMX_INT8(D, A, B);                                                                     \
        }                                                                                          \
        AMX_STORE(C, (to)[0], LINE);                                                               \
        AMX_STORE(D, (to)[1], LINE);                                                               \
    } while (0)

/* f[r] += one group: its sums, its scales and biases at `at`, those of rows at xs and xb. */
INLINE void add_group(int rows, bool wide, __m512 f[ROWS], int32_t (*sums)[ROWS][QUANT_PANEL],
                      enum dtype dtype, const byte *at, const float *xs, const float *xb) {
    const __m512 s = scales_16(dtype, at);
    const __m512 b = scales_16(dtype, at + QUANT_PANEL * (dtype == F32 ? 4 : 2));
    UNROLL for (int r = 0; r < rows; r++) {
        __m512i v = _mm512_load_si512(sums[0][r]);
        if (wide)
            v = _mm512_add_epi32(_mm512_slli_epi32(v, 8), _mm512_load_si512(sums[1][r]));
        f[r] = _mm512_fmadd_ps(b, _mm512_set1_ps(xb[r]), f[r]);
        f[r] = _mm512_fmadd_ps(_mm512_mul_ps(s, _mm512_set1_ps(xs[r])), _mm512_cvtepi32_ps(v),
                               f[r]);
    }
}

/* One panel; y is [rows][16]. What a tile stored cannot be read before it is in the cache, so the
 * sums of a group wait for LAG others. */
INLINE void multiply_panel(int rows, bool wide, float (*y)[QUANT_PANEL],
                           const struct cpu_panels *w, const byte *at,
                           const struct cpu_int8_tile *t) {
    const int64_t scale_bytes = w->scales == F32 ? 8 * QUANT_PANEL : 4 * QUANT_PANEL;
    const int64_t group_bytes = scale_bytes + w->group * QUANT_PANEL;
    const int64_t x_step = COLS * rows * (wide ? 2 : 1);
    const int steps = w->group > COLS ? w->group / COLS : 1;
    _Alignas(LINE) int32_t sums[LAG + 1][2][ROWS][QUANT_PANEL];
    __m512 f[ROWS];
    UNROLL for (int r = 0; r < rows; r++)
        f[r] = _mm512_load_ps(y[r]);
    for (int g = 0; g < w->groups + LAG; g++) {
        if (g < w->groups) {
            const int64_t c = (int64_t)g * w->group;
            const int8_t *x = t->q + c / COLS * x_step + c % COLS;
            const byte *lines = at + g * group_bytes + scale_bytes;
            if (wide && g % 2)
                GROUP_SUMS_WIDE(4, 5, 6, 7, sums[g % (LAG + 1)], x, lines);
            else if (wide)
                GROUP_SUMS_WIDE(0, 1, 2, 3, sums[g % (LAG + 1)], x, lines);
            else if (g % 2)
                GROUP_SUMS(4, 6, 7, sums[g % (LAG + 1)][0], x, lines);
            else
                GROUP_SUMS(0, 2, 3, sums[g % (LAG + 1)][0], x, lines);
        }
        const int done = g - LAG;
        if (done >= 0)
            add_group(rows, wide, f, sums[done % (LAG + 1)], w->scales, at + done * group_bytes,
                      t->scale + done * rows, t->sum + done * rows);
    }
    UNROLL for (int r = 0; r < rows; r++)
        _mm512_store_ps(y[r], f[r]);
}

typedef void panel_times(float (*)[QUANT_PANEL], const struct cpu_panels *, const byte *,
                         const struct cpu_int8_tile *);

#define KERNEL(rows, wide)                                                                         \
    static void times_##rows##_##wide(float (*y)[QUANT_PANEL], const struct cpu_panels *w,         \
                                      const byte *at, const struct cpu_int8_tile *t) {             \
        multiply_panel(rows, wide, y, w, at, t);                                                   \
    }
#define BOTH(rows) KERNEL(rows, 0) KERNEL(rows, 1)
BOTH(8) BOTH(9) BOTH(10) BOTH(11) BOTH(12) BOTH(13) BOTH(14) BOTH(15) BOTH(16)

static panel_times *const kernels[2][ROWS + 1] = {
    { [8] = times_8_0, times_9_0, times_10_0, times_11_0, times_12_0, times_13_0, times_14_0,
      times_15_0, times_16_0 },
    { [8] = times_8_1, times_9_1, times_10_1, times_11_1, times_12_1, times_13_1, times_14_1,
      times_15_1, times_16_1 },
};

static void multiply(float *const *y, const struct cpu_panels *w, const struct cpu_int8_tile *t,
                     bool more) {
    assert(w->bits == 8 && t->rows >= 8);
    struct amx_config c = { 0 };
    const int cols = MIN(w->group, COLS);
    for (int i = 0; i < 8; i += 4) {
        amx_shape(&c, i, t->rows, LINE);                 /* sums, */
        amx_shape(&c, i + 1, t->rows, LINE);             /* those of the low parts, */
        amx_shape(&c, i + 2, t->rows, cols);             /* rows of x, rows of w */
        amx_shape(&c, i + 3, cols / 4, LINE);
    }
    amx_configure(&c);
    for (int p = 0; p * QUANT_PANEL < w->outs; p++) {
        _Alignas(LINE) float f[ROWS][QUANT_PANEL];
        const int begin = p * QUANT_PANEL;
        const __mmask16 mask = (__mmask16)(0xffff >> (16 - MIN(16, w->outs - begin)));
        for (int r = 0; r < t->rows; r++)
            _mm512_store_ps(f[r], _mm512_maskz_loadu_ps(more ? mask : 0, y[r] + begin));
        kernels[t->wide][t->rows](f, w, w->at + p * w->stride, t);
        for (int r = 0; r < t->rows; r++)
            _mm512_mask_storeu_ps(y[r] + begin, mask, _mm512_load_ps(f[r]));
    }
    amx_release();
}

const struct cpu_int8_kernels cpu_int8_amx = {
    .rows = ROWS, .rows_wide = ROWS, .panels = INT8_PANELS,
    .few = &cpu_int8_avx512, .few_rows = FEW_ROWS,
    .quantize = quantize, .weave = cpu_int8_weave_avx2, .widen = widen, .multiply = multiply,
};
#endif
