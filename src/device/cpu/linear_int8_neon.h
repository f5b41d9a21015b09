/* linear_int8_neon.h - what the int8 kernels of `linear` share on ARM: how rows become tiles, how
 * weights become bytes, and what becomes of sums. Included by the files of the sets alone, each of
 * which says first how many rows a tile has at most (ROWS) and how many columns of a row lie
 * together in it (STEP), and then defines store_wide(), sum_group() and the table of its loops.
 *
 * A line of a panel is 4 quarters: a register of 4 columns of 4 rows of w. A tile is
 * [columns / STEP][rows][STEP], each 8 columns in the order of the quads of pack.h.
 *
 * Functions marked INLINE are templates: called with constants, they become the loop for one
 * format. One row has a loop for each number of bits. More rows of 2, 3, 5 or 6 bits meet bytes,
 * which are made of a group at a time. */
#pragma once
#include "device/cpu/linear.h"

#include <arm_neon.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

enum { LINE = 64, QUARTERS = 4, QUADS = 8, UNIT = CPU_PACK_COLS, GROUP_MAX = 128 };

typedef unsigned char byte;

/* 8 columns of row r from column i, when wide: numbers of 16 bits. */
static void store_wide(const struct cpu_int8_tile *, int r, int64_t i, int16x8_t q);

/* sum[quarter][row] of one group for the n quarters of a panel whose first line begins at `lines`.
 * Bytes that meet narrow rows are woven values of at most 6 bits. */
INLINE void sum_group(int bits, int rows, bool wide, int n, int32x4_t sum[QUARTERS][ROWS],
                      const byte *lines, const int8_t *x, int units);

INLINE void store_8(int8_t *q, int rows, int r, int64_t i, int8x8_t v) {
    static const int8_t order[] = { 0, 2, 4, 6, 1, 3, 5, 7 };
    vst1_s8(q + (i / STEP * rows + r) * STEP + i % STEP, vtbl1_s8(v, vld1_s8(order)));
}

/* Magnitudes are compared as whole numbers, where a NaN is larger than all. */
static void quantize(const struct cpu_int8_tile *t, int r, const float *x, int64_t cols,
                     int group) {
    const float most = t->wide ? INT8_TOP_WIDE : INT8_TOP;
    for (int64_t begin = 0; begin < cols; begin += group) {
        uint32x4_t largest = vdupq_n_u32(0);
        int32x4_t sum = vdupq_n_s32(0);
        for (int i = 0; i < group; i += 4)
            largest = vmaxq_u32(largest,
                                vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x + begin + i))));
        const uint32_t pattern = vmaxvq_u32(largest);
        float top;
        memcpy(&top, &pattern, sizeof top);
        const bool finite = pattern < 0x7f800000, usable = finite && top >= 1e-30f;
        const float scale = usable ? top / most : finite ? 0.0f : __builtin_nanf("");
        const float inverse = usable ? most / top : 0.0f;
        for (int64_t i = begin; i < begin + group; i += 8) {
            int32x4_t low = vdupq_n_s32(0), high = low;
            if (usable) {
                low = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i), inverse));
                high = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i + 4), inverse));
            }
            const int16x8_t q = vcombine_s16(vmovn_s32(low), vmovn_s32(high));
            sum = vaddq_s32(sum, vaddq_s32(low, high));
            if (t->wide)
                store_wide(t, r, i, q);
            else
                store_8(t->q, t->rows, r, i, vmovn_s16(q));
        }
        t->scale[begin / group * t->rows + r] = scale;
        t->sum[begin / group * t->rows + r] = scale * (float)vaddvq_s32(sum);
    }
}

/* 16 bytes of 4 rows, which are 4 lines' worth of a quarter. */
INLINE void weave_quarter(byte *to, const byte *const at[4], int64_t skip) {
    int32x4_t v[4];
    UNROLL for (int i = 0; i < 4; i++)
        v[i] = vreinterpretq_s32_u8(vld1q_u8(at[i] + skip));
    const int32x4x2_t even = vzipq_s32(v[0], v[2]), odd = vzipq_s32(v[1], v[3]);
    UNROLL for (int i = 0; i < 2; i++) {
        const int32x4x2_t two = vzipq_s32(even.val[i], odd.val[i]);
        vst1q_u8(to + 2 * i * LINE, vreinterpretq_u8_s32(two.val[0]));
        vst1q_u8(to + (2 * i + 1) * LINE, vreinterpretq_u8_s32(two.val[1]));
    }
}

/* A row past the last is the last once more. That a matrix is neither packed nor has 4 bits is
 * rare. */
static void weave(byte *to, const struct cpu_matrix *m, int64_t row, int rows, int64_t begin,
                  int64_t n) {
    if (!cpu_pack_nibbles(m->dtype, m->bits)) {
        cpu_pack_panel(to, m, 8, row, rows, begin, n);
        return;
    }
    const int size = m->scale_dtype == F32 ? 4 : 2;
    for (int64_t c = begin; c < begin + n; c += m->group) {
        byte *lines = to + 2 * QUANT_PANEL * size;
        const byte *at[QUANT_PANEL];
        for (int r = 0; r < QUANT_PANEL; r++) {
            const int64_t i = row + MIN(r, rows - 1);
            const int64_t skip = i * m->scale_row_bytes + c / m->group * size;
            at[r] = m->at + i * m->row_bytes + c / 2;
            memcpy(to + r * size, m->scales + skip, (size_t)size);
            memcpy(to + (QUANT_PANEL + r) * size, m->biases + skip, (size_t)size);
        }
        for (int i = 0; i < m->group / 2; i += 16)
            UNROLL for (int q = 0; q < QUARTERS; q++)
                weave_quarter(lines + i / 4 * LINE + 16 * q, at + 4 * q, i);
        to = lines + m->group / 2 * QUANT_PANEL;
    }
}

/* Some bits of every byte, moved from bit `from` to bit `to`. */
INLINE uint8x16_t field(uint8x16_t v, int from, int to, int width) {
    if (from > to)
        v = v >> (uint8_t)(from - to);
    else if (from < to)
        v = v << (uint8_t)(to - from);
    return from + width == 8 && to == 0 ? v
                                        : vandq_u8(v, vdupq_n_u8((byte)(((1 << width) - 1) << to)));
}

/* Quad k of the lines of 32 columns, 4 rows: pack.h says where its planes lie. */
INLINE uint8x16_t quad(int bits, const byte *lines, int k) {
    if (bits == 8)
        return vld1q_u8(lines + k * LINE);
    const uint8x16_t low = bits & 4 ? field(vld1q_u8(lines + k / 2 * LINE), k % 2 * 4, 0, 4)
                                    : field(vld1q_u8(lines + k / 4 * LINE), k % 4 * 2, 0, 2);
    switch (bits) {
    case 3: return vorrq_u8(low, field(vld1q_u8(lines + 2 * LINE), k, 2, 1));
    case 5: return vorrq_u8(low, field(vld1q_u8(lines + 4 * LINE), k, 4, 1));
    case 6: return vorrq_u8(low, field(vld1q_u8(lines + (4 + k / 4) * LINE), k % 4 * 2, 4, 2));
    default: return low;
    }
}

/* 4 scales for each of n quarters. */
INLINE void scales_of(int n, float32x4_t *to, enum dtype dtype, const byte *at) {
    if (dtype == F32) {
        UNROLL for (int i = 0; i < n; i++)
            to[i] = vreinterpretq_f32_u8(vld1q_u8(at + 16 * i));
        return;
    }
    uint16x4_t half[QUARTERS];
    UNROLL for (int i = 0; i < n; i++)
        half[i] = vreinterpret_u16_u8(vld1_u8(at + 8 * i));
    UNROLL for (int i = 0; i < n; i++)
        to[i] = dtype == F16 ? vcvt_f32_f16(vreinterpret_f16_u16(half[i]))
                             : vreinterpretq_f32_u32(vshll_n_u16(half[i], 16));
}

/* The panel at `at` times a tile. Half a panel's sums of many rows fill the registers. */
INLINE void multiply_panel(int bits, int rows, bool wide, float (*y)[QUANT_PANEL],
                           const struct cpu_panels *w, const byte *at,
                           const struct cpu_int8_tile *t) {
    const int size = w->scales == F32 ? 4 : 2, units = w->group / UNIT;
    const int n = rows * (wide ? 2 : 1) <= 2 ? QUARTERS : QUARTERS / 2;
    const int8_t *x = t->q;
    const float *x_scale = t->scale, *x_sum = t->sum;
    for (int g = 0; g < w->groups; g++, x_scale += rows, x_sum += rows) {
        const byte *lines = at + 2 * QUANT_PANEL * size;
        /* No compiler shall try to keep y, too, in registers. */
        __asm__("" : "+r"(y));
        UNROLL for (int q = 0; q < QUARTERS; q += n) {
            int32x4_t sum[QUARTERS][ROWS];
            float32x4_t s[QUARTERS], b[QUARTERS];
            sum_group(bits, rows, wide, n, sum, lines + 16 * q, x, units);
            scales_of(n, s, w->scales, at + 4 * q * size);
            scales_of(n, b, w->scales, at + (QUANT_PANEL + 4 * q) * size);
            UNROLL for (int r = 0; r < rows; r++) {
                float *to = y[r] + 4 * q;
                UNROLL for (int i = 0; i < n; i++, to += 4) {
                    const float32x4_t v = vfmaq_n_f32(vld1q_f32(to), b[i], x_sum[r]);
                    vst1q_f32(to, vfmaq_f32(v, vmulq_n_f32(s[i], x_scale[r]),
                                            vcvtq_f32_s32(sum[i][r])));
                }
            }
        }
        at = lines + units * bits * LINE;
        x += w->group * rows * (wide ? 2 : 1);
    }
}

typedef void panel_times(float (*)[QUANT_PANEL], const struct cpu_panels *, const byte *,
                         const struct cpu_int8_tile *);

/* The loops by bits, whether rows are wide, and their number less one. NULL: for bytes only. */
static panel_times *const panels[9][2][ROWS];

#define PANEL(bits, rows, wide)                                                                    \
    static void panel_##bits##_##rows##_##wide(float (*y)[QUANT_PANEL],                            \
                                               const struct cpu_panels *w, const byte *at,         \
                                               const struct cpu_int8_tile *t) {                    \
        multiply_panel(bits, rows, wide, y, w, at, t);                                             \
    }
#define PANELS_1(bits) PANEL(bits, 1, 0) PANEL(bits, 1, 1)
#define PANELS_4(bits)                                                                             \
    PANELS_1(bits) PANEL(bits, 2, 0) PANEL(bits, 3, 0) PANEL(bits, 4, 0)                           \
    PANEL(bits, 2, 1) PANEL(bits, 3, 1) PANEL(bits, 4, 1)
#define PANELS_8(bits)                                                                             \
    PANELS_4(bits) PANEL(bits, 5, 0) PANEL(bits, 6, 0) PANEL(bits, 7, 0) PANEL(bits, 8, 0)
#define UP_TO_1(bits) [bits] = { { panel_##bits##_1_0 }, { panel_##bits##_1_1 } }
#define FOUR(bits, wide)                                                                           \
    panel_##bits##_1_##wide, panel_##bits##_2_##wide, panel_##bits##_3_##wide,                     \
        panel_##bits##_4_##wide
#define UP_TO_4(bits) [bits] = { { FOUR(bits, 0) }, { FOUR(bits, 1) } }
#define UP_TO_8(bits)                                                                              \
    [bits] = { { FOUR(bits, 0), panel_##bits##_5_0, panel_##bits##_6_0, panel_##bits##_7_0,        \
                 panel_##bits##_8_0 }, { FOUR(bits, 1) } }

INLINE void widen_lines(int bits, byte *to, const byte *lines, int units) {
    for (int u = 0; u < units; u++, lines += bits * LINE, to += QUADS * LINE)
        UNROLL for (int k = 0; k < QUADS; k++)
            UNROLL for (int q = 0; q < QUARTERS; q++)
                vst1q_u8(to + k * LINE + 16 * q, quad(bits, lines + 16 * q, k));
}

/* The same in bytes: a group at a time, which stays in the nearest cache. */
static void multiply_widened(float (*y)[QUANT_PANEL], const struct cpu_panels *w, const byte *at,
                             const struct cpu_int8_tile *t) {
    _Alignas(LINE) byte group[2 * QUANT_PANEL * sizeof(float) + GROUP_MAX * QUANT_PANEL];
    const int scales = 2 * QUANT_PANEL * (w->scales == F32 ? 4 : 2), units = w->group / UNIT;
    struct cpu_panels one = *w;
    struct cpu_int8_tile tile = *t;
    one.bits = 8;
    one.groups = 1;
    for (int g = 0; g < w->groups; g++) {
        byte *lines = group + scales;
        memcpy(group, at, (size_t)scales);
        switch (w->bits) {
        case 2: widen_lines(2, lines, at + scales, units); break;
        case 3: widen_lines(3, lines, at + scales, units); break;
        case 5: widen_lines(5, lines, at + scales, units); break;
        default: widen_lines(6, lines, at + scales, units); break;
        }
        panels[8][t->wide][t->rows - 1](y, &one, group, &tile);
        at += scales + units * w->bits * LINE;
        tile.q += w->group * t->rows * (t->wide ? 2 : 1);
        tile.scale += t->rows;
        tile.sum += t->rows;
    }
}

/* The last panel may have fewer rows than 16. */
static void multiply(float *const *y, const struct cpu_panels *w, const struct cpu_int8_tile *t,
                     bool more) {
    panel_times *const times = panels[w->bits][t->wide][t->rows - 1];
    for (int p = 0; p * QUANT_PANEL < w->outs; p++) {
        const int begin = p * QUANT_PANEL, n = MIN(QUANT_PANEL, w->outs - begin);
        float f[ROWS][QUANT_PANEL];
        for (int r = 0; r < t->rows; r++) {
            memset(f[r], 0, sizeof f[r]);
            if (more)
                memcpy(f[r], y[r] + begin, (size_t)n * sizeof **f);
        }
        (times ? times : multiply_widened)(f, w, w->at + p * w->stride, t);
        for (int r = 0; r < t->rows; r++)
            memcpy(y[r] + begin, f[r], (size_t)n * sizeof **f);
    }
}
