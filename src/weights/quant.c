/* quant.c - groups of quantized weights, packing and unpacking, and float formats in plain C. */
#include "weights/quant.h"
#include "device/small_float.h"
#include <assert.h>
#include <math.h>
#include <string.h>

bool quant_bits_ok(int64_t bits) {
    return bits >= 2 && bits <= 8 && bits != 7;
}

bool quant_group_ok(int64_t group) {
    return group == 32 || group == 64 || group == 128;
}

/* Subnormals become normal floats by the exact product mantissa * 2^-24. */
static float half_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023;
    if (!exponent) return (sign ? -1.0f : 1.0f) * (float)mantissa * 0x1p-24f;
    exponent = exponent == 31 ? 255 : exponent + 112;
    return small_from_bits(sign | exponent << 23 | mantissa << 13);
}

void floats_of(float *out, const void *at, enum dtype dtype, size_t n) {
    const char *p = at;
    const uint8_t *bytes = at;
    assert(dtype == F32 || dtype == F16 || dtype == BF16 || dtype == FP8 || dtype == U8);
    for (size_t i = 0; i < n && dtype == FP8; i++) out[i] = float_of_e4m3(bytes[i]);
    for (size_t i = 0; i < n && dtype == U8; i++) out[i] = float_of_e8m0(bytes[i]);
    if (dtype == FP8 || dtype == U8) return;
    /* A tensor may lie at any address, and an empty one at none. */
    if (dtype == F32) {
        if (n) memcpy(out, p, n * sizeof *out);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + i * sizeof h, sizeof h);
        out[i] = dtype == BF16 ? small_from_bits((uint32_t)h << 16) : half_float(h);
    }
}

uint16_t bf16_of(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    /* Rounding could carry a NaN's mantissa over into an infinity. */
    if (f != f) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* Value i of the packed stream; never reads a byte past it. */
static unsigned packed(const uint8_t *at, size_t i, unsigned bits) {
    size_t first = i * bits, byte = first / 8;
    unsigned shift = (unsigned)(first % 8), word = at[byte];
    /* The next byte is read only if the value reaches into it: the last one has none after. */
    if (shift + bits > 8) word |= (unsigned)at[byte + 1] << 8;
    return word >> shift & ((1u << bits) - 1);
}

/* The number of the scale for element `at` of a quantized tensor. */
static size_t scale_of(const struct tensor *t, size_t at) {
    const struct quant *q = &t->quant;
    if (t->dtype != FP8) return at / q->group;
    int64_t e = q->first + (int64_t)at, across = (q->cols + q->block_cols - 1) / q->block_cols;
    return (size_t)(e / q->cols / q->block_rows * across + e % q->cols / q->block_cols);
}

void row_of(float *out, const struct tensor *t, int64_t offset, size_t n) {
    size_t at = (size_t)offset, plain = dtype_bytes(t->dtype);
    const struct quant *q = &t->quant;
    if (plain) floats_of(out, (const char *)t->at + at * plain, t->dtype, n);
    if (plain && t->dtype != FP8) return;
    size_t size = dtype_bytes(q->scale_dtype);
    assert(t->dtype == FP8 || at % q->group == 0);
    for (size_t i = 0; i < n; i++) {
        size_t group = scale_of(t, at + i);
        float scale, bias = 0;
        floats_of(&scale, (const char *)q->scales + group * size, q->scale_dtype, 1);
        if (t->dtype == FP8) {
            out[i] *= scale;
            continue;
        }
        unsigned code = packed(t->at, at + i, q->bits);
        if (q->biases)
            floats_of(&bias, (const char *)q->biases + group * size, q->scale_dtype, 1);
        out[i] = t->dtype == MLX_AFFINE ? (float)code * scale + bias
                                        : float_of_e2m1(code) * scale;
    }
}

void quant_group(const float *w, int group, int bits, uint8_t *out, float *scale_out,
                 float *bias_out) {
    assert(quant_bits_ok(bits) && quant_group_ok(group));
    float low = w[0], high = w[0], top = (float)((1 << bits) - 1);
    for (int i = 1; i < group; i++) {
        low = w[i] < low ? w[i] : low;
        high = w[i] > high ? w[i] : high;
    }
    /* The end of larger magnitude is kept exact, and zero falls on a step. */
    bool from_low = fabsf(low) > fabsf(high);
    float scale = fmaxf((high - low) / top, 1e-7f);
    if (!from_low) scale = -scale;
    float edge = from_low ? low : high, q0 = rintf(edge / scale), bias = 0;
    /* The scale is bent so that the edge is a whole number of steps away from zero. */
    if (q0 != 0) {
        scale = edge / q0;
        bias = edge;
    }
    uint8_t q[QUANT_GROUP_MAX];
    for (int i = 0; i < group; i++) {
        float x = (w[i] - bias) / scale;
        x = x > 0 ? x : 0;
        x = x < top ? x : top;
        /* Rounds to nearest even without a call: x is far below 2^22. */
        q[i] = (uint8_t)((x + 0x1.8p23f) - 0x1.8p23f);
    }
    for (int i = 0; i < group; i++) {
        unsigned first = (unsigned)(i * bits), shift = first % 8, value = q[i];
        out[first / 8] = (uint8_t)(out[first / 8] | value << shift);
        if (shift + (unsigned)bits > 8)
            out[first / 8 + 1] = (uint8_t)(out[first / 8 + 1] | value >> (8 - shift));
    }
    *scale_out = scale;
    *bias_out = bias;
}

void quant_mxfp4(const float *w, uint8_t *out, uint8_t *scale) {
    float largest = 0;
    for (int i = 0; i < MXFP4_GROUP; i++) largest = fmaxf(largest, fabsf(w[i]));
    /* The smallest power of two with which nothing is clipped; 1 for zeros. */
    float exponent = largest > 0 ? ceilf(log2f(largest / 6)) : 0;
    *scale = (uint8_t)(fmaxf(-127, fminf(exponent, 127)) + 127);
    float step = float_of_e8m0(*scale);
    for (int i = 0; i < MXFP4_GROUP; i += 2)
        out[i / 2] = (uint8_t)(e2m1_of(w[i] / step) | e2m1_of(w[i + 1] / step) << 4);
}

float quant_fp8_scale(float largest) {
    return largest > 0 ? largest / 448 : 1;
}
