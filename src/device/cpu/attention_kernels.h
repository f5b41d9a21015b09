/* attention_kernels.h - the inner loops of attention that an instruction set may bring.
 *
 * Their arithmetic: a score has the 16 lanes and the tree of a product of linear.h; a column
 * of the output takes its values in ascending order, one multiply-add each. avx2 and
 * avx512 agree in every bit; generic rounds products and sums apart. */
#pragma once
#include "device/tensor.h"

/* n rows of keys or values of one head, F32 or BF16. */
struct cpu_kv { const char *at; size_t row_bytes; enum dtype dtype; };

struct cpu_attention_kernels {
    /* score[i] = q . k[i], i < n */
    void (*scores)(float *score, const float *q, const struct cpu_kv *k, int n, int dim);
    /* y += sum of p[i] v[i], i < n */
    void (*weigh)(float *y, const float *p, const struct cpu_kv *v, int n, int dim);
};

extern const struct cpu_attention_kernels cpu_attention_generic, cpu_attention_avx2,
    cpu_attention_avx512;
