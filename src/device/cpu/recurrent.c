/* recurrent.c - the ops whose state is a slot per sequence: causal convolution,
 * Mamba-2's state space and the gated delta rule. Each walks the rows of a sequence
 * in order; sequences, heads and channels are independent. */
#include "device/cpu/cpu.h"

#include <assert.h>

enum { CHANNELS_A_PIECE = 64, DIM_MAX = 1024 };

/* The state of one sequence, zeroed when the sequence begins. */
static float *state_of(const struct state_view *v, const struct rows *rows, int seq, int64_t at,
                       int64_t n) {
    char *slot = (char *)v->slots + (size_t)v->slot[seq] * v->slot_bytes;
    float *state = (float *)(void *)slot + at;
    if (rows->pos[rows->first[seq]] == 0) memset(state, 0, (size_t)n * sizeof *state);
    return state;
}

struct conv {
    struct tensor *y;
    const struct tensor *w, *bias, *x;
    const struct rows *rows;
    const struct state_view *state;
    enum act act;
};

/* One channel of one sequence. The tail holds its last kernel-1 inputs, oldest first. */
static void conv_channel(const struct conv *o, int seq, int64_t c) {
    int64_t taps = o->w->shape[1] - 1;
    float *tail = state_of(o->state, o->rows, seq, c * taps, taps);
    const float *w = row_f32(o->w, c);
    for (int r = o->rows->first[seq]; r < o->rows->first[seq + 1]; r++) {
        float x = row_f32(o->x, r)[c], sum = 0;
        for (int64_t i = 0; i < taps; i++) sum += w[i] * tail[i];
        sum += w[taps] * x;
        if (o->bias) sum += ((const float *)o->bias->at)[c];
        row_f32(o->y, r)[c] = cpu_act(o->act, sum);
        memmove(tail, tail + 1, (size_t)(taps - 1) * sizeof *tail);
        tail[taps - 1] = x;
    }
}

static void conv_channels(void *to, int64_t begin, int64_t end) {
    const struct conv *o = to;
    int64_t channels = o->x->shape[1];
    for (int64_t i = begin; i < end; i++) conv_channel(o, (int)(i / channels), i % channels);
}

void cpu_conv(struct device *dev, struct tensor *y, const struct tensor *w,
              const struct tensor *bias, const struct tensor *x, const struct rows *rows,
              const struct state_view *state, enum act act) {
    assert(w->shape[1] >= 2 && y->at != x->at);
    struct conv o = { y, w, bias && bias->at ? bias : NULL, x, rows, state, act };
    pool_run(cpu_of(dev)->pool, rows->n_seqs * x->shape[1], CHANNELS_A_PIECE, conv_channels, &o);
}

struct ssm { struct tensor *y; const struct ssm_args *a; };

/* h = exp(dt A) h + dt x B;  y = C h + D x */
static void ssm_head(const struct ssm *o, int seq, int64_t head) {
    const struct ssm_args *a = o->a;
    int64_t dim = a->x->shape[2], n = a->b->shape[2], heads = a->x->shape[1];
    int64_t group = head / (heads / a->b->shape[1]);
    float *h = state_of(&a->state, a->rows, seq, head * dim * n, dim * n);
    float rate = -expf(a->a_log[head]);
    for (int r = a->rows->first[seq]; r < a->rows->first[seq + 1]; r++) {
        float dt = softplus(row_f32(a->dt, r)[head] + a->dt_bias[head]);
        dt = fminf(fmaxf(dt, a->dt_min), a->dt_max);
        float keep = expf(dt * rate);
        const float *x = head_f32(a->x, r, head);
        const float *b = head_f32(a->b, r, group), *c = head_f32(a->c, r, group);
        float *y = head_f32(o->y, r, head);
        for (int64_t i = 0; i < dim; i++) {
            float *row = h + i * n, in = dt * x[i], sum = 0;
            for (int64_t j = 0; j < n; j++) {
                row[j] = row[j] * keep + in * b[j];
                sum += row[j] * c[j];
            }
            y[i] = sum + a->d[head] * x[i];
        }
    }
}

static void ssm_heads(void *to, int64_t begin, int64_t end) {
    const struct ssm *o = to;
    int64_t heads = o->a->x->shape[1];
    for (int64_t i = begin; i < end; i++) ssm_head(o, (int)(i / heads), i % heads);
}

void cpu_ssm(struct device *dev, struct tensor *y, const struct ssm_args *a) {
    struct ssm o = { y, a };
    pool_run(cpu_of(dev)->pool, a->rows->n_seqs * a->x->shape[1], 1, ssm_heads, &o);
}

struct delta { struct tensor *y; const struct delta_args *a; };

/* x / sqrt(sum of squares + 1e-6) * scale */
static void unit(float *to, const float *x, int64_t n, float scale) {
    double square = 0;
    for (int64_t i = 0; i < n; i++) square += (double)x[i] * (double)x[i];
    float f = (float)(1.0 / sqrt(square + 1e-6)) * scale;
    for (int64_t i = 0; i < n; i++) to[i] = x[i] * f;
}

/* S = decay S;  S += k (beta (v - k S));  y = q S.  S is [k_dim, v_dim]. */
static void delta_step(float *s, const float *q, const float *k, const float *v, float *y,
                       int64_t k_dim, int64_t v_dim, float decay, float beta) {
    float change[DIM_MAX];
    for (int64_t j = 0; j < v_dim; j++) change[j] = 0;
    for (int64_t i = 0; i < k_dim; i++)
        for (int64_t j = 0; j < v_dim; j++) {
            s[i * v_dim + j] *= decay;
            change[j] += k[i] * s[i * v_dim + j];
        }
    for (int64_t j = 0; j < v_dim; j++) {
        change[j] = beta * (v[j] - change[j]);
        y[j] = 0;
    }
    for (int64_t i = 0; i < k_dim; i++)
        for (int64_t j = 0; j < v_dim; j++) {
            s[i * v_dim + j] += k[i] * change[j];
            y[j] += q[i] * s[i * v_dim + j];
        }
}

static void delta_head(const struct delta *o, int seq, int64_t head) {
    const struct delta_args *a = o->a;
    int64_t k_dim = a->k->shape[2], v_dim = a->v->shape[2];
    int64_t k_head = head / (a->v->shape[1] / a->k->shape[1]);
    float *s = state_of(&a->state, a->rows, seq, head * k_dim * v_dim, k_dim * v_dim);
    float q[DIM_MAX], k[DIM_MAX], rate = expf(a->a_log[head]);
    for (int r = a->rows->first[seq]; r < a->rows->first[seq + 1]; r++) {
        unit(q, head_f32(a->q, r, k_head), k_dim, 1.0f / sqrtf((float)k_dim));
        unit(k, head_f32(a->k, r, k_head), k_dim, 1.0f);
        float decay = expf(-rate * softplus(row_f32(a->a, r)[head] + a->dt_bias[head]));
        float beta = sigmoid(row_f32(a->b, r)[head]);
        delta_step(s, q, k, head_f32(a->v, r, head), head_f32(o->y, r, head), k_dim, v_dim, decay,
                   beta);
    }
}

static void delta_heads(void *to, int64_t begin, int64_t end) {
    const struct delta *o = to;
    int64_t heads = o->a->v->shape[1];
    for (int64_t i = begin; i < end; i++) delta_head(o, (int)(i / heads), i % heads);
}

void cpu_delta(struct device *dev, struct tensor *y, const struct delta_args *a) {
    assert(a->k->shape[2] <= DIM_MAX && a->v->shape[2] <= DIM_MAX);
    struct delta o = { y, a };
    pool_run(cpu_of(dev)->pool, a->rows->n_seqs * a->v->shape[1], 1, delta_heads, &o);
}
