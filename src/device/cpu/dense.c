/* dense.c - the ops that work on each row by itself: embed, norm, rope, gate, add,
 * copy, scale. Activations are F32; norms and sums run in one fixed order. */
#include "device/cpu/cpu.h"

#include <assert.h>

enum { ROWS_A_PIECE = 4 };

/* An op over rows: the closure that pool_run hands back. */
struct rowwise {
    const struct cpu_kernels *kernels;           /* each_row sets it */
    struct tensor *y;
    const struct tensor *x, *w, *b;
    const void *args;
    float f[3];
    int kind;
};

static void each_row(struct device *dev, int64_t rows, struct rowwise *o,
                     void (*run)(void *, int64_t, int64_t)) {
    o->kernels = cpu_of(dev)->kernels;
    pool_run(cpu_of(dev)->pool, rows, ROWS_A_PIECE, run, o);
}

/* [rows, cols] seen as [rows, 1, cols], so that one loop serves both ranks. */
static struct tensor as_heads(const struct tensor *t) {
    return t->rank == 3 ? *t : tensor_heads(t, 1);
}

static void embed_rows(void *to, int64_t begin, int64_t end) {
    const struct rowwise *o = to;
    const int32_t *ids = o->b->at;
    for (int64_t r = begin; r < end; r++) {
        float *y = row_f32(o->y, r);
        cpu_dequantize_row(o->x, ids[r], y);
        if (o->f[0] != 1.0f)
            for (int64_t i = 0; i < o->y->shape[1]; i++) y[i] *= o->f[0];
    }
}

void cpu_embed(struct device *dev, struct tensor *y, const struct tensor *table,
               const struct tensor *ids, float scale) {
    each_row(dev, y->shape[0], &(struct rowwise){ .y = y, .x = table, .b = ids, .f = { scale } },
             embed_rows);
}

/* In double, the one place where F32 would cost digits at wide rows; in lanes, because one sum
 * would wait for each of its additions. */
double cpu_squares(const float *x, double mean, int64_t n) {
    double lane[CPU_LANES] = { 0 };
    int64_t i = 0;
    for (; i + CPU_LANES <= n; i += CPU_LANES)
        for (int l = 0; l < CPU_LANES; l++)
            lane[l] += ((double)x[i + l] - mean) * ((double)x[i + l] - mean);
    for (; i < n; i++)
        lane[i % CPU_LANES] += ((double)x[i] - mean) * ((double)x[i] - mean);
    for (int half = CPU_LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) lane[l] += lane[l + half];
    return lane[0];
}

static void norm_one(float *y, const float *x, const float *w, const float *b, int64_t n,
                     enum norm kind, float eps) {
    double mean = 0;
    if (kind == NORM_LAYER) {
        for (int64_t i = 0; i < n; i++) mean += (double)x[i];
        mean /= (double)n;
    }
    const double square = cpu_squares(x, mean, n);
    float m = (float)mean, inverse = (float)(1.0 / sqrt(square / (double)n + (double)eps));
    for (int64_t i = 0; i < n; i++) {
        float v = (x[i] - m) * inverse;
        if (w) v *= kind == NORM_RMS_PLUS1 ? 1.0f + w[i] : w[i];
        y[i] = b ? v + b[i] : v;
    }
}

static void norm_rows(void *to, int64_t begin, int64_t end) {
    const struct rowwise *o = to;
    struct tensor y = as_heads(o->y), x = as_heads(o->x);
    const float *b = o->b ? o->b->at : NULL;
    for (int64_t r = begin; r < end; r++)
        for (int64_t h = 0; h < x.shape[1]; h++) {
            const float *w = !o->w ? NULL : o->w->rank == 2 ? row_f32(o->w, h) : o->w->at;
            norm_one(head_f32(&y, r, h), head_f32(&x, r, h), w, b, x.shape[2],
                     (enum norm)o->kind, o->f[0]);
        }
}

void cpu_norm(struct device *dev, struct tensor *y, const struct tensor *w, const struct tensor *b,
              const struct tensor *x, enum norm kind, float eps) {
    if (w && !w->at) w = NULL;
    if (b && !b->at) b = NULL;
    each_row(dev, x->shape[0],
             &(struct rowwise){ .y = y, .x = x, .w = w, .b = b, .kind = (int)kind, .f = { eps } },
             norm_rows);
}

/* The angle is a product in F32 as in Transformers; its sine and cosine are exact. */
static void rope_rows(void *to, int64_t begin, int64_t end) {
    const struct rowwise *o = to;
    const struct rope_args *a = o->args;
    int64_t half = o->y->shape[2] / 2;
    bool pairs = a->pairing == ROPE_PAIRS;
    for (int64_t r = begin; r < end; r++) {
        const float *freq = a->freq + (a->variant ? a->variant[a->rows->seq[r]] * half : 0);
        for (int64_t i = 0; i < half; i++) {
            double angle = (double)((float)a->rows->pos[r] * freq[i]);
            float c = (float)cos(angle) * a->magnitude, s = (float)sin(angle) * a->magnitude;
            for (int64_t h = 0; h < o->y->shape[1]; h++) {
                float *x = head_f32(o->y, r, h);
                float *first = pairs ? x + 2 * i : x + i,
                      *second = pairs ? first + 1 : first + half;
                float u = *first, v = *second;
                *first = u * c - v * s;
                *second = v * c + u * s;
            }
        }
    }
}

void cpu_rope(struct device *dev, struct tensor *x, const struct rope_args *a) {
    assert(x->rank == 3 && x->shape[2] % 2 == 0);
    each_row(dev, x->shape[0], &(struct rowwise){ .y = x, .args = a }, rope_rows);
}

float cpu_act(enum act act, float x) {
    switch (act) {
    case ACT_SILU:       return x * sigmoid(x);
    case ACT_GELU:       return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case ACT_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case ACT_QUICK_GELU: return x * sigmoid(1.702f * x);
    case ACT_RELU:       return x > 0 ? x : 0;
    case ACT_RELU2:      return x > 0 ? x * x : 0;
    case ACT_SIGMOID:    return sigmoid(x);
    case ACT_SOFTPLUS:   return softplus(x);
    case ACT_NONE:
    case ACT_SWIGLU_CLAMP: break;
    }
    return x;
}

/* GPT-OSS: the gate clamped from above, up from both sides, alpha in the sigmoid, 1 added to up. */
static float swiglu_clamp(float g, float u, const struct gate_args *a) {
    g = fminf(g, a->limit);
    u = fmaxf(fminf(u, a->limit), -a->limit);
    return (u + 1.0f) * (g * sigmoid(a->alpha * g));
}

void cpu_gate_values(const struct cpu_kernels *k, float *y, const float *gate, const float *up,
                     int64_t n, const struct gate_args *a) {
    if (k->gate && k->gate(y, gate, up, n, a->act)) return;
    if (a->act == ACT_SWIGLU_CLAMP)
        for (int64_t i = 0; i < n; i++) y[i] = swiglu_clamp(gate[i], up[i], a);
    else if (up)
        for (int64_t i = 0; i < n; i++) y[i] = cpu_act(a->act, gate[i]) * up[i];
    else
        for (int64_t i = 0; i < n; i++) y[i] = cpu_act(a->act, gate[i]);
}

static void gate_rows(void *to, int64_t begin, int64_t end) {
    const struct rowwise *o = to;
    const struct gate_args *a = o->args;
    struct tensor y = as_heads(o->y), g = as_heads(o->x), u = o->w ? as_heads(o->w) : y;
    bool one_gate = g.shape[2] == 1 && y.shape[2] > 1;
    for (int64_t r = begin; r < end; r++)
        for (int64_t h = 0; h < y.shape[1]; h++) {
            float *yr = head_f32(&y, r, h), *gr = head_f32(&g, r, h), *ur = head_f32(&u, r, h);
            if (!one_gate) {
                cpu_gate_values(o->kernels, yr, gr, o->w ? ur : NULL, y.shape[2], a);
                continue;
            }
            float factor = cpu_act(a->act, gr[0]);
            for (int64_t i = 0; i < y.shape[2]; i++) yr[i] = factor * ur[i];
        }
}

void cpu_gate(struct device *dev, struct tensor *y, const struct tensor *gate,
              const struct tensor *up, const struct gate_args *a) {
    each_row(dev, y->shape[0], &(struct rowwise){ .y = y, .x = gate, .w = up, .args = a },
             gate_rows);
}

static void add_rows(void *to, int64_t begin, int64_t end) {
    const struct rowwise *o = to;
    struct tensor y = as_heads(o->y), x = as_heads(o->x);
    for (int64_t r = begin; r < end; r++)
        for (int64_t h = 0; h < y.shape[1]; h++) {
            float *yr = head_f32(&y, r, h), *xr = head_f32(&x, r, h);
            for (int64_t i = 0; i < y.shape[2]; i++) yr[i] += o->f[0] * xr[i];
        }
}

void cpu_add(struct device *dev, struct tensor *y, const struct tensor *x, float scale) {
    each_row(dev, y->shape[0], &(struct rowwise){ .y = y, .x = x, .f = { scale } }, add_rows);
}

static void copy_rows(void *to, int64_t begin, int64_t end) {
    const struct rowwise *o = to;
    struct tensor y = as_heads(o->y), x = as_heads(o->x);
    for (int64_t r = begin; r < end; r++)
        for (int64_t h = 0; h < y.shape[1]; h++)
            memcpy(head_f32(&y, r, h), head_f32(&x, r, h), (size_t)y.shape[2] * sizeof(float));
}

void cpu_copy(struct device *dev, struct tensor *y, const struct tensor *x) {
    each_row(dev, y->shape[0], &(struct rowwise){ .y = y, .x = x }, copy_rows);
}

static void scale_rows(void *to, int64_t begin, int64_t end) {
    const struct rowwise *o = to;
    float scale = o->f[0], clip = o->f[1], cap = o->f[2];
    struct tensor x = as_heads(o->y);
    for (int64_t r = begin; r < end; r++)
        for (int64_t h = 0; h < x.shape[1]; h++) {
            float *p = head_f32(&x, r, h);
            for (int64_t i = 0; i < x.shape[2]; i++) {
                float v = p[i] * scale;
                if (clip != 0) v = fmaxf(fminf(v, clip), -clip);
                p[i] = cap != 0 ? cap * tanhf(v / cap) : v;
            }
        }
}

void cpu_scale(struct device *dev, struct tensor *x, float scale, float clip, float cap) {
    each_row(dev, x->shape[0], &(struct rowwise){ .y = x, .f = { scale, clip, cap } }, scale_rows);
}

static void temperature_rows(void *to, int64_t begin, int64_t end) {
    const struct rowwise *o = to;
    const struct rows *rows = o->args;
    struct tensor x = as_heads(o->y);
    for (int64_t r = begin; r < end; r++) {
        float at = floorf((float)(rows->pos[r] + o->kind) / o->f[1]);
        float factor = 1.0f + o->f[0] * logf(1.0f + at);
        for (int64_t h = 0; h < x.shape[1]; h++) {
            float *p = head_f32(&x, r, h);
            for (int64_t i = 0; i < x.shape[2]; i++) p[i] *= factor;
        }
    }
}

void cpu_temperature(struct device *dev, struct tensor *x, const struct rows *rows, float beta,
                     float original, int shift) {
    each_row(dev, x->shape[0],
             &(struct rowwise){ .y = x, .args = rows, .f = { beta, original }, .kind = shift },
             temperature_rows);
}
