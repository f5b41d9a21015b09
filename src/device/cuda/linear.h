/* linear.h - the ways in which the CUDA device multiplies, and the one order of sums they share.
 * Which of them serves a matrix depends on the matrix, the chip and --compute, never on how many
 * rows there are.
 *
 *   linear.cu        any weights, F32 throughout.
 *   linear_mma.cu    rows rounded to bf16, on the tensor cores of any chip: matrices that the
 *                    next two do not take. Its order of sums is its own.
 *   linear_few.cu    the same on Hopper, up to FEW_ROWS rows. Its kernels are linear_ring.cu, of
 *                    bf16 weights, and linear_packed.cu, of others, which linear_pack.cu packs anew
 *                    at their first product.
 *   linear_many.cu   the same on Hopper, more rows, which linear_wgmma.cu multiplies, or, up to
 *                    128 rows times matrices in slices, linear_slices.cu. Packed formats are
 *                    unpacked for them, some outputs at a time: from PACKED_ROWS on.
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

/* Slices: few outputs leave the chip idle unless several warps or blocks share one, and a packed
 * weight costs more than its bytes. */
static inline int cuda_slices(const struct tensor &w) {
    const bool few = w.shape[0] < 4096 || (w.shape[0] < 8192 && w.shape[1] > 2 * w.shape[0]);
    return w.dtype != BF16 || few ? 4 : 1;
}

/* Columns of a slice, a multiple of 128 so that it holds whole groups. The last ones may be
 * shorter or empty. */
static inline int64_t cuda_slice(const struct tensor &w) {
    const int64_t unit = 128 * cuda_slices(w);
    return (w.shape[1] + unit - 1) / unit * 128;
}

/* Whether linear_few.cu and linear_many.cu multiply with this matrix, whatever the rows. */
bool cuda_streams(const struct cuda *, const struct tensor &w);

/* Several products of the same rows, see device.h; all matrices of one format and width, and such
 * that cuda_streams says so. */
struct cuda_products {
    int n, n_rows;
    struct tensor w[3];              /* with addresses of the device */
    const float *bias[3], *x;        /* NULL: none */
    float *y[3];
    int64_t x_row, y_row[3];
    enum products_end end;
    struct gate_args act;
    float scale;
    bool passes;                     /* y[0] is read by cuda_products_many alone, rounded */
};
/* At most FEW_ROWS rows. False: the device broke. */
bool cuda_linear_few(struct cuda *, const struct cuda_products &);
/* Any number of rows. False, and nothing done: addresses or rows that are no multiples of 16
 * bytes, or more rows than PRODUCTS_ADD is for. */
bool cuda_products_many(struct cuda *, const struct cuda_products &);
/* The next rows of many, as few's are (cuda.h); NULL: there is no room for so many. */
__nv_bfloat16 *cuda_many_next(struct cuda *, int64_t rows, int64_t cols);
void cuda_many_done(struct cuda *, struct cuda_few);
/* Whether a matrix that streams is multiplied with so many rows by cuda_products_many. */
bool cuda_goes_many(const struct tensor &w, int64_t rows);

/* Norms that may wait for a product to do them: of so few rows that every block can, and so narrow
 * that a thread of norm.cu's kernel has four columns, whose sums are repeated. */
enum { NORM_WAITS_ROWS = 2, NORM_WAITS_COLS = 4096 };

/* The next rows of few: where to write them, and that they will be there. */
char *cuda_few_next(struct cuda *);
void cuda_few_done(struct cuda *, struct cuda_few);

/* Rows from `first` on, n of them, of a packed matrix, multiples of 16, in bf16 as a product's
 * fragments have them: [n, in]. False: it is plain. */
bool cuda_plain_weights(struct cuda *, const struct tensor &w, int64_t first, int64_t n,
                        __nv_bfloat16 *to);

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
