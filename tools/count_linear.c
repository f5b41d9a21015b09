/* count_linear.c - a product of 512 rows of packed weights, to count its instructions: bench/arm.
 *
 *     count_linear ISA BITS ROWS TIMES
 *
 * Columns are 2,048, groups 64, scales BF16; one thread. */
#include "device/cpu/isa.h"
#include "device/cpu/linear.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OUTS = 512, COLS = 2048, GROUP = 64, ROWS_MAX = 64, SCALES = OUTS * (COLS / GROUP) * 2 };

int main(int argc, char **argv) {
    static _Alignas(64) unsigned char weights[OUTS * COLS + 2 * SCALES], scratch_at[1 << 20];
    static float x[ROWS_MAX * COLS], y[ROWS_MAX * OUTS];
    uint64_t n[3] = { 0 };           /* bits, rows, times */
    struct err e = { 0 };
    const struct cpu_kernels *k = cpu_isa_find(argc > 1 ? argv[1] : NULL, &e);
    bool good = k && argc == 5;
    for (int i = 0; i < 3 && good; i++)
        good = str_u64(str_of(argv[2 + i]), i == 0 ? 8 : ROWS_MAX, &n[i]);
    if (!good) {
        fprintf(stderr, "usage: count_linear ISA BITS ROWS TIMES\n%s\n", e.text);
        return ERR_USAGE;
    }
    memset(weights, 0x3c, sizeof weights);       /* as BF16 a small number */
    for (size_t i = 0; i < COUNT(x); i++)
        x[i] = (float)(i % 17) - 8;
    struct tensor xs = tensor_2d(x, F32, (int64_t)n[1], COLS);
    struct tensor ys = tensor_2d(y, F32, (int64_t)n[1], OUTS);
    struct linear l = { .w = tensor_2d(weights, MLX_AFFINE, OUTS, COLS) };
    l.w.quant = (struct quant){ .scales = weights, .biases = weights, .scale_dtype = BF16,
                                .group = GROUP, .bits = (uint8_t)n[0], .packed = weights };
    const struct cpu_scratch scratch = { .at = scratch_at, .bytes = sizeof scratch_at };
    for (uint64_t i = 0; i < n[2]; i++)
        cpu_linear(NULL, k, &scratch, &ys, &l, &xs);
    return 0;
}
