/* experts.h - what the ways of running experts share: experts.cu, F32 throughout and any weights;
 * experts_mma.cu, the tensor cores, and experts_wgmma.cu, the same bits for many rows on Hopper.
 * Which of the first two is a matter of the matrices and of --compute, never of the number of
 * rows. */
#pragma once
#include "device/cuda/dot.h"

struct expert_job {
    const struct linear *gate, *up, *down;       /* [experts], with addresses of the device */
    const int *ids, *first, *pair;   /* [pairs]; sorted by expert, else NULL: [experts + 1],
                                        [pairs] */
    const int *tiles;                /* [experts + 1] of tile_rows of an expert's rows, before its
                                        first */
    const float *x, *share;
    float *hidden, *y;               /* hidden [pairs, width]: gate, up, output */
    float residual;                  /* y is added to, times this; 0: written */
    int64_t x_row, y_row, share_row, width, n_hidden, dim;
    int active, experts, tile_rows;  /* tile_rows 0: see cuda_experts_wide */
    bool alone;                      /* a block rounds its row; see experts_mma.cu */
    bool far_down;                   /* how rows of down are kept; see experts_mma.cu */
    struct gate_args act;
};

__device__ static inline float expert_bias(const struct linear &l, int64_t out) {
    return l.bias.at ? ((const float *)l.bias.at)[out] : 0;
}

/* Whether the tensor cores can take all of these matrices, with addresses of the device. */
bool cuda_experts_fit(const struct linear *w, int n, int reading);
/* hidden's outputs. many: experts where pairs are sorted, else pairs. */
void cuda_experts_mma(const struct cuda *, const struct expert_job &, unsigned rows, unsigned many,
                      int gate_reading, int down_reading);
/* Rows of a tile of experts_wgmma.cu; 0: experts have too few rows, or the chip is another. */
int cuda_experts_wide(const struct cuda *, int pairs, int experts);
/* hidden's outputs, of sorted pairs in tiles. */
void cuda_experts_wgmma(const struct cuda *, const struct expert_job &, unsigned rows,
                        int gate_reading, int down_reading);
