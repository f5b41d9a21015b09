/* linear_bf16.h - bf16 weights times rows that are rounded to bf16, and the kernels it is made of.
 * Knows nothing of threads.
 *
 * The processor multiplies pairs of columns, so a set that has such products has an order of
 * sums of its own, one for every number of rows:
 *     AVX-512 BF16: lane l of 16 takes columns 32 i + 2 l and 32 i + 2 l + 1, i ascending,
 *         a multiply-add each, and the lanes are added in the tree of linear.h;
 *     AMX: of each 32 columns the even ones are a chain from zero, and the odd ones; the sum of the
 *         two is added to what the columns before gave.
 * Numbers smaller than the least normal one count as zeros. Where a set has no such kernels,
 * bf16 weights are multiplied as linear.h says. */
#pragma once
#include "device/device.h"

enum {
    BF16_STEP = 32,                  /* rows of x are padded with zeros to a multiple */
    BF16_TOGETHER = 16,              /* rows of x that are rounded by one thread, */
    BF16_ROWS = 256                  /* and that are in a chunk at most */
};

/* Some rows of w and a chunk of rows of x. w lies in a file, so nothing of it is aligned. */
struct cpu_bf16_block {
    const unsigned char *w;
    int64_t row_bytes;               /* of w, from row to row */
    int outs;                        /* rows of w, 1 to `outs` or `outs_many` of the kernels, */
    int64_t cols;                    /* and what they have */
    const uint16_t *x;               /* at a line */
    int rows;
};

struct cpu_chains_kernels;

struct cpu_bf16_kernels {
    int rows, outs;                  /* that are multiplied together at most, */
    int few_rows, outs_many;         /* and rows of w where a run has more rows than these: a
                                      * multiple of `outs` that is less where threads would have
                                      * none. The run's last chunk may have few rows. */
    /* Rows r to r + n of a chunk from cols floats each, rounded to nearest even; n is BF16_TOGETHER
     * at most, and r a multiple of it. A chunk takes as many numbers as its rows have when padded,
     * in the order that the kernels like. */
    void (*round)(uint16_t *chunk, int rows, int r, int n, const float *const *x, int64_t cols);
    /* y[r][0..outs) = the products. */
    void (*multiply)(float *const *y, const struct cpu_bf16_block *);
    const struct cpu_chains_kernels *chains;     /* NULL: many rows go the same way as few */
};

extern const struct cpu_bf16_kernels cpu_bf16_avx512, cpu_bf16_amx;
