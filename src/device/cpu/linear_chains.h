/* linear_chains.h - products of many rows in floats, to the bits that linear.h promises, and the
 * kernels they are made of. Knows nothing of threads.
 *
 * Registers hold outputs, not lanes: a kernel multiplies a group of rows of x with a panel of
 * rows of w, all columns of one lane first, then all of the next, so that a lane's sum stays in
 * a register from its first column to its last. For that the columns of a panel and of a group
 * are sorted by their lane. Where the tree of linear.h adds two lanes, two such sums are added.
 *
 * A quarter q of the lanes is q, q + 8, q + 4 and q + 12, in this order: those that the first two
 * steps of the tree add up. Lanes are stored as quarters 0, 1, 2, 3. */
#pragma once
#include "device/device.h"

enum {
    CHAINS_OUTS = 16,                /* rows of w in a panel */
    CHAINS_ROWS = 6,                 /* of x in a group at most */
    CHAINS_LANES = 4,                /* in a quarter, */
    CHAINS_QUARTERS = 4
};

/* Floats that `steps` columns of a lane take, in a panel and in a group: whole lines, more than
 * are needed since lanes a power of two apart would meet in the same lines of a cache. */
static inline int64_t chains_panel_lane(int64_t steps) {
    return (steps + 1) * CHAINS_OUTS;
}

static inline int64_t chains_group_lane(int64_t steps) {
    return (steps * CHAINS_ROWS + 31) / 16 * 16;
}

struct cpu_chains_kernels {
    /* n columns of CHAINS_OUTS rows of F32, F16 or BF16, `stride` bytes apart and not aligned, as
     * steps [step, step + n / 16) of a panel. n is a multiple of 16. */
    void (*sort)(float *panel, const unsigned char *w, enum dtype, int64_t stride, int64_t step,
                 int64_t steps, int64_t n);
    /* All columns of a group, whose quarters are `quarter` floats apart. x is not read past them;
     * zeros fill the last step. */
    void (*sort_x)(float *group, int64_t quarter, const float *const *x, int rows, int64_t cols);
    /* sums[r][0..CHAINS_OUTS) = the quarter of the products that w and x point to; += with
     * `add`. */
    void (*multiply)(float *sums, const float *w, const float *x, int rows, int64_t steps,
                     bool add);
    /* y[0..n) = a + b, n at most CHAINS_OUTS; a and b are at a line. */
    void (*add)(float *y, const float *a, const float *b, int n);
};

extern const struct cpu_chains_kernels cpu_chains_avx2;
