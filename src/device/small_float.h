/* small_float.h - the numbers of less than 16 bits that weights and their scales are kept in,
 * in plain C: e4m3 (OCP's FP8 without infinities), e2m1 (FP4), e8m0 (a power of two). */
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float small_from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* 4 bits of exponent, bias 7. All ones is the only NaN, so 448 is the largest number. */
static inline float float_of_e4m3(uint8_t b) {
    uint32_t sign = (uint32_t)(b & 0x80) << 24, rest = b & 0x7f;
    if (rest == 0x7f) return small_from_bits(sign | 0x7fc00000);
    if (rest < 8) return (sign ? -1.0f : 1.0f) * (float)rest * 0x1p-9f;
    return small_from_bits(sign | ((rest << 20) + ((127 - 7) << 23)));
}

/* What a half is multiplied with whose bits are e4m3's: the sign, zero, and the others after it. */
#define E4M3_OF_HALF 256

/* The low 4 bits: sign, 2 bits of exponent, one of mantissa. */
static inline float float_of_e2m1(unsigned b) {
    static const float value[] = { 0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3,
                                   -4, -6 };
    return value[b & 15];
}

/* 2^(b - 127), the smallest one subnormal; 255 is NaN. */
static inline float float_of_e8m0(uint8_t b) {
    if (b == 255) return small_from_bits(0x7fc00000);
    return small_from_bits(b ? (uint32_t)b << 23 : 0x00400000);
}

/* To nearest, ties to even; beyond 448 is 448, NaN stays one. */
static inline uint8_t e4m3_of(float f) {
    uint8_t sign = signbit(f) ? 0x80 : 0;
    float size = fabsf(f);
    if (isnan(f)) return sign | 0x7f;
    if (size >= 448) return sign | 0x7e;
    if (size < 0x1p-6f) return (uint8_t)(sign | (int)rintf(size * 0x1p9f));
    uint32_t bits;
    memcpy(&bits, &size, sizeof bits);
    bits += 0x7ffff + (bits >> 20 & 1);          /* may carry into the exponent, as it should */
    return (uint8_t)(sign | (int)((bits >> 20) - ((127 - 7) << 3)));
}

/* To nearest, ties to the even code; beyond 6 is 6. Steps are 1/2 below 2, then 1, then 2. */
static inline uint8_t e2m1_of(float f) {
    const float whole = 0x1.8p23f;               /* added and taken away, it rounds to an integer */
    float size = fminf(fabsf(f), 6);
    float code = size < 2 ? size * 2 : size < 4 ? size + 2 : size / 2 + 4;
    return (uint8_t)((int)((code + whole) - whole) | (signbit(f) ? 8 : 0));
}
