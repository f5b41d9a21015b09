/* linear_wgmma.h - what linear_many.cu gives to linear_wgmma.cu: plain weights, rounded rows, and
 * what becomes of the sums. */
#pragma once
#include "device/cuda/hopper.h"
#include "device/cuda/linear.h"

enum { MANY_PARTS = 3 };             /* matrices of a launch */

struct many_part {                   /* where a part's results go */
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
    int tall;                        /* outputs of a warpgroup of `tall` and `slices` */
    int stages;                      /* of the ring of `slices` */
    int cols, n_rows, row_tiles, out_tiles;
    int apart;                       /* slices whose sums are stored one by one, apart_y floats */
    int64_t apart_y;                 /* from each other; 0: all of a row's columns at once */
    bool fresh;                      /* the kernel before wrote the weights */
    bool once;                       /* no other tile of rows reads the same weights */
};

/* What is to be multiplied: plain weights, rounded rows. */
struct many_plain {
    struct tensor w[MANY_PARTS];
    const __nv_bfloat16 *x;
    int n;
};

/* Four neighbours of a row of results, of which some may be past the last. */
template <enum products_end E>
__device__ static inline void put_four(const struct many_job &j, const struct many_part &o,
                                       int row, int i, float (&v)[4]) {
    float *y = o.y + row * o.y_row + i;
#pragma unroll
    for (int k = 0; k < 4; k++)
        if (o.bias && i + k < o.outs) v[k] += o.bias[i + k];
    if (i + 4 <= o.outs && (uintptr_t)y % 16 == 0) {
        float4 to = make_float4(v[0], v[1], v[2], v[3]);
        if (E == PRODUCTS_ADD) {
            const float4 old = *(const float4 *)y;
            to = make_float4(fmaf(j.scale, to.x, old.x), fmaf(j.scale, to.y, old.y),
                             fmaf(j.scale, to.z, old.z), fmaf(j.scale, to.w, old.w));
        }
        *(float4 *)y = to;
        return;
    }
#pragma unroll
    for (int k = 0; k < 4; k++)
        if (i + k < o.outs) y[k] = E == PRODUCTS_ADD ? fmaf(j.scale, v[k], y[k]) : v[k];
}

/* Fills in what is left of the job, and starts it. False: the device broke. */
bool cuda_multiply(struct cuda *, struct many_job &, const struct many_plain &,
                   enum products_end);
/* The same of linear_slices.cu. False, and nothing done: others can, or must. */
bool cuda_multiply_slices(struct cuda *, const struct many_job &, const struct many_plain &,
                          enum products_end);
