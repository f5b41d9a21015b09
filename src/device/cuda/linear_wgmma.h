/* linear_wgmma.h - what linear_many.cu gives to linear_wgmma.cu: plain weights, rounded rows, and
 * what becomes of the sums. */
#pragma once
#include "device/cuda/hopper.h"
#include "device/cuda/linear.h"

enum { MANY_PARTS = 3 };             /* matrices of a launch */

struct many_part {                         /* where a part's results go */
    const float *bias;               /* NULL: none */
    float *y;                        /* NULL: nowhere, `next` has them */
    int64_t y_row;
    int outs, tiles, slice;
};

struct many_job {
    CUtensorMap w[MANY_PARTS], x;
    struct many_part part[MANY_PARTS];
    struct gate_args gate;
    __nv_bfloat16 *next;             /* of gated rows, for the next product; NULL: not wanted */
    int64_t next_row;
    float scale;                     /* of PRODUCTS_ADD */
    int tall;                        /* outputs of a warpgroup of `tall` */
    int cols, n_rows, row_tiles, out_tiles;
    bool fresh;                      /* the kernel before wrote the weights */
};

/* What is to be multiplied: plain weights, rounded rows. */
struct many_plain {
    struct tensor w[MANY_PARTS];
    const __nv_bfloat16 *x;
    int n;
};

/* Fills in what is left of the job, and starts it. False: the device broke. */
bool cuda_multiply(struct cuda *, struct many_job &, const struct many_plain &,
                   enum products_end);
