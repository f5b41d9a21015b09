/* linear_int8.h - affine and MXFP4 weights times rows that are rounded to whole numbers, and the
 * kernels it is made of. Knows nothing of threads.
 *
 * A row x is cut into the groups of the weights; in each, x = scale * q, |q| <= top, scale the
 * largest magnitude / top. top is 127, or 32512 where rows are wide. The product with a group of
 * weights v * s + b is then
 *     s * scale * (sum of v q) + b * scale * (sum of q),
 * whose sums are whole numbers, so that every way to add them up gives the same bits. A result
 * begins at 0 and takes the groups in ascending order:
 *     y = fma(b, scale * (float)(sum of q), y);
 *     y = fma(s * scale, (float)(sum of v q), y);
 * a row of w never meets another one, so the lanes of a register are rows of w. A result depends
 * on its row of w and its row of x alone, and is the same packed or not and on every instruction
 * set: linear_int8_generic.c is the specification.
 *
 * MXFP4 counts as affine: e2m1 is whole halves, -12 to 12 of them, so v = 12 + 2 e2m1, s is half of
 * its scale and b = -12 s. Both are exact in bf16, up to scales of 2^125.
 *
 * Wide rows cost two products of 8 bits, q = 256 high + low with high in -127..127 and low in
 * -128..127, and are as good as F32. Weights of 8 bits always have them, and matrices that are
 * marked as fine. */
#pragma once
#include "device/cpu/pack.h"

struct cpu_matrix;

enum {
    INT8_PANELS = 2,                 /* at most: panels of w that are multiplied together, */
    INT8_ROWS = 16,                  /* and the rows of a tile of x */
    INT8_COLS = 2048,                /* columns that go by all rows of x before the next ones do */
    INT8_MATRICES = 4,               /* that are multiplied in one run at most */
    INT8_TOP = 127, INT8_TOP_WIDE = 127 * 256
};

/* Columns of some panels, packed as pack.h says. A matrix of 2, 3, 5 or 6 bits that is not packed
 * is woven into bytes (bits 8), and its sums are the same. */
struct cpu_panels {
    const unsigned char *at;         /* a group of the first panel */
    int64_t stride;                  /* bytes from panel to panel */
    int bits, group;
    enum dtype scales;
    int groups;                      /* to multiply */
    int outs;                        /* rows of w: 1 to INT8_PANELS * QUANT_PANEL */
    /* What will be read next: while it multiplies, a kernel may ask the memory for `pace` lines of
     * it a group. An address, never read: it may lie behind the last panel. */
    uintptr_t ahead;
    int pace;
};

/* 1 to `rows` rows of x as a set's kernels like them, but that the columns before one at which a
 * group and 64 columns begin take rows bytes each, 2 * rows when wide. scale and sum are
 * [groups][rows]. */
struct cpu_int8_tile {
    int8_t *q;                       /* at a line */
    float *scale, *sum;              /* of a group: the scale, and scale * sum of q */
    int rows;
    bool wide;
};

struct cpu_int8_kernels {
    int rows, rows_wide;             /* in a tile at most */
    int panels;                      /* that it likes to multiply together */
    /* Optional: what multiplies up to few_rows rows instead. */
    const struct cpu_int8_kernels *few;
    int few_rows;
    /* Row r of a tile from cols floats. A group that holds an infinity or NaN has a scale of
     * NaN; one whose magnitudes are all below 1e-30 counts as zeros. */
    void (*quantize)(const struct cpu_int8_tile *, int r, const float *x, int64_t cols, int group);
    /* cpu_pack_panel for affine matrices of 4 bits (packed as 4) and all others (as 8). The rows
     * past the last may be anything. */
    void (*weave)(unsigned char *to, const struct cpu_matrix *, int64_t row, int rows,
                  int64_t begin, int64_t n);
    /* Optional: the first panel of some, its values a byte each, which is all that `multiply`
     * takes then. Memory is asked for as much that lies `ahead`. */
    void (*widen)(unsigned char *to, const struct cpu_panels *);
    /* y[r][0..outs) = the products; with more they go on from what y holds. */
    void (*multiply)(float *const *y, const struct cpu_panels *, const struct cpu_int8_tile *,
                     bool more);
};

/* The reference, and what AVX2, AVX-512 with VNNI, AMX, and ARM without and with sdot and usmmla
 * run. */
extern const struct cpu_int8_kernels cpu_int8_generic, cpu_int8_avx2, cpu_int8_avx512,
    cpu_int8_amx, cpu_int8_neon, cpu_int8_dotprod, cpu_int8_i8mm;
/* `weave` of the three of x86. */
void cpu_int8_weave_avx2(unsigned char *to, const struct cpu_matrix *, int64_t row, int rows,
                         int64_t begin, int64_t n);
