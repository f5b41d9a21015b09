/* attention_generic.c - the inner loops of attention in plain C: the reference for the others. */
#include "device/cpu/attention_kernels.h"
#include "device/small_float.h"

#include <math.h>
#include <string.h>

enum { LANES = 16 };

static float value(const struct cpu_kv *kv, int row, int col) {
    const char *at = kv->at + (size_t)row * kv->row_bytes;
    float f;
    if (kv->dtype == I8) return (float)((const signed char *)at)[col];
    if (kv->dtype == FP8) return float_of_e4m3(((const uint8_t *)at)[col]);
    if (kv->dtype == F32) {
        memcpy(&f, at + 4 * (size_t)col, sizeof f);
        return f;
    }
    uint16_t half;
    memcpy(&half, at + 2 * (size_t)col, sizeof half);
    uint32_t bits = (uint32_t)half << 16;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* The sum, which is left in the first lane. */
static float fold(float *lanes) {
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) lanes[l] += lanes[l + half];
    return lanes[0];
}

static void scores(float *score, const float *q, int n_q, const struct cpu_kv *k, int n, int dim) {
    for (int j = 0; j < n_q; j++)
        for (int i = 0; i < n; i++) {
            float sum = 0;
            for (int d = 0; d < dim; d++) sum += q[j * dim + d] * value(k, d, i);
            score[j * SCORE_ROW + i] = dtype_scaled(k->dtype) ? sum * k->scales[i] : sum;
        }
}

static void latent_scores(float *score, const float *q, int n_q, const struct cpu_kv *k, int n,
                          int dim) {
    for (int j = 0; j < n_q; j++)
        for (int i = 0; i < n; i++) {
            float sum[LANES] = { 0 };
            for (int d = 0; d < dim; d++) sum[d % LANES] += q[j * dim + d] * value(k, i, d);
            score[j * SCORE_ROW + i] = fold(sum);
        }
}

static float soften(float *score, int begin, int end, int n, const struct cpu_softmax *s,
                    struct cpu_running *r) {
    float max = r->max, sum[LANES] = { 0 };
    for (int i = begin; i < end; i++) {
        float x = score[i] * s->scale;
        score[i] = s->softcap != 0 ? s->softcap * tanhf(x / s->softcap) : x;
        max = fmaxf(max, score[i]);
    }
    for (int i = 0; i < n; i++) {
        score[i] = i < begin || i >= end ? 0 : expf(score[i] - max);
        sum[i % LANES] += score[i];
    }
    if (begin >= end) return 1;
    float shrink = r->max == max ? 1 : expf(r->max - max);
    r->sum = r->sum * shrink + fold(sum);
    r->max = max;
    return shrink;
}

static void weigh(float *y, const float *p, int n_q, const struct cpu_kv *v, int n, int dim) {
    for (int j = 0; j < n_q; j++)
        for (int i = 0; i < n; i++) {
            float weight = p[j * SCORE_ROW + i];
            if (dtype_scaled(v->dtype)) weight *= v->scales[i];
            for (int c = 0; c < dim; c++) y[j * dim + c] += weight * value(v, i, c);
        }
}

const struct cpu_attention_kernels cpu_attention_generic = { scores, latent_scores, soften, weigh };
