/* attention_generic.c - the inner loops of attention in plain C. */
#include "device/cpu/attention_kernels.h"

#include <string.h>

enum { LANES = 16 };

static float value_at(const char *row, enum dtype dtype, int i) {
    uint32_t bits;
    uint16_t half;
    float f;
    if (dtype == F32) {
        memcpy(&f, row + 4 * (size_t)i, sizeof f);
        return f;
    }
    memcpy(&half, row + 2 * (size_t)i, sizeof half);
    bits = (uint32_t)half << 16;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static void scores(float *score, const float *q, const struct cpu_kv *k, int n, int dim) {
    for (int i = 0; i < n; i++) {
        const char *row = k->at + (size_t)i * k->row_bytes;
        float lane[LANES] = { 0 };
        for (int c = 0; c < dim; c++) lane[c % LANES] += q[c] * value_at(row, k->dtype, c);
        for (int half = LANES / 2; half > 0; half /= 2)
            for (int l = 0; l < half; l++) lane[l] += lane[l + half];
        score[i] = lane[0];
    }
}

static void weigh(float *y, const float *p, const struct cpu_kv *v, int n, int dim) {
    for (int i = 0; i < n; i++) {
        const char *row = v->at + (size_t)i * v->row_bytes;
        for (int c = 0; c < dim; c++) y[c] += p[i] * value_at(row, v->dtype, c);
    }
}

const struct cpu_attention_kernels cpu_attention_generic = { scores, weigh };
