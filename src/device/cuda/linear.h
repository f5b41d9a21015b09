/* linear.h - the two ways in which the CUDA device multiplies: linear.cu, any weights and F32
 * throughout; linear_mma.cu, the tensor cores. Which one serves a matrix depends on the matrix and
 * on --compute, never on how many rows there are. */
#pragma once
#include "device/cuda/cuda.h"

struct cuda_rows {
    const float *x, *bias;           /* on the device; bias NULL: none */
    float *y;
    int64_t x_row, y_row, n;         /* floats from row to row */
};

/* y[r] = w x[r] + bias, w [out, in] with addresses of the device. False, and nothing done: not
 * bf16 nor affine of 4 bits, or a shape that fills no step of 64 columns. */
bool cuda_linear_mma(struct cuda *, const struct tensor &w, const struct cuda_rows &);
