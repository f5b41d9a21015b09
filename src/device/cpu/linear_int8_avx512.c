/* linear_int8_avx512.c - the int8 kernels of `linear` for AVX-512 with VNNI: a register holds 4
 * values of each of the 16 rows of a panel, and a product adds to 16 results at once.
 *
 * Functions marked INLINE are templates, as in linear_avx512.c. */
#if defined __x86_64__
#include "device/cpu/linear.h"

#include <immintrin.h>
#include <string.h>

#define UNSET __attribute__((uninitialized))
#define INLINE static inline __attribute__((always_inline))

enum { LINE = 64, PIECE = 16, PREFETCH = 16 };      /* PIECE bytes of a row are woven at a time */

typedef unsigned char byte;

INLINE __mmask16 first(int n) {
    return n >= 16 ? 0xffff : (__mmask16)((1u << MAX(n, 0)) - 1);
}

/* 16 columns of row r from column i into their place. */
INLINE void store_16(const struct cpu_int8_tile *t, int r, int64_t i, __m128i q, bool nibbles) {
    const __m128i even_odd = _mm_set_epi8(15, 13, 11, 9, 14, 12, 10, 8, 7, 5, 3, 1, 6, 4, 2, 0);
    const __m128i halves = _mm_set_epi8(15, 13, 11, 9, 7, 5, 3, 1, 14, 12, 10, 8, 6, 4, 2, 0);
    if (t->stride && nibbles) {
        q = _mm_shuffle_epi8(q, halves);
        int8_t *to = t->q + r * t->stride + (i & ~(int64_t)127) + (i & 127) / 2;
        _mm_storel_epi64((__m128i *)(void *)to, q);
        _mm_storel_epi64((__m128i *)(void *)(to + 64), _mm_srli_si128(q, 8));
    } else if (t->stride) {
        _mm_storeu_si128((__m128i *)(void *)(t->q + r * t->stride + i), q);
    } else {
        int32_t four[4];
        if (nibbles)
            q = _mm_shuffle_epi8(q, even_odd);
        _mm_storeu_si128((__m128i *)(void *)four, q);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            memcpy(t->q + (i + 4 * j) * t->rows + 4 * r, &four[j], sizeof four[j]);
    }
}

/* One group. Magnitudes are compared as whole numbers, where a NaN is larger than all. */
INLINE void quantize_group(const struct cpu_int8_tile *t, int r, const float *x, int64_t begin,
                           int group, bool nibbles) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i largest = _mm512_setzero_si512(), sum = largest;
    for (int i = 0; i < group; i += 16)
        largest = _mm512_max_epu32(
            largest, _mm512_and_si512(_mm512_loadu_si512(x + begin + i), magnitude));
    const uint32_t bits = _mm512_reduce_max_epu32(largest);
    float top;
    memcpy(&top, &bits, sizeof top);
    const bool usable = top >= 1e-30f && bits < 0x7f800000;
    const float scale = usable ? top / 127.0f : bits < 0x7f800000 ? 0.0f : __builtin_nanf("");
    const __m512 inverse = _mm512_set1_ps(usable ? 127.0f / top : 0.0f);
    for (int i = 0; i < group; i += 16) {
        __m512 v = _mm512_maskz_loadu_ps(usable ? 0xffff : 0, x + begin + i);
        __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(v, inverse));
        sum = _mm512_add_epi32(sum, q);
        store_16(t, r, begin + i, _mm512_cvtsepi32_epi8(q), nibbles);
    }
    const int64_t g = begin / group;
    const int64_t at = t->stride ? r * (t->stride / group) + g : g * t->rows + r;
    t->scale[at] = scale;
    t->sum[at] = scale * (float)_mm512_reduce_add_epi32(sum);
}

static void quantize(const struct cpu_int8_tile *t, int r, const float *x, int64_t cols, int group,
                     int bits) {
    for (int64_t begin = 0; begin < cols; begin += group)
        quantize_group(t, r, x, begin, group, bits == 4);
    for (int64_t i = cols; i < t->stride; i += 16)
        store_16(t, r, i, _mm_setzero_si128(), bits == 4);
    for (int64_t i = cols; i < t->stride; i += group) {
        t->scale[(r * t->stride + i) / group] = 0;
        t->sum[(r * t->stride + i) / group] = 0;
    }
}

/* PIECE bytes of 16 rows, as 4 registers of 4 bytes of each row. */
INLINE void weave_piece(__m512i to[4], const byte *const *at, int64_t skip) {
    __m512i z[4], low[2], high[2];
#define PART(i) _mm_loadu_si128((const __m128i *)(const void *)(at[i] + skip))
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        z[j] = _mm512_castsi128_si512(PART(j));
        z[j] = _mm512_mask_broadcast_i32x4(z[j], 0x00f0, PART(4 + j));
        z[j] = _mm512_mask_broadcast_i32x4(z[j], 0x0f00, PART(8 + j));
        z[j] = _mm512_mask_broadcast_i32x4(z[j], 0xf000, PART(12 + j));
    }
#undef PART
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
        low[j] = _mm512_unpacklo_epi32(z[2 * j], z[2 * j + 1]);
        high[j] = _mm512_unpackhi_epi32(z[2 * j], z[2 * j + 1]);
    }
    to[0] = _mm512_unpacklo_epi64(low[0], low[1]);
    to[1] = _mm512_unpackhi_epi64(low[0], low[1]);
    to[2] = _mm512_unpacklo_epi64(high[0], high[1]);
    to[3] = _mm512_unpackhi_epi64(high[0], high[1]);
}

INLINE void weave_bytes(byte *to, const byte *const *at, int bytes, int64_t ahead) {
    for (int i = 0; i < bytes; i += PIECE) {
        __m512i v[4];
        if (i % LINE == 0 && ahead)
            for (int j = 0; j < INT8_PANEL; j++)
                _mm_prefetch((const char *)(at[j] + i + ahead), _MM_HINT_T0);
        weave_piece(v, at, i);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            _mm512_store_si512(to + (i + 4 * j) * INT8_PANEL, v[j]);
    }
}

/* 4 bytes of each row are one scale, or two of 16 bits. */
INLINE void store_scales(float (*to)[INT8_PANEL], __m512i v, enum dtype dtype) {
    if (dtype == F32) {
        _mm512_store_ps(to[0], _mm512_castsi512_ps(v));
    } else if (dtype == BF16) {
        _mm512_store_ps(to[0], _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)));
        _mm512_store_ps(to[1], _mm512_castsi512_ps(
                                   _mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000))));
    } else {
        _mm512_store_ps(to[0], _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)));
        _mm512_store_ps(to[1], _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(v, 16))));
    }
}

/* `to` has room for the groups of whole pieces. The last piece may end before its PIECE bytes
 * do: it is copied, because what lies behind it may be nobody's. */
static void weave_scales(float (*to)[INT8_PANEL], const byte *const *at, enum dtype dtype,
                         int groups) {
    const int size = dtype == F32 ? 4 : 2, bytes = groups * size;
    _Alignas(16) UNSET byte copy[INT8_PANEL][PIECE];
    const byte *copies[INT8_PANEL];
    for (int i = 0; i < bytes; i += PIECE) {
        __m512i v[4];
        if (i + PIECE <= bytes) {
            weave_piece(v, at, i);
        } else {
            memset(copy, 0, sizeof copy);
            for (int j = 0; j < INT8_PANEL; j++) {
                memcpy(copy[j], at[j] + i, (size_t)(bytes - i));
                copies[j] = copy[j];
            }
            weave_piece(v, copies, 0);
        }
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            store_scales(to + (i + 4 * j) / size, v[j], dtype);
    }
}

/* A row past the last is the last once more. */
static void weave(struct cpu_woven *to, int panel, const struct cpu_matrix *m, int64_t row,
                  int outs, int64_t begin, int n) {
    const byte *at[INT8_PANEL], *scales[INT8_PANEL], *biases[INT8_PANEL];
    const int64_t skip = begin / m->group * (m->scale_dtype == F32 ? 4 : 2);
    for (int i = 0; i < INT8_PANEL; i++) {
        const int64_t r = row + MIN(i, outs - 1);
        at[i] = m->at + r * m->row_bytes + begin / 8 * m->bits;
        scales[i] = m->scales + r * m->scale_row_bytes + skip;
        biases[i] = m->biases + r * m->scale_row_bytes + skip;
    }
    weave_scales(to->scale[panel], scales, m->scale_dtype, n / m->group);
    weave_scales(to->bias[panel], biases, m->scale_dtype, n / m->group);
    if (m->bits == 4 || m->bits == 8) {
        weave_bytes(to->q[panel], at, n / 8 * m->bits, INT8_PANEL * m->row_bytes);
        return;
    }
    UNSET byte values[INT8_PANEL][128];
    for (int done = 0; done < n; done += 32) {
        for (int i = 0; i < INT8_PANEL; i++) {
            cpu_int8_unpack(values[i], at[i] + done / 8 * m->bits, m->bits, 32);
            scales[i] = values[i];
        }
        weave_bytes(to->q[panel] + done * INT8_PANEL, scales, 32, 0);
    }
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

/* The sums of one group: nibbles or bytes, panels x rows of results. */
INLINE void group_sums(int panels, int rows, bool nibbles, __m512i a[INT8_PANELS][INT8_ROWS],
                       const byte *const *w, const int8_t *x, int lines) {
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 2
    for (int p = 0; p < panels; p++)
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++)
            a[p][r] = _mm512_setzero_si512();
    for (int i = 0; i < lines; i++) {
        __m512i v[INT8_PANELS][2];
#pragma GCC unroll 2
        for (int p = 0; p < panels; p++) {
            v[p][0] = _mm512_load_si512(w[p] + i * LINE);
            if (nibbles) {
                v[p][1] = _mm512_and_si512(_mm512_srli_epi16(v[p][0], 4), low);
                v[p][0] = _mm512_and_si512(v[p][0], low);
            }
        }
        const int halves = nibbles ? 2 : 1;
#pragma GCC unroll 2
        for (int h = 0; h < halves; h++)
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                const __m512i xv = four_of(x + 4 * (h * rows + r));
#pragma GCC unroll 2
                for (int p = 0; p < panels; p++)
                    a[p][r] = add_products(a[p][r], v[p][h], xv);
            }
        x += 4 * halves * rows;
    }
}

/* Line by line of a row, row by row: as weave() will read it. */
INLINE void ask_ahead(struct cpu_woven *w) {
    for (int i = 0; i < w->ahead_pace && w->ahead_row < w->ahead_rows; i++) {
        _mm_prefetch((const char *)(w->ahead + (uintptr_t)w->ahead_row * w->ahead_stride
                                    + (uintptr_t)w->ahead_line * LINE), _MM_HINT_T1);
        if (++w->ahead_line == w->ahead_lines)
            w->ahead_line = 0, w->ahead_row++;
    }
}

/* Chain c of panels x rows of results, to be added up later. */
INLINE void run_chain(int panels, int rows, bool nibbles, __m512 f[INT8_PANELS][INT8_ROWS],
                      struct cpu_woven *w, const struct cpu_int8_tile *t, int c, int groups,
                      int group) {
    const int lines = group / (nibbles ? 8 : 4);
#pragma GCC unroll 2
    for (int p = 0; p < panels; p++)
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++)
            f[p][r] = _mm512_setzero_ps();
    for (int g = c; g < groups; g += INT8_CHAINS) {
        __m512i a[INT8_PANELS][INT8_ROWS];
        ask_ahead(w);
        const byte *at[] = { w->q[0] + g * lines * LINE, w->q[1] + g * lines * LINE };
        group_sums(panels, rows, nibbles, a, at, t->q + g * group * rows, lines);
#pragma GCC unroll 2
        for (int p = 0; p < panels; p++) {
            const __m512 s = _mm512_load_ps(w->scale[p][g]), b = _mm512_load_ps(w->bias[p][g]);
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                const __m512 xs = _mm512_set1_ps(t->scale[g * rows + r]);
                f[p][r] = _mm512_fmadd_ps(b, _mm512_set1_ps(t->sum[g * rows + r]), f[p][r]);
                f[p][r] = _mm512_fmadd_ps(_mm512_mul_ps(s, xs), _mm512_cvtepi32_ps(a[p][r]),
                                          f[p][r]);
            }
        }
    }
}

INLINE void multiply_rows(int panels, int rows, bool nibbles, float *const *y,
                          struct cpu_woven *w, const struct cpu_int8_tile *t, int n,
                          int group, const __mmask16 *mask, bool more) {
    UNSET __m512 chain[INT8_CHAINS][INT8_PANELS][INT8_ROWS];
    for (int c = 0; c < INT8_CHAINS; c++) {
        __m512 f[INT8_PANELS][INT8_ROWS];
        run_chain(panels, rows, nibbles, f, w, t, c, n / group, group);
#pragma GCC unroll 2
        for (int p = 0; p < panels; p++)
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++)
                chain[c][p][r] = f[p][r];
    }
    for (int p = 0; p < panels; p++) {
        for (int r = 0; r < rows; r++) {
            for (int half = INT8_CHAINS / 2; half > 0; half /= 2)
                for (int c = 0; c < half; c++)
                    chain[c][p][r] = _mm512_add_ps(chain[c][p][r], chain[c + half][p][r]);
            float *to = y[r] + p * INT8_PANEL;
            if (more)
                chain[0][p][r] = _mm512_add_ps(_mm512_maskz_loadu_ps(mask[p], to), chain[0][p][r]);
            _mm512_mask_storeu_ps(to, mask[p], chain[0][p][r]);
        }
    }
}

INLINE void multiply_of(int panels, bool nibbles, float *const *y, struct cpu_woven *w,
                        const struct cpu_int8_tile *t, int n, int group, const __mmask16 *mask,
                        bool more) {
    switch (t->rows) {
    case 1: multiply_rows(panels, 1, nibbles, y, w, t, n, group, mask, more); break;
    case 2: multiply_rows(panels, 2, nibbles, y, w, t, n, group, mask, more); break;
    case 3: multiply_rows(panels, 3, nibbles, y, w, t, n, group, mask, more); break;
    case 4: multiply_rows(panels, 4, nibbles, y, w, t, n, group, mask, more); break;
    case 5: multiply_rows(panels, 5, nibbles, y, w, t, n, group, mask, more); break;
    default: multiply_rows(panels, 6, nibbles, y, w, t, n, group, mask, more); break;
    }
}

static void multiply(float *const *y, struct cpu_woven *w, const struct cpu_int8_tile *t,
                     int n, int group, int bits, int outs, bool more) {
    const __mmask16 mask[INT8_PANELS] = { first(outs), first(outs - INT8_PANEL) };
    if (bits == 4 && outs > INT8_PANEL)
        multiply_of(2, true, y, w, t, n, group, mask, more);
    else if (bits == 4)
        multiply_of(1, true, y, w, t, n, group, mask, more);
    else if (outs > INT8_PANEL)
        multiply_of(2, false, y, w, t, n, group, mask, more);
    else
        multiply_of(1, false, y, w, t, n, group, mask, more);
}

const struct cpu_int8_kernels cpu_int8_avx512 = {
    .quantize = quantize, .weave = weave, .multiply = multiply, .few = cpu_int8_few_avx512,
};
#endif
