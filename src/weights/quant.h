/* quant.h - quantization in plain C: the formats' definition, used where speed does not matter
 * (loading, making checkpoints, tests).
 *
 * MLX's affine mode: w = q * scale + bias, a scale and a bias for each group of values along a
 * row. A row is a little-endian stream of bits: value i takes bits [i*b, (i+1)*b).
 * MXFP4 and NVFP4: w = e2m1 * scale, 4 bits in the same stream, groups of 32 with scales of e8m0,
 * groups of 16 with scales of e4m3. FP8: w = e4m3 * scale, as tensor.h says. */
#pragma once
#include "device/tensor.h"

enum { QUANT_GROUP_MAX = 128, MXFP4_GROUP = 32, NVFP4_GROUP = 16, FP8_BLOCK = 128 };

bool quant_bits_ok(int64_t bits);        /* 2, 3, 4, 5, 6, 8 */
bool quant_group_ok(int64_t group);      /* 32, 64, 128 */

/* n values of a float dtype, at any address, as floats; FP8 is e4m3 and U8 is e8m0. */
void floats_of(float *out, const void *at, enum dtype, size_t n);
/* Nearest even; NaN stays one. */
uint16_t bf16_of(float);
/* n values of a row (last axis) of any kind of weights as floats; `offset` in elements. */
void row_of(float *out, const struct tensor *, int64_t offset, size_t n);

/* One group as MLX quantizes it, bit for bit. out: group*bits/8 bytes, zeroed before. */
void quant_group(const float *w, int group, int bits, uint8_t *out, float *scale, float *bias);
/* One group of MXFP4, with the scale that MLX chooses. out: 16 bytes. */
void quant_mxfp4(const float *w, uint8_t *out, uint8_t *scale);
/* The scale that maps the largest of n values to e4m3's largest; 1 for zeros. */
float quant_fp8_scale(float largest);
