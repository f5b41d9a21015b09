/* attention_generic.c - the inner loops of attention in plain C: the reference for the others. */
#include "device/cpu/attention_kernels.h"

#include <string.h>

enum { LANES = 16 };

/* Columns [begin, begin + n) of a row in floats, n <= LANES. */
static void load(float *to, const char *row, enum dtype dtype, int begin, int n) {
    if (dtype == F32) {
        memcpy(to, row + 4 * (size_t)begin, (size_t)n * sizeof *to);
        return;
    }
    uint16_t half[LANES];
    memcpy(half, row + 2 * (size_t)begin, (size_t)n * sizeof *half);
    for (int i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)half[i] << 16;
        memcpy(to + i, &bits, sizeof bits);
    }
}

static float dot(const float *q, const char *row, enum dtype dtype, int dim) {
    float sum[LANES] = { 0 }, k[LANES];
    int c = 0;
    for (; c + LANES <= dim; c += LANES) {
        load(k, row, dtype, c, LANES);
        for (int l = 0; l < LANES; l++) sum[l] += q[c + l] * k[l];
    }
    load(k, row, dtype, c, dim - c);
    for (int l = 0; c + l < dim; l++) sum[l] += q[c + l] * k[l];
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) sum[l] += sum[l + half];
    return sum[0];
}

static void scores(float *score, const float *q, const struct cpu_kv *k, int n, int dim) {
    for (int i = 0; i < n; i++)
        score[i] = dot(q, k->at + (size_t)i * k->row_bytes, k->dtype, dim);
}

static void weigh(float *y, const float *p, const struct cpu_kv *v, int n, int dim) {
    for (int i = 0; i < n; i++) {
        const char *row = v->at + (size_t)i * v->row_bytes;
        for (int c = 0; c < dim; c += LANES) {
            float value[LANES];
            const int width = MIN(LANES, dim - c);
            load(value, row, v->dtype, c, width);
            for (int l = 0; l < width; l++) y[c + l] += p[i] * value[l];
        }
    }
}

const struct cpu_attention_kernels cpu_attention_generic = { scores, weigh };
