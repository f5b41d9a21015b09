/* recurrent_kernels.h - the inner loops of convolutions and recurrent states that an instruction
 * set may bring, each over at most 16 neighbouring columns (a lane each) and some rows.
 *
 * A state's columns lie in blocks of 16, the last one narrower: [blocks][depth][width], depth
 * being Mamba's `state` or the delta rule's k_dim. So a block is one run of memory, and stays in
 * the first-level cache while rows go by.
 *
 * Their arithmetic: sums over depth go by fours, ((a0 b0 + a1 b1) + a2 b2) + a3 b3, added in
 * ascending order, and then what is left one by one. Nothing depends on how rows are cut. All
 * sets but generic agree in every bit: they round a product and its sum once, generic each. */
#pragma once
#include <stdint.h>

enum { SCAN_LANES = 16, SCAN_ROWS = 32, SCAN_TAPS = 8 };

/* Rows of a sequence, as they lie in the views of an op: width <= SCAN_LANES columns of each. */
struct cpu_scan_rows { const float *x; float *y; int64_t x_stride, y_stride; int n, width; };

/* y = bias + the sum of w[i] and the i-th of the last `taps + 1` inputs, oldest first. */
struct cpu_conv_block {
    struct cpu_scan_rows rows;
    int taps;                                    /* 1 to SCAN_TAPS */
    float w[SCAN_TAPS + 1][SCAN_LANES], bias[SCAN_LANES];
    float tail[SCAN_TAPS][SCAN_LANES];           /* the last inputs, oldest first; renewed */
};

/* h = keep h + in b;  y = d x + the sum of h c, in being dt x. At most SCAN_ROWS rows. */
struct cpu_ssm_block {
    struct cpu_scan_rows rows;
    float *h;                                    /* [states][width] */
    int states;
    const float *b, *c;                          /* [rows][states] */
    const float *keep, *dt;                      /* [rows] */
    float d;
};

/* change = beta (x - decay (the sum of k s));  s = decay s + k change;  y = the sum of q s. */
struct cpu_delta_block {
    struct cpu_scan_rows rows;
    float *s;                                    /* [k_dim][width] */
    int k_dim;
    const float *q, *k;                          /* [rows][k_dim] */
    const float *decay, *beta;                   /* [rows] */
};

struct cpu_recurrent_kernels {
    void (*conv)(struct cpu_conv_block *);
    void (*ssm)(const struct cpu_ssm_block *);
    void (*delta)(const struct cpu_delta_block *);
};

extern const struct cpu_recurrent_kernels cpu_recurrent_generic, cpu_recurrent_avx2,
    cpu_recurrent_avx512, cpu_recurrent_neon;
