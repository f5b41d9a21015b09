/* linear_int8_i8mm.c - the int8 kernels of `linear` for ARM with usmmla and usdot (FEAT_I8MM). The
 * first adds 8 columns of 2 rows of w times 2 rows of x to 4 sums: two quads of a quarter are
 * zipped to 8 columns of 2 rows each. A wide row is two rows, high parts before low ones. A single
 * row takes usdot. */
#if defined __aarch64__
enum { ROWS = 8, STEP = 8 };

#include "device/cpu/linear_int8_neon.h"

static void store_wide(const struct cpu_int8_tile *t, int r, int64_t i, int16x8_t q) {
    const int16x8_t high = vshrq_n_s16(vaddq_s16(q, vdupq_n_s16(128)), 8);
    const int16x8_t low = vsubq_s16(q, vshlq_n_s16(high, 8));
    store_8(t->q, 2 * t->rows, 2 * r, i, vmovn_s16(high));
    store_8(t->q, 2 * t->rows, 2 * r + 1, i, vmovn_s16(low));
}

INLINE int32x4_t dot(int32x4_t sum, uint8x16_t w, int8x16_t x, int lane) {
    switch (lane) {                  /* the instruction wants a literal */
    case 0: return vusdotq_laneq_s32(sum, w, x, 0);
    case 1: return vusdotq_laneq_s32(sum, w, x, 1);
    case 2: return vusdotq_laneq_s32(sum, w, x, 2);
    default: return vusdotq_laneq_s32(sum, w, x, 3);
    }
}

INLINE void sum_one(int bits, int n, int32x4_t sum[QUARTERS][ROWS], const byte *lines,
                    const int8_t *x, int units) {
    UNROLL for (int i = 0; i < n; i++)
        sum[i][0] = vdupq_n_s32(0);
    for (int u = 0; u < units; u++, lines += bits * LINE, x += UNIT) {
        const int8x16_t q[] = { vld1q_s8(x), vld1q_s8(x + 16) };
        UNROLL for (int k = 0; k < QUADS; k++)
            UNROLL for (int i = 0; i < n; i++)
                sum[i][0] = dot(sum[i][0], quad(bits, lines + 16 * i, k), q[k / 4], k % 4);
    }
}

/* Rows r and r + 1 of 8 columns; the last one twice. */
INLINE int8x16_t pair(const int8_t *x, int r, int rows) {
    if (r + 1 < rows)
        return vld1q_s8(x + r * STEP);
    return vreinterpretq_s8_s64(vld1q_dup_s64((const int64_t *)(const void *)(x + r * STEP)));
}

/* a[quarter][pair of rows of x][pair of rows of w]. */
INLINE void sum_pairs(int bits, int parts, int n, int32x4_t a[QUARTERS][ROWS / 2][2],
                      const byte *lines, const int8_t *x, int units) {
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int r = 0; r < parts; r += 2)
            a[i][r / 2][0] = a[i][r / 2][1] = vdupq_n_s32(0);
    for (int u = 0; u < units; u++, lines += bits * LINE) {
        UNROLL for (int k = 0; k < QUADS; k += 2, x += STEP * parts) {
            int8x16_t q[ROWS / 2];
            UNROLL for (int r = 0; r < parts; r += 2)
                q[r / 2] = pair(x, r, parts);
            UNROLL for (int i = 0; i < n; i++) {
                const uint32x4_t even = vreinterpretq_u32_u8(quad(bits, lines + 16 * i, k));
                const uint32x4_t odd = vreinterpretq_u32_u8(quad(bits, lines + 16 * i, k + 1));
                const uint8x16_t first = vreinterpretq_u8_u32(vzip1q_u32(even, odd));
                const uint8x16_t last = vreinterpretq_u8_u32(vzip2q_u32(even, odd));
                UNROLL for (int r = 0; r < parts; r += 2) {
                    int32x4_t *to = a[i][r / 2];
                    to[0] = vusmmlaq_s32(to[0], first, q[r / 2]);
                    to[1] = vusmmlaq_s32(to[1], last, q[r / 2]);
                }
            }
        }
    }
}

INLINE void sum_group(int bits, int rows, bool wide, int n, int32x4_t sum[QUARTERS][ROWS],
                      const byte *lines, const int8_t *x, int units) {
    if (rows == 1 && !wide) {
        sum_one(bits, n, sum, lines, x, units);
        return;
    }
    int32x4_t a[QUARTERS][ROWS / 2][2];
    sum_pairs(bits, rows * (wide ? 2 : 1), n, a, lines, x, units);
    UNROLL for (int i = 0; i < n; i++) {
        UNROLL for (int r = 0; r < rows; r++) {
            const int32x4_t *of = a[i][wide ? r : r / 2];
            const int32x4_t first = vuzp1q_s32(of[0], of[1]), last = vuzp2q_s32(of[0], of[1]);
            if (wide)
                sum[i][r] = vaddq_s32(vshlq_n_s32(first, 8), last);
            else
                sum[i][r] = r % 2 ? last : first;
        }
    }
}

PANELS_1(2)
PANELS_1(3)
PANELS_8(4)
PANELS_1(5)
PANELS_1(6)
PANELS_8(8)
static panel_times *const panels[9][2][ROWS] = { UP_TO_1(2), UP_TO_1(3), UP_TO_8(4),
                                                 UP_TO_1(5), UP_TO_1(6), UP_TO_8(8) };

const struct cpu_int8_kernels cpu_int8_i8mm = {
    .rows = ROWS, .rows_wide = ROWS / 2, .panels = 1,
    .quantize = quantize, .weave = weave, .multiply = multiply,
};
#endif
