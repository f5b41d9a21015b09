/* linear.h - the ways in which the CUDA device multiplies, and the one order of sums they share.
 * Which of them serves a matrix depends on the matrix, the chip and --compute, never on how many
 * rows there are.
 *
 *   linear.cu        any weights, F32 throughout.
 *   linear_mma.cu    rows rounded to bf16, on the tensor cores of any chip: matrices that the
 *                    next two do not take. Its order of sums is its own.
 *   linear_ring.cu   the same on Hopper, up to FEW_ROWS rows: weights stream through the bulk copy
 *                    engine. Packed formats are packed anew at their first product.
 *   linear_wgmma.cu  the same on Hopper, more rows.
 *
 * The order of the last two. A weight is one bf16 number: as it lies, or fma(q, scale, bias)
 * rounded once. An mma takes 16 consecutive columns; the steps of a slice are one chain of sums,
 * ascending, from zero; slices are added in their order, and then the bias. A slice is as many
 * columns as cuda_slice says, by the shape and the format of the matrix that the checkpoint has. */
#pragma once
#include "device/cuda/cuda.h"

struct cuda_rows {
    const float *x, *bias;           /* on the device; bias NULL: none */
    float *y;
    int64_t x_row, y_row, n;         /* floats from row to row */
};

/* Slices: few outputs leave the chip idle unless several warps share one, and a packed weight
 * costs more than its bytes. */
static inline int cuda_slices(const struct tensor &w) {
    if (w.dtype != BF16) return 4;
    return w.shape[0] >= 4096 ? 1 : w.shape[0] >= 2048 ? 2 : 4;
}

/* Columns of a slice, a multiple of 128 so that it holds whole groups. The last ones may be
 * shorter or empty. */
static inline int64_t cuda_slice(const struct tensor &w) {
    const int64_t unit = 128 * cuda_slices(w);
    return (w.shape[1] + unit - 1) / unit * 128;
}

/* Whether linear_ring.cu and linear_wgmma.cu multiply with this matrix, whatever the rows. */
bool cuda_streams(const struct cuda *, const struct tensor &w);

/* Several products of the same rows, see device.h; all matrices of one format and width, and such
 * that cuda_streams says so. At most FEW_ROWS rows. False: the device broke. */
struct cuda_products {
    int n, n_rows;
    struct tensor w[3];              /* with addresses of the device */
    const float *bias[3], *x;
    float *y[3];
    int64_t x_row, y_row[3];
    enum products_end end;
    struct gate_args act;
    float scale;
};
bool cuda_linear_few(struct cuda *, const struct cuda_products &);

/* The next rows of few: where to write them, and that they will be there. */
char *cuda_few_next(struct cuda *);
void cuda_few_done(struct cuda *, struct cuda_few);

/* A packed matrix in bf16, [out, in], as a product's fragments have it. False: it is plain. */
bool cuda_plain_weights(struct cuda *, const struct tensor &w, __nv_bfloat16 *to);

/* y[r] = w x[r] + bias, w [out, in] with addresses of the device. False, and nothing done: not
 * bf16 nor affine of 4 bits, or a shape that fills no step of 64 columns. */
bool cuda_linear_mma(struct cuda *, const struct tensor &w, const struct cuda_rows &);

/* The same for FP8, MXFP4 and affine matrices of 8 bits whose rows fill whole vectors. Its order of
 * sums is tile.h's. */
bool cuda_linear_tiles(struct cuda *, const struct tensor &w, const struct cuda_rows &);

/* Packed bf16 scales of 4 bits lie multiplied by 2^129, where none is 0.49 or more: a number that
 * begins at bit 4 of a bf16 is q 2^-129. These two take it away again. */
#define SCALED_BACK 0x1p-64f
#define SCALED_BACK_2 0x1p-65f

/* What becomes of a product v: y = v; or y = act(v of part 0) * (v of part 1). */
enum cuda_ending { CUDA_STORE, CUDA_GATED };
enum { CUDA_PARTS = 3 };

struct cuda_product {
    struct tensor w[CUDA_PARTS];     /* [out, in] bf16, with addresses of the device */
    const float *bias[CUDA_PARTS];   /* NULL: none */
    float *y[CUDA_PARTS];            /* of CUDA_GATED, y[0] alone */
    int64_t y_row[CUDA_PARTS];       /* numbers from row to row */
    int n_parts;
    const float *from;               /* [n_rows, in] */
    int64_t from_row, n_rows;
    const __nv_bfloat16 *x;          /* the same in bf16: linear_wgmma.cu makes it */
    int64_t x_row;
    enum cuda_ending ending;
    struct gate_args gate;
};

/* Several matrices times the same rows, on a Hopper chip. False, and nothing done: there is none,
 * or addresses or rows that are no multiples of 16 bytes. */
bool cuda_products_many(struct cuda *, const struct cuda_product &);
/* y[r] = w x[r] + bias by the same. */
bool cuda_linear_many(struct cuda *, const struct tensor &w, const struct cuda_rows &);
