/* linear_neon.c - the kernels of `linear` for NEON: the 16 lanes are four registers,
 * "quarters", in the order of additions that AVX-512 has with one.
 *
 * Functions marked INLINE are templates: called with constants, they become the loop for one
 * format. */
#if defined __aarch64__
#include "device/cpu/linear.h"

#include <arm_neon.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum { QUARTER = CPU_LANES / 4, OUTS = 4, ROWS = 6, GEMV_OUTS = 4, SCALES = 16 };

typedef unsigned char byte;

/* 4 numbers. */
INLINE float32x4_t load_plain(enum dtype dtype, const byte *at) {
    if (dtype == F32)
        return vreinterpretq_f32_u8(vld1q_u8(at));
    const uint16x4_t h = vreinterpret_u16_u8(vld1_u8(at));
    if (dtype == F16)
        return vcvt_f32_f16(vreinterpret_f16_u16(h));
    return vreinterpretq_f32_u32(vshll_n_u16(h, 16));
}

/* The first n of 4 values, zeros after them; nothing past them is read. */
INLINE float32x4_t load_some(enum dtype dtype, const byte *at, int64_t n) {
    byte copy[16] = { 0 };
    if (n > 0)
        memcpy(copy, at, (size_t)MIN(n, QUARTER) * (dtype == F32 ? 4 : 2));
    return load_plain(dtype, copy);
}

INLINE void scales_of(enum dtype dtype, int size, float *to, const byte *at, int64_t n) {
    for (int i = 0; i < SCALES; i += QUARTER) {
        const byte *from = at + MIN(i, n) * size;
        vst1q_f32(to + i, n - i >= QUARTER ? load_plain(dtype, from)
                                           : load_some(dtype, from, n - i));
    }
}

/* n <= 16 numbers of a scale dtype as floats. */
static void load_scales(float *to, const byte *at, enum dtype dtype, int64_t n) {
    if (dtype == BF16)
        scales_of(BF16, 2, to, at, n);
    else if (dtype == F16)
        scales_of(F16, 2, to, at, n);
    else
        scales_of(F32, 4, to, at, n);
}

/* 8 packed values; reads the `bits` bytes that hold them and no more. A value of 3, 5 or 6 bits
 * may cross a byte, so each lane gets the two bytes that it may lie in. */
INLINE uint16x8_t load_packed(int bits, const byte *at) {
    byte pick[16] = { 0 };
    int16_t shift[8] = { 0 };
    uint64_t words = 0;
    memcpy(&words, at, (size_t)bits);
    const uint8x8_t bytes = vcreate_u8(words);
    if (bits == 8)
        return vmovl_u8(bytes);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        pick[2 * i] = (byte)(i * bits / 8);
        pick[2 * i + 1] = (byte)(i * bits / 8 + 1);
        shift[i] = (int16_t)-(i * bits % 8);
    }
    const uint8x16_t pairs = vqtbl1q_u8(vcombine_u8(bytes, vdup_n_u8(0)), vld1q_u8(pick));
    return vandq_u16(vshlq_u16(vreinterpretq_u16_u8(pairs), vld1q_s16(shift)),
                     vdupq_n_u16((uint16_t)((1u << bits) - 1)));
}

struct weights { float32x4_t low, high; };       /* 8 */

INLINE struct weights load_weights(int bits, const byte *at, float32x4_t scale,
                                   float32x4_t bias) {
    const uint16x8_t q = load_packed(bits, at);
    return (struct weights){
        vfmaq_f32(bias, vcvtq_f32_u32(vmovl_u16(vget_low_u16(q))), scale),
        vfmaq_f32(bias, vcvtq_f32_u32(vmovl_high_u16(q)), scale),
    };
}

INLINE void unpack_plain(enum dtype dtype, int size, float *w, const byte *at, int n) {
    int i = 0;
    for (; i + QUARTER <= n; i += QUARTER)
        vst1q_f32(w + i, load_plain(dtype, at + i * size));
    for (; i % CPU_LANES != 0 || i < n; i += QUARTER)
        vst1q_f32(w + i, load_some(dtype, at + MIN(i, n) * size, n - i));
}

/* n is a multiple of the group. */
INLINE void unpack_affine(int bits, float *w, const byte *at, const float *scales,
                          const float *biases, int group, int n) {
    for (int i = 0, g = 0; i < n; g++) {
        const float32x4_t scale = vdupq_n_f32(scales[g]), bias = vdupq_n_f32(biases[g]);
        for (int end = i + group; i < end; i += 8, at += bits) {
            const struct weights v = load_weights(bits, at, scale, bias);
            vst1q_f32(w + i, v.low);
            vst1q_f32(w + i + QUARTER, v.high);
        }
    }
}

/* Floats of 4 and 8 bits are left to generic C, whose products with a scale have the same bits. */
static bool is_small_float(enum dtype dtype) {
    return dtype == FP8 || dtype == MXFP4 || dtype == NVFP4;
}

static void unpack(float *w, const struct cpu_matrix *m, int64_t row, int64_t begin, int n) {
    const byte *at = m->at + row * m->row_bytes;
    if (is_small_float(m->dtype)) {
        cpu_kernels_generic.unpack(w, m, row, begin, n);
    } else if (m->dtype == F32) {
        unpack_plain(F32, 4, w, at + begin * 4, n);
    } else if (m->dtype == F16) {
        unpack_plain(F16, 2, w, at + begin * 2, n);
    } else if (m->dtype == BF16) {
        unpack_plain(BF16, 2, w, at + begin * 2, n);
    } else {
        float scales[SCALES], biases[SCALES];
        int64_t size = m->scale_dtype == F32 ? 4 : 2;
        int64_t skip = row * m->scale_row_bytes + begin / m->group * size;
        load_scales(scales, m->scales + skip, m->scale_dtype, n / m->group);
        load_scales(biases, m->biases + skip, m->scale_dtype, n / m->group);
        at += begin / 8 * m->bits;
        switch (m->bits) {
        case 2: unpack_affine(2, w, at, scales, biases, m->group, n); break;
        case 3: unpack_affine(3, w, at, scales, biases, m->group, n); break;
        case 4: unpack_affine(4, w, at, scales, biases, m->group, n); break;
        case 5: unpack_affine(5, w, at, scales, biases, m->group, n); break;
        case 6: unpack_affine(6, w, at, scales, biases, m->group, n); break;
        default: unpack_affine(8, w, at, scales, biases, m->group, n); break;
        }
    }
}

/* One quarter of the lanes of `rows` x OUTS products stays in registers: that a tile is so large
 * that loads do not bound it is worth going by four times. */
INLINE void tile_rows(int rows, float *acc, const float *w, const float *const *x, int n,
                      int quarter) {
    float32x4_t a[ROWS][OUTS], v[OUTS];
    int i = quarter;
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int o = 0; o < OUTS; o++)
            a[r][o] = vld1q_f32(acc + (r * CPU_TILE_OUTS + o) * CPU_LANES + quarter);
    for (; i + QUARTER <= n; i += CPU_LANES) {
#pragma GCC unroll 4
        for (int o = 0; o < OUTS; o++)
            v[o] = vld1q_f32(w + o * CPU_TILE_COLS + i);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            const float32x4_t xv = vld1q_f32(x[r] + i);
#pragma GCC unroll 4
            for (int o = 0; o < OUTS; o++)
                a[r][o] = vfmaq_f32(a[r][o], v[o], xv);
        }
    }
    if (i < n) {
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            const float32x4_t xv = load_some(F32, (const byte *)(x[r] + i), n - i);
#pragma GCC unroll 4
            for (int o = 0; o < OUTS; o++)
                a[r][o] = vfmaq_f32(a[r][o], vld1q_f32(w + o * CPU_TILE_COLS + i), xv);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int o = 0; o < OUTS; o++)
            vst1q_f32(acc + (r * CPU_TILE_OUTS + o) * CPU_LANES + quarter, a[r][o]);
}

static void tile_outs(float *acc, const float *w, const float *const *x, int rows, int n,
                      int quarter) {
    switch (rows) {
    case 1: tile_rows(1, acc, w, x, n, quarter); break;
    case 2: tile_rows(2, acc, w, x, n, quarter); break;
    case 3: tile_rows(3, acc, w, x, n, quarter); break;
    case 4: tile_rows(4, acc, w, x, n, quarter); break;
    case 5: tile_rows(5, acc, w, x, n, quarter); break;
    default: tile_rows(6, acc, w, x, n, quarter); break;
    }
}

static void tile(float *acc, const float *w, const float *const *x, int rows, int outs, int n) {
    for (int r = 0; r < rows; r += ROWS)
        for (int o = 0; o < outs; o += OUTS)
            for (int quarter = 0; quarter < CPU_LANES; quarter += QUARTER)
                tile_outs(acc + (r * CPU_TILE_OUTS + o) * CPU_LANES, w + o * CPU_TILE_COLS, x + r,
                          rows - r, n, quarter);
}

/* Lanes 16 to 4, as the first two steps of the tree. */
INLINE float32x4_t fold(const float32x4_t q[4]) {
    return vaddq_f32(vaddq_f32(q[0], q[2]), vaddq_f32(q[1], q[3]));
}

/* Four sums at once: the last two steps of each. */
INLINE float32x4_t sum_4(float32x4_t t0, float32x4_t t1, float32x4_t t2, float32x4_t t3) {
    const float32x4_t u0 = vaddq_f32(vcombine_f32(vget_low_f32(t0), vget_low_f32(t1)),
                                     vcombine_f32(vget_high_f32(t0), vget_high_f32(t1)));
    const float32x4_t u1 = vaddq_f32(vcombine_f32(vget_low_f32(t2), vget_low_f32(t3)),
                                     vcombine_f32(vget_high_f32(t2), vget_high_f32(t3)));
    return vpaddq_f32(u0, u1);
}

INLINE float32x4_t fold_at(const float *acc) {
    const float32x4_t q[4] = { vld1q_f32(acc), vld1q_f32(acc + 4), vld1q_f32(acc + 8),
                               vld1q_f32(acc + 12) };
    return fold(q);
}

static void sum(float *y, const float *acc, int n) {
    for (int i = 0; i < n; i += 4, acc += 4 * CPU_LANES)
        vst1q_f32(y + i, sum_4(fold_at(acc), fold_at(acc + CPU_LANES),
                               fold_at(acc + 2 * CPU_LANES), fold_at(acc + 3 * CPU_LANES)));
}

INLINE void clear(float32x4_t a[GEMV_OUTS][4]) {
#pragma GCC unroll 4
    for (int o = 0; o < GEMV_OUTS; o++)
#pragma GCC unroll 4
        for (int h = 0; h < 4; h++)
            a[o][h] = vdupq_n_f32(0);
}

/* GEMV_OUTS rows times x. */
INLINE float32x4_t gemv_plain(enum dtype dtype, int size, const byte *const *at, const float *x,
                              int64_t cols) {
    float32x4_t a[GEMV_OUTS][4];
    int64_t i = 0;
    clear(a);
    for (; i + CPU_LANES <= cols; i += CPU_LANES) {
#pragma GCC unroll 4
        for (int h = 0; h < 4; h++) {
            const float32x4_t xv = vld1q_f32(x + i + h * QUARTER);
#pragma GCC unroll 4
            for (int o = 0; o < GEMV_OUTS; o++)
                a[o][h] = vfmaq_f32(a[o][h], load_plain(dtype, at[o] + (i + h * QUARTER) * size),
                                    xv);
        }
    }
#pragma GCC unroll 4
    for (int h = 0; h < 4 && i < cols; h++) {
        const int64_t j = MIN(i + h * QUARTER, cols);
        const float32x4_t xv = load_some(F32, (const byte *)(x + j), cols - j);
#pragma GCC unroll 4
        for (int o = 0; o < GEMV_OUTS; o++)
            a[o][h] = vfmaq_f32(a[o][h], load_some(dtype, at[o] + j * size, cols - j), xv);
    }
    return sum_4(fold(a[0]), fold(a[1]), fold(a[2]), fold(a[3]));
}

struct scale_rows {                  /* of GEMV_OUTS rows */
    const byte *scales[GEMV_OUTS], *biases[GEMV_OUTS];
    enum dtype dtype;
    int group;
};

INLINE float32x4_t gemv_affine(int bits, const byte *const *rows, const struct scale_rows *s,
                               const float *x, int64_t cols) {
    const int64_t groups = cols / s->group, size = s->dtype == F32 ? 4 : 2;
    const byte *at[GEMV_OUTS] = { rows[0], rows[1], rows[2], rows[3] };
    float32x4_t a[GEMV_OUTS][4];
    clear(a);
    for (int64_t begin = 0; begin < groups; begin += SCALES) {
        float scale[GEMV_OUTS][SCALES], bias[GEMV_OUTS][SCALES];
        const int64_t n = MIN(SCALES, groups - begin);
        for (int o = 0; o < GEMV_OUTS; o++) {
            load_scales(scale[o], s->scales[o] + begin * size, s->dtype, n);
            load_scales(bias[o], s->biases[o] + begin * size, s->dtype, n);
        }
        for (int64_t g = 0; g < n; g++) {
            for (const float *end = x + s->group; x < end; x += CPU_LANES) {
#pragma GCC unroll 4
                for (int o = 0; o < GEMV_OUTS; o++) {
                    const float32x4_t sv = vdupq_n_f32(scale[o][g]), bv = vdupq_n_f32(bias[o][g]);
#pragma GCC unroll 2
                    for (int h = 0; h < 4; h += 2, at[o] += bits) {
                        const struct weights w = load_weights(bits, at[o], sv, bv);
                        a[o][h] = vfmaq_f32(a[o][h], w.low, vld1q_f32(x + h * QUARTER));
                        a[o][h + 1] = vfmaq_f32(a[o][h + 1], w.high,
                                                vld1q_f32(x + (h + 1) * QUARTER));
                    }
                }
            }
        }
    }
    return sum_4(fold(a[0]), fold(a[1]), fold(a[2]), fold(a[3]));
}

static float32x4_t gemv_packed(const struct cpu_matrix *m, const byte *const *at,
                               const int64_t *row, const float *x, int64_t cols) {
    struct scale_rows s = { .dtype = m->scale_dtype, .group = m->group };
    for (int o = 0; o < GEMV_OUTS; o++) {
        s.scales[o] = m->scales + row[o] * m->scale_row_bytes;
        s.biases[o] = m->biases + row[o] * m->scale_row_bytes;
    }
    switch (m->bits) {
    case 2: return gemv_affine(2, at, &s, x, cols);
    case 3: return gemv_affine(3, at, &s, x, cols);
    case 4: return gemv_affine(4, at, &s, x, cols);
    case 5: return gemv_affine(5, at, &s, x, cols);
    case 6: return gemv_affine(6, at, &s, x, cols);
    default: return gemv_affine(8, at, &s, x, cols);
    }
}

/* One row of x only. A row past the end of a piece of w is the last one once more. */
static bool few(float *const *y, const struct cpu_matrix *m, int64_t row, int64_t outs,
                const float *const *x_rows, int n_rows, int64_t cols) {
    const float *x = x_rows[0];
    if (n_rows > 1 || is_small_float(m->dtype))
        return false;
    for (int64_t i = 0; i < outs; i += GEMV_OUTS) {
        const byte *at[GEMV_OUTS];
        int64_t rows[GEMV_OUTS];
        float sums[GEMV_OUTS];
        for (int o = 0; o < GEMV_OUTS; o++) {
            rows[o] = row + MIN(i + o, outs - 1);
            at[o] = m->at + rows[o] * m->row_bytes;
        }
        if (m->dtype == F32)
            vst1q_f32(sums, gemv_plain(F32, 4, at, x, cols));
        else if (m->dtype == F16)
            vst1q_f32(sums, gemv_plain(F16, 2, at, x, cols));
        else if (m->dtype == BF16)
            vst1q_f32(sums, gemv_plain(BF16, 2, at, x, cols));
        else
            vst1q_f32(sums, gemv_packed(m, at, rows, x, cols));
        memcpy(y[0] + i, sums, (size_t)MIN(GEMV_OUTS, outs - i) * sizeof *sums);
    }
    return true;
}

/* The sets of ARM differ in the products of bytes alone. */
#define KERNELS(set)                                                                               \
    const struct cpu_kernels cpu_kernels_##set = {                                                 \
        .name = #set,                                                                              \
        .unpack = unpack,                                                                          \
        .tile = tile,                                                                              \
        .sum = sum,                                                                                \
        .few = few,                                                                                \
        .int8 = &cpu_int8_##set,                                                                   \
        .attention = &cpu_attention_neon,                                                          \
        .recurrent = &cpu_recurrent_neon,                                                          \
        .gate = cpu_gate_neon,                                                                     \
    }
KERNELS(neon);
KERNELS(dotprod);
KERNELS(i8mm);
#endif
