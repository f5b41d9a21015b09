/* linear_int8.h - affine weights times rows that are rounded to 8 bits, and the kernels it is
 * made of. Knows nothing of threads.
 *
 * A row x is cut into the groups of the weights; in each, x = scale * q, |q| <= 127, scale the
 * largest magnitude / 127. The product with a group of weights v * s + b is then
 *     s * scale * (sum of v q) + b * scale * (sum of q),
 * whose sums are whole numbers, so that every way to add them up gives the same bits. In each
 * INT8_COLS columns there are 16 chains, chain c taking the groups c, c + 16, ... with two fused
 * multiply-adds each; the chains are added in a fixed tree (fold in half four times), and the
 * columns in ascending order. So a result depends on its row of w and its row of x alone, and is
 * the same on every instruction set. */
#pragma once
#include "device/tensor.h"

struct cpu_matrix;

enum {
    INT8_PANEL = 16,                 /* rows of w that are woven into one */
    INT8_PANELS = 2,                 /* panels that are multiplied together */
    INT8_ROWS = 6,                   /* rows of x likewise: a tile */
    INT8_COLS = 2048,                /* columns that are woven at a time */
    INT8_GROUPS = INT8_COLS / 32,
    INT8_CHAINS = 16,
    INT8_FEW = 4                     /* no more rows of x than these: nothing is woven */
};

/* Some columns of INT8_PANELS * INT8_PANEL rows of w, panel by panel: 16 vectors' worth of
 * values are 64 bytes, 4 of each row. For 4 bits a byte holds a value and the next one (low
 * nibble first), so 64 bytes are 8 columns; else 4 columns, a byte each. */
struct cpu_woven {
    _Alignas(64) unsigned char q[INT8_PANELS][INT8_COLS * INT8_PANEL];
    _Alignas(64) float scale[INT8_PANELS][INT8_GROUPS][INT8_PANEL];
    _Alignas(64) float bias[INT8_PANELS][INT8_GROUPS][INT8_PANEL];
    /* What will be woven next: `multiply` may ask the memory for `pace` lines of it a group, and
     * so keeps it busy. An address, never read: it may lie behind the last row. */
    uintptr_t ahead, ahead_stride;
    int ahead_rows, ahead_lines, ahead_row, ahead_line, ahead_pace;
};

/* A tile of 1 to INT8_ROWS rows of x, woven as well: q is [cols / 4][rows][4], for weights of
 * 4 bits with each 8 columns in the order 0 2 4 6, 1 3 5 7; scale and sum are [groups][rows].
 *
 * Or flat, for few rows: q is [rows][stride], for weights of 4 bits with the even ones of each 128
 * columns before the odd ones; scale and sum are [rows][stride / group]. stride is a multiple
 * of 16 groups, and zeros fill it. */
struct cpu_int8_tile {
    int8_t *q;
    float *scale, *sum;              /* of a group: the scale, and scale * sum of q */
    int rows;
    int64_t stride;                  /* 0: woven */
};

struct cpu_int8_kernels {
    /* Row r of a tile from cols floats. A group that holds an infinity or NaN has a scale of
     * NaN; one whose magnitudes are all below 1e-30 counts as zeros. */
    void (*quantize)(const struct cpu_int8_tile *, int r, const float *x, int64_t cols, int group,
                     int bits);
    /* Columns [begin, begin + n) of rows [row, row + outs) of a matrix, outs <= 16, into a
     * panel; the rest of the panel is anything. begin is a multiple of INT8_COLS, n of a group. */
    void (*weave)(struct cpu_woven *, int panel, const struct cpu_matrix *, int64_t row, int outs,
                  int64_t begin, int n);
    /* y[r][0..outs) = the products, or += them when `more`. `tile` begins at the same column. */
    void (*multiply)(float *const *y, struct cpu_woven *, const struct cpu_int8_tile *,
                     int n, int group, int bits, int outs, bool more);
    /* y[r][0..outs) = rows [row, row + outs) of a matrix times the rows of a flat tile. NULL: not
     * offered. */
    void (*few)(float *const *y, const struct cpu_matrix *, int64_t row, int64_t outs,
                const struct cpu_int8_tile *, int64_t cols);
};

/* The reference, and what AVX-512 with VNNI runs. */
extern const struct cpu_int8_kernels cpu_int8_generic, cpu_int8_avx512;
/* `few` of the latter. */
void cpu_int8_few_avx512(float *const *y, const struct cpu_matrix *, int64_t row, int64_t outs,
                         const struct cpu_int8_tile *, int64_t cols);

/* A value of `bits` bits and its neighbours, n of them, a byte each, as generic C unpacks them. */
void cpu_int8_unpack(unsigned char *to, const unsigned char *at, int bits, int n);
