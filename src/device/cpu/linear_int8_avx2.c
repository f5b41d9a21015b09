/* linear_int8_avx2.c - the int8 kernels of `linear` for AVX2: a register holds 4 columns of 8 of
 * the 16 rows of a panel. Products of bytes are added up in 16 bits as often as cannot overflow,
 * then in 32.
 *
 * Functions marked INLINE are templates: called with constants, they become the loop for one
 * format. A tile is [columns / 4][rows][4]; wide, [columns / 4][rows][2][2] numbers of 16 bits,
 * the first and third of 4 columns before the second and fourth. */
#if defined __x86_64__
#include "device/cpu/linear.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

enum { LINE = 64, HALVES = 2, HALF = 32, ROWS = 6, ROWS_WIDE = 5, QUADS = 8, UNIT = CPU_PACK_COLS };

typedef unsigned char byte;

INLINE __m256i load(const void *at) {
    return _mm256_loadu_si256((const __m256i *)at);
}

INLINE __m256i four_of(const void *at) {
    int32_t four;
    memcpy(&four, at, sizeof four);
    return _mm256_set1_epi32(four);
}

/* A sum in place, now: a compiler that puts the additions off keeps more products than there are
 * registers. */
INLINE __m256i add_16(__m256i a, __m256i b) {
    a = _mm256_add_epi16(a, b);
    __asm__("" : "+x"(a));
    return a;
}

INLINE __m256i add_32(__m256i a, __m256i b) {
    a = _mm256_add_epi32(a, b);
    __asm__("" : "+x"(a));
    return a;
}

/* 32 columns of row r from column i, which are 8 quads. */
INLINE void store_32(const struct cpu_int8_tile *t, int r, int64_t i, const __m256i q[4]) {
    const __m256i octets = _mm256_broadcastsi128_si256(
        _mm_set_epi8(15, 13, 11, 9, 14, 12, 10, 8, 7, 5, 3, 1, 6, 4, 2, 0));
    const __m256i v = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]),
                                         _mm256_packs_epi32(q[2], q[3]));
    const __m256i quads = _mm256_shuffle_epi8(
        _mm256_permutevar8x32_epi32(v, _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0)), octets);
    byte *to = (byte *)t->q + (i / 4 * t->rows + r) * 4;
    if (t->rows == 1) {
        _mm256_storeu_si256((__m256i *)(void *)to, quads);
        return;
    }
    int32_t four[QUADS];
    _mm256_storeu_si256((__m256i *)(void *)four, quads);
    UNROLL for (int k = 0; k < QUADS; k++)
        memcpy(to + 4 * k * t->rows, &four[k], sizeof four[k]);
}

/* The same of 16 bits: 0 4 2 6 1 5 3 7 of each octet, in each quad the first and the third. */
INLINE void store_32_wide(const struct cpu_int8_tile *t, int r, int64_t i, const __m256i q[4]) {
    const __m256i pairs = _mm256_broadcastsi128_si256(
        _mm_set_epi8(15, 14, 7, 6, 11, 10, 3, 2, 13, 12, 5, 4, 9, 8, 1, 0));
    byte *to = (byte *)t->q + (i / 4 * t->rows + r) * 8;
    UNROLL for (int j = 0; j < 4; j += 2, to += 32 * t->rows) {
        const __m256i v = _mm256_permute4x64_epi64(_mm256_packs_epi32(q[j], q[j + 1]), 0xd8);
        int64_t four[QUADS / 2];
        _mm256_storeu_si256((__m256i *)(void *)four, _mm256_shuffle_epi8(v, pairs));
        UNROLL for (int k = 0; k < QUADS / 2; k++)
            memcpy(to + 8 * k * t->rows, &four[k], sizeof four[k]);
    }
}

INLINE int32_t sum_8(__m256i v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

INLINE uint32_t max_8(__m256i v) {
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(_mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1)));
}

/* Magnitudes are compared as whole numbers, where a NaN is larger than all. */
static void quantize(const struct cpu_int8_tile *t, int r, const float *x, int64_t cols,
                     int group) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    const float most = t->wide ? INT8_TOP_WIDE : INT8_TOP;
    for (int64_t begin = 0; begin < cols; begin += group) {
        __m256i largest = _mm256_setzero_si256(), sum = largest;
        for (int i = 0; i < group; i += 8)
            largest = _mm256_max_epu32(largest, _mm256_and_si256(load(x + begin + i), magnitude));
        const uint32_t pattern = max_8(largest);
        float top;
        memcpy(&top, &pattern, sizeof top);
        const bool finite = pattern < 0x7f800000, usable = finite && top >= 1e-30f;
        const float scale = usable ? top / most : finite ? 0.0f : __builtin_nanf("");
        const __m256 inverse = _mm256_set1_ps(usable ? most / top : 0.0f);
        const __m256 keep = _mm256_castsi256_ps(_mm256_set1_epi32(usable ? -1 : 0));
        for (int i = 0; i < group; i += UNIT) {
            __m256i q[4];
            UNROLL for (int j = 0; j < 4; j++) {
                const __m256 v = _mm256_and_ps(_mm256_loadu_ps(x + begin + i + 8 * j), keep);
                q[j] = _mm256_cvtps_epi32(_mm256_mul_ps(v, inverse));
                sum = _mm256_add_epi32(sum, q[j]);
            }
            if (t->wide)
                store_32_wide(t, r, begin + i, q);
            else
                store_32(t, r, begin + i, q);
        }
        t->scale[begin / group * t->rows + r] = scale;
        t->sum[begin / group * t->rows + r] = scale * (float)sum_8(sum);
    }
}

/* Some bits of every byte, moved from bit `from` to bit `to`. */
INLINE __m256i field(__m256i v, int from, int to, int width) {
    if (from > to)
        v = _mm256_srli_epi16(v, from - to);
    else if (from < to)
        v = _mm256_slli_epi16(v, to - from);
    return _mm256_and_si256(v, _mm256_set1_epi8((char)(((1 << width) - 1) << to)));
}

/* Quad k of the lines of 32 columns, 8 rows: pack.h says where its planes lie. */
INLINE __m256i quad(int bits, const byte *lines, int k) {
    if (bits == 8)
        return load(lines + k * LINE);
    const __m256i low = bits & 4 ? field(load(lines + k / 2 * LINE), k % 2 * 4, 0, 4)
                                 : field(load(lines + k / 4 * LINE), k % 4 * 2, 0, 2);
    switch (bits) {
    case 3: return _mm256_or_si256(low, field(load(lines + 2 * LINE), k, 2, 1));
    case 5: return _mm256_or_si256(low, field(load(lines + 4 * LINE), k, 4, 1));
    case 6: return _mm256_or_si256(low, field(load(lines + (4 + k / 4) * LINE), k % 4 * 2, 4, 2));
    default: return low;
    }
}

/* The sums of one group for 16 rows of w. `run` quads are added in 16 bits: 2 * 127 * (2^bits - 1)
 * * run is less than 2^15. Bytes are woven values of at most 6 bits. */
INLINE void group_sums(int bits, int rows, __m256i sum[HALVES][ROWS], const byte *lines,
                       const int8_t *x, int units) {
    const __m256i ones = _mm256_set1_epi16(1);
    const int run = bits <= 4 ? 8 : bits == 5 ? 4 : 2;
    UNROLL for (int r = 0; r < rows; r++)
        sum[0][r] = sum[1][r] = _mm256_setzero_si256();
    for (int u = 0; u < units; u++) {
        UNROLL for (int k = 0; k < QUADS; k += run) {
            __m256i a[HALVES][ROWS];
            UNROLL for (int j = 0; j < run; j++) {
                const __m256i v[] = { quad(bits, lines, k + j), quad(bits, lines + HALF, k + j) };
                UNROLL for (int r = 0; r < rows; r++) {
                    const __m256i xv = four_of(x + 4 * ((k + j) * rows + r));
                    UNROLL for (int h = 0; h < HALVES; h++) {
                        const __m256i p = _mm256_maddubs_epi16(v[h], xv);
                        a[h][r] = j ? add_16(a[h][r], p) : p;
                    }
                }
            }
            UNROLL for (int r = 0; r < rows; r++)
                UNROLL for (int h = 0; h < HALVES; h++)
                    sum[h][r] = add_32(sum[h][r], _mm256_madd_epi16(a[h][r], ones));
        }
        lines += bits * LINE;
        x += UNIT * rows;
    }
}

/* The same for wide rows: bytes become 16 bits, even ones and odd ones apart. */
INLINE void group_sums_wide(int bits, int rows, __m256i sum[HALVES][ROWS], const byte *lines,
                            const int8_t *x, int units) {
    const __m256i low = _mm256_set1_epi16(0xff);
    UNROLL for (int r = 0; r < rows; r++)
        sum[0][r] = sum[1][r] = _mm256_setzero_si256();
    for (int u = 0; u < units; u++) {
        UNROLL for (int k = 0; k < QUADS; k++) {
            UNROLL for (int h = 0; h < HALVES; h++) {
                const __m256i v = quad(bits, lines + h * HALF, k);
                const __m256i even = _mm256_and_si256(v, low), odd = _mm256_srli_epi16(v, 8);
                UNROLL for (int r = 0; r < rows; r++) {
                    const int8_t *at = x + 8 * (k * rows + r);
                    sum[h][r] = add_32(sum[h][r], _mm256_madd_epi16(even, four_of(at)));
                    sum[h][r] = add_32(sum[h][r], _mm256_madd_epi16(odd, four_of(at + 4)));
                }
            }
        }
        lines += bits * LINE;
        x += 2 * UNIT * rows;
    }
}

/* 8 scales. */
INLINE __m256 scales_8(enum dtype dtype, const byte *at) {
    if (dtype == F32)
        return _mm256_loadu_ps((const float *)(const void *)at);
    const __m128i half = _mm_loadu_si128((const __m128i *)(const void *)at);
    if (dtype == F16)
        return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/* One panel times a tile. */
INLINE void multiply_panel(int bits, int rows, bool wide, float *const *f,
                           const struct cpu_panels *w, const byte *at,
                           const struct cpu_int8_tile *t, uintptr_t ahead) {
    const int size = w->scales == F32 ? 4 : 2, units = w->group / UNIT;
    const int8_t *x = t->q;
    for (int g = 0; g < w->groups; g++) {
        __m256i sum[HALVES][ROWS];
        const byte *lines = at + 2 * QUANT_PANEL * size;
        for (int i = 0; i < w->pace; i++, ahead += LINE)
            _mm_prefetch((const char *)ahead, _MM_HINT_T0);
        if (wide)
            group_sums_wide(bits, rows, sum, lines, x, units);
        else
            group_sums(bits, rows, sum, lines, x, units);
        UNROLL for (int h = 0; h < HALVES; h++) {
            const byte *half = at + h * 8 * size;
            const __m256 s = scales_8(w->scales, half);
            const __m256 b = scales_8(w->scales, half + QUANT_PANEL * size);
            UNROLL for (int r = 0; r < rows; r++) {
                const __m256 xs = _mm256_set1_ps(t->scale[g * rows + r]);
                __m256 y = _mm256_loadu_ps(f[r] + 8 * h);
                y = _mm256_fmadd_ps(b, _mm256_set1_ps(t->sum[g * rows + r]), y);
                y = _mm256_fmadd_ps(_mm256_mul_ps(s, xs), _mm256_cvtepi32_ps(sum[h][r]), y);
                _mm256_storeu_ps(f[r] + 8 * h, y);
            }
        }
        at = lines + units * bits * LINE;
        x += w->group * rows * (wide ? 2 : 1);
    }
}

typedef void panel_times(float *const *, const struct cpu_panels *, const byte *,
                         const struct cpu_int8_tile *, uintptr_t);

#define PANEL(bits, rows, wide)                                                                    \
    static void panel_##bits##_##rows##_##wide(float *const *f, const struct cpu_panels *w,        \
                                               const byte *at, const struct cpu_int8_tile *t,      \
                                               uintptr_t ahead) {                                  \
        multiply_panel(bits, rows, wide, f, w, at, t, ahead);                                      \
    }
#define PANELS(bits)                                                                               \
    PANEL(bits, 1, 0) PANEL(bits, 2, 0) PANEL(bits, 3, 0) PANEL(bits, 4, 0)                        \
    PANEL(bits, 5, 0) PANEL(bits, 6, 0)                                                            \
    PANEL(bits, 1, 1) PANEL(bits, 2, 1) PANEL(bits, 3, 1) PANEL(bits, 4, 1) PANEL(bits, 5, 1)
PANELS(2)
PANELS(3)
PANELS(4)
PANELS(5)
PANELS(6)
PANELS(8)

#define ROW(bits)                                                                                  \
    [bits] = { { panel_##bits##_1_0, panel_##bits##_2_0, panel_##bits##_3_0, panel_##bits##_4_0,   \
                 panel_##bits##_5_0, panel_##bits##_6_0 },                                         \
               { panel_##bits##_1_1, panel_##bits##_2_1, panel_##bits##_3_1, panel_##bits##_4_1,   \
                 panel_##bits##_5_1 } }
static panel_times *const panels[9][2][ROWS] = { ROW(2), ROW(3), ROW(4), ROW(5), ROW(6), ROW(8) };

/* The last panel may have fewer rows than y has room for: it gets room of its own. */
static void multiply(float *const *y, const struct cpu_panels *w, const struct cpu_int8_tile *t,
                     bool more) {
    for (int p = 0; p * QUANT_PANEL < w->outs; p++) {
        const int begin = p * QUANT_PANEL, n = MIN(QUANT_PANEL, w->outs - begin);
        float copy[ROWS][QUANT_PANEL], *f[ROWS];
        for (int r = 0; r < t->rows; r++) {
            f[r] = n < QUANT_PANEL ? copy[r] : y[r] + begin;
            if (!more || n < QUANT_PANEL)
                memset(f[r], 0, sizeof copy[r]);
            if (more && n < QUANT_PANEL)
                memcpy(f[r], y[r] + begin, (size_t)n * sizeof **f);
        }
        panels[w->bits][t->wide][t->rows - 1](
            f, w, w->at + p * w->stride, t, w->ahead + (uintptr_t)(p * w->pace * w->groups * LINE));
        for (int r = 0; r < t->rows && n < QUANT_PANEL; r++)
            memcpy(y[r] + begin, f[r], (size_t)n * sizeof **f);
    }
}

/* 16 bytes of 8 rows, as 4 registers of 4 bytes of each row. */
INLINE void weave_half(__m256i to[4], const byte *const *at, int64_t skip) {
    __m256i z[4];
#define PART(i) _mm_loadu_si128((const __m128i *)(const void *)(at[i] + skip))
    UNROLL for (int j = 0; j < 4; j++)
        z[j] = _mm256_inserti128_si256(_mm256_castsi128_si256(PART(j)), PART(4 + j), 1);
#undef PART
    const __m256i low0 = _mm256_unpacklo_epi32(z[0], z[1]);
    const __m256i low1 = _mm256_unpacklo_epi32(z[2], z[3]);
    const __m256i high0 = _mm256_unpackhi_epi32(z[0], z[1]);
    const __m256i high1 = _mm256_unpackhi_epi32(z[2], z[3]);
    to[0] = _mm256_unpacklo_epi64(low0, low1);
    to[1] = _mm256_unpackhi_epi64(low0, low1);
    to[2] = _mm256_unpacklo_epi64(high0, high1);
    to[3] = _mm256_unpackhi_epi64(high0, high1);
}

/* Columns of 4 bits, a multiple of 32: `bytes` bytes of 16 rows to lines. */
INLINE void weave_nibbles(byte *to, const byte *const *at, int64_t skip, int bytes) {
    for (int i = 0; i < bytes; i += 16) {
        UNROLL for (int h = 0; h < HALVES; h++) {
            __m256i v[4];
            weave_half(v, at + 8 * h, skip + i);
            UNROLL for (int j = 0; j < 4; j++)
                _mm256_storeu_si256((__m256i *)(void *)(to + (i / 4 + j) * LINE + h * HALF), v[j]);
        }
    }
}

/* Columns of e2m1, a multiple of 32: `bytes` bytes of 16 rows to lines, 12 + 2 e2m1 each. */
INLINE void weave_codes(byte *to, const byte *const *at, int64_t skip, int bytes) {
    const __m256i values = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    const __m256i low = _mm256_set1_epi8(15);
    for (int i = 0; i < bytes; i += 16) {
        UNROLL for (int h = 0; h < HALVES; h++) {
            __m256i v[4];
            weave_half(v, at + 8 * h, skip + i);
            UNROLL for (int j = 0; j < 4; j++) {
                const __m256i even = _mm256_and_si256(v[j], low);
                const __m256i odd = _mm256_and_si256(_mm256_srli_epi16(v[j], 4), low);
                byte *line = to + (i / 2 + 2 * j) * LINE + h * HALF;
                _mm256_storeu_si256((__m256i *)(void *)line, _mm256_shuffle_epi8(values, even));
                _mm256_storeu_si256((__m256i *)(void *)(line + LINE),
                                    _mm256_shuffle_epi8(values, odd));
            }
        }
    }
}

/* n columns of other widths, 16 at a time: bytes of 16 rows to lines. */
INLINE void weave_bytes(byte *to, const byte *const *at, int64_t skip, int bits, int n) {
    const __m128i octets = _mm_set_epi8(15, 13, 11, 9, 14, 12, 10, 8, 7, 5, 3, 1, 6, 4, 2, 0);
    const uint64_t mask = UINT64_C(0x0101010101010101) * ((1u << bits) - 1);
    for (int r = 0; r < QUANT_PANEL; r++) {
        const byte *from = at[r] + skip;
        for (int i = 0; i < n; i += 16, from += 2 * bits) {
            uint64_t word[2] = { 0 };
            int32_t four[4];
            memcpy(&word[0], from, (size_t)bits);
            memcpy(&word[1], from + bits, (size_t)bits);
            const __m128i v = _mm_set_epi64x((long long)_pdep_u64(word[1], mask),
                                             (long long)_pdep_u64(word[0], mask));
            _mm_storeu_si128((__m128i *)(void *)four, _mm_shuffle_epi8(v, octets));
            UNROLL for (int k = 0; k < 4; k++)
                memcpy(to + (i / 4 + k) * LINE + 4 * r, &four[k], sizeof four[k]);
        }
    }
}

static void weave_values(byte *to, const byte *const *at, int64_t skip, int bits, int n) {
    switch (bits) {
    case 2: weave_bytes(to, at, skip, 2, n); break;
    case 3: weave_bytes(to, at, skip, 3, n); break;
    case 4: weave_nibbles(to, at, skip, n / 2); break;
    case 5: weave_bytes(to, at, skip, 5, n); break;
    case 6: weave_bytes(to, at, skip, 6, n); break;
    default: weave_bytes(to, at, skip, 8, n); break;
    }
}

/* cpu_mxfp4_scale and cpu_mxfp4_bias of 16 rows. */
INLINE void weave_mxfp4_scales(byte *to, const byte *const *at, int64_t g) {
    byte e8m0[QUANT_PANEL];
    UNROLL for (int r = 0; r < QUANT_PANEL; r++)
        e8m0[r] = at[r][g];
#define ALL(n) _mm256_set1_epi16((short)(n))
    const __m256i e = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)e8m0));
    const __m256i tiny = _mm256_slli_epi16(_mm256_add_epi16(e, ALL(1)), 5);      /* of 0 and 1 */
    __m256i scale = _mm256_slli_epi16(_mm256_sub_epi16(e, ALL(1)), 7);
    __m256i bias = _mm256_or_si256(_mm256_slli_epi16(_mm256_add_epi16(e, ALL(2)), 7), ALL(0x8040));
    scale = _mm256_blendv_epi8(scale, tiny, _mm256_cmpgt_epi16(ALL(2), e));
    scale = _mm256_blendv_epi8(scale, ALL(0x7fc0), _mm256_cmpeq_epi16(e, ALL(0xff)));
    bias = _mm256_blendv_epi8(bias, ALL(0x7fc0), _mm256_cmpgt_epi16(e, ALL(252)));
#undef ALL
    _mm256_storeu_si256((__m256i *)(void *)to, scale);
    _mm256_storeu_si256((__m256i *)(void *)(to + 2 * QUANT_PANEL), bias);
}

INLINE void weave_scales(byte *to, const byte *const *at, int64_t skip, int size) {
    UNROLL for (int r = 0; r < QUANT_PANEL; r++)
        memcpy(to + r * size, at[r] + skip, (size_t)size);
}

/* A row past the last is the last once more. */
void cpu_int8_weave_avx2(byte *to, const struct cpu_matrix *m, int64_t row, int rows,
                         int64_t begin, int64_t n) {
    const byte *at[QUANT_PANEL], *scales[QUANT_PANEL], *biases[QUANT_PANEL];
    const int size = m->scale_dtype == F32 ? 4 : 2;
    const bool codes = m->dtype == MXFP4, nibbles = cpu_pack_nibbles(m->dtype, m->bits);
    for (int r = 0; r < QUANT_PANEL; r++) {
        const int64_t i = row + MIN(r, rows - 1);
        at[r] = m->at + i * m->row_bytes;
        scales[r] = m->scales + i * m->scale_row_bytes;
        biases[r] = codes ? NULL : m->biases + i * m->scale_row_bytes;
    }
    for (int64_t c = begin; c < begin + n; c += m->group) {
        const int64_t g = c / m->group;
        if (codes) {
            weave_mxfp4_scales(to, scales, g);
        } else {
            weave_scales(to, scales, g * size, size);
            weave_scales(to + QUANT_PANEL * size, biases, g * size, size);
        }
        to += 2 * QUANT_PANEL * size;
        if (codes)
            weave_codes(to, at, c / 2, m->group / 2);
        else
            weave_values(to, at, c / 8 * m->bits, m->bits, m->group);
        to += (int64_t)m->group * QUANT_PANEL / (nibbles ? 2 : 1);
        if (c % 128 == 0)            /* some lines of each row: the next panel's */
            for (int r = 0; r < QUANT_PANEL; r++)
                for (int i = 0; i < 16 * m->bits; i += LINE)
                    _mm_prefetch((const char *)(at[r] + c / 8 * m->bits + i
                                                + QUANT_PANEL * m->row_bytes), _MM_HINT_T1);
    }
}

const struct cpu_int8_kernels cpu_int8_avx2 = {
    .rows = ROWS, .rows_wide = ROWS_WIDE, .panels = 1,
    .quantize = quantize, .weave = cpu_int8_weave_avx2, .multiply = multiply,
};
#endif
