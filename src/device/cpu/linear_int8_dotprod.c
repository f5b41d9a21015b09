/* linear_int8_dotprod.c - the int8 kernels of `linear` for ARM with sdot (FEAT_DotProd), which adds
 * 4 products of each of 4 rows of w to their sums. A wide row is two rows, high parts before low
 * ones. Weights of 8 bits are multiplied less 128, as signed bytes, and 128 times the sum of the
 * row is added. */
#if defined __aarch64__
enum { ROWS = 8, STEP = 16 };

#include "device/cpu/linear_int8_neon.h"

static void store_wide(const struct cpu_int8_tile *t, int r, int64_t i, int16x8_t q) {
    const int16x8_t high = vshrq_n_s16(vaddq_s16(q, vdupq_n_s16(128)), 8);
    const int16x8_t low = vsubq_s16(q, vshlq_n_s16(high, 8));
    store_8(t->q, 2 * t->rows, 2 * r, i, vmovn_s16(high));
    store_8(t->q, 2 * t->rows, 2 * r + 1, i, vmovn_s16(low));
}

INLINE int32x4_t dot(int32x4_t sum, int8x16_t w, int8x16_t x, int lane) {
    switch (lane) {                  /* the instruction wants a literal */
    case 0: return vdotq_laneq_s32(sum, w, x, 0);
    case 1: return vdotq_laneq_s32(sum, w, x, 1);
    case 2: return vdotq_laneq_s32(sum, w, x, 2);
    default: return vdotq_laneq_s32(sum, w, x, 3);
    }
}

/* sum[i][r] = 128 times the sum of row r of a group. */
INLINE void sum_rows(int rows, int n, int32x4_t sum[QUARTERS][ROWS], const int8_t *x, int units) {
    UNROLL for (int r = 0; r < rows; r++) {
        int32x4_t a = vdupq_n_s32(0);
        for (int c = 0; c < units * UNIT; c += STEP)
            a = vdotq_s32(a, vld1q_s8(x + c * rows + r * STEP), vdupq_n_s8(1));
        a = vdupq_n_s32(128 * vaddvq_s32(a));
        UNROLL for (int i = 0; i < n; i++)
            sum[i][r] = a;
    }
}

INLINE void sum_group(int bits, int rows, bool wide, int n, int32x4_t sum[QUARTERS][ROWS],
                      const byte *lines, const int8_t *x, int units) {
    const int parts = rows * (wide ? 2 : 1);
    const bool less = bits == 8 && wide;
    int32x4_t a[QUARTERS][ROWS];
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int r = 0; r < parts; r++)
            a[i][r] = vdupq_n_s32(0);
    if (less)
        sum_rows(parts, n, a, x, units);
    for (int u = 0; u < units; u++, lines += bits * LINE) {
        UNROLL for (int k = 0; k < QUADS; k += 4, x += STEP * parts) {
            int8x16_t q[ROWS];
            UNROLL for (int r = 0; r < parts; r++)
                q[r] = vld1q_s8(x + r * STEP);
            UNROLL for (int j = 0; j < 4; j++) {
                UNROLL for (int i = 0; i < n; i++) {
                    uint8x16_t v = quad(bits, lines + 16 * i, k + j);
                    if (less)
                        v = veorq_u8(v, vdupq_n_u8(128));
                    UNROLL for (int r = 0; r < parts; r++)
                        a[i][r] = dot(a[i][r], vreinterpretq_s8_u8(v), q[r], j);
                }
            }
        }
    }
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int r = 0; r < rows; r++)
            sum[i][r] = wide ? vaddq_s32(vshlq_n_s32(a[i][2 * r], 8), a[i][2 * r + 1]) : a[i][r];
}

PANELS_1(2)
PANELS_1(3)
PANELS_8(4)
PANELS_1(5)
PANELS_1(6)
PANELS_8(8)
static panel_times *const panels[9][2][ROWS] = { UP_TO_1(2), UP_TO_1(3), UP_TO_8(4),
                                                 UP_TO_1(5), UP_TO_1(6), UP_TO_8(8) };

const struct cpu_int8_kernels cpu_int8_dotprod = {
    .rows = ROWS, .rows_wide = ROWS / 2, .panels = 1,
    .quantize = quantize, .weave = weave, .multiply = multiply,
};
#endif
