/* attention.c - grouped-query attention over the paged cache, with every knob that a
 * family sets: biases, q/k norms, partial rope, windows, sinks, soft caps, output
 * gates, shared caches. Not MLA, which is mla.c. */
#include "layers/layers.h"

struct attention {
    struct linear q, k, v, o;        /* [heads*head_dim (twice with OUT_GATE_IN_Q), dim], ... */
    struct linear gate; /* of OUT_GATE_OWN: [heads*v_dim, dim]; per head: [heads, dim] */
    struct tensor q_norm, k_norm, sinks, out_norm;
    float *freq;                     /* [2, dims/2] radians per position: short, long */
};

static void bind_qk_norm(struct binder *b, const struct attn_spec *a, struct attention *w) {
    int64_t d = a->head_dim;
    switch (a->qk_norm) {
    case QK_NORM_NONE:
    case QK_NORM_BARE:
        return;
    case QK_NORM_HEAD:
    case QK_NORM_HEAD_LAYER:
        bind_vector(b, &w->q_norm, W_Q_NORM, d);
        bind_vector(b, &w->k_norm, W_K_NORM, d);
        return;
    case QK_NORM_FULL:
        bind_vector(b, &w->q_norm, W_Q_NORM, a->heads * d);
        bind_vector(b, &w->k_norm, W_K_NORM, a->kv_heads * d);
        return;
    case QK_NORM_EACH_HEAD:
        bind_matrix(b, &w->q_norm, W_Q_NORM, a->heads, d);
        bind_matrix(b, &w->k_norm, W_K_NORM, a->kv_heads, d);
        return;
    }
}

static void bind(struct binder *b, const struct decoder_spec *d, const struct layer_spec *l,
                 void *weights) {
    struct attention *w = weights;
    const struct attn_spec *a = &l->attn;
    int64_t q = (int64_t)a->heads * a->head_dim, k = (int64_t)a->kv_heads * a->head_dim;
    int64_t v = (int64_t)a->kv_heads * a->v_dim, out = (int64_t)a->heads * a->v_dim;
    bool own_kv = a->kv_from < 0;

    struct linear *part[] = { &w->q, &w->k, &w->v };
    bind_parts(b, part, W_QKV, (enum slot[]){ W_Q, W_K, W_V },
               (int64_t[]){ a->out_gate == OUT_GATE_IN_Q ? 2 * q : q, k, v },
               !own_kv ? 1 : a->k_is_v ? 2 : 3, d->dim, a->bias & BIAS_QKV);
    bind_linear(b, &w->o, W_O, d->dim, out, a->bias & BIAS_O);
    bind_qk_norm(b, a, w);
    if (a->sinks) bind_vector(b, &w->sinks, W_SINKS, a->heads);
    if (a->out_norm) bind_vector(b, &w->out_norm, W_OUT_NORM, out);
    if (a->out_gate == OUT_GATE_OWN) bind_linear(b, &w->gate, W_OUT_GATE, out, d->dim, false);
    if (a->out_gate == OUT_GATE_HEAD_SIGMOID || a->out_gate == OUT_GATE_HEAD_SOFTPLUS)
        bind_linear(b, &w->gate, W_OUT_GATE, a->heads, d->dim, false);
    if (a->rope.pairing != ROPE_NONE) {
        w->freq = bind_new(b, (size_t)a->rope.dims * sizeof(float));
        rope_frequencies(&a->rope, 0, w->freq);
        if (a->rope.stretch == STRETCH_LONG)
            rope_frequencies(&a->rope, 1, w->freq + a->rope.dims / 2);
    }
}

static struct state_need need(const struct decoder_spec *d, const struct layer_spec *l,
                              enum dtype kv) {
    (void)d;
    const struct attn_spec *a = &l->attn;
    const size_t scales = kv == I8 ? 2 * sizeof(float) : 0;
    size_t head = (size_t)(a->head_dim + a->v_dim) * dtype_bytes(kv) + scales;
    return (struct state_need){ .per_token = a->kv_from < 0 ? (size_t)a->kv_heads * head : 0,
                                .window = a->window, .dtype = kv };
}

static void norm_heads(struct pass *p, const struct attn_spec *a, const struct tensor *w,
                       struct tensor *x) {
    struct device *dev = p->dev;
    enum norm kind = a->qk_norm == QK_NORM_HEAD_LAYER ? NORM_LAYER
                   : p->spec->norm == NORM_LAYER ? NORM_RMS : p->spec->norm;
    struct tensor flat = *x;
    if (a->qk_norm == QK_NORM_NONE) return;
    if (a->qk_norm == QK_NORM_FULL) {
        flat = tensor_2d(x->at, F32, x->shape[0], x->shape[1] * x->shape[2]);
        flat.stride[0] = x->stride[0];
    }
    dev->op->norm(dev, &flat, w->at ? w : NULL, NULL, &flat, kind, p->spec->eps);
}

static void turn(struct pass *p, const struct attn_spec *a, const float *freq, struct tensor *x) {
    if (a->rope.pairing == ROPE_NONE) return;
    struct tensor part = tensor_part(x, 2, 0, a->rope.dims);
    p->dev->op->rope(p->dev, &part, &(struct rope_args){
        .rows = &p->rows, .freq = freq, .pairing = a->rope.pairing,
        .variant = a->rope.stretch == STRETCH_LONG ? p->variant : NULL,
        .magnitude = a->rope.magnitude });
}

static void norm_and_turn(struct pass *p, const struct attn_spec *a, const struct attention *w,
                          const struct tensor *norm, struct tensor *x) {
    if (!a->qk_norm_after_rope) norm_heads(p, a, norm, x);
    turn(p, a, w->freq, x);
    if (a->qk_norm_after_rope) norm_heads(p, a, norm, x);
}

/* y = w x, seen as heads. */
static struct tensor project(struct pass *p, const struct linear *w, const struct tensor *x,
                             int heads, float clip) {
    struct tensor y = scratch_rows(p, F32, w->w.shape[0]);
    p->dev->op->linear(p->dev, &y, w, x);
    if (clip != 0) p->dev->op->scale(p->dev, &y, 1, clip, 0);
    return tensor_heads(&y, heads);
}

static struct attend attend_args(struct pass *p, const struct attn_spec *a,
                                 const struct attention *w) {
    return (struct attend){
        .rows = &p->rows,
        .kv = pass_kv(p, a->kv_from < 0 ? p->layer : a->kv_from),
        .heads = a->heads, .kv_heads = a->kv_heads, .k_dim = a->head_dim, .v_dim = a->v_dim,
        .tiled = a->kv_tiled, .window = a->window, .chunk = a->chunk, .sinks = w->sinks.at,
        .scale = a->scale, .softcap = a->softcap,
    };
}

static void store_kv(struct pass *p, const struct attn_spec *a, const struct attention *w,
                     const struct attend *args, const struct tensor *x) {
    struct device *dev = p->dev;
    struct tensor k = project(p, &w->k, x, a->kv_heads, a->clip), v;
    if (a->k_is_v) {
        struct tensor flat = scratch_rows(p, F32, (int64_t)a->kv_heads * a->v_dim);
        v = tensor_heads(&flat, a->kv_heads);
        dev->op->copy(dev, &v, &k);
    } else {
        v = project(p, &w->v, x, a->kv_heads, a->clip);
    }
    norm_and_turn(p, a, w, &w->k_norm, &k);
    if (a->v_norm) dev->op->norm(dev, &v, NULL, NULL, &v, NORM_RMS, p->spec->eps);
    if (a->v_scale != 0) dev->op->scale(dev, &v, a->v_scale, 0, 0);
    dev->op->kv_store(dev, args, &k, &v);
}

/* The gate comes with q (each head: its q, then its gate) or from a projection of its own. */
static void gate_output(struct pass *p, const struct attn_spec *a, const struct attention *w,
                        const struct tensor *q, const struct tensor *x, struct tensor *mixed) {
    struct tensor gate;
    struct gate_args args = { .act = a->out_gate == OUT_GATE_HEAD_SOFTPLUS ? ACT_SOFTPLUS
                                                                           : ACT_SIGMOID };
    if (a->out_gate == OUT_GATE_NONE) return;
    if (a->out_gate == OUT_GATE_IN_Q) gate = tensor_part(q, 2, a->head_dim, a->v_dim);
    else gate = project(p, &w->gate, x, a->heads, 0);
    p->dev->op->gate(p->dev, mixed, &gate, mixed, &args);
}

static void run(struct pass *p, const struct layer_spec *l, const void *weights,
                struct tensor *y, const struct tensor *x) {
    const struct attention *w = weights;
    const struct attn_spec *a = &l->attn;
    struct device *dev = p->dev;
    struct attend args = attend_args(p, a, w);

    struct tensor both = project(p, &w->q, x, a->heads, a->clip);
    struct tensor q = tensor_part(&both, 2, 0, a->head_dim);
    norm_and_turn(p, a, w, &w->q_norm, &q);
    if (a->temperature != 0)
        dev->op->temperature(dev, &q, &p->rows, a->temperature, a->temperature_original,
                             a->temperature_shift);
    if (a->kv_from < 0) store_kv(p, a, w, &args, x);

    struct tensor flat = scratch_rows(p, F32, (int64_t)a->heads * a->v_dim);
    struct tensor mixed = tensor_heads(&flat, a->heads);
    dev->op->attention(dev, &mixed, &q, &args);
    gate_output(p, a, w, &both, x, &mixed);
    if (a->out_norm)
        dev->op->norm(dev, &flat, &w->out_norm, NULL, &flat, NORM_RMS, p->spec->eps);
    dev->op->linear(dev, y, &w->o, &flat);
}

const struct mixer mixer_attention = {
    .name = "attention", .weights_size = sizeof(struct attention),
    .bind = bind, .need = need, .run = run,
};
