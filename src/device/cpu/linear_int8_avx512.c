/* linear_int8_avx512.c - the int8 kernels of `linear` for AVX-512 with VNNI: a register holds 4
 * columns of each of the 16 rows of a panel, and a product adds to 16 results at once.
 *
 * Functions marked INLINE are templates, as in linear_avx512.c. A tile is [columns / 4][rows][4];
 * wide, [columns / 4][rows][2][4], the high parts before the low ones: two rows in one. */
#if defined __x86_64__
#include "device/cpu/int8_avx512.h"

enum { LINE = 64, PANELS = INT8_PANELS, ROWS = 8, QUADS = 8, UNIT = CPU_PACK_COLS };

static void store_16(const struct cpu_int8_tile *t, int r, int64_t i, int part, __m128i quads) {
    int32_t four[4];
    _mm_storeu_si128((__m128i *)(void *)four, quads);
    UNROLL for (int j = 0; j < 4; j++)
        memcpy(t->q + ((i / 4 + j) * t->rows + r) * 8 + 4 * part, &four[j], sizeof four[j]);
}

static void quantize(const struct cpu_int8_tile *t, int r, const float *x, int64_t cols,
                     int group) {
    if (t->wide)
        quantize_16(true, store_16, t, r, x, cols, group);
    else
        cpu_int8_avx2.quantize(t, r, x, cols, group);
}

INLINE __m512i four_of(const int8_t *at) {
    int32_t four;
    memcpy(&four, at, sizeof four);
    return _mm512_set1_epi32(four);
}

/* a + the products, in place: compilers copy the register of the intrinsic's result, which costs
 * a tenth of the speed here. */
INLINE __m512i add_products(__m512i a, __m512i w, __m512i x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(a) : "v"(w), "v"(x));
    return a;
}

/* The sums of one group for some panels and rows of bytes. A product waits for the one before
 * it, so few of them are summed in `chains` that alternate. */
INLINE void group_sums(int bits, int n_panels, int rows, int chains,
                       __m512i sum[PANELS][ROWS], const byte *const *w, const int8_t *x,
                       int units) {
    __m512i a[4][PANELS][ROWS];
    UNROLL for (int c = 0; c < chains; c++)
        UNROLL for (int p = 0; p < n_panels; p++)
            UNROLL for (int r = 0; r < rows; r++)
                a[c][p][r] = _mm512_setzero_si512();
    for (int u = 0; u < units; u++) {
        UNROLL for (int k = 0; k < QUADS; k++) {
            __m512i v[PANELS];
            UNROLL for (int p = 0; p < n_panels; p++)
                v[p] = quad(bits, w[p] + u * bits * LINE, k);
            UNROLL for (int r = 0; r < rows; r++) {
                const __m512i xv = four_of(x + 4 * (k * rows + r));
                UNROLL for (int p = 0; p < n_panels; p++)
                    a[k % chains][p][r] = add_products(a[k % chains][p][r], v[p], xv);
            }
        }
        x += UNIT * rows;
    }
    UNROLL for (int p = 0; p < n_panels; p++) {
        UNROLL for (int r = 0; r < rows; r++) {
            if (chains == 4) {
                a[0][p][r] = _mm512_add_epi32(a[0][p][r], a[2][p][r]);
                a[1][p][r] = _mm512_add_epi32(a[1][p][r], a[3][p][r]);
            }
            sum[p][r] = chains > 1 ? _mm512_add_epi32(a[0][p][r], a[1][p][r]) : a[0][p][r];
        }
    }
}

/* y is [rows][panels][16]. */
INLINE void multiply_panels(int bits, int n_panels, int rows, bool wide, float *y,
                            const struct cpu_panels *w, const byte *at,
                            const struct cpu_int8_tile *t, uintptr_t ahead) {
    const int size = w->scales == F32 ? 4 : 2, units = w->group / UNIT, parts = wide ? 2 : 1;
    const int chains = n_panels * rows * parts <= 2 ? 4 : n_panels * rows * parts <= 4 ? 2 : 1;
    const int8_t *x = t->q;
    __m512 f[PANELS][ROWS];
    UNROLL for (int p = 0; p < n_panels; p++)
        UNROLL for (int r = 0; r < rows; r++)
            f[p][r] = _mm512_loadu_ps(y + (r * PANELS + p) * QUANT_PANEL);
    for (int g = 0; g < w->groups; g++) {
        __m512i sum[PANELS][ROWS];
        const byte *scales[] = { at, at + w->stride };
        const byte *lines[] = { at + 2 * QUANT_PANEL * size,
                                at + w->stride + 2 * QUANT_PANEL * size };
        for (int i = 0; i < w->pace; i++, ahead += LINE)
            _mm_prefetch((const char *)ahead, _MM_HINT_T0);
        group_sums(bits, n_panels, rows * parts, chains, sum, lines, x, units);
        UNROLL for (int p = 0; p < n_panels; p++) {
            const __m512 s = scales_16(w->scales, scales[p]);
            const __m512 b = scales_16(w->scales, scales[p] + QUANT_PANEL * size);
            UNROLL for (int r = 0; r < rows; r++) {
                const __m512 xs = _mm512_set1_ps(t->scale[g * rows + r]);
                __m512i v = sum[p][r * parts];
                if (wide)
                    v = _mm512_add_epi32(_mm512_slli_epi32(v, 8), sum[p][2 * r + 1]);
                f[p][r] = _mm512_fmadd_ps(b, _mm512_set1_ps(t->sum[g * rows + r]), f[p][r]);
                f[p][r] = _mm512_fmadd_ps(_mm512_mul_ps(s, xs), _mm512_cvtepi32_ps(v), f[p][r]);
            }
        }
        at = lines[0] + units * bits * LINE;
        x += w->group * rows * parts;
    }
    UNROLL for (int p = 0; p < n_panels; p++)
        UNROLL for (int r = 0; r < rows; r++)
            _mm512_storeu_ps(y + (r * PANELS + p) * QUANT_PANEL, f[p][r]);
}

typedef void panels_times(float *, const struct cpu_panels *, const byte *,
                          const struct cpu_int8_tile *, uintptr_t);

/* Few rows take one panel after the other, which is one stream of memory. */
#define KERNEL(bits, panels, rows, wide)                                                           \
    static void times_##bits##_##rows##_##wide(float *y, const struct cpu_panels *w,               \
                                               const byte *at, const struct cpu_int8_tile *t,      \
                                               uintptr_t ahead) {                                  \
        multiply_panels(bits, panels, rows, wide, y, w, at, t, ahead);                             \
    }
#define KERNELS(bits)                                                                              \
    KERNEL(bits, 1, 1, 0) KERNEL(bits, 1, 2, 0) KERNEL(bits, 2, 3, 0) KERNEL(bits, 2, 4, 0)        \
    KERNEL(bits, 2, 5, 0) KERNEL(bits, 2, 6, 0) KERNEL(bits, 2, 7, 0) KERNEL(bits, 2, 8, 0)        \
    KERNEL(bits, 1, 1, 1) KERNEL(bits, 2, 2, 1) KERNEL(bits, 2, 3, 1) KERNEL(bits, 2, 4, 1)
KERNELS(2)
KERNELS(3)
KERNELS(4)
KERNELS(5)
KERNELS(6)
KERNELS(8)

#define ROW(bits)                                                                                  \
    [bits] = { { times_##bits##_1_0, times_##bits##_2_0, times_##bits##_3_0, times_##bits##_4_0,   \
                 times_##bits##_5_0, times_##bits##_6_0, times_##bits##_7_0, times_##bits##_8_0 }, \
               { times_##bits##_1_1, times_##bits##_2_1, times_##bits##_3_1, times_##bits##_4_1 } }
static panels_times *const kernels[9][2][ROWS] = { ROW(2), ROW(3), ROW(4),
                                                   ROW(5), ROW(6), ROW(8) };

INLINE __mmask16 first(int n) {
    return n >= 16 ? 0xffff : (__mmask16)((1u << MAX(n, 0)) - 1);
}

static void multiply(float *const *y, const struct cpu_panels *w, const struct cpu_int8_tile *t,
                     bool more) {
    const int together = t->rows * (t->wide ? 2 : 1) <= 2 ? 1 : PANELS;
    const int panels = (w->outs + QUANT_PANEL - 1) / QUANT_PANEL;
    panels_times *times = kernels[w->bits][t->wide][t->rows - 1];
    for (int p = 0; p < panels; p += together) {
        _Alignas(LINE) float f[ROWS][PANELS][QUANT_PANEL];
        struct cpu_panels part = *w;
        const int begin = p * QUANT_PANEL;
        const __mmask16 mask[PANELS] = { first(w->outs - begin),
                                         first(together > 1 ? w->outs - begin - QUANT_PANEL : 0) };
        for (int r = 0; r < t->rows; r++)
            for (int i = 0; i < together; i++)
                _mm512_store_ps(f[r][i], _mm512_maskz_loadu_ps(more ? mask[i] : 0,
                                                               y[r] + begin + i * QUANT_PANEL));
        /* There may be no second panel: the first one stands in for it. Panels that go by one
         * after the other ask each for its share. */
        if (!mask[1])
            part.stride = 0;
        if (together == 1)
            part.pace = (w->pace + panels - 1) / panels;
        times(f[0][0], &part, w->at + p * w->stride, t,
              w->ahead + (uintptr_t)(p * part.pace * w->groups * LINE));
        for (int r = 0; r < t->rows; r++)
            for (int i = 0; i < together; i++)
                _mm512_mask_storeu_ps(y[r] + begin + i * QUANT_PANEL, mask[i],
                                      _mm512_load_ps(f[r][i]));
    }
}

const struct cpu_int8_kernels cpu_int8_avx512 = {
    .rows = ROWS, .rows_wide = ROWS / 2, .panels = PANELS,
    .quantize = quantize, .weave = cpu_int8_weave_avx2, .multiply = multiply,
};
#endif
