/* quant.h - MLX affine quantization in plain C: the format's definition, used where speed
 * does not matter (loading, making checkpoints, tests).
 *
 * w = q * scale + bias, a scale and a bias for each group of values along a row. A row is
 * a little-endian stream of bits: value i takes bits [i*b, (i+1)*b). */
#pragma once
#include "device/tensor.h"

enum { QUANT_GROUP_MAX = 128 };

bool quant_bits_ok(int64_t bits);        /* 2, 3, 4, 5, 6, 8 */
bool quant_group_ok(int64_t group);      /* 32, 64, 128 */

/* n values of a plain float dtype, at any address, as floats. */
void floats_of(float *out, const void *at, enum dtype, size_t n);
/* Nearest even; NaN stays one. */
uint16_t bf16_of(float);
/* A row (last axis) of a plain or affine tensor as floats; `offset` in elements. */
void row_of(float *out, const struct tensor *, int64_t offset, size_t n);

/* One group as MLX quantizes it, bit for bit. out: group*bits/8 bytes, zeroed before. */
void quant_group(const float *w, int group, int bits, uint8_t *out, float *scale, float *bias);
