/* linear.h - matrix times rows on the CPU, and the kernels it is made of.
 *
 * Affine weights may be multiplied with rows rounded to 8 bits: linear_int8.h says how, and bf16
 * weights with rows rounded to bf16: linear_bf16.h. Else there is one arithmetic for every format
 * and row count: weights become floats, q * scale + bias (or q * scale) where they are packed; a
 * product has 16 lanes, lane l summing the columns
 * k = l mod 16 in ascending order, one multiply-add each; the lanes are added in
 * a fixed tree (fold in half four times). So the bits of y[r][o] depend on row o
 * of w, row r of x and the instruction set, and on nothing else. All sets but generic
 * agree in every bit; it rounds the product and the sum apart. */
#pragma once
#include "base/threads.h"
#include "device/cpu/attention_kernels.h"
#include "device/cpu/linear_bf16.h"
#include "device/cpu/linear_chains.h"
#include "device/cpu/linear_int8.h"
#include "device/cpu/recurrent_kernels.h"
#include "device/device.h"

enum {
    CPU_LANES = 16,
    CPU_TILE_OUTS = 16,              /* rows of w, */
    CPU_TILE_COLS = 512,             /* and their columns, that lie unpacked in cache at a time */
    CPU_TILE_ROWS = 48,              /* rows of x that go by while they do */
    CPU_FEW_ROWS = 8                 /* with no more rows than these a tile does not pay */
};

/* Rows of weights as the kernels read them. Nothing is aligned: it lies in a file. */
struct cpu_matrix {
    const unsigned char *at, *scales, *biases;
    const unsigned char *packed;             /* of pack.h, at a line; NULL: not there */
    int64_t row_bytes, scale_row_bytes;      /* from row to row */
    enum dtype dtype, scale_dtype;
    int bits, group;                         /* of those in groups: MLX_AFFINE, MXFP4, NVFP4 */
    int64_t first, cols, block_rows, block_cols;     /* of FP8, as in tensor.h */
};

/* What an instruction set brings. */
struct cpu_kernels {
    const char *name;
    /* w[0..n) = columns [begin, begin + n) of a row, then zeros up to a multiple of 16.
     * begin is a multiple of CPU_TILE_COLS. */
    void (*unpack)(float *w, const struct cpu_matrix *, int64_t row, int64_t begin, int n);
    /* acc[r][o][lane] += w[o][c] * x[r][c], c < n, lane = c mod 16. w is
     * [outs, CPU_TILE_COLS], outs a multiple of 4; acc [rows, CPU_TILE_OUTS, 16]. x is not
     * read past n. */
    void (*tile)(float *acc, const float *w, const float *const *x, int rows, int outs, int n);
    /* y[i] = the lanes of acc[i] in one sum; n is a multiple of 4. */
    void (*sum)(float *y, const float *acc, int n);
    /* y[r][0..outs) = rows [row, row + outs) of w times x[r], to the same bits as the above
     * three. False: not offered for so many rows of x, of CPU_FEW_ROWS at most. NULL: for none. */
    bool (*few)(float *const *y, const struct cpu_matrix *, int64_t row, int64_t outs,
                const float *const *x, int rows, int64_t cols);
    const struct cpu_chains_kernels *chains;     /* NULL: many rows go by tiles as well */
    const struct cpu_int8_kernels *int8;
    const struct cpu_bf16_kernels *bf16;         /* NULL: rows are not rounded to bf16 */
    const struct cpu_attention_kernels *attention;
    const struct cpu_attention_rounded *attention_rounded;       /* NULL: none */
    const struct cpu_recurrent_kernels *recurrent;
    /* n values, y = act(g) * up, or act(g) where up is NULL. False: not offered. NULL: for none. */
    bool (*gate)(float *y, const float *g, const float *up, int64_t n, enum act);
};

extern const struct cpu_kernels cpu_kernels_generic, cpu_kernels_avx2, cpu_kernels_avx512,
    cpu_kernels_avx512_bf16, cpu_kernels_amx, cpu_kernels_neon, cpu_kernels_dotprod,
    cpu_kernels_i8mm;

/* `gate` of the sets. */
bool cpu_gate_avx2(float *y, const float *g, const float *up, int64_t n, enum act);
bool cpu_gate_avx512(float *y, const float *g, const float *up, int64_t n, enum act);
bool cpu_gate_neon(float *y, const float *g, const float *up, int64_t n, enum act);

/* Which rows to multiply, and where their products go. */
struct cpu_rows {
    const float *x;
    float *y;
    int64_t x_stride, y_stride;      /* floats from row to row */
    const int32_t *x_row, *y_row;    /* [n] rows of x and y; NULL: 0 to n - 1 */
    int64_t n;
};

/* Where rows are rounded or sorted, by one product at a time; at a line, which is 64 bytes. With
 * `exact` no row is rounded. */
struct cpu_scratch { void *at; size_t bytes; bool exact; };

/* y[r] = w x[r] + bias, the `linear` of device.h. y and x are F32 and do not overlap. With a
 * scratch that is not exact, rows that meet an affine matrix are rounded to 8 bits, and those that
 * meet a bf16 one to bf16 where the set has kernels for it; else, and with NULL, all is computed
 * in F32, to the same bits with a scratch and without.
 * A matrix for each head is computed in F32 always. */
void cpu_linear(struct pool *, const struct cpu_kernels *, const struct cpu_scratch *,
                struct tensor *y, const struct linear *, const struct tensor *x);

/* n products of the same rows, the same bits: rows are rounded once for those that follow each
 * other with groups of one size. The y do not overlap. */
void cpu_linear_many(struct pool *, const struct cpu_kernels *, const struct cpu_scratch *,
                     struct tensor *const *y, const struct linear *const *, int n,
                     const struct tensor *x);

/* Columns [begin, end) of the products of listed rows and one matrix [out, in]: what experts
 * need. pool NULL: by this thread alone, so it may be called from inside a pool_run, with a
 * scratch of its own. Same bits as cpu_linear. */
void cpu_linear_rows(struct pool *, const struct cpu_kernels *, const struct cpu_scratch *,
                     const struct linear *, const struct cpu_rows *, int64_t begin, int64_t end);

/* Number i of a plain dtype; FP8 is e4m3, U8 is e8m0. */
float cpu_number_at(const unsigned char *at, enum dtype, int64_t i);
/* For n columns of a row of FP8 from `begin`: the scale of the first, and how many share it. */
int cpu_fp8_run(const struct cpu_matrix *, int64_t row, int64_t begin, int n, float *scale);
/* Whether all such runs of a row are multiples of 16 columns. */
bool cpu_fp8_even(const struct cpu_matrix *, int64_t cols);

/* A row of a [rows, cols] tensor in floats; the same numbers on every instruction set as
 * long as scales have 16 bits. */
void cpu_dequantize_row(const struct tensor *, int64_t row, float *out);
