/* tensor.h - a view of numbers in host or device memory, dtype and quantization
 * included, and the arithmetic of views. Owns nothing. */
#pragma once
#include "base/base.h"

enum dtype { F32, F16, BF16, I32, U32, U8, MLX_AFFINE, MXFP4, NVFP4, FP8, I8 };

/* How the packed rows of a quantized tensor are read. Row-major groups of `group`
 * values along the last axis; the scale of the value at element offset i is
 * scales[i / group], so a view by rows needs no more than two moved pointers.
 * MLX_AFFINE: q * scale + bias. MXFP4 and NVFP4: e2m1 * scale, in groups of 32 and 16.
 *
 * FP8 (e4m3 * scale) has a scale for a block of rows and columns, which views may cut. So its
 * scales stay where they are and the view says where it lies in the stored matrix: element i is
 * number e = first + i there, and its scale is that of row e / cols and column e % cols. */
struct quant {
    const void *scales, *biases;     /* [.., cols / group]; biases NULL where the mode has none.
                                        FP8: [rows / block_rows, cols / block_cols], rounded up */
    enum dtype scale_dtype;          /* a float; U8 is e8m0 and FP8 is e4m3 */
    uint16_t group;
    uint8_t bits;
    const void *packed;              /* the same rows as the device likes them (device/cpu/pack.h),
                                        in panels of QUANT_PANEL rows; NULL: there are none. A view
                                        keeps them when it begins at a panel and has whole rows. */
    int64_t first, cols, block_rows, block_cols;             /* of FP8 */
};
enum { QUANT_PANEL = 16 };

struct tensor {                      /* a view: whoever allocated .at frees it */
    void *at;
    enum dtype dtype;
    int rank;                        /* 1 to 4 */
    int64_t shape[4], stride[4];     /* elements, outermost first; the last stride is 1 */
    struct quant quant;              /* of MLX_AFFINE, MXFP4, NVFP4, FP8 */
};

struct linear {
    struct tensor w, bias;           /* [out, in], [out] F32; bias.at NULL: none */
    bool fine;                       /* a device that rounds rows should round these finely */
};

const char *dtype_name(enum dtype);              /* "bf16", "affine": for messages */
size_t dtype_bytes(enum dtype);                  /* of one plain element; 0 for packed ones */
bool dtype_grouped(enum dtype);                  /* packed in groups along the last axis */
bool dtype_weights(enum dtype);                  /* a matrix may be of it: floats and quantized */
bool dtype_scaled(enum dtype);                   /* of cached heads: bytes, a scale for each head */
int64_t tensor_count(const struct tensor *);
size_t tensor_bytes(const struct tensor *);      /* of a contiguous one, scales included */

/* Contiguous views of memory that is there already. */
struct tensor tensor_1d(void *, enum dtype, int64_t n);
struct tensor tensor_2d(void *, enum dtype, int64_t rows, int64_t cols);
struct tensor tensor_3d(void *, enum dtype, int64_t rows, int64_t heads, int64_t cols);

/* n entries of `axis` from `begin`. On quantized tensors the last axis may only be
 * cut at group borders. */
struct tensor tensor_part(const struct tensor *, int axis, int64_t begin, int64_t n);
/* Entry i of axis 0, one rank less. */
struct tensor tensor_at(const struct tensor *, int64_t i);
/* [rows, heads*cols] seen as [rows, heads, cols]. */
struct tensor tensor_heads(const struct tensor *, int64_t heads);
/* Every `step`-th row from `begin`: the rows of one of several interleaved matrices. */
struct tensor tensor_every(const struct tensor *, int64_t begin, int64_t step);
