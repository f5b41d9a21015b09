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
    const size_t scales = dtype_scaled(kv) ? 2 * sizeof(float) : 0;
    size_t head = (size_t)(a->head_dim + a->v_dim) * dtype_bytes(kv) + scales;
    return (struct state_need){ .per_token = a->kv_from < 0 ? (size_t)a->kv_heads * head : 0,
                                .window = a->window, .dtype = kv };
}

static enum norm norm_of(const struct pass *p, const struct attn_spec *a) {
    if (a->qk_norm == QK_NORM_HEAD_LAYER) return NORM_LAYER;
    return p->spec->norm == NORM_LAYER ? NORM_RMS : p->spec->norm;
}

static void norm_heads(struct pass *p, const struct attn_spec *a, const struct tensor *w,
                       struct tensor *x) {
    struct device *dev = p->dev;
    struct tensor flat = *x;
    if (a->qk_norm == QK_NORM_NONE) return;
    if (a->qk_norm == QK_NORM_FULL) {
        flat = tensor_2d(x->at, F32, x->shape[0], x->shape[1] * x->shape[2]);
        flat.stride[0] = x->stride[0];
    }
    dev->op->norm(dev, &flat, w->at ? w : NULL, NULL, &flat, norm_of(p, a),
                  p->spec->eps);
}

static struct rope_args rope_of(const struct pass *p, const struct attn_spec *a,
                                const float *freq) {
    return (struct rope_args){
        .rows = &p->rows, .freq = freq, .pairing = a->rope.pairing,
        .variant = a->rope.stretch == STRETCH_LONG ? p->variant : NULL,
        .magnitude = a->rope.magnitude };
}

static void turn(struct pass *p, const struct attn_spec *a, const float *freq, struct tensor *x) {
    if (a->rope.pairing == ROPE_NONE) return;
    struct tensor part = tensor_part(x, 2, 0, a->rope.dims);
    const struct rope_args args = rope_of(p, a, freq);
    p->dev->op->rope(p->dev, &part, &args);
}

static void norm_and_turn(struct pass *p, const struct attn_spec *a, const struct attention *w,
                          const struct tensor *norm, struct tensor *x) {
    if (!a->qk_norm_after_rope) norm_heads(p, a, norm, x);
    turn(p, a, w->freq, x);
    if (a->qk_norm_after_rope) norm_heads(p, a, norm, x);
}

/* y[i] = w[i] x. */
static void project(struct pass *p, const struct attn_spec *a, struct tensor *y,
                    const struct linear *const *w, int n, const struct tensor *x) {
    const struct device_ops *op = p->dev->op;
    struct products args = { .x = x, .n = n, .end = PRODUCTS_STORE };
    for (int i = 0; i < n; i++) {
        y[i] = scratch_rows(p, F32, w[i]->w.shape[0]);
        args.y[i] = &y[i];
        args.w[i] = w[i];
    }
    if (n < 2 || !op->products || !op->products(p->dev, &args))
        for (int i = 0; i < n; i++) op->linear(p->dev, &y[i], w[i], x);
    for (int i = 0; a->clip != 0 && i < n; i++) op->scale(p->dev, &y[i], 1, a->clip, 0);
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

/* Heads of k and v, from what their products left; k NULL: another layer's are used. */
static void store_kv(struct pass *p, const struct attn_spec *a, const struct attention *w,
                     const struct attend *args, struct tensor *k, struct tensor *v) {
    struct device *dev = p->dev;
    if (a->k_is_v) dev->op->copy(dev, v, k);
    norm_and_turn(p, a, w, &w->k_norm, k);
    if (a->v_norm) dev->op->norm(dev, v, NULL, NULL, v, NORM_RMS, p->spec->eps);
    if (a->v_scale != 0) dev->op->scale(dev, v, a->v_scale, 0, 0);
    dev->op->kv_store(dev, args, k, v);
}

/* The usual norm, rope and store in one, where the device can. */
static bool make_ready(struct pass *p, const struct attn_spec *a, const struct attention *w,
                       const struct attend *args, struct tensor *q, struct tensor *k,
                       struct tensor *v) {
    const struct device_ops *op = p->dev->op;
    const bool usual = !a->k_is_v && !a->v_norm && a->v_scale == 0 && !a->qk_norm_after_rope &&
                       a->qk_norm != QK_NORM_FULL && a->rope.pairing != ROPE_NONE;
    if (!op->heads || !usual) return false;
    return op->heads(p->dev, &(struct heads_args){
        .q = q, .k = k, .v = v, .q_norm = w->q_norm.at ? &w->q_norm : NULL,
        .k_norm = w->k_norm.at ? &w->k_norm : NULL, .normed = a->qk_norm != QK_NORM_NONE,
        .kind = norm_of(p, a), .eps = p->spec->eps, .rope = rope_of(p, a, w->freq),
        .dims = a->rope.dims, .attend = args });
}

/* The gate comes with q (each head: its q, then its gate) or from a projection of its own. */
static void gate_output(struct pass *p, const struct attn_spec *a, const struct attention *w,
                        const struct tensor *q, const struct tensor *x, struct tensor *mixed) {
    struct tensor gate;
    struct gate_args args = { .act = a->out_gate == OUT_GATE_HEAD_SOFTPLUS ? ACT_SOFTPLUS
                                                                           : ACT_SIGMOID };
    if (a->out_gate == OUT_GATE_NONE) return;
    if (a->out_gate == OUT_GATE_IN_Q) gate = tensor_part(q, 2, a->head_dim, a->v_dim);
    else {
        gate = scratch_rows(p, F32, w->gate.w.shape[0]);
        p->dev->op->linear(p->dev, &gate, &w->gate, x);
        gate = tensor_heads(&gate, a->heads);
    }
    p->dev->op->gate(p->dev, mixed, &gate, mixed, &args);
}

static void run(struct pass *p, const struct layer_spec *l, const void *weights,
                struct tensor *y, const struct tensor *x) {
    const struct attention *w = weights;
    const struct attn_spec *a = &l->attn;
    struct device *dev = p->dev;
    struct attend args = attend_args(p, a, w);

    const struct linear *part[] = { &w->q, &w->k, &w->v };
    const bool own_kv = a->kv_from < 0;
    struct tensor y_of[3], k = { 0 }, v = { 0 };
    project(p, a, y_of, part, !own_kv ? 1 : a->k_is_v ? 2 : 3, x);
    struct tensor both = tensor_heads(&y_of[0], a->heads);
    struct tensor q = tensor_part(&both, 2, 0, a->head_dim);
    if (own_kv) {
        if (a->k_is_v) y_of[2] = scratch_rows(p, F32, (int64_t)a->kv_heads * a->v_dim);
        k = tensor_heads(&y_of[1], a->kv_heads);
        v = tensor_heads(&y_of[2], a->kv_heads);
    }
    if (!own_kv || !make_ready(p, a, w, &args, &q, &k, &v)) {
        norm_and_turn(p, a, w, &w->q_norm, &q);
        if (own_kv) store_kv(p, a, w, &args, &k, &v);
    }
    if (a->temperature != 0)
        dev->op->temperature(dev, &q, &p->rows, a->temperature, a->temperature_original,
                             a->temperature_shift);

    struct tensor flat = scratch_rows(p, F32, (int64_t)a->heads * a->v_dim);
    struct tensor mixed = tensor_heads(&flat, a->heads);
    dev->op->attention(dev, &mixed, &q, &args);
    gate_output(p, a, w, &both, x, &mixed);
    if (a->out_norm)
        dev->op->norm(dev, &flat, &w->out_norm, NULL, &flat, NORM_RMS, p->spec->eps);
    out_run(p, y, &w->o, &flat);
}

const struct mixer mixer_attention = {
    .name = "attention", .weights_size = sizeof(struct attention),
    .bind = bind, .need = need, .run = run,
};
