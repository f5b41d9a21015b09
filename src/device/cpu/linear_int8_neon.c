/* linear_int8_neon.c - the int8 kernels of `linear` for any 64-bit ARM. Products of bytes are added
 * up in 16 bits as often as cannot overflow, then in 32. Wide rows are numbers of 16 bits and meet
 * weights of as many. */
#if defined __aarch64__
enum { ROWS = 4, STEP = 16 };

#include "device/cpu/linear_int8_neon.h"

static void store_wide(const struct cpu_int8_tile *t, int r, int64_t i, int16x8_t q) {
    int16_t *to = (int16_t *)(void *)t->q + (i / STEP * t->rows + r) * STEP + i % STEP;
    vst1q_s16(to, vuzp1q_s16(q, vextq_s16(q, q, 1)));
}

/* Quad k of a row, twice. */
INLINE int16x8_t quad_wide(const int8_t *x) {
    return vreinterpretq_s16_s64(vld1q_dup_s64((const int64_t *)(const void *)x));
}

/* A register of sums is 4 columns of one row of w. */
INLINE void sum_wide(int bits, int rows, int32x4_t *sum, const byte *lines, const int8_t *x,
                     int units) {
    int32x4_t a[ROWS][4];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int o = 0; o < 4; o++)
            a[r][o] = vdupq_n_s32(0);
    for (int u = 0; u < units; u++, lines += bits * LINE, x += 2 * UNIT * rows) {
        UNROLL for (int k = 0; k < QUADS; k++) {
            const uint8x16_t v = quad(bits, lines, k);
            const int16x8_t first = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(v)));
            const int16x8_t last = vreinterpretq_s16_u16(vmovl_high_u8(v));
            UNROLL for (int r = 0; r < rows; r++) {
                const int16x8_t q = quad_wide(x + 2 * ((k / 4 * rows + r) * STEP + k % 4 * 4));
                a[r][0] = vmlal_s16(a[r][0], vget_low_s16(first), vget_low_s16(q));
                a[r][1] = vmlal_high_s16(a[r][1], first, q);
                a[r][2] = vmlal_s16(a[r][2], vget_low_s16(last), vget_low_s16(q));
                a[r][3] = vmlal_high_s16(a[r][3], last, q);
            }
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        sum[r] = vpaddq_s32(vpaddq_s32(a[r][0], a[r][1]), vpaddq_s32(a[r][2], a[r][3]));
}

/* 4 columns of a row four times. */
INLINE int8x16_t quad_of(const int8_t *x) {
    return vreinterpretq_s8_s32(vld1q_dup_s32((const int32_t *)(const void *)x));
}

/* `run` quads are added in 16 bits, and then neighbours: 2 * 127 * (2^bits - 1) * run is less than
 * 2^15. */
INLINE void sum_narrow(int bits, int rows, int n, int32x4_t sum[QUARTERS][ROWS],
                       const byte *lines, const int8_t *x, int units) {
    const int run = bits <= 4 ? 8 : bits == 5 ? 4 : 2;
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int r = 0; r < rows; r++)
            sum[i][r] = vdupq_n_s32(0);
    for (int u = 0; u < units; u++, lines += bits * LINE, x += UNIT * rows) {
        UNROLL for (int from = 0; from < QUADS; from += run) {
            int16x8_t a[QUARTERS][ROWS][2];
            UNROLL for (int k = from; k < from + run; k++) {
                int8x16_t q[ROWS];
                UNROLL for (int r = 0; r < rows; r++)
                    q[r] = quad_of(x + (k / 4 * rows + r) * STEP + k % 4 * 4);
                UNROLL for (int i = 0; i < n; i++) {
                    const int8x16_t v = vreinterpretq_s8_u8(quad(bits, lines + 16 * i, k));
                    UNROLL for (int r = 0; r < rows; r++) {
                        int16x8_t *to = a[i][r];
                        to[0] = k == from ? vmull_s8(vget_low_s8(v), vget_low_s8(q[r]))
                                          : vmlal_s8(to[0], vget_low_s8(v), vget_low_s8(q[r]));
                        to[1] = k == from ? vmull_high_s8(v, q[r]) : vmlal_high_s8(to[1], v, q[r]);
                    }
                }
            }
            UNROLL for (int i = 0; i < n; i++)
                UNROLL for (int r = 0; r < rows; r++)
                    sum[i][r] = vpadalq_s16(sum[i][r], vpaddq_s16(a[i][r][0], a[i][r][1]));
        }
    }
}

INLINE void sum_group(int bits, int rows, bool wide, int n, int32x4_t sum[QUARTERS][ROWS],
                      const byte *lines, const int8_t *x, int units) {
    if (!wide) {
        sum_narrow(bits, rows, n, sum, lines, x, units);
        return;
    }
    UNROLL for (int i = 0; i < n; i++)
        sum_wide(bits, rows, sum[i], lines + 16 * i, x, units);
}

PANELS_1(2)
PANELS_1(3)
PANELS_4(4)
PANELS_1(5)
PANELS_1(6)
PANELS_4(8)
static panel_times *const panels[9][2][ROWS] = { UP_TO_1(2), UP_TO_1(3), UP_TO_4(4),
                                                 UP_TO_1(5), UP_TO_1(6), UP_TO_4(8) };

const struct cpu_int8_kernels cpu_int8_neon = {
    .rows = ROWS, .rows_wide = ROWS, .panels = 1,
    .quantize = quantize, .weave = weave, .multiply = multiply,
};
#endif
