/* vec_neon.h - 16 lanes as four registers of NEON: what vec.h is made of there. */
#pragma once
#include "device/small_float.h"
#include "device/tensor.h"

#include <arm_neon.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

struct vec { float32x4_t a, b, c, d; };

INLINE struct vec vec_set(float f) {
    const float32x4_t x = vdupq_n_f32(f);
    return (struct vec){ x, x, x, x };
}

INLINE struct vec vec_load(const float *p) {
    return (struct vec){ vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12) };
}

/* Four e4m3 that are halves, and so their numbers over 2^8. */
INLINE float32x4_t float_of_halves(uint16x4_t bits) {
    return vmulq_n_f32(vcvt_f32_f16(vreinterpret_f16_u16(bits)), E4M3_OF_HALF);
}

/* 16 numbers that lie at any address, as floats. */
INLINE struct vec vec_whole(enum dtype dtype, const char *at) {
    const uint8_t *p = (const uint8_t *)at;
    if (dtype == F32)
        return (struct vec){ vreinterpretq_f32_u8(vld1q_u8(p)),
                             vreinterpretq_f32_u8(vld1q_u8(p + 16)),
                             vreinterpretq_f32_u8(vld1q_u8(p + 32)),
                             vreinterpretq_f32_u8(vld1q_u8(p + 48)) };
    const uint8x16_t bytes = vld1q_u8(p);
    if (dtype == I8) {
        const int8x16_t x = vreinterpretq_s8_u8(bytes);
        const int16x8_t low = vmovl_s8(vget_low_s8(x)), high = vmovl_high_s8(x);
        return (struct vec){ vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                             vcvtq_f32_s32(vmovl_high_s16(low)),
                             vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                             vcvtq_f32_s32(vmovl_high_s16(high)) };
    }
    if (dtype == FP8) {              /* of the sign's two copies the second goes */
        const int8x16_t x = vreinterpretq_s8_u8(bytes);
        const uint16x8_t keep = vdupq_n_u16(0xbf80);
        const uint16x8_t u = vandq_u16(
            vreinterpretq_u16_s16(vshll_n_s8(vget_low_s8(x), 7)), keep);
        const uint16x8_t v = vandq_u16(vreinterpretq_u16_s16(vshll_high_n_s8(x, 7)), keep);
        return (struct vec){ float_of_halves(vget_low_u16(u)), float_of_halves(vget_high_u16(u)),
                             float_of_halves(vget_low_u16(v)), float_of_halves(vget_high_u16(v)) };
    }
    const uint16x8_t low = vreinterpretq_u16_u8(bytes);
    const uint16x8_t high = vreinterpretq_u16_u8(vld1q_u8(p + 16));
    return (struct vec){ vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(low), 16)),
                         vreinterpretq_f32_u32(vshll_high_n_u16(low, 16)),
                         vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(high), 16)),
                         vreinterpretq_f32_u32(vshll_high_n_u16(high, 16)) };
}

/* The first n of 16, as floats; the others are 0 and not read. */
INLINE struct vec vec_kv(enum dtype dtype, const char *at, int n) {
    const size_t size = dtype == F32 ? 4 : dtype == BF16 ? 2 : 1;
    char copy[64];
    if (n < 16) {
        memset(copy, 0, sizeof copy);
        if (n > 0) memcpy(copy, at, (size_t)n * size);
        at = copy;
    }
    return vec_whole(dtype, at);
}

INLINE void vec_store(float *p, struct vec v, int n) {
    float copy[16];
    float *to = n < 16 ? copy : p;
    vst1q_f32(to, v.a);
    vst1q_f32(to + 4, v.b);
    vst1q_f32(to + 8, v.c);
    vst1q_f32(to + 12, v.d);
    if (n < 16 && n > 0) memcpy(p, copy, (size_t)n * sizeof *p);
}

INLINE struct vec vec_fma(struct vec x, struct vec y, struct vec z) {
    return (struct vec){ vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b),
                         vfmaq_f32(z.c, x.c, y.c), vfmaq_f32(z.d, x.d, y.d) };
}

INLINE struct vec vec_mul(struct vec x, struct vec y) {
    return (struct vec){ vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b), vmulq_f32(x.c, y.c),
                         vmulq_f32(x.d, y.d) };
}

INLINE struct vec vec_add(struct vec x, struct vec y) {
    return (struct vec){ vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b), vaddq_f32(x.c, y.c),
                         vaddq_f32(x.d, y.d) };
}

INLINE struct vec vec_sub(struct vec x, struct vec y) {
    return (struct vec){ vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b), vsubq_f32(x.c, y.c),
                         vsubq_f32(x.d, y.d) };
}

INLINE struct vec vec_div(struct vec x, struct vec y) {
    return (struct vec){ vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b), vdivq_f32(x.c, y.c),
                         vdivq_f32(x.d, y.d) };
}

INLINE struct vec vec_max(struct vec x, struct vec y) {
    return (struct vec){ vmaxq_f32(x.a, y.a), vmaxq_f32(x.b, y.b), vmaxq_f32(x.c, y.c),
                         vmaxq_f32(x.d, y.d) };
}

INLINE struct vec vec_round(struct vec x) {
    return (struct vec){ vrndnq_f32(x.a), vrndnq_f32(x.b), vrndnq_f32(x.c), vrndnq_f32(x.d) };
}

INLINE float32x4_t scale2_quarter(float32x4_t x, float32x4_t n) {
    const int32x4_t e = vshlq_n_s32(vcvtnq_s32_f32(n), 23);
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x), e));
}

/* x * 2^n for whole n; normal numbers. */
INLINE struct vec vec_scale2(struct vec x, struct vec n) {
    return (struct vec){ scale2_quarter(x.a, n.a), scale2_quarter(x.b, n.b),
                         scale2_quarter(x.c, n.c), scale2_quarter(x.d, n.d) };
}

INLINE float32x4_t zero_below_quarter(float32x4_t v, float32x4_t x, float low) {
    const uint32x4_t below = vcltq_f32(x, vdupq_n_f32(low));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), below));
}

INLINE struct vec vec_zero_below(struct vec v, struct vec x, float low) {
    return (struct vec){ zero_below_quarter(v.a, x.a, low), zero_below_quarter(v.b, x.b, low),
                         zero_below_quarter(v.c, x.c, low), zero_below_quarter(v.d, x.d, low) };
}

INLINE struct vec vec_abs(struct vec x) {
    return (struct vec){ vabsq_f32(x.a), vabsq_f32(x.b), vabsq_f32(x.c), vabsq_f32(x.d) };
}

INLINE float32x4_t sign_quarter(float32x4_t v, float32x4_t x) {
    return vbslq_f32(vdupq_n_u32(0x80000000u), x, v);
}

/* v >= 0 with the sign of x */
INLINE struct vec vec_sign(struct vec v, struct vec x) {
    return (struct vec){ sign_quarter(v.a, x.a), sign_quarter(v.b, x.b), sign_quarter(v.c, x.c),
                         sign_quarter(v.d, x.d) };
}

INLINE float32x4_t keep_quarter(float32x4_t x, int begin, int end, float32x4_t y) {
    static const int32_t lanes[4] = { 0, 1, 2, 3 };
    const int32x4_t lane = vld1q_s32(lanes);
    const uint32x4_t in = vandq_u32(vcgeq_s32(lane, vdupq_n_s32(begin)),
                                    vcltq_s32(lane, vdupq_n_s32(end)));
    return vbslq_f32(in, x, y);
}

/* Lanes [begin, end) of x, else those of y. */
INLINE struct vec vec_keep(struct vec x, int begin, int end, struct vec y) {
    return (struct vec){ keep_quarter(x.a, begin, end, y.a),
                         keep_quarter(x.b, begin - 4, end - 4, y.b),
                         keep_quarter(x.c, begin - 8, end - 8, y.c),
                         keep_quarter(x.d, begin - 12, end - 12, y.d) };
}

INLINE float vec_first(struct vec x) {
    return vgetq_lane_f32(x.a, 0);
}

INLINE float vec_sum(struct vec x) {
    const float32x4_t q = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
    return vpadds_f32(vadd_f32(vget_low_f32(q), vget_high_f32(q)));
}

INLINE float vec_largest(struct vec x) {
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.a, x.b), vmaxq_f32(x.c, x.d)));
}
