/* linear_chains.h - products of many rows to the bits that linear.h and linear_bf16.h promise, and
 * the kernels they are made of. Knows nothing of threads.
 *
 * Registers hold outputs, not lanes: a kernel multiplies a group of rows of x with a panel of
 * rows of w, all columns of one lane first, then all of the next, so that a lane's sum stays in
 * a register from its first column to its last. For that the columns of a panel and of a group
 * are sorted by their lane. Where the tree of linear.h adds two lanes, two such sums are added.
 *
 * A quarter q of the lanes is q, q + 8, q + 4 and q + 12, in this order: those that the first two
 * steps of the tree add up. Lanes are stored as quarters 0, 1, 2, 3.
 *
 * What is sorted are words of four bytes: a float, or two columns of bf16, which are multiplied
 * together. 16 words of a row are a step, one for each lane. */
#pragma once
#include "device/device.h"

enum {
    CHAINS_OUTS = 16,                /* rows of w that are sorted at a time */
    CHAINS_OUTS_MAX = 32,            /* in a panel */
    CHAINS_ROWS_MAX = 14,            /* of x in a group, */
    CHAINS_BLOCK_ROWS = 288,         /* and whose sums a thread keeps while quarters come */
    CHAINS_LANES = 4,                /* in a quarter, */
    CHAINS_QUARTERS = 4
};

/* Words that `steps` steps of a lane take, in a panel and in a group: whole lines, more than
 * are needed since lanes a power of two apart would meet in the same lines of a cache. */
static inline int64_t chains_panel_lane(int64_t steps, int outs) {
    return (steps + 1) * outs;
}

static inline int64_t chains_group_lane(int64_t steps, int rows) {
    return (steps * rows + 31) / 16 * 16;
}

/* Where a lane lies among all: its quarter's four, and its place in them. */
static inline int chains_place(int lane) {
    return lane % 4 * CHAINS_LANES + lane / 4 % 2 * 2 + lane / 8;
}

struct cpu_chains_kernels {
    int outs, rows;                  /* of a panel, a multiple of CHAINS_OUTS; of a group at most */
    int word;                        /* columns in a word: 1, or 2 of bf16 */
    int cols_row;                    /* with more columns a panel pays when there is a row more for
                                      * each of so many; 0: with any */
    /* n columns of CHAINS_OUTS rows of F32, F16 or BF16, `stride` bytes apart and not aligned, as
     * steps [step, step + n / 16 words) of a panel, whose first of these rows is at `panel`. n is
     * a multiple of 16 words. Words of two columns are of BF16 alone. */
    void (*sort)(float *panel, const unsigned char *w, enum dtype, int64_t stride, int64_t step,
                 int64_t steps, int64_t n);
    /* All columns of a group, whose quarters are `quarter` floats apart. x is not read past them;
     * zeros fill the last step. */
    void (*sort_x)(float *group, int64_t quarter, const float *const *x, int rows, int64_t cols);
    /* sums[r][0..outs) = the quarter of the products that w and x point to; += with `add`. */
    void (*multiply)(float *sums, const float *w, const float *x, int rows, int64_t steps,
                     bool add);
    /* y[0..n) = a + b, n at most `outs`; a and b are at a line. */
    void (*add)(float *y, const float *a, const float *b, int n);
};

/* Bytes of a scratch in which so many threads can multiply so many rows at a time. */
size_t cpu_chains_bytes(const struct cpu_chains_kernels *, int threads, int64_t cols, int64_t rows);

/* The last has words of two bf16, and the order of sums of AVX-512 BF16 in linear_bf16.h. */
extern const struct cpu_chains_kernels cpu_chains_avx2, cpu_chains_avx512, cpu_chains_avx512_bf16;
